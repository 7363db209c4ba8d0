"""The decoder's plan with a trainable Omega: the mask of decoding, and tables that MLX can derive.

The angles of positions are reduced to one turn in float64 on the host. Omega is the sum of a start
and what was learned since. The start is added there, too: slot * theta times a lane is hundreds of
turns, too many for float32. `tests/train/test_from_scratch.py` compares the tables with those of
`decoder.make_plan`.

    T rows   D channels of one head
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np

from tinylane.checkpoints.side import Side
from tinylane.core.config import ModelConfig
from tinylane.core.decoder import Params, Plan, make_plan
from tinylane.core.lanes import LaneMask, LaneRoPE, Places
from tinylane.core.rope import frequencies, table


class TrainingPlan:
    """Plans for T rows in one pass, as a function of Omega.

    positions, lanes: (T,). start: the part of Omega that is not trained, (D/2,) or (layers, D/2),
    in radians, float64; default 0. params: as of `Side.planned`; None: none are for lanes.
    """

    def __init__(
        self,
        config: ModelConfig,
        mask: LaneMask,
        positions: np.ndarray,
        lanes: np.ndarray,
        prompt_lane: Any = "own",
        start: np.ndarray | None = None,
        params: Params | None = None,
    ) -> None:
        theta, self.factor = frequencies(config.rope, config.head_dim)
        places = Places(positions, lanes, positions, lanes)
        some = LaneRoPE(np.ones_like(theta), prompt_lane)  # not 0, which has one block of keys
        self.plan = make_plan(config, some, mask, places, array=mx.array)
        if params is not None:
            side = Side.planned(params, config, some, mask, places, mx.array)
            self.plan = self.plan._replace(side=side)
        rope = LaneRoPE(np.zeros_like(theta) if start is None else start, prompt_lane)
        angles = positions[:, None] * theta
        layers = range(1 if rope.omega.ndim == 1 else config.layers)
        self.base = _reduced(angles)
        self.start = [_reduced(angles + rope.angles(lanes, layer)) for layer in layers]
        self.lanes = mx.array(np.maximum(lanes, 0).astype(np.float32))[:, None]

    def at(self, omega: mx.array) -> Plan:
        """The plan with this Omega added to the start: (D/2,) or (layers, D/2), float32."""
        added = [omega] if omega.ndim == 1 else list(omega)
        count = max(len(added), len(self.start))  # 1, or one for every layer
        turned = [
            self._table(self.start[k % len(self.start)] + self.lanes * added[k % len(added)])
            for k in range(count)
        ]
        keys = turned * (len(self.plan.keys) // count)
        shared = self._table(self.base)
        blocks = len(self.plan.queries[0])
        queries = [(shared, turn) if blocks == 2 else (turn,) for turn in keys]
        return self.plan._replace(keys=keys, queries=queries)

    def _table(self, angles: mx.array) -> tuple[mx.array, mx.array]:
        return table(angles, self.factor, mx.float32)


def _reduced(angles: np.ndarray) -> mx.array:
    return mx.array(np.remainder(angles, 2 * math.pi).astype(np.float32))
