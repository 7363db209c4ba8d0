"""Rotary position embedding: angular frequencies, angle tables, and the rotation itself.

A head's D channels form D/2 planes; plane d pairs channel d with channel d + D/2 (the half-split
layout of Hugging Face weights). Position i turns plane d by theta[d] * i, so the product of a
query at i with a key at j depends on i - j only (RoFormer, arXiv:2104.09864, section 3.2).

Angles are computed on the host in float64 and only their cosines and sines are rounded: a float32
angle is wrong by 886 ulp at position 32k, a bfloat16 angle by whole radians at position 1000.

Not handled: rotations of a part of the head, interleaved layouts, frequencies that change with the
length of the text (dynamic, longrope). `tinylane.checkpoints.config_json` refuses them by name.

    T  rows (tokens)      D  channels of one head
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or mlx.core.array
Table = tuple[Array, Array]  # C and S of `table`, both (T, D)


@dataclass(frozen=True)
class RopeConfig:
    """Which angular frequencies a checkpoint was trained with; `frequencies` reads it."""

    kind: str = "default"  # default, linear, llama3, yarn
    base: float = 10000.0
    factor: float = 1.0
    original_context: int = 0  # llama3, yarn: the context before it was stretched
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn: None means 0.1 ln(factor) + 1
    mscale: float | None = None  # yarn, DeepSeek's spelling of the attention factor
    mscale_all_dim: float | None = None
    truncate: bool = True  # yarn: round the correction range to whole planes


def frequencies(rope: RopeConfig, head_dim: int) -> tuple[np.ndarray, float]:
    """Angular frequencies theta (D/2,), float64, in radians per position, and the attention factor.

    The factor multiplies the rotated query and the rotated key (YaRN's temperature; otherwise 1).
    Sources: `linear` is position interpolation (arXiv:2306.15595), `llama3` the scaling released
    with Llama 3.1, `yarn` is arXiv:2309.00071, section 3. The fields were checked when
    config.json was read.

    >>> theta, factor = frequencies(RopeConfig(base=10000.0), head_dim=4)
    >>> [float(x) for x in theta], factor
    ([1.0, 0.01], 1.0)
    """
    theta = rope.base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.kind == "default":
        return theta, 1.0
    if rope.kind == "linear":
        return theta / rope.factor, 1.0
    if rope.kind == "llama3":
        # Slow planes are stretched by `factor`, fast ones kept, those between are mixed.
        turns = rope.original_context * theta / (2 * math.pi)  # within the original context
        span = rope.high_freq_factor - rope.low_freq_factor
        keep = np.clip((turns - rope.low_freq_factor) / span, 0.0, 1.0)
        return theta * (keep + (1 - keep) / rope.factor), 1.0
    if rope.kind == "yarn":
        low, high = _yarn_planes(rope, head_dim)
        ramp = np.clip((np.arange(head_dim // 2) - low) / (high - low), 0.0, 1.0)
        return theta * (1 - ramp + ramp / rope.factor), _yarn_attention(rope)
    raise AssertionError(rope.kind)


def _yarn_planes(rope: RopeConfig, head_dim: int) -> tuple[float, float]:
    """Between which planes YaRN goes from keeping a frequency to dividing it by `factor`."""

    def plane(turns: float) -> float:  # the plane that turns so often within the original context
        wavelength = rope.original_context / (turns * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(rope.base))

    low, high = plane(rope.beta_fast), plane(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, high + 0.001 if low == high else high


def _yarn_attention(rope: RopeConfig) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return mscale(rope.mscale) / mscale(rope.mscale_all_dim)
    return mscale(1.0)


def table(angles: Array, factor: float = 1.0, dtype: Any = np.float32) -> Table:
    """Angles (T, D/2) in radians -> the tables C and S (T, D) that `rotate` multiplies with.

    Each plane's cosine stands at both its channels; the sine has the sign of its half.

    >>> c, s = table(np.array([[0.0], [np.pi / 2]]))  # one plane at two positions
    >>> (c.round(3) + 0.0).tolist(), (s.round(3) + 0.0).tolist()
    ([[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [-1.0, 1.0]])
    """
    xp = angles.__array_namespace__()
    cos, sin = xp.cos(angles) * factor, xp.sin(angles) * factor
    c = xp.concatenate([cos, cos], axis=-1).astype(dtype)
    s = xp.concatenate([-sin, sin], axis=-1).astype(dtype)
    return c, s


def rotate(x: Array, c: Array, s: Array) -> Array:
    """R(phi) x for every row: x (..., T, D), tables (T, D) from `table`; keeps the dtype of x.

    (a, b) -> (a cos - b sin, b cos + a sin) in every plane: counter-clockwise for positive angles.

    The score of a query at position 5 and a key at 3 is that of positions 2 and 0:

    >>> q, k = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[4.0, 3.0, 2.0, 1.0]])
    >>> theta, _ = frequencies(RopeConfig(), head_dim=4)
    >>> def score(i, j):
    ...     return rotate(q, *table(i * theta[None])) @ rotate(k, *table(j * theta[None])).T
    >>> np.allclose(score(5, 3), score(2, 0))
    True
    """
    xp = x.__array_namespace__()
    half = x.shape[-1] // 2
    flipped = xp.concatenate([x[..., half:], x[..., :half]], axis=-1)
    return (x * c + flipped * s).astype(x.dtype)
