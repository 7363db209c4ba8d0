"""Rotation and frequencies against complex numbers, recorded values and a live transformers.

Shift invariance holds for wrong frequencies and wrong pairings too; these oracles do not.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylane.core.rope import RopeConfig, frequencies, rotate, table

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "rope.json").read_text())
EPS32 = 2.0**-23


def turned(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """e^(i phi) (a + i b) for channels a = d, b = d + D/2, in float64."""
    half = x.shape[-1] // 2
    z = (x[..., :half] + 1j * x[..., half:].astype(np.float64)) * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag], axis=-1)


@pytest.mark.parametrize("start", [0, 1000, 131_000, 10_000_000])
@pytest.mark.parametrize("library", ["numpy", "mlx"])
def test_rotation_is_complex_multiplication_at_any_position(library: str, start: int) -> None:
    """Within 1 eps of max |x|, near and far: the angles are float64 whatever the dtype."""
    x = np.random.default_rng(start).standard_normal((3, 5, 16)).astype(np.float32)
    theta, _ = frequencies(RopeConfig(), 16)
    angles = (start + np.arange(5))[:, None] * theta
    c, s = table(angles)
    if library == "mlx":
        mx = pytest.importorskip("mlx.core")
        from tinylane.core import mlx_ops

        got = np.asarray(mlx_ops.rotate(mx.array(x), mx.array(c), mx.array(s)))
    else:
        got = rotate(x, c, s)
    assert got.dtype == np.float32
    assert np.abs(got - turned(x, angles)).max() <= 1.0 * EPS32 * np.abs(x).max()


def test_rotation_in_float64_is_exact_to_its_eps() -> None:
    x = np.random.default_rng(1).standard_normal((2, 4, 8))
    angles = np.random.default_rng(2).uniform(-1e4, 1e4, (4, 4))
    got = rotate(x, *table(angles, dtype=np.float64))
    assert got.dtype == np.float64
    assert np.abs(got - turned(x, angles)).max() <= 2.0**-51 * np.abs(x).max()


def test_a_quarter_turn_takes_the_first_half_to_the_second() -> None:
    """Counter-clockwise, half-split: channel d goes to channel d + D/2, and back with a minus."""
    x = np.array([[1.0, 2.0, 0.0, 0.0]])
    c, s = table(np.full((1, 2), math.pi / 2), dtype=np.float64)
    assert np.allclose(rotate(x, c, s), [[0.0, 0.0, 1.0, 2.0]], atol=1e-15)
    assert np.allclose(rotate(rotate(x, c, s), c, s), -x, atol=1e-15)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_rotation_keeps_a_narrow_dtype(name: str) -> None:
    """With float32 tables the arithmetic is wide; only the result is rounded."""
    mx = pytest.importorskip("mlx.core")
    from tinylane.core import mlx_ops

    x = mx.array(np.random.default_rng(3).standard_normal((4, 8)).astype(np.float32))
    x = x.astype(getattr(mx, name))
    angles = np.arange(4)[:, None] * np.array([1.0, 0.1, 0.01, 0.001])
    c, s = (mx.array(t) for t in table(angles))
    got = mlx_ops.rotate(x, c, s)
    assert got.dtype == x.dtype
    exact = turned(np.array(x.astype(mx.float32)), angles)
    eps = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[name]  # half a unit in the last place
    assert (
        np.abs(np.array(got.astype(mx.float32)) - exact).max() <= 1.01 * eps * np.abs(exact).max()
    )


def test_tables_are_float32_unless_asked_and_of_many_layers_as_of_one() -> None:
    """A float64 table would widen every key; layers joined along another axis would mix rows."""
    angles = np.random.default_rng(7).uniform(-9, 9, (3, 5, 4))  # layers, T, D/2
    for dtype in (np.float32, np.float64):
        c, s = table(angles, 1.5, dtype)
        assert c.dtype == s.dtype == dtype
        for layer, one in enumerate(angles):
            assert np.array_equal(c[layer], table(one, 1.5, dtype)[0])
            assert np.array_equal(s[layer], table(one, 1.5, dtype)[1])
    assert table(angles)[0].dtype == table(angles)[1].dtype == np.float32


def test_the_factor_scales_what_is_rotated() -> None:
    x = np.random.default_rng(4).standard_normal((3, 6))
    angles = np.random.default_rng(5).standard_normal((3, 3))
    got = rotate(x, *table(angles, 1.25, np.float64))
    assert np.allclose(got, 1.25 * turned(x, angles), rtol=1e-14)


@given(st.integers(0, 999), st.integers(-100_000, 100_000), st.integers(-100_000, 100_000))
def test_rotations_add_up(seed: int, i: int, j: int) -> None:
    """R(a) R(b) = R(a + b): why a forked lane's keys can be turned on."""
    x = np.random.default_rng(seed).standard_normal((1, 8))
    theta, _ = frequencies(RopeConfig(), 8)
    at = lambda k: table(np.array([[k]]) * theta, dtype=np.float64)
    twice = rotate(rotate(x, *at(i)), *at(j))
    assert np.abs(twice - rotate(x, *at(i + j))).max() <= 1e-10


