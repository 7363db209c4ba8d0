"""How much two computations of the same logits may differ, by dtype, and why.

An error has two sources: rounding in the decoder, which is relative to the logits and to the
dtype, and rounding of the angles, which are computed in float64 for every dtype. So the tolerance
is C * scale * (eps(dtype) + eps(float64) * angle): scale is the largest logit, angle the largest
rotation angle in radians.

How much a model amplifies rounding differs from model to model. C covers small models. For a large
one the sensitivity is measured: the change of the logits relative to the largest, divided by a
relative error of every matrix and norm result. It is measured on the definition in float64, so
that a bug in the decoder cannot widen its own tolerance. With it (`at_sensitivity`) C is
K * sensitivity. In a trained model and in random ones of 1 to 28 layers, 128 to 1024 wide, errors
were 0.4 to 4,000 eps and the sensitivity 1 to 1,500; error / (eps * sensitivity) was at most 4.8
in float32 and 0.8 in 16 bits (which sum in float32).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from tinylane.core.errors import TinylaneError, reals, show

EPS64 = 2.0**-52


@dataclass(frozen=True)
class Tolerance:
    """C and eps of a dtype. measured: the worst error / (scale * (eps + eps64 * angle)) in 4,000
    models of `samples.random_case`, of one or two layers. C is four times that, but see bfloat16.
    k: K, at least three times the worst measured."""

    eps: float
    c: float
    k: float
    measured: float
    reason: str


_REASON = "rounding, amplified by norms and softmax: the model's doing, not the dtype's"
TOLERANCES = {
    "float64": Tolerance(EPS64, 330.0, 16.0, 5.7, _REASON + "; C is float32's"),
    "float32": Tolerance(2.0**-23, 330.0, 16.0, 82.0, _REASON),
    "float16": Tolerance(2.0**-10, 70.0, 4.0, 17.0, "sums and softmax in float32, results rounded"),
    "bfloat16": Tolerance(
        2.0**-7, 55.0, 4.0, 41.0, "as float16; 4 * 41 eps would be more than the logits' size"
    ),
}


_sensitivity: ContextVar[float | None] = ContextVar("sensitivity", default=None)


@contextmanager
def at_sensitivity(sensitivity: float) -> Iterator[None]:
    """In this context `tolerance` is for a model with this measured sensitivity to rounding."""
    token = _sensitivity.set(max(sensitivity, 1.0))  # the logits are rounded too
    try:
        yield
    finally:
        _sensitivity.reset(token)


def tolerance(dtype: str, scale: float, angle: float = 0.0) -> float:
    """The largest difference that a law allows in logits whose largest is `scale` (1 if smaller).

    dtype: of the activations. angle: the largest angle in radians. Raises TinylaneError for a dtype
    that is not in `TOLERANCES`, and for what is no number.
    """
    if not isinstance(dtype, str) or dtype not in TOLERANCES:
        raise TinylaneError(f"dtype is {show(dtype)}; expected one of {', '.join(TOLERANCES)}")
    scale, angle = (float(reals(*x, True)) for x in (("scale", scale), ("angle", angle)))
    entry, sensitivity = TOLERANCES[dtype], _sensitivity.get()
    c = entry.c if sensitivity is None else entry.k * sensitivity
    return c * max(scale, 1.0) * (entry.eps + EPS64 * angle)
