"""Decoding: lanes of one prompt with all that may happen to them, from text to text.

`Loop` is what runs. `Life` has the lanes' text, stop strings, and what may happen between steps.
Here are a budget of all lanes together, the likeliest tokens, a cache that goes on, and a schedule:
a function that is called before every step (`tinylane.methods.schedules` has pieces for it).

    N lanes   V vocab
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from types import NoneType
from typing import Any

import numpy as np

from tinylane.core.cache import LaneCache
from tinylane.core.distribution import logsumexp
from tinylane.core.errors import NEVER_RUN, TinylaneError, made, of_kind, whole
from tinylane.core.lanes import MAX_LANES, LaneMask, Places, Rotation
from tinylane.core.model import Model
from tinylane.core.result import Lane, Result, Step
from tinylane.methods.life import Life
from tinylane.methods.prefix import keep_prefix
from tinylane.methods.prompt import Prompt, Settings, encode_prompt, ends


class Decoding(Life):
    """N lanes of one prompt, step by step; they may join, fork, wait, be sealed and end.

    prompt: text, chat messages, or token ids. settings: the fields of `Settings`, by keyword;
    `tinylane.mode` gives a rotation and a mask by name. Raises TinylaneError for an empty prompt,
    one that leaves no room in the context, and settings out of range. So does each operation, and
    changes nothing, for a lane that is not there or not in a state for it.

    >>> from tinylane.core.config import ModelConfig
    >>> from tinylane.core.random_weights import random_params
    >>> config = ModelConfig()
    >>> model = Model(config, random_params(config, seed=0))
    >>> decoding = Decoding(model, [5, 6, 7], lanes=2, max_tokens=4)
    >>> step = decoding.step()
    >>> new = decoding.fork(1)  # it has written what lane 1 has, and goes on by itself
    >>> step = decoding.step()
    >>> new.index, new.tokens[0] == decoding.lanes[1].tokens[0], decoding.cache.lanes.tolist()
    (2, True, [-1, -1, -1, 0, 1, 2])
    """

    def __init__(self, model: Model, prompt: Prompt, lanes: int = 1, **settings: Any) -> None:
        began, s = time.perf_counter(), made(Settings, settings)
        n = whole("lanes", lanes, 1, MAX_LANES)
        of_kind("model", model, Model, "a model: tinylane.load gives one")
        self.schedule = of_kind("schedule", s.schedule, (Callable, NoneType), "a function")
        self.stop, self.ends = ends(model, s.stop)
        self.top_logprobs = whole("top_logprobs", s.top_logprobs, 0, model.config.vocab)
        total = s.total_tokens
        self.total_tokens = None if total is None else whole("total_tokens", total, n)
        if model.side is not None:
            model.side.rows(model.params, model.config, np.arange(n))  # refuses lanes without one
        mask = model.mask(n) if s.lane_mask is None else s.lane_mask
        of_kind("lane_mask", mask, LaneMask, "a LaneMask")
        # Omega is left out where no lane reads another, nor ever will (law 7).
        rope = model.rope(s.lane_rope, mask if s.schedule is None else None)
        self.plain = not rope.same_as(model.rope(s.lane_rope))
        ids = encode_prompt(model, prompt, s.template)
        lane_ids, limits = s.of_lanes(model, n)
        self.reused, self._before = 0, s.cache
        super().__init__(
            model, ids, n, max_tokens=limits, sampler=s.sampler, seed=s.seed, lane_rope=rope,
            lane_mask=mask, lane_prompts=lane_ids, chunk=s.chunk,
        )  # fmt: skip
        self.prefill_seconds = time.perf_counter() - began

    def step(self) -> Step:
        """Feed what the lanes drew last, and draw one token for every live lane."""
        if not self.live:
            raise TinylaneError("every lane has finished or waits; join, fork or resume one")
        before = [len(lane.text) for lane in self.lanes]
        step = super().step()
        # A clock that lanes have moved on may be past the context.
        self._feed = [row for row in self._feed if row[1] < self.model.config.context]
        drew = [lane for lane in self.lanes if step.tokens[lane.index] is not None]
        for lane in drew if self.top_logprobs else ():
            step.top_logprobs[lane.index] = lane.top_logprobs[-1]
        self._spend()
        step.finished.update({x.index: x.finish_reason or "" for x in drew if x.finish_reason})
        step.texts[:] = [x.text[n:] for x, n in zip(self.lanes, before, strict=True)]
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
        result = super().result()
        result.settings["stop"] = list(self.stop)
        if self.events:
            result.settings["events"] = [dict(event) for event in self.events]
        return result

    def _begin_cache(self, rope: Rotation | None) -> LaneCache:
        if self._before is None:
            return super()._begin_cache(rope)
        cache, self._before = self._before, None
        model, turned, one = self.model, self.model.rope(rope), np.zeros(1, dtype=np.int64)
        if model.side is not None:  # refuses some rotations, which no cache should be cut for
            at = Places(one, one, one, one)
            model.side.planned(model.params, model.config, turned, self.mask, at, model.array)
        self.reused = keep_prefix(cache, self.model, turned, self.mask, self.prompt)
        return cache

    def _stops(self, lane: Lane, token: int) -> bool:
        if k := self.top_logprobs:  # before its text: Ctrl-C may come in between
            lane.top_logprobs.append(likeliest(self._logits[lane.index], k))
        return super()._stops(lane, token)

    def _spend(self) -> None:
        """End all lanes if a step would be more than all may have."""
        step_more = sum(len(x.tokens) for x in self.lanes) + len(self.live)
        if self.total_tokens and step_more > self.total_tokens:
            for lane in [x for x in self.lanes if x.finish_reason is None]:
                self._end(lane, "budget")


def likeliest(logits: Any, k: int) -> list[tuple[int, float]]:
    """The k likeliest tokens of one row (V,) and their log-probabilities: the largest first, the
    lowest id of equals; none that is impossible. Found on the host, in O(V)."""
    if not k:
        return []
    row = np.asarray(logits - logsumexp(logits[None]))
    ids = np.flatnonzero((row >= np.partition(row, -k)[-k]) & np.isfinite(row))
    ids = ids[np.argsort(-row[ids], kind="stable")][:k]
    return list(zip(ids.tolist(), row[ids].tolist(), strict=True))


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
