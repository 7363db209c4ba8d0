"""What schedules have in common: when something has happened, and lanes that begin together.

A schedule is a function that is called with the `Decoding` before every step. It may use all its
operations (`tinylane.methods.life`). These are pieces for it. Triggers: a text (`wrote`), lanes
that have ended (`ended`), every so many tokens (`every`), a score (`score`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinylane.core.errors import TinylaneError, reals

if TYPE_CHECKING:
    from tinylane.core.result import Lane
    from tinylane.methods.decoding import Decoding


def wrote(lane: Lane, ids: Sequence[int]) -> bool:
    """Whether the last tokens of a lane are these."""
    return len(ids) > 0 and lane.tokens[-len(ids) :] == list(ids)


def said(lane: Lane, text: str) -> bool:
    """Whether a lane's text ends with this, white space aside."""
    return bool(text) and lane.text.rstrip().endswith(text.rstrip())


def ended(lanes: Iterable[Lane]) -> list[Lane]:
    """Those that have finished."""
    return [lane for lane in lanes if lane.finish_reason is not None]


def every(lane: Lane, n: int) -> bool:
    """Whether a lane has written a whole multiple of n tokens."""
    return len(lane.tokens) > 0 and len(lane.tokens) % n == 0


def score(lane: Lane) -> float:
    """The mean log-probability of what a lane has written, in nats; -inf if it has nothing."""
    return float(np.mean(lane.logprobs)) if lane.logprobs else -np.inf


def rank_by(own: Callable[[Lane], float] | None) -> Callable[[Lane], float]:
    """A score of somebody's own, or the mean log-probability. It raises TinylaneError where a score
    is no number."""

    def rank(lane: Lane) -> float:
        value = float(reals(f"the score of lane {lane.index}", own(lane), single=True))  # type: ignore[misc]
        if value != value:
            raise TinylaneError(f"the score of lane {lane.index} is NaN; expected a number")
        return value

    return score if own is None else rank


def given(d: Decoding, lanes: Iterable[int]) -> None:
    """End lanes that are nothing but their prompt: texts that other lanes read."""
    for lane in lanes:
        d.finish(lane, "given")


def shut(d: Decoding, lanes: Iterable[Lane], ids: Sequence[int]) -> None:
    """See that every lane ends with the tokens `ids`, written by itself or given to it.

    A lane that writes them has finished ("closed"); white space alone, such as the line that many
    texts begin with, closes nothing. One that ends otherwise, or has room for nothing more, is
    given them: what a later lane reads is then closed as in training.
    """
    for lane in lanes:
        if wrote(lane, ids) and not lane.text.isspace():
            d.finish(lane.index, "closed")
        elif d.giving(lane.index):
            continue
        elif ids and lane.finish_reason == "stop" and lane.steps[-1] == d.steps - 1:
            lane.max_tokens = len(lane.tokens) + len(ids)
            d.resume(lane.index)
            d.give(lane.index, ids)
        elif ids and lane.finish_reason is None and lane.max_tokens - len(lane.tokens) == len(ids):
            d.give(lane.index, ids)


def together(
    d: Decoding, prompts: Iterable[Sequence[int]], sees: Iterable[int], max_tokens: int, at: int
) -> list[Lane]:
    """Lanes that begin at one position, read the same lanes, and not each other."""
    read = list(sees)
    return [d.join(ids, sees=read, at=at, max_tokens=max_tokens) for ids in prompts]


def go_on(
    d: Decoding,
    lanes: Sequence[Lane],
    ids: Sequence[int],
    max_tokens: int,
    reread: bool = False,
    before: Sequence[int] = (),
) -> Lane:
    """A lane that goes on behind finished lanes, with the prompt `ids`.

    It reads their rows, and those of the lanes `before` them, from the position behind the longest
    (reuse of the cache); or, with reread, it has all their texts, one after the other, in its own
    prompt, and reads nobody.
    """
    read = [*before, *(lane.index for lane in lanes)]
    if not reread:
        return d.join(ids, sees=read, at=d.end(read), max_tokens=max_tokens)
    text = [*d.reread(read), *ids]
    return d.join(text, sees="none", at=len(d.prompt), max_tokens=max_tokens)
