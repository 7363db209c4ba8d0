"""Functions with exponentials, for training on a CPU: as MLX's, quicker where its exp is slow.

On a CPU that is not Apple's, MLX 0.32.4 takes 20 ns and more for exp, also inside sigmoid, softmax
and logsumexp; for a power 5.7 ns. `python tutorials/bench/training.py` times a step with both.
Elsewhere these are MLX's own functions. `tests/train/test_exponentials.py` compares values and
gradients with float64.
"""

from __future__ import annotations

import math
import sys

import mlx.core as mx

SLOW = mx.default_device() == mx.Device(mx.cpu) and sys.platform != "darwin"


def exp(x: mx.array) -> mx.array:
    """e to the power of x, float32; infinite beyond 88, 0 below -104."""
    return mx.power(math.e, x)


@mx.custom_function
def _gated(gate: mx.array, up: mx.array) -> tuple[mx.array, mx.array]:
    sigmoid = 1 / (1 + exp(-gate))
    return gate * sigmoid * up, sigmoid


@_gated.vjp
def _gated_vjp(
    inputs: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
) -> tuple[mx.array, mx.array]:
    (gate, up), (y, _), (_, sigmoid) = inputs, cotangents, outputs
    silu = gate * sigmoid
    return y * up * (sigmoid + silu * (1 - sigmoid)), y * silu


def gated(gate: mx.array, up: mx.array) -> mx.array:
    """As `decoder.gated`."""
    return _gated(gate, up)[0]  # type: ignore[index]


@mx.custom_function
def softmax(x: mx.array) -> mx.array:
    """As `mx.softmax` over the last axis."""
    x = exp(x - x.max(axis=-1, keepdims=True))
    return x * (1 / x.sum(axis=-1, keepdims=True))


@softmax.vjp
def _softmax_vjp(x: mx.array, cotangent: mx.array, y: mx.array) -> mx.array:
    part = cotangent * y
    return part - y * part.sum(axis=-1, keepdims=True)


def logsumexp(x: mx.array) -> mx.array:
    """As `mx.logsumexp` over the last axis."""
    top = mx.stop_gradient(x.max(axis=-1, keepdims=True))
    return (mx.log(exp(x - top).sum(axis=-1, keepdims=True)) + top)[..., 0]
