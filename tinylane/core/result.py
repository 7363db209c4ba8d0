"""What a loop takes, and what it gives: its lanes, each step, and the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinylane.core.lanes import LaneMask, Rotation
    from tinylane.core.sampling import Sampler


@dataclass(frozen=True)
class LoopSettings:
    """What a `Loop` takes beside the model, the prompt and the number of lanes."""

    max_tokens: Any = 256  # of each lane; or one number per lane
    sampler: Sampler | None = None  # None takes the checkpoint's generation_config
    seed: int = 0
    lane_rope: Rotation | None = None  # None takes what the checkpoint was trained with
    lane_mask: LaneMask | None = None  # None takes what the checkpoint was trained with
    lane_prompts: Sequence[Any] | None = None  # token ids per lane
    chunk: int = 512  # rows of a prefill pass


@dataclass
class Lane:
    """One generation: its own prompt, the tokens it drew (an end token included), its text.

    logprobs: log-softmax of the raw logits at each drawn token. start: the position of the first
    generated token. finish_reason: "stop" (end token or stop string), "length", "budget",
    "dropped", "interrupted", or None while it lives. text holds neither end token nor stop string.
    forked: the lane it was forked from, and the position of the clock then. dropped: the position
    of the clock when it was dropped, alive ("dropped") or finished. top_logprobs: if asked for, the
    likeliest tokens beside each drawn one and their log-probabilities, the likeliest first. spans:
    (index of a token, its position, its step) wherever these do not count on; none: all count on,
    from `start` and step 0. follows: the sealed lane that it goes on.
    """

    index: int
    prompt: list[int]
    start: int
    max_tokens: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    text: str = ""
    forked: tuple[int, int] | None = None
    dropped: int | None = None
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    spans: list[tuple[int, int, int]] = field(default_factory=list)
    follows: int | None = None

    def write(self, token: int, logprob: float, position: int, step: int) -> None:
        """Add a token that was drawn in a step, for a position."""
        index, place, at = self.spans[-1] if self.spans else (0, -1, -1)
        if (position, step) != (place + len(self.tokens) - index, at + len(self.tokens) - index):
            self.spans.append((len(self.tokens), position, step))
        self.tokens.append(token)
        self.logprobs.append(logprob)

    @property
    def positions(self) -> list[int]:
        """The position of every token."""
        return self._counted(1)

    @property
    def steps(self) -> list[int]:
        """The step in which every token was drawn."""
        return self._counted(2)

    def _counted(self, which: int) -> list[int]:
        spans = self.spans or [(0, self.start, 0)]
        runs = zip(spans, [span[0] for span in spans[1:]] + [len(self.tokens)], strict=True)
        return [span[which] + k for span, end in runs for k in range(end - span[0])]


@dataclass(frozen=True)
class Step:
    """What one step gave: per lane (None or "" for lanes that took no part) the token drawn, its
    log-probability and the text that became final; the reasons of the lanes it finished; and
    top_logprobs as of a lane, empty if not asked for."""

    index: int
    position: int
    tokens: list[int | None]
    logprobs: list[float | None]
    texts: list[str]
    finished: dict[int, str]
    top_logprobs: list[list[tuple[int, float]]]


@dataclass
class Result:
    """A finished (or interrupted) decoding. `settings` is what `tinylane.view.run_file` writes."""

    prompt: list[int]
    lanes: list[Lane]
    steps: int
    prefill_seconds: float
    seconds: float
    settings: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        """The text of every lane."""
        return [lane.text for lane in self.lanes]
