"""LaneCache under any sequence of operations, against an uncached pass over a list of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_cache import Rows, feed
from helpers_lanes import VOCAB, omega, one_pass, small
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tinylane.core.cache import LaneCache
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask

# Any sequence of operations.

MACHINE = small()
MASK = LaneMask.star(5)  # lanes 1 .. 4 read nobody: a fork equals a lane fed the same tokens
ROPE = omega(MACHINE, "layers")


class CacheMachine(RuleBasedStateMachine):
    """A cache against a list of rows and an uncached pass over it."""

    @initialize(prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4))
    def begin(self, prompt: list[int]) -> None:
        self.cache = MACHINE.new_cache(ROPE, MASK)
        self.rows: Rows = [(token, i, SHARED) for i, token in enumerate(prompt)]
        self.copies: list[tuple[LaneCache, Rows]] = []
        feed(MACHINE, self.cache, self.rows)

    def _next(self, lane: int) -> int:
        own = [i for _, i, m in self.rows if m in (lane, SHARED)]
        return max(own, default=-1) + 1

    def _feed(self, rows: Rows) -> None:
        cached = feed(MACHINE, self.cache, rows)
        self.rows = self.rows + rows
        expected = one_pass(MACHINE, self.rows, ROPE, MASK)[-len(rows) :]
        np.testing.assert_allclose(cached, expected, rtol=0, atol=1e-10)

    @rule(lane=st.integers(1, 4), gap=st.integers(0, 2), text=st.lists(
        st.integers(0, VOCAB - 1), min_size=1, max_size=4))  # fmt: skip
    def append(self, lane: int, gap: int, text: list[int]) -> None:
        start = self._next(lane) + gap
        self._feed([(token, start + k, lane) for k, token in enumerate(text)])

    @rule(tokens=st.lists(st.integers(0, VOCAB - 1), min_size=4, max_size=4))
    def step(self, tokens: list[int]) -> None:
        now = max(self._next(lane) for lane in range(1, 5))
        self._feed([(token, now, lane) for token, lane in zip(tokens, range(1, 5), strict=True)])

    @rule(source=st.integers(1, 4), to=st.integers(1, 4))
    def fork(self, source: int, to: int) -> None:
        if any(m == to for _, _, m in self.rows):
            with pytest.raises(TinylaneError):
                self.cache.fork(source, to)
            return
        self.cache.fork(source, to)
        self.rows = self.rows + [(t, i, to) for t, i, m in self.rows if m == source]

    @rule(lane=st.integers(1, 4))
    def drop(self, lane: int) -> None:
        self.cache.drop(lane)
        self.rows = [row for row in self.rows if row[2] != lane]

    @precondition(lambda self: len(self.rows) > 1)
    @rule(data=st.data())
    def trim(self, data: Any) -> None:
        at = data.draw(st.integers(1, max(i for _, i, _ in self.rows) + 1))
        self.cache.trim(at)
        self.rows = [row for row in self.rows if row[1] < at]

    @rule(swap=st.booleans())
    def copy(self, swap: bool) -> None:
        twin = self.cache.copy()
        self.copies = [*self.copies[-2:], (self.cache if swap else twin, self.rows)]
        self.cache = twin if swap else self.cache

    @precondition(lambda self: self.copies)
    @rule()
    def go_back(self) -> None:
        other = (self.cache, self.rows)
        self.cache, self.rows = self.copies[0]
        self.copies[0] = other

    @rule()
    def save_and_load(self) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.cache.save(Path(folder) / "cache.safetensors")
            self.cache = LaneCache.load(Path(folder) / "cache.safetensors", MACHINE, ROPE, MASK)

    @rule(token=st.integers(0, VOCAB - 1))
    def interrupted(self, token: int) -> None:
        """One layer has put its rows when the pass is broken off."""
        odd = np.full((2, 3, 8), float(token))
        self.cache.put(0, odd, odd)

    @invariant()
    def coordinates(self) -> None:
        if hasattr(self, "cache"):
            assert self.cache.positions.tolist() == [i for _, i, _ in self.rows]
            assert self.cache.lanes.tolist() == [m for _, _, m in self.rows]

    @invariant()
    def next_step(self) -> None:
        """Lane 0 reads them all: its logits say whether every row is right."""
        if hasattr(self, "cache"):
            now = max(i for _, i, _ in self.rows) + 1
            cached = feed(MACHINE, self.cache.copy(), [(1, now, 0)])
            expected = one_pass(MACHINE, [*self.rows, (1, now, 0)], ROPE, MASK)[-1:]
            np.testing.assert_allclose(cached, expected, rtol=0, atol=1e-10)

    def teardown(self) -> None:
        for cache, rows in getattr(self, "copies", []):
            assert cache.positions.tolist() == [i for _, i, _ in rows]


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
