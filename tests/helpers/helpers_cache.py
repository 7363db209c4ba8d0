"""Rows for a cache, and the comparison of two caches."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_lanes import BACKENDS, ids, log_softmax

from tinylane.core.cache import LaneCache
from tinylane.core.lanes import SHARED
from tinylane.core.model import Model

ANY = pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
Rows = list[tuple[int, int, int]]  # token, position, lane
PROMPT = [(token, i, SHARED) for i, token in enumerate(ids(5))]


def feed(model: Model, cache: LaneCache, rows: Rows) -> np.ndarray:
    """(T, V) log-probabilities."""
    return log_softmax(model(*map(np.array, zip(*rows, strict=True)), cache=cache))


def lane_rows(lane: int, start: int, stop: int, seed: int = 0) -> Rows:
    return [(token, start + k, lane) for k, token in enumerate(ids(stop - start, seed + 10 * lane))]


def contents(cache: LaneCache) -> list[np.ndarray]:
    """Every key and value, as copies, 16-bit ones widened."""
    arrays = [x for layer in range(len(cache.keys)) for x in cache.rows(layer)]
    if cache.model.backend == "mlx":
        import mlx.core as mx

        arrays = [x.astype(mx.float32) for x in arrays]
    return [np.array(x, copy=True) for x in arrays]


def equal(cache: LaneCache, expected: LaneCache, tolerance: float = 0.0) -> None:
    assert cache.positions.tolist() == expected.positions.tolist()
    assert cache.lanes.tolist() == expected.lanes.tolist()
    for a, b in zip(contents(cache), contents(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
