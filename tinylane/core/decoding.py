"""Joint decoding: every step is one forward pass that gives each live lane one token.

`Loop` runs lanes that begin together, from their first token to their last: token ids in, token ids
out. The prompt is prefilled once and shared; lane prompts end together, so that all lanes generate
their first token at the same position. A lane's token is fed, and so can be seen by the lanes that
may see it, in the step after it was sampled. An end token is never fed: it ends the lane.

`tinylane.Decoding` is this loop with text (stop strings too), and with all that may happen to lanes
between two steps: they join, fork, wait, are sealed (`tinylane.methods.life`).
`tinylane.core.oracle` does the same as the loop by recomputing everything at every step.

    N lanes   T rows of a pass   V vocab
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from operator import itemgetter
from typing import Any

import numpy as np

from tinylane.core.cache import LaneCache
from tinylane.core.errors import TinylaneError, made, of_kind, whole
from tinylane.core.lanes import MAX_LANES, SHARED, LaneMask, Rotation, Row
from tinylane.core.model import Model
from tinylane.core.result import Lane, LoopSettings, Result, Step
from tinylane.core.sampling import Sampler, as_lists, uniform


class Loop:
    """N lanes of one prompt, step by step. Laws 7, 8, 9 and 13.

    prompt: token ids. settings: the fields of `LoopSettings`, by keyword. Raises TinylaneError for
    an empty prompt, one that leaves no room in the context, and settings out of range.

    >>> from tinylane.core.config import ModelConfig
    >>> from tinylane.core.model import Model
    >>> from tinylane.core.random_weights import random_params
    >>> config = ModelConfig()
    >>> model = Model(config, random_params(config, seed=0))
    >>> loop = Loop(model, [5, 6, 7], lanes=2, max_tokens=4)
    >>> step = loop.step()  # the prompt stands at positions 0 to 2
    >>> step.position, len(step.tokens), len(loop.cache)
    (3, 2, 3)
    >>> step = loop.step()  # the two tokens are fed, and two more are drawn
    >>> step.position, loop.cache.lanes.tolist()
    (4, [-1, -1, -1, 0, 1])
    """

    def __init__(self, model: Model, prompt: list[int], lanes: int = 1, **settings: Any) -> None:
        began, s = time.perf_counter(), made(LoopSettings, settings)
        n = whole("lanes", lanes, 1, MAX_LANES)
        self.model = of_kind("model", model, Model, "a model: tinylane.load gives one")
        self.seed = whole("seed", s.seed, 0, 2**128 - 1)
        self.chunk = whole("chunk", s.chunk, 1)
        drawn = Sampler.from_config(model.sampling) if s.sampler is None else s.sampler
        self.sampler = of_kind("sampler", drawn, Sampler, "a Sampler, or of a class made from it")
        self.mask = model.mask(n) if s.lane_mask is None else s.lane_mask
        if of_kind("lane_mask", self.mask, LaneMask, "a LaneMask").n < n:
            raise TinylaneError(f"{n} lanes, but visibility is {self.mask.n} x {self.mask.n}")
        self.prompt, lane_ids = list(prompt), s.lane_prompts or [[]] * n
        limits = s.max_tokens if isinstance(s.max_tokens, (list, tuple)) else [s.max_tokens] * n
        if not (self.prompt and len(lane_ids) == len(limits) == n):
            raise TinylaneError(f"{n} lanes; expected a prompt, {n} lane_prompts, {n} max_tokens")
        self.clock = len(self.prompt) + max(map(len, lane_ids))  # of the next tokens to be drawn
        if self.clock > (context := model.config.context):
            told = f"the prompt has {self.clock} tokens; this model's context is {context}"
            raise TinylaneError(f"{told}, prompt and generation together")
        self.lanes: list[Lane] = []
        self.steps, self.seconds = 0, 0.0
        self._feed: list[Row] = []  # rows for the next pass
        self._logits: dict[int, Any] = {}  # lane -> (V,) logits its next token is drawn from
        self._ahead: Any = None  # the next pass, if it was built early (`pipeline.Ahead`)
        self.cache = self._begin_cache(s.lane_rope)
        rows = [(token, i, SHARED) for i, token in enumerate(self.prompt)]
        self._prompt_logits = self._forward(rows[len(self.cache) :])[SHARED]
        self.cache.settle(self._prompt_logits)
        for ids, limit in zip(lane_ids, limits, strict=True):
            self._begin(Lane(len(self.lanes), ids, self.clock, whole("max_tokens", limit, 1)))
        self.prefill_seconds = time.perf_counter() - began

    @property
    def live(self) -> list[Lane]:
        """The lanes that draw a token in the next step."""
        return [lane for lane in self.lanes if lane.finish_reason is None]

    def position(self, lane: int) -> int:
        """Where the next token of a lane stands."""
        return self.clock

    def step(self) -> Step:
        """Feed what the lanes drew last, and draw one token for every live lane."""
        began = time.perf_counter()
        live = self.live
        if not live:
            raise TinylaneError("every lane has finished")
        self._pass()
        drawn, logprobs = self._draw(live)
        n = len(self.lanes)
        step = Step(self.steps, self.clock, [None] * n, [None] * n, [""] * n, {}, [[]] * n)
        for lane, token, logprob in zip(live, drawn, logprobs, strict=True):
            place = self.position(lane.index)
            lane.write(token, logprob, place, self.steps)
            reason = "stop" if self._stops(lane, token) else None
            if reason is None:
                full = place + 1 >= self.model.config.context
                self._feed.append((token, place, lane.index))
                reason = "length" if full or len(lane.tokens) >= lane.max_tokens else None
            if reason is not None:
                self._end(lane, reason)
            step.tokens[lane.index], step.logprobs[lane.index] = token, logprob
        self.steps, self.clock = self.steps + 1, self.clock + 1
        if self._ahead:
            self._ahead.start(self._feed if self.live else [])
        step.finished.update({x.index: x.finish_reason or "" for x in live if x.finish_reason})
        self.seconds += time.perf_counter() - began
        return step

    def __iter__(self) -> Iterator[Step]:
        while self.live:
            yield self.step()

    def result(self) -> Result:
        """The state of the lanes now, as a `Result`."""
        settings = {
            "seed": self.seed,
            "sampler": asdict(self.sampler),
            **self.cache.lane_rope.settings(),
            **self.mask.settings(),
        }
        counted = self.steps, self.prefill_seconds, self.seconds
        return Result(list(self.prompt), list(self.lanes), *counted, settings)

    # Within.

    def _begin_cache(self, rope: Rotation | None) -> LaneCache:  # may hold some of the prompt
        return self.model.new_cache(rope, self.mask)

    def _pass(self) -> None:
        """Feed the rows that wait: then every live lane has the logits of its next token."""
        early = self._ahead and self._ahead.logits_of(self._feed, self.cache)
        self._logits.update(early or self._forward(self._feed))
        self._feed = []

    def _begin(self, lane: Lane) -> None:
        """A lane begins with its prompt, which ends where its first token will stand."""
        at = lane.start - len(lane.prompt)
        self._feed += [(token, at + k, lane.index) for k, token in enumerate(lane.prompt)]
        if not lane.prompt:
            self._logits[lane.index] = self._prompt_logits
        self.lanes.append(lane)

    def _forward(self, rows: list[Row]) -> dict[int, Any]:
        """Feed rows, in chunks that never part a position: each lane's logits after its last."""
        rows = sorted(rows, key=itemgetter(1))  # by position
        last = {lane: k for k, (_, _, lane) in enumerate(rows)}
        logits_of: dict[int, Any] = {}
        start, before = 0, len(self.cache)
        while start < len(rows):
            stop = min(start + self.chunk, len(rows))
            while stop < len(rows) and rows[stop][1] == rows[stop - 1][1]:
                stop += 1  # with lag 0 the lanes of one position see each other
            tokens, positions, lanes = np.array(rows[start:stop], dtype=np.int64).T
            wanted = {lane: k - start for lane, k in last.items() if start <= k < stop}
            keep = np.array(list(wanted.values()) or [0])
            try:
                logits = self.model(tokens, positions, lanes, cache=self.cache, rows=keep)
            except BaseException:  # Ctrl-C above all: earlier chunks must not be fed twice
                self.cache.rewind(before)
                raise
            logits_of.update({lane: logits[k] for k, lane in enumerate(wanted)})
            start = stop
            if start < len(rows):
                self.cache.settle()
        return logits_of

    def _draw(self, live: list[Lane], known: bool = True) -> tuple[list[int], list[float]]:
        """What live lanes write next, and its log-probabilities. known: it is fed as drawn."""
        rows = [self._logits[lane.index] for lane in live]
        logits = rows[0].__array_namespace__().stack(rows)
        draws = np.array([uniform(self.seed, lane.index, len(lane.tokens)) for lane in live])
        history: list[list[int]] = [[] for _ in live]
        if self.sampler.repetition_penalty != 1:
            history = [[*self.prompt, *self._written(lane)] for lane in live]
        last = all(len(lane.tokens) + 1 >= lane.max_tokens for lane in live)
        lanes = [lane.index for lane in live]
        places = [self.position(m) for m in lanes]
        after = (self.cache, self.mask, places, lanes) if known and not last else None
        ops, self._ahead = self.model.ops, None
        told, self._ahead = ops.draw(self.model, self.sampler, logits, draws, history, after)
        return as_lists(told, len(live), self.model.config.vocab)

    def _written(self, lane: Lane) -> list[int]:
        return [*lane.prompt, *lane.tokens]

    def _stops(self, lane: Lane, token: int) -> bool:
        """Whether a token ends its lane, and is not fed."""
        return token in self.model.end_ids

    def _end(self, lane: Lane, reason: str) -> None:
        lane.finish_reason = reason