def test_mlx_rope_agrees_near_the_origin() -> None:
    """The fused operation of MLX as an oracle: half-split, the same sign, the same frequencies."""
    mx = pytest.importorskip("mlx.core")
    x = np.random.default_rng(6).standard_normal((1, 2, 7, 32)).astype(np.float32)
    theta, _ = frequencies(RopeConfig(base=500000.0), 32)
    ours = rotate(x, *table(np.arange(7)[:, None] * theta))
    theirs = mx.fast.rope(mx.array(x), 32, traditional=False, base=500000.0, scale=1.0, offset=0)
    assert np.abs(ours - np.asarray(theirs)).max() < 1e-5


@pytest.mark.parametrize("entry", RECORDED, ids=[entry["name"] for entry in RECORDED])
def test_frequencies_are_those_that_transformers_recorded(entry: dict[str, Any]) -> None:
    """transformers computes in float32: equal to a few of its units in the last place."""
    theta, factor = frequencies(RopeConfig(**entry["rope"]), entry["head_dim"])
    assert theta.dtype == np.float64 and theta.shape == (entry["head_dim"] // 2,)
    np.testing.assert_allclose(theta, entry["theta"], rtol=1e-6)
    assert factor == pytest.approx(entry["factor"], rel=1e-6)


def test_frequencies_are_those_of_the_installed_transformers() -> None:
    pytest.importorskip("torch")  # mlx-lm installs transformers without it
    pytest.importorskip("transformers")
    from record_rope import CASES, from_transformers

    assert {entry["name"] for entry in RECORDED} == set(CASES)
    for name, (head_dim, rope) in CASES.items():
        expected, expected_factor = from_transformers(rope, head_dim)
        theta, factor = frequencies(rope, head_dim)
        np.testing.assert_allclose(theta, expected, rtol=1e-6, err_msg=name)
        assert factor == pytest.approx(expected_factor, rel=1e-6), name


def test_default_frequencies_fall_from_one_by_a_constant_ratio() -> None:
    theta, factor = frequencies(RopeConfig(base=16.0), 8)
    assert np.allclose(theta, [1, 0.5, 0.25, 0.125]) and factor == 1.0


def test_linear_scaling_divides_every_frequency() -> None:
    plain, _ = frequencies(RopeConfig(), 16)
    scaled, factor = frequencies(RopeConfig("linear", factor=4.0), 16)
    assert np.array_equal(scaled, plain / 4) and factor == 1.0


@pytest.mark.parametrize("kind", ["llama3", "yarn"])
def test_stretching_keeps_the_fastest_plane_and_divides_the_slowest(kind: str) -> None:
    plain, _ = frequencies(RopeConfig(base=500000.0), 128)
    scaled, _ = frequencies(RopeConfig(kind, 500000.0, 8.0, 8192), 128)
    ratio = plain / scaled
    assert ratio[0] == 1 and ratio[-1] == pytest.approx(8)
    assert (np.diff(ratio) >= -1e-12).all() and ((ratio > 1.01) & (ratio < 7.9)).any()


@pytest.mark.parametrize(
    ("given_fields", "expected"),
    [
        ({}, 0.1 * math.log(8) + 1),
        ({"attention_factor": 1.7}, 1.7),
        (
            {"mscale": 1.0, "mscale_all_dim": 0.5},
            (0.1 * math.log(8) + 1) / (0.05 * math.log(8) + 1),
        ),
        ({"mscale": 1.0}, 0.1 * math.log(8) + 1),
        ({"factor": 1.5}, 0.1 * math.log(1.5) + 1),
        ({"factor": 1.0}, 1.0),
        ({"factor": 0.5}, 1.0),  # transformers: not below 1
        ({"factor": 1.0, "mscale": 2.0, "mscale_all_dim": 1.0}, 1.0),
    ],
)
def test_yarn_attention_factor(given_fields: dict[str, float], expected: float) -> None:
    fields = {"base": 10000.0, "factor": 8.0, "original_context": 512, **given_fields}
    _, factor = frequencies(RopeConfig(kind="yarn", **fields), 64)
    assert factor == pytest.approx(expected, rel=1e-15)


def test_yarn_whose_bands_meet_has_no_hole() -> None:
    """Where fast and slow fall on one plane the ramp is a step, not a division by zero."""
    rope = RopeConfig("yarn", 10000.0, 4.0, 64, beta_fast=1.0, beta_slow=1.0, truncate=False)
    theta, _ = frequencies(rope, 8)
    plain, _ = frequencies(RopeConfig(), 8)
    assert np.round(plain / theta, 9).tolist() == [1, 1, 4, 4]  # they meet at 1.008


def test_an_unknown_kind_is_a_bug_not_a_default() -> None:
    with pytest.raises(AssertionError, match="longrope"):
        frequencies(RopeConfig("longrope"), 8)
