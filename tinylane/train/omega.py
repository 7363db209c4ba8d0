"""The decoder's plan with a trainable Omega: the decoding mask itself, and tables MLX can derive.

Angles of positions are reduced to one turn on the host in float64. Omega may be split into a start,
which is added there (slot * theta times a lane is hundreds of turns, too many for float32), and
what was learned since, which is small. `tests/train/test_from_scratch.py` holds these tables against
`model.make_plan`'s.

    T rows   D channels of one head
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np

from tinylane.core.config import ModelConfig
from tinylane.core.decoder import Plan, make_plan
from tinylane.core.lanes import LaneMask, LaneRoPE, Places
from tinylane.core.rope import frequencies


class TrainingPlan:
    """Plans for one set of coordinates (all rows in one pass), as a function of Omega.

    start: Omega's part that is not trained, (D/2,) or (layers, D/2), radians, float64; default 0.
    """

    def __init__(
        self,
        config: ModelConfig,
        mask: LaneMask,
        positions: np.ndarray,
        lanes: np.ndarray,
        prompt_lane: Any = "own",
        start: np.ndarray | None = None,
    ) -> None:
        theta, self.factor = frequencies(config.rope, config.head_dim)
        some = LaneRoPE(np.ones_like(theta), prompt_lane)  # any Omega but 0, which needs one table
        plan = make_plan(config, some, mask, Places(positions, lanes, positions, lanes))
        self.block_of, self.two = plan.block_of, len(plan.queries[0]) == 2
        self.mask = None if plan.mask is None else mx.array(plan.mask)
        base = positions[:, None] * theta
        self.base = _reduced(base)
        self.lanes = mx.array(np.maximum(lanes, 0).astype(np.float32))[:, None]
        self.layers = config.layers
        self.turned: list[mx.array] | None = None
        if start is not None:
            rope = LaneRoPE(start, prompt_lane)
            own = range(config.layers if rope.omega.ndim == 2 else 1)
            self.turned = [_reduced(base + rope.angles(lanes, layer)) for layer in own]

    def at(self, omega: mx.array) -> Plan:
        """omega: (D/2,) or (layers, D/2), float32, added to the start."""
        keys, queries = [], []
        per_layer = omega.ndim == 2 or (self.turned is not None and len(self.turned) > 1)
        for layer in range(self.layers):
            if layer == 0 or per_layer:
                own = omega if omega.ndim == 1 else omega[layer]
                turned = self._table(self._base(layer) + self.lanes * own)
                on_shared = self._table(self.base)
            keys.append(turned)
            queries.append((on_shared, turned) if self.two else (turned,))
        return Plan(keys, queries, self.block_of, self.mask)

    def _base(self, layer: int) -> mx.array:
        """What a lane's rows are turned by without `omega`."""
        if self.turned is None:
            return self.base
        return self.turned[layer if len(self.turned) > 1 else 0]

    def _table(self, angles: mx.array) -> tuple[mx.array, mx.array]:
        cos, sin = mx.cos(angles) * self.factor, mx.sin(angles) * self.factor
        return mx.concatenate([cos, cos], axis=-1), mx.concatenate([-sin, sin], axis=-1)


def _reduced(angles: np.ndarray) -> mx.array:
    return mx.array(np.remainder(angles, 2 * math.pi).astype(np.float32))
