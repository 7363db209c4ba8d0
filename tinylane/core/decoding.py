"""Joint decoding: every step is one forward pass that gives each live lane one token.

`Decoding` is the loop. What may happen between two steps (lanes join, fork, wait, end) stands in
`tinylane.core.life`. `stream` and `generate` run the loop to the end, and call a schedule before
every step. The prompt is prefilled once and shared; lane prompts end together, so that all lanes
generate their first token at the same position. A lane's token is fed, and so can be seen by the
lanes that may see it, in the step after it was sampled. An end token, or the token that completes a
stop string, is never fed: it ends the lane and is not part of what it wrote.

`tinylane.core.oracle` does the same by recomputing everything at every step.

    N lanes   T rows of a pass   V vocab
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from dataclasses import asdict
from operator import itemgetter
from types import NoneType
from typing import Any

import numpy as np

from tinylane.core import times
from tinylane.core.distribution import likeliest
from tinylane.core.errors import NEVER_RUN, TinylaneError, made, of_kind, whole
from tinylane.core.lanes import MAX_LANES, SHARED, LaneMask, Row
from tinylane.core.life import Life
from tinylane.core.model import Model
from tinylane.core.prefix import keep_prefix
from tinylane.core.prompt import Prompt, Settings, encode_prompt, ends
from tinylane.core.result import Lane, Result, Step, own_text
from tinylane.core.sampling import Sampler, as_lists, uniform
from tinylane.core.side import rows_of_lanes


class Decoding(Life):
    """N lanes of one prompt, step by step.

    prompt: text, chat messages, or token ids. settings: the fields of `Settings`, by keyword;
    `tinylane.mode` gives a rotation and a mask by name. Raises TinylaneError for an empty prompt,
    one that leaves no room in the context, and settings out of range. Laws 7, 8, 9 and 13.

    >>> from tinylane.core.config import ModelConfig
    >>> from tinylane.core.model import Model
    >>> from tinylane.core.random_weights import random_params
    >>> config = ModelConfig()
    >>> model = Model(config, random_params(config, seed=0))
    >>> decoding = Decoding(model, [5, 6, 7], lanes=2, max_tokens=4)
    >>> step = decoding.step()  # the prompt stands at positions 0 to 2
    >>> step.position, len(step.tokens), len(decoding.cache)
    (3, 2, 3)
    >>> step = decoding.step()  # the two tokens are fed, and two more are drawn
    >>> step.position, decoding.cache.lanes.tolist()
    (4, [-1, -1, -1, 0, 1])
    """

    def __init__(self, model: Model, prompt: Prompt, lanes: int = 1, **settings: Any) -> None:
        super().__init__()
        began, s = time.perf_counter(), made(Settings, settings)
        n = whole("lanes", lanes, 1, MAX_LANES)
        self.model = of_kind("model", model, Model, "a model: tinylane.load gives one")
        self.stop, self.ends = ends(model, s.stop)
        self.seed = whole("seed", s.seed, 0, 2**128 - 1)
        self.chunk = whole("chunk", s.chunk, 1)
        self.top_logprobs = whole("top_logprobs", s.top_logprobs, 0, model.config.vocab)
        total = s.total_tokens
        self.total_tokens = None if total is None else whole("total_tokens", total, n)
        drawn = Sampler.from_config(model.sampling) if s.sampler is None else s.sampler
        self.sampler = of_kind("sampler", drawn, Sampler, "a Sampler, or of a class made from it")
        self.mask = model.mask(n) if s.lane_mask is None else s.lane_mask
        if of_kind("lane_mask", self.mask, LaneMask, "a LaneMask").n < n:
            raise TinylaneError(f"{n} lanes, but visibility is {self.mask.n} x {self.mask.n}")
        self.schedule = of_kind("schedule", s.schedule, (Callable, NoneType), "a function")
        rows_of_lanes(model.params, model.config, np.arange(n))  # refuses lanes without one
        rope = model.rope(s.lane_rope, self.mask if s.schedule is None else None)
        self.prompt = encode_prompt(model, prompt, s.template)
        lane_ids, limits = s.of_lanes(model, n)
        self.clock = len(self.prompt) + max(map(len, lane_ids))  # of the next tokens to be drawn
        if self.clock > model.config.context:
            raise TinylaneError(
                f"the prompt has {self.clock} tokens; this model's context is "
                f"{model.config.context}, prompt and generation together"
            )
        self.cache, self.reused = model.new_cache(rope, self.mask), 0
        if s.cache is not None:
            self.cache = s.cache
            self.reused = keep_prefix(s.cache, model, rope, self.mask, self.prompt)
        self.seconds = 0.0
        self._ahead: Any = None  # the next pass, if it was built early (`pipeline.Ahead`)
        rows = [(token, i, SHARED) for i, token in enumerate(self.prompt)]
        self._prompt_logits = self._forward(rows[self.reused :])[SHARED]
        self.cache.settle(self._prompt_logits)
        for ids, limit in zip(lane_ids, limits, strict=True):
            self.join(ids, max_tokens=limit)
        self.events = []  # how a decoding begins is no event
        self.plain = not rope.same_as(model.rope(s.lane_rope))
        self.prefill_seconds = time.perf_counter() - began

    def step(self) -> Step:
        """Feed what the lanes drew last, and draw one token for every live lane."""
        began = time.perf_counter()
        live = self.live
        if not live:
            raise TinylaneError("every lane has finished or waits; join, fork or resume one")
        early = self._ahead and self._ahead.logits_of(self._feed, self.cache)
        self._logits.update(early or self._forward(self._feed))
        self._logits.update({lane: self._logits[of] for lane, of in self._after.items()})
        going = [lane.index for lane in self.lanes if lane.finish_reason is None]
        self._logits = {m: self._logits[m] for m in going if m in self._logits}
        self._feed, self._after = [], {}
        drawn, logprobs = self._draw(live)
        n = len(self.lanes)
        step = Step(self.steps, self.clock, [None] * n, [None] * n, [""] * n, {}, [[]] * n)
        for lane, token, logprob in zip(live, drawn, logprobs, strict=True):
            place = self.position(lane.index)
            lane.write(token, logprob, place, self.steps)
            if k := self.top_logprobs:
                step.top_logprobs[lane.index] = likeliest(self._logits[lane.index], k)
                lane.top_logprobs.append(step.top_logprobs[lane.index])
            before = len(lane.text)
            reason = "stop" if token in self.ends or self._say(lane, token) else None
            if reason is None:
                full = place + 1 >= self.model.config.context
                if place < self.model.config.context:  # a clock that others moved on may be past it
                    self._feed.append((token, place, lane.index))
                reason = "length" if full or len(lane.tokens) >= lane.max_tokens else None
            if reason is not None:
                self._end(lane, reason)
            step.tokens[lane.index], step.logprobs[lane.index] = token, logprob
            step.texts[lane.index] = lane.text[before:]
        self.steps, self.clock = self.steps + 1, self.clock + 1
        for m, text in self._spend().items():
            step.texts[m] += text
        if self._ahead:
            self._ahead.start(self._feed if self.live else [])
        step.finished.update({x.index: x.finish_reason or "" for x in live if x.finish_reason})
        self.seconds += time.perf_counter() - began
        return step

    def __iter__(self) -> Iterator[Step]:
        while True:
            if self.schedule is not None:
                if isinstance(self.schedule(self), (Generator, Coroutine, AsyncGenerator)):
                    raise TinylaneError(f"schedule {NEVER_RUN}; expected a function")
                self._spend()
            if not self.live and (not self.schedule or all(x.finish_reason for x in self.lanes)):
                return
            yield self.step()

    def result(self) -> Result:
        """The state of the lanes now, as a `Result`."""
        settings = {
            "seed": self.seed,
            "sampler": asdict(self.sampler),
            **self.cache.lane_rope.settings(),
            **times.settings(self.mask),
            "stop": list(self.stop),
        }
        if self.events:
            settings["events"] = [dict(event) for event in self.events]
        counted = self.steps, self.prefill_seconds, self.seconds
        return Result(list(self.prompt), list(self.lanes), *counted, settings)

    # Within.

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

    def _draw(self, live: list[Lane]) -> tuple[list[int], list[float]]:
        """The tokens that live lanes write next, and their log-probabilities."""
        rows = [self._logits[lane.index] for lane in live]
        logits = rows[0].__array_namespace__().stack(rows)
        draws = np.array([uniform(self.seed, lane.index, len(lane.tokens)) for lane in live])
        history: list[list[int]] = [[] for _ in live]
        if self.sampler.repetition_penalty != 1:
            history = [self.prompt + own_text(self.lanes, lane) for lane in live]
        last = all(len(lane.tokens) + 1 >= lane.max_tokens for lane in live)
        lanes = [lane.index for lane in live]
        places = [self.position(m) for m in lanes]
        # Who is fed next is known now, unless a lane writes what it was given, or all lanes end.
        known = not last and not any(map(self._given.get, lanes))
        after = (self.cache, self.mask, places, lanes) if known else None
        ops, self._ahead = self.model.ops, None
        told, self._ahead = ops.draw(self.model, self.sampler, logits, draws, history, after)
        drawn, chances = as_lists(told, len(live), self.model.config.vocab)
        for k, m in enumerate(lanes):
            if self._given.get(m):
                drawn[k] = self._given[m].pop(0)
                row = np.asarray(rows[k], dtype=np.float64)
                chances[k] = float(row[drawn[k]] - np.logaddexp.reduce(row))
        return drawn, chances


def stream(model: Model, prompt: Prompt, **settings: Any) -> Iterator[Step]:
    """Decode jointly, one `Step` at a time, with every lane's new text; see `Decoding`."""
    yield from Decoding(model, prompt, **settings)


def generate(
    model: Model, prompt: Prompt, *, on_step: Callable[[Step], None] | None = None, **settings: Any
) -> Result:
    """Decode jointly to the end. Settings: see `Decoding`; `on_step` is called after every step."""
    decoding = Decoding(model, prompt, **settings)
    tell = of_kind("on_step", on_step, (Callable, NoneType), "a function") or (lambda step: None)
    for step in decoding:
        tell(step)
    return decoding.result()
