"""A small decoder, and four rows of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylane.core.config import ModelConfig
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.core.model import Model
from tinylane.testing.samples import random_weights

CONFIG = ModelConfig(
    vocab=11, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp_width=24, context=64
)
OMEGA = np.array([1.0, 0.3])
JOINT, APART = LaneMask.joint(2), LaneMask.independent(2)


def small(**settings: Any) -> Model:
    params = {k: v.astype(np.float64) for k, v in random_weights(CONFIG, 0).items()}
    return Model(CONFIG, params, **{"dtype": "float64", **settings})


MODEL = small()
TOKENS, POSITIONS, LANES = [1, 2, 3, 4], [0, 1, 2, 2], [SHARED, SHARED, 0, 1]
