"""A decoder in which a function of the reader's turns queries and keys: the laws can test it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tinylane.core.decoder import PLAIN, Plan, forward
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.core.model import Model

Turn = Callable[[np.ndarray, int, int], np.ndarray]


def with_turn(model: Model, turn: Turn, lane_mask: LaneMask) -> Callable[..., np.ndarray]:
    """`f(tokens, positions, lanes) -> logits (T, V)`: the model with another encoding.

    turn(x, i, m): x (D,), a query or key of one head, at position i in lane m -> (D,). As with
    `prompt_lane="own"`, a shared key is turned with m = 0, and so is a query when it scores shared
    keys. f takes `lane_mask` too, as the laws ask. Slow: one call of `turn` per row, head and
    layer. model: on NumPy.
    """

    def rotate(x: np.ndarray, positions: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        heads, T, _ = x.shape
        rows = [
            [turn(x[h, t], int(positions[t]), int(lanes[t])) for t in range(T)]
            for h in range(heads)
        ]
        return np.asarray(rows, dtype=x.dtype)

    def run(tokens: Any, positions: Any, lanes: Any, lane_mask: LaneMask) -> np.ndarray:
        layers = model.config.layers
        of_lanes, none = np.maximum(lanes, 0), np.zeros_like(lanes)
        block_of = (lanes != SHARED).astype(np.int32)
        seen = lane_mask.visible(positions, lanes, positions, lanes)
        # The decoder hands these pairs to `rotate`, where it would hand cosines and sines.
        keys: Any = [(positions, of_lanes)] * layers
        queries: Any = [((positions, none), (positions, of_lanes))] * layers
        plan = Plan(keys, queries, block_of, seen)
        ops = PLAIN._replace(rotate=rotate)
        return forward(model.params, model.config, np.asarray(tokens), plan, ops)

    return partial(run, lane_mask=lane_mask)
