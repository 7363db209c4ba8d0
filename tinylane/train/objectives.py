"""What is minimised: the negative log-likelihood of lanes, and KTO. Numbers only, either library.

One transcript of several lanes is one example: its log-probability is the sum over the tokens of
all its lanes, log pi(y|x) with y everything that the lanes wrote. It factorises so because a token
sees exactly what it saw in decoding, all of it written before. KTO (Ethayarajh et al. 2024,
arXiv:2402.01306, section 4.1):

    r(x, y) = log pi(y|x) - log pi_ref(y|x)                                               (eq 7)
    z_0 = max(0, mean over mismatched pairs (x, y') of a microbatch of r(x, y'))   no gradient
    v(x, y) = lambda_D sigmoid(beta (r - z_0)) if y is good, lambda_U sigmoid(beta (z_0 - r)) if bad
    loss = mean over examples of lambda_y - v(x, y)                                       (eq 8)

pi_ref is the model before tuning, at the Omega and mask that tuning starts from.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or mlx.core.array


def kl_estimate(ratios: np.ndarray) -> float:
    """z_0 from the r(x, y') of a microbatch's mismatched pairs, (pairs,); 0 where there are none.

    Biased (it is clamped at 0, and y' was not drawn from pi(.|x)); a saturation point, no measure.
    """
    return max(0.0, float(np.mean(ratios))) if len(ratios) else 0.0


def kto_losses(
    ratios: Array,
    good: Array,
    z0: float,
    beta: float = 0.1,
    desirable: float = 1.0,
    undesirable: float = 1.0,
) -> Array:
    """lambda_y - v(x, y) of every example: ratios r(x, y) (B,), good (B,) booleans -> (B,).

    z0 is a number, so no gradient flows through it. desirable, undesirable: lambda_D, lambda_U.
    """
    xp = ratios.__array_namespace__()
    gain = beta * (ratios - z0)
    gain = xp.where(good, gain, -gain)
    weight = xp.where(good, desirable, undesirable)
    return weight * (1 - 0.5 * (1 + xp.tanh(0.5 * gain)))  # sigmoid, without an exp that overflows
