"""What a decoding gives: its lanes, each step, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Lane:
    """One generation: its own prompt, the tokens it drew (an end token included), its text.

    logprobs: log-softmax of the raw logits at each drawn token. start: the position of the first
    generated token. finish_reason: "stop" (end token or stop string), "length", "budget",
    "dropped", "interrupted", or None while it lives. text holds neither end token nor stop string.
    forked: the lane it was forked from, and the position of the clock then. dropped: the position
    of the clock when it was dropped, alive ("dropped") or finished. top_logprobs: if asked for, the
    likeliest tokens beside each drawn one and their log-probabilities, the likeliest first.
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
