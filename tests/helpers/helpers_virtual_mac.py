"""GitHub's macOS runners are virtual: their GPU computes float32 otherwise than a Mac's own.

Others have measured that products come out less exact there, or wrong, with the same code right on
real Macs (pytorch/pytorch 192934 and 188438). So on such a device the tests measure how exact a
product is, widen the tolerance of float32 by as much, and say so. On every other machine, Macs
above all, nothing is widened.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

MOST = 1000.0  # what is less exact than this is wrong, and must fail


def is_virtual(name: str) -> bool:
    """Whether a device of this name is a virtual Mac's."""
    return "paravirtual" in name.lower()


def times_worse(product: Callable[[Any, Any], Any]) -> float:
    """How often larger the error of a float32 product is than NumPy's; at least 1."""
    rng, worst = np.random.default_rng(0), 1.0
    for m, k, n in ((1, 256, 256), (8, 256, 768), (64, 512, 64), (128, 128, 1024)):
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n)))
        exact = a.astype(np.float64) @ b
        off = lambda x, exact=exact: float(np.abs(np.asarray(x) - exact).max())
        worst = max(worst, off(product(a, b)) / off(a @ b))
    return worst


def widen() -> str | None:
    """On a virtual Mac: widen the tolerance of float32, and say by how much."""
    if sys.platform != "darwin":
        return None
    try:
        import mlx.core as mx

        name = str(mx.device_info().get("device_name", ""))
    except Exception:  # no MLX, or one without a GPU
        return None
    if not is_virtual(name):
        return None
    return widened(name, times_worse(lambda a, b: mx.array(a) @ mx.array(b)))


def widened(name: str, worse: float) -> str:
    """Widen the tolerance of float32 `worse` times; the line that says so."""
    from tinylane.testing.tolerances import TOLERANCES

    entry, by = TOLERANCES["float32"], min(worse, MOST)
    TOLERANCES["float32"] = replace(entry, eps=entry.eps * by)
    said = f"float32 products are {worse:.1f} times less exact than NumPy's"
    return f"{name}: {said}; tolerance x {by:.1f}"
