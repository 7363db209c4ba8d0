r"""How well a model predicts a text: a sliding window, bits per token and per byte; in lanes too.

A window shows the model some tokens as context and asks for the next ones; it moves on by those, so
that every token is asked for once. With N lanes, what is new in a window is cut into N stretches
that are written in lockstep, each at its true place (Plain Lanes, `tinylane.methods.plain_lanes`):

    p(x) = prod_s prod_j p(x[j S + s] | context, all x of earlier steps)

which is a likelihood, since no token is asked for that others have seen. Stretches but the first
begin with a start token, one step later.

    S tokens of a stretch   P tokens of context
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinylane.core.errors import TinylaneError, whole
from tinylane.core.lanes import MAX_LANES, LaneMask, LaneRoPE, Rotation
from tinylane.core.result import Lane, Result
from tinylane.evaluate.measures import LEVEL, RESAMPLES, Estimate
from tinylane.files.display import counted
from tinylane.view.replay import replay
from tinylane.view.run_file import Run

if TYPE_CHECKING:
    from tinylane.core.model import Model


@dataclass(frozen=True)
class Window:
    """A part of a text, as tokens: what is shown, and what is asked for."""

    context: list[int]
    asked: list[int]


def windows(ids: Sequence[int], size: int, stride: int) -> Iterator[Window]:
    """The windows of a text: `size` tokens, of which the last `stride` are new; the first token is
    given."""
    for start in range(1, len(ids), stride):
        asked = list(ids[start : start + stride])
        yield Window(list(ids[max(0, start - size + stride) : start]), asked)


def logprobs(model: Model, window: Window, lanes: int = 1, start: Sequence[int] = ()) -> np.ndarray:
    """The log-probability of each token that is asked for, float64, in the order of the text.

    lanes: in how many stretches; fewer where there are fewer tokens. start: the tokens that every
    stretch but the first begins with. Raises TinylaneError for a window that does not fit into the
    model's context, or no start token where one is needed.
    """
    lanes = whole("lanes", lanes, 1, MAX_LANES)
    P, S = len(window.context), math.ceil(len(window.asked) / lanes)
    if lanes > 1 and not start:
        raise TinylaneError("lanes need a start token; expected one or more")
    written = []
    for m, k in enumerate(range(0, len(window.asked), S)):
        late = min(m, 1)  # the others begin a step later than the first
        lane = Lane(m, list(start) * late, P + late, S)
        for s, token in enumerate(window.asked[k : k + S]):
            lane.write(token, 0.0, P + late + s, late + s)
        written.append(lane)
    rotation: Rotation = LaneRoPE.none(model.theta)
    if len(written) > 1:
        rotation = LaneRoPE.group_think(model.theta, S, prompt_lane=0)
    result = Result(window.context, written, S + 1, 0.0, 0.0, {})
    run = Run(result, rotation, LaneMask.joint(len(written)))
    return np.concatenate([np.array(each) for each in replay(run, model).logprobs])


@dataclass(frozen=True)
class Perplexity:
    """How well a text was predicted. bits_per_byte: with a 95% interval, by the bootstrap over
    windows, whose tokens depend on each other; NaN where there are fewer than two."""

    tokens: int
    bytes: int
    windows: int
    bits_per_token: float
    bits_per_byte: Estimate

    @property
    def perplexity(self) -> float:
        """Of a token."""
        return 2.0**self.bits_per_token


def summary(bits: Sequence[float], tokens: int, sizes: Sequence[float]) -> Perplexity:
    """bits, sizes: of every window, of what it asked for; sizes in bytes of UTF-8."""
    b, n = np.array(bits, float), np.array(sizes, float)
    low = high = math.nan
    if len(b) > 1:
        rng, even = np.random.default_rng(0), np.full(len(b), 1 / len(b))
        drawn = rng.multinomial(len(b), even, size=RESAMPLES)
        ends = np.percentile(drawn @ b / (drawn @ n), [50 - 50 * LEVEL, 50 + 50 * LEVEL])
        low, high = map(float, ends)
    estimate = Estimate(float(b.sum() / n.sum()), low, high)
    return Perplexity(tokens, int(n.sum()), len(b), float(b.sum()) / tokens, estimate)


def tokenized(model: Model, text: str) -> tuple[list[int], np.ndarray]:
    """A text's tokens as a raw prompt has them (BOS included), and the bytes of UTF-8 of the text
    up to the end of each. Raises TinylaneError for fewer than two tokens, or no tokenizer."""
    if model.tokenizer is None:
        raise TinylaneError("this checkpoint has no tokenizer.json; a text is text")
    ids = model.tokenizer.prompt_ids(text, raw=True)
    if len(ids) < 2:
        count = counted(len(ids), "token")
        raise TinylaneError(f"the text has {count} for this model; expected 2 or more")
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    before = np.concatenate([[0], np.cumsum(sizes)])
    ends = [end for _, end in model.tokenizer.core.encode(text, add_special_tokens=False).offsets]
    ends = [0] * (len(ids) - len(ends)) + ends
    return ids, np.maximum.accumulate(before[np.array(ends)])


def measure(
    model: Model,
    text: tuple[Sequence[int], np.ndarray],
    size: int,
    stride: int,
    lanes: int = 1,
    start: Sequence[int] = (),
    done: Callable[[], None] = lambda: None,
) -> Perplexity:
    """The perplexity of a text. text: of `tokenized`. size: tokens of a window. stride: new ones of
    each. done: called after every window. Raises TinylaneError as `logprobs` does, and for sizes
    that cannot be."""
    size = whole("the window", size, 2, model.config.context)
    stride = whole("the stride", stride, 1, size - 1)
    ids, ends = text
    bits, sizes, at = [], [], 0
    for window in windows(ids, size, stride):
        bits.append(-float(logprobs(model, window, lanes, start).sum()) / math.log(2))
        sizes.append(float(ends[at + len(window.asked)] - ends[at]))
        at += len(window.asked)
        done()
    return summary(bits, at, sizes)
