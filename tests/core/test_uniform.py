"""The random numbers: each depends on seed, lane and index only."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers_sampling import chi_square_z
from hypothesis import given
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.core.sampling import uniform

GOLDEN = [
    0.011546754286331673,
    0.24154919656271823,
    0.21185954403345753,
    0.3035680343067587,
    0.8457443418608761,
    0.8133540609793565,
]


# The random numbers.


def test_a_uniform_depends_on_seed_lane_and_index_only():
    """Guards against a hidden generator: order, company and repetition change nothing."""
    together = uniform(3, np.arange(50), 8)
    alone = [uniform(3, lane, 8) for lane in reversed(range(50))]
    assert together.tolist() == alone[::-1]
    assert uniform(3, [9, 2, 9], 8).tolist() == [alone[-10], alone[-3], alone[-10]]


def philox4x64(key: int, counter: int) -> list[int]:
    """Salmon et al. 2011, ten rounds, straight from the paper."""
    mask = 2**64 - 1
    k0, k1 = key & mask, key >> 64
    c0, c1, c2, c3 = ((counter >> 64 * word) & mask for word in range(4))
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (b >> 64) ^ c1 ^ k0, b & mask, (a >> 64) ^ c3 ^ k1, a & mask
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return [c0, c1, c2, c3]


@given(st.integers(0, 2**128 - 1), st.integers(0, 200), st.integers(0, 2**64 - 1))
def test_a_uniform_is_an_output_of_philox_under_the_documented_key_and_counter(seed, lane, index):
    """Guards against a seed or index of 2**63 and more that loses its low bits in float64."""
    bits = philox4x64(seed, (index << 64) + lane // 4 + 1)[lane % 4]
    assert uniform(seed, lane, index) == ((bits >> 11) + 1) * 2.0**-53


def test_a_uniform_stays_the_same_in_every_version():
    """A saved run replays only while these numbers stand."""
    assert [uniform(0, 0, 0), uniform(0, 1, 0), uniform(0, 0, 1), uniform(1, 0, 0)] == GOLDEN[:4]
    assert [uniform(2**128 - 1, 9999, 2**64 - 1), uniform(2**64, 0, 0)] == GOLDEN[4:]


def test_seed_lane_and_index_each_change_the_number():
    """Guards against seeds that are folded: 2**64 must not be seed 0."""
    seeds = [0, 1, 2, 2**32, 2**64 - 1, 2**64, 2**64 + 1, 2**127, 2**128 - 1]
    numbers = {uniform(s, lane, i) for s in seeds for lane in (0, 1, 2, 9999) for i in range(5)}
    assert len(numbers) == len(seeds) * 4 * 5


@pytest.mark.parametrize("axis", ["seed", "lane", "index"])
def test_uniforms_are_uniform_and_uncorrelated_along_every_axis(axis):
    n = 3000
    if axis == "lane":
        u = uniform(5, np.arange(n), 11)
    else:
        u = np.array([uniform(i, 2, 3) if axis == "seed" else uniform(3, 2, i) for i in range(n)])
    counts = np.bincount((u * 20).astype(int).clip(max=19), minlength=20)
    assert abs(chi_square_z(counts, np.full(20, n / 20))) < 4
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / math.sqrt(n)


def test_the_smallest_uniform_is_not_zero_and_the_largest_is_one(monkeypatch):
    """At 0 the inverse of the distribution gives no token; 53 bits and a half would round to it."""
    for bits, u in ((0, 2.0**-53), (2**64 - 1, 1.0)):
        stream = type("Philox", (), {"random_raw": lambda self, n, b=bits: np.full(n, b, "u8")})
        monkeypatch.setattr(np.random, "Philox", lambda s=stream, **_: s())
        assert uniform(0, 0, 0) == u
        assert np.float32(uniform(0, 0, 0)) > 0


@pytest.mark.parametrize("seed", [-1, 2**128, 1.5, "1", None, math.nan])
def test_a_seed_out_of_range_is_refused_with_its_range(seed):
    with pytest.raises(TinylaneError, match=r"seed .*0 to 2\*\*128 - 1"):
        uniform(seed, 0, 0)


def test_numpy_integers_are_seeds_lanes_and_indices():
    assert uniform(np.int64(4), np.int32(2), np.uint8(3)) == uniform(4, 2, 3)


def test_one_lane_gives_a_float_and_no_lanes_give_none():
    """np.float64 would promote a float32 array that it meets."""
    assert type(uniform(4, 2, 3)) is type(uniform(4, np.int64(2), 3)) is float
    assert uniform(4, np.zeros(0, dtype=int), 3).shape == (0,)


def test_no_more_random_numbers_are_made_than_the_last_lane_needs(monkeypatch):
    asked: list[int] = []
    raw = lambda self, count: asked.append(count) or np.zeros(count, "u8")
    monkeypatch.setattr(np.random, "Philox", lambda **_: type("Philox", (), {"random_raw": raw})())
    for lanes in (0, [4, 1], np.arange(3)):
        uniform(0, lanes, 0)
    assert asked == [1, 5, 3]
