"""A request's work, turn by turn: its prompt in blocks, then a step of its lanes at a time.

T rows of a pass   V vocab
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.distribution import logsumexp
from tinylane.core.lanes import SHARED
from tinylane.methods.decoding import likeliest
from tinylane.serve.engine import Busy, TurnTaker
from tinylane.serve.penalties import Penalised

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.core.result import Result, Step
    from tinylane.methods.choices import Setup
    from tinylane.methods.decoding import Decoding
    from tinylane.serve.prefixes import Prefixes

AHEAD = 64  # steps that a reader may be behind before its lanes wait for it
Top = list[tuple[int, float]]  # the likeliest tokens and their log-probabilities


@dataclass(frozen=True)
class Begun:
    """The prompt is read. cached: its tokens that were not computed again. scores: of each token
    but the first, its log-probability and the likeliest in its place; empty if not asked for."""

    cached: int
    scores: list[tuple[float, Top]]


@dataclass(frozen=True)
class Ended:
    """There is no more to come. why: "done", or "time" or "closing" where it was cut short."""

    result: Result | None
    why: str


@dataclass
class Wanted:
    """What to decode. settings: of `Decoding`, by keyword."""

    prompt: list[int]
    lanes: int
    settings: dict[str, Any] = field(default_factory=dict)
    score: int | None = None  # log-probabilities of the prompt, with so many of the likeliest
    draw: bool = True  # False: only score
    setup: Setup | None = None  # of a method whose lanes work on one answer


class Served(TurnTaker):
    """One prompt and its lanes. `tell` gets `Begun`, every `Step`, and `Ended` or the error.

    behind: how many of these the reader has not taken yet. check: raises TinylaneError for so many
    lanes and bytes; a method may begin lanes that nobody asked for.
    """

    def __init__(
        self,
        model: Model,
        work: Wanted,
        prefixes: Prefixes,
        tell: Callable[[Any], None],
        behind: Callable[[], int] = lambda: 0,
        check: Callable[[int, int], None] = lambda lanes, nbytes: None,
    ) -> None:
        self.model, self.work, self.prefixes = model, work, prefixes
        self.tell, self.behind, self.check = tell, behind, check
        self.lanes = work.lanes
        self.row = 0  # bytes of keys and values of a row
        self.decoding: Decoding | None = None
        self._cache: Any = None
        self._steps: Iterator[Step] = iter(())
        self._cached = 0
        self._scores: list[tuple[float, Top]] = []

    def ready(self) -> bool:
        return self.behind() < AHEAD

    def turn(self) -> bool:
        if self.decoding is None:
            return self._read()
        step = next(self._steps, None)  # a schedule may change the lanes before it
        self.tell(Ended(self.decoding.result(), "done") if step is None else step)
        return step is not None

    def end(self, why: str) -> None:
        if self.decoding is None:
            waited = "its time was over" if why == "time" else "the server is ending"
            self.tell(Busy(f"{waited} before the request began to write"))
            return
        for lane in self.decoding.live:
            self.decoding.finish(lane.index)
        self.tell(Ended(self.decoding.result(), why))

    def fail(self, error: BaseException) -> None:
        self.tell(error)

    def free(self) -> None:
        self.decoding = self._cache = None
        self._steps = iter(())

    def _read(self) -> bool:
        """One block of the prompt; after the last, its rest and the lanes."""
        prompt, work = self.work.prompt, self.work
        if self._cache is None:
            self._cache = self.model.new_cache()
            if work.score is None:
                self._cached = self.prefixes.fill(self._cache, prompt)
        whole, start = self.prefixes.whole(prompt), len(self._cache)
        if start < whole:
            stop = start + self.prefixes.size
            self._feed(start, stop)
            self.prefixes.keep(self._cache, prompt, stop)
            return True
        if work.score is not None:
            self._feed(start, len(prompt))
            self._cache.trim(whole)  # the rest is fed again as it would be without scores
        if not work.draw:
            self.tell(Begun(0, self._scores))
            self.tell(Ended(None, "done"))
            return False
        from tinylane.methods.decoding import Decoding

        cache, self._cache = self._cache, None
        settings = {**work.settings, "cache": cache, "chunk": self.prefixes.size}
        if work.setup is None:
            self.decoding = Decoding(self.model, prompt, work.lanes, **settings)
            if isinstance(self.decoding.sampler, Penalised):
                lanes = self.decoding
                written = lambda: [lane.tokens for lane in lanes.live]
                lanes.sampler = replace(self.decoding.sampler, written=written)
        else:
            from tinylane.methods import start as start_method

            self.decoding = start_method(self.model, prompt, work.setup, **settings)
            self._bound(self.decoding)
        self._steps = iter(self.decoding)
        self.tell(Begun(self._cached, self._scores))
        return True

    def _bound(self, decoding: Decoding) -> None:
        """Before every step, count the lanes that the method's schedule has begun."""
        schedule = decoding.schedule

        def counted(d: Decoding) -> None:
            if schedule is not None:
                schedule(d)
            writing = sum(lane.finish_reason is None for lane in d.lanes)
            self.lanes = max(self.work.lanes, writing)
            self.nbytes = max(self.nbytes, len(d.cache) * self.row)
            self.check(self.lanes, self.nbytes)

        decoding.schedule = counted

    def _feed(self, start: int, stop: int) -> None:
        """Rows `start` .. `stop - 1` of the prompt, and their scores if they are asked for."""
        rows = np.arange(start, stop)
        tokens, lanes = np.array(self.work.prompt[start:stop]), np.full(len(rows), SHARED)
        wanted = None if self.work.score is not None else np.array([0])
        logits = self.model(tokens, rows, lanes, cache=self._cache, rows=wanted)
        self._cache.settle(logits)
        if self.work.score is not None:
            self._scores += scores(logits, self.work.prompt[start + 1 : stop + 1], self.work.score)


def scores(logits: Any, following: list[int], k: int) -> list[tuple[float, Top]]:
    """Of each token that follows a row of logits (T, V): its log-probability, and the k likeliest.

    following: the tokens; one fewer than rows where the last row has none behind it.
    """
    rows = np.asarray(logits)[: len(following)]
    if not len(rows):
        return []
    given = rows[np.arange(len(rows)), following] - logsumexp(rows)
    return [(float(p), likeliest(row, k)) for p, row in zip(given, rows, strict=True)]
