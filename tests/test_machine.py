"""The cache as a state machine, and decoding by random scripts, against passes over all rows.

The model has one layer, so that a row's key depends on its token and coordinate alone, and the
cache must equal a fresh pass, whatever was dropped or forked before.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tinylane.cache import LaneCache
from tinylane.config import ModelConfig
from tinylane.decoding import Decoding
from tinylane.lanes import SHARED, LaneMask, Rotation
from tinylane.model import Model
from tinylane.sampling import Sampler, uniform
from tinylane.testing import tolerance
from tinylane.testing.samples import random_weights
from tinylane.testing.strategies import lane_ropes, masks, scripts

N, VOCAB = 4, 11
CONFIG = ModelConfig(
    family="qwen2",
    vocab=VOCAB,
    width=16,
    layers=1,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp_width=16,
    qkv_bias=True,
    eos_ids=(0,),
)
THETA = np.array([1.0, 0.3, 0.1, 0.03])
Row = tuple[int, int, int]


def small(backend: str, dtype: str) -> Model:
    params: dict[str, Any] = random_weights(CONFIG, 7)
    if backend == "mlx":
        mx = pytest.importorskip("mlx.core")
        params = {name: mx.array(w) for name, w in params.items()}
    else:
        params = {name: w.astype(dtype) for name, w in params.items()}
    return Model(CONFIG, params, backend, dtype, identity="small")


class CacheMachine(RuleBasedStateMachine):
    """`rows` is what the cache should hold, in its order; `clock` the next position."""

    model: Model

    @initialize(
        mask=masks(N),
        rope=lane_ropes(THETA, n=N),
        prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4),
        chunk=st.integers(1, 4),
    )
    def begin(self, mask: LaneMask, rope: Rotation, prompt: list[int], chunk: int) -> None:
        self.mask, self.rope = mask, rope
        self.cache = self.model.new_cache(rope, mask)
        self.rows: list[Row] = []
        self.clock = len(prompt)
        rows = [(token, i, SHARED) for i, token in enumerate(prompt)]
        for start in range(0, len(rows), chunk):
            self.feed(rows[start : start + chunk])

    def feed(self, rows: list[Row]) -> None:
        """Append rows, whose logits must be those of a fresh pass over everything."""
        got = self.model(*columns(rows), cache=self.cache)
        self.rows += rows
        fresh = self.model(*columns(self.rows), lane_rope=self.rope, lane_mask=self.mask)
        expected = np.asarray(fresh)[-len(rows) :]
        allowed = tolerance(self.model.dtype, float(np.abs(expected).max()), 1000.0)
        error = np.abs(np.asarray(got) - expected).max()
        assert error <= allowed, f"row of {rows} off by {error:.2g}, allowed {allowed:.2g}"

    @rule(
        tokens=st.dictionaries(st.integers(0, N - 1), st.integers(0, VOCAB - 1), min_size=1),
        gap=st.sampled_from((0, 0, 0, 5)),
    )
    def step(self, tokens: dict[int, int], gap: int) -> None:
        """One token for some lanes, each its own: lanes join, pause and finish like this."""
        self.clock += gap
        self.feed([(token, self.clock, lane) for lane, token in sorted(tokens.items())])
        self.clock += 1

    @rule(
        lane=st.integers(0, N - 1),
        tokens=st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=4),
    )
    def prompt_of_a_lane(self, lane: int, tokens: list[int]) -> None:
        self.feed([(token, self.clock + k, lane) for k, token in enumerate(tokens)])
        self.clock += len(tokens)

    @rule(token=st.integers(0, VOCAB - 1))
    def word_to_all(self, token: int) -> None:
        """A shared row that comes late."""
        self.feed([(token, self.clock, SHARED)])
        self.clock += 1

    @rule(source=st.integers(0, N - 1), to=st.integers(0, N - 1))
    def fork(self, source: int, to: int) -> None:
        if any(lane == to for _, _, lane in self.rows):
            return
        self.cache.fork(source, to)
        self.rows += [(token, i, to) for token, i, lane in self.rows if lane == source]

    @rule(lane=st.integers(0, N - 1))
    def drop(self, lane: int) -> None:
        self.cache.drop(lane)
        self.rows = [row for row in self.rows if row[2] != lane]

    @precondition(lambda self: self.clock > 1)
    @rule(back=st.integers(0, 4))
    def trim(self, back: int) -> None:
        self.clock = max(1, self.clock - back)
        self.cache.trim(self.clock)
        self.rows = [row for row in self.rows if row[1] < self.clock]

    @rule()
    def go_on_with_a_copy(self) -> None:
        left, self.cache = self.cache, self.cache.copy()
        self.model([1], [self.clock], [SHARED], cache=left)  # must not show in the copy

    @rule()
    def save_and_load(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cache.safetensors"
            self.cache.save(path)
            self.cache = LaneCache.load(path, self.model, self.rope, self.mask)

    @rule(token=st.integers(0, VOCAB - 1))
    def a_refused_call_leaves_no_trace(self, token: int) -> None:
        with pytest.raises(ValueError, match="outside the vocabulary"):
            self.model([token, VOCAB], [self.clock, self.clock], [0, 1], cache=self.cache)

    @invariant()
    def coordinates_are_those_of_the_rows(self) -> None:
        if not hasattr(self, "rows"):
            return
        held = list(zip(self.cache.positions.tolist(), self.cache.lanes.tolist(), strict=True))
        assert held == [(i, lane) for _, i, lane in self.rows]
        assert len(self.cache) == len(self.rows)


def columns(rows: list[Row]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def run_machine(backend: str, kind: Any = CacheMachine, **options: Any) -> None:
    machine = type("CacheMachine", (kind,), {"model": small(*backend.split())})
    run_state_machine_as_test(machine, settings=settings(stateful_step_count=12, **options))


@pytest.mark.parametrize("backend", ["numpy float64", "numpy float32", "mlx float32"])
def test_the_cache_equals_a_fresh_pass_after_any_operations(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinylane.cache.BLOCK", 4)
    run_machine(backend)


class Shadow:
    """What a decoding must write: all rows so far, and a fresh pass over them for every token."""

    def __init__(self, decoding: Decoding, own: list[list[int]]) -> None:
        self.decoding = decoding
        self.rows: list[Row] = [(token, i, SHARED) for i, token in enumerate(decoding.prompt)]
        self.written: dict[int, list[int]] = {}  # what each lane drew, by our own account
        for lane, ids in enumerate(own):
            self.join(lane, ids)

    def fork(self, source: int, new: int) -> None:
        self.rows += [(token, i, new) for token, i, m in self.rows if m == source]
        self.written[new] = list(self.written[source])

    def join(self, lane: int, ids: list[int]) -> None:
        self.written[lane] = []
        begin = self.decoding.clock - len(ids)
        self.rows += [(token, begin + k, lane) for k, token in enumerate(ids)]

    def expected(self) -> dict[int, int]:
        """The next token of every live lane."""
        d = self.decoding
        model, cache = d.model, d.cache
        logits = model(*columns(self.rows), lane_rope=cache.lane_rope, lane_mask=d.mask)
        found = {}
        for lane in d.live:
            mine = [k for k, row in enumerate(self.rows) if row[2] == lane.index]
            last = max(mine, key=lambda k: self.rows[k][1]) if mine else len(d.prompt) - 1
            own = self.written[lane.index]
            draw = np.array([uniform(d.seed, lane.index, len(own))])
            history = [[*d.prompt, *lane.prompt, *own]]
            token, _ = d.sampler(logits[last : last + 1], draw, history)
            found[lane.index] = int(token[0])
        return found

    def step(self) -> None:
        before, clock = self.expected(), self.decoding.clock
        step = self.decoding.step()
        assert {m: t for m, t in enumerate(step.tokens) if t is not None} == before
        for m, token in before.items():
            self.written[m].append(token)
            if token not in CONFIG.eos_ids:
                self.rows.append((token, clock, m))
        assert {lane.index: lane.tokens for lane in self.decoding.lanes} == self.written


SCRIPT = {
    "script": scripts(VOCAB, 10),
    "mask": masks(6),
    "rope": lane_ropes(THETA, n=6),
    "prompt": st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3),
    "own": st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=2), min_size=1, max_size=3),
    "seed": st.integers(0, 99),
    "chunk": st.integers(1, 4),
    "penalty": st.sampled_from((1.0, 1.4)),
}


def follow(
    script: list[Any],
    mask: LaneMask,
    rope: Rotation,
    prompt: list[int],
    own: list[list[int]],
    seed: int,
    chunk: int,
    penalty: float,
) -> None:
    """Decode as the script says; every token of every step is the one that a fresh pass gives."""
    d = Decoding(
        small("numpy", "float64"),
        prompt,
        len(own),
        max_tokens=50,
        sampler=Sampler(repetition_penalty=penalty),
        lane_rope=rope,
        lane_mask=mask,
        lane_prompts=own,
        seed=seed,
        chunk=chunk,
    )
    shadow = Shadow(d, own)
    for name, *rest in script:
        if name == "join":
            room = d.clock - len(prompt)
            if len(d.lanes) < mask.n:
                shadow.join(len(d.lanes), rest[0][:room])
                d.join(rest[0][:room], max_tokens=50)
        elif not d.live:
            continue
        elif name == "step":
            shadow.step()
        else:
            lane = d.live[rest[0] % len(d.live)].index
            if name == "finish":
                d.finish(lane)
            elif name == "drop":
                d.drop(lane)
                shadow.rows = [row for row in shadow.rows if row[2] != lane]
            elif len(d.lanes) < mask.n:
                shadow.fork(lane, d.fork(lane).index)
    if d.live:
        shadow.step()


@given(**SCRIPT)
def test_lanes_that_join_fork_finish_and_drop_write_what_fresh_passes_give(**drawn: Any) -> None:
    """In float64, where no draw falls between two roundings."""
    follow(**drawn)
