"""Exponentials for training on a CPU: values and gradients of closed forms in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import mlx.core as mx

from tinylane.train import exponentials

BOUND = 4e-6  # float32 against float64, relative to the largest value; measured: 1.1e-6
ROWS = np.random.default_rng(5).normal(0, 4, (7, 300)).astype(np.float32)
GATES = ROWS[::-1].copy()


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def softmax_slope(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    y = softmax(x)
    return y * (c - (c * y).sum(axis=-1, keepdims=True))


def gated_slope(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    s = 1 / (1 + np.exp(-x))
    return c * (s + x * s * (1 - s))


CLOSED: dict[str, tuple[Callable, Callable, Callable]] = {  # ours, its value, its derivative
    "softmax": (exponentials.softmax, softmax, softmax_slope),
    "logsumexp": (
        exponentials.logsumexp,
        lambda x: np.log(np.exp(x).sum(axis=-1)),
        lambda x, c: softmax(x) * c[..., None],
    ),
    "gated": (
        lambda x: exponentials.gated(x, mx.ones(x.shape)),
        lambda x: x / (1 + np.exp(-x)),
        gated_slope,
    ),
    "gated, by up": (
        lambda x: exponentials.gated(mx.array(GATES), x),
        lambda x: GATES / (1 + np.exp(-GATES.astype(np.float64))) * x,
        lambda x, c: GATES / (1 + np.exp(-GATES.astype(np.float64))) * c,
    ),
}


@pytest.mark.parametrize("name", list(CLOSED))
def test_values_and_gradients_are_those_of_the_closed_forms(name: str) -> None:
    ours, value, slope = CLOSED[name]
    x = ROWS.astype(np.float64)
    expected = value(x)
    assert off(ours(mx.array(ROWS)), expected) < BOUND
    c = np.random.default_rng(6).normal(size=expected.shape).astype(np.float32)
    _, (found,) = mx.vjp(ours, [mx.array(ROWS)], [mx.array(c)])
    assert off(found, slope(x, c.astype(np.float64))) < BOUND


def test_the_derivative_of_another_function_is_caught() -> None:
    """The negative control: silu's slope without its second term."""
    _, (found,) = mx.vjp(CLOSED["gated"][0], [mx.array(ROWS)], [mx.ones(ROWS.shape)])
    assert off(found, 1 / (1 + np.exp(-ROWS.astype(np.float64)))) > 0.01


def test_hidden_scores_and_large_numbers_are_no_nan() -> None:
    """A hidden key has the score -inf; exp(200) is infinite in float32."""
    weights = exponentials.softmax(mx.array([[-np.inf, 0.0, 1.0]], dtype=mx.float32))
    assert np.asarray(weights)[0] == pytest.approx([0, 1 / (1 + np.e), np.e / (1 + np.e)], rel=1e-6)
    gate = mx.array([-1e30, -200.0, 200.0], dtype=mx.float32)
    assert np.asarray(exponentials.gated(gate, mx.ones(3))).tolist() == [0, 0, 200]
    assert exponentials.logsumexp(mx.array([[1e4, 1e4]])).item() == pytest.approx(1e4 + np.log(2))
    slope = mx.grad(lambda x: exponentials.gated(x, mx.ones(3)).sum())(gate)
    assert np.asarray(slope).tolist() == [0, 0, 1]


def off(found: mx.array, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())
