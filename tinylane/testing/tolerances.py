"""How far two computations of the same logits may lie apart, by dtype, and why.

An error has two sources: rounding in the decoder, which is relative to the logits and to the
dtype, and rounding of the angles, which are computed in float64 on the host whatever the dtype is.
So the tolerance is C * scale * (eps(dtype) + eps(float64) * angle), where scale is the largest
logit and angle the largest angle in radians that is turned through.
"""

from __future__ import annotations

from dataclasses import dataclass

EPS64 = 2.0**-52


@dataclass(frozen=True)
class Tolerance:
    """C and eps of a dtype. `measured`: the worst error / (scale * (eps + eps64 * angle)) in 4,000
    random models of `samples.random_case`, one or two layers deep. C is four
    times that, but see bfloat16."""

    eps: float
    c: float
    measured: float
    reason: str


_REASON = "rounding, amplified by norms and softmax: the model's doing, not the dtype's"
TOLERANCES = {
    "float64": Tolerance(EPS64, 330.0, 5.7, _REASON + "; C is float32's"),
    "float32": Tolerance(2.0**-23, 330.0, 82.0, _REASON),
    "float16": Tolerance(2.0**-10, 70.0, 17.0, "sums and softmax in float32, results rounded"),
    "bfloat16": Tolerance(2.0**-7, 40.0, 31.0, "as float16; 4 * 31 eps would be the logits' size"),
}


def tolerance(dtype: str, scale: float, angle: float = 0.0) -> float:
    """The largest difference that a law allows in logits of size `scale` (at least 1).

    dtype: of the activations. angle: the largest angle in radians. Raises KeyError for a dtype
    that is not in `TOLERANCES`.
    """
    entry = TOLERANCES[dtype]
    return entry.c * max(scale, 1.0) * (entry.eps + EPS64 * angle)
