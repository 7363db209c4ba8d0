"""What a checkpoint may have for its lanes beside the plain decoder's tensors. Absent, it costs
nothing and changes no bit.

    model.lane_embed.weight (1 + M, C)           added to a row's token embedding (Multi-Stream,
                                                 arXiv:2605.12460)
    ...self_attn.lane_kv.weight (1 + M, D)       added to k before its rotation, and to v
                                                 (ParaThinker, arXiv:2509.04475, equations 4 to 7)
    ...bridge.{norm,q_proj,k_proj,v_proj,o_proj} rows of one step attend to each other, behind the
                                                 feed-forward (Bridge, arXiv:2510.01143)
    ...p_match.{norm,gate_proj,...}              its control: as many parameters, no exchange
    ...lace.{down,q,k,v,gate,up}_proj            a narrow attention (LACE, arXiv:2604.15529)

Row `lane + 1` of a table is the lane's, row 0 that of SHARED rows.

    T rows   S keys   H heads   C width   D head dim   M lanes   W width of a bridge or of LACE
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinylane.core.config import ModelConfig
from tinylane.core.decoder import Array, Mask, Ops, Params
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask, LaneRoPE, Places

LANE_EMBED, LANE_KV = "model.lane_embed.weight", "model.layers.0.self_attn.lane_kv.weight"
BRIDGE = "model.layers.0.bridge.o_proj.weight"  # a kind is in every layer or in none


def lace_layers(params: Params, config: ModelConfig) -> range:
    """Where LACE stands, if it is there: in every second layer from the middle on."""
    layers = range(config.layers // 2, config.layers, 2)
    return layers if f"model.layers.{layers[0]}.lace.up_proj.weight" in params else range(0)


def rows_of_lanes(params: Params, config: ModelConfig, lanes: np.ndarray) -> np.ndarray:
    """Where the tables have the rows of these lanes: (T,) int32.

    Raises TinylaneError for a lane that a table has no row for, or none of this width.
    """
    for kind, width in (("lane_embed", config.width), ("lane_kv", config.head_dim)):
        for name in [name for name in params if f".{kind}." in name]:
            have, *wide = shape = tuple(params[name].shape)
            if wide != [width] or lanes.max() + 1 >= have:
                none = f"lane {lanes.max()} has no row in {name}, which is for {have - 1} lanes"
                raise TinylaneError(f"{none}; its shape is {shape}, expected (1 + lanes, {width})")
    return (lanes + 1).astype(np.int32)


@dataclass(frozen=True)
class Side:
    """What one pass needs for them (`decoder.Plan.side`); the decoder calls it in four places.

    params, ops: of the pass. A tensor that is not there changes nothing. The class is `Model.side`.
    """

    config: ModelConfig
    lace: range  # its layers
    lanes: Array | None = None  # (T,) each row's in tables of lanes: lane + 1, and 0 for SHARED
    same: Mask = None  # (T, T) booleans: who sees whom across a bridge, or None: all
    across: Mask = None  # as `Plan.mask`: who sees whom in LACE

    # Of a model: the layers of the entries that a cache has for LACE, behind the layers' own; and
    # where tables have the rows of lanes.
    layers = staticmethod(lace_layers)
    rows = staticmethod(rows_of_lanes)

    @classmethod
    def planned(
        cls,
        params: Params,
        config: ModelConfig,
        rope: Any,
        mask: LaneMask,
        places: Places,
        array: Callable[[np.ndarray], Array] = np.asarray,
    ) -> Side | None:
        """For the pass of `decoder.make_plan`'s arguments; None if no tensor asks for it.

        Raises TinylaneError for a lane that a table has no row for, and for LACE with a mask of its
        own and a rotation that depends on the mask.
        """
        side = cls(config, lace_layers(params, config))
        if {LANE_EMBED, LANE_KV, BRIDGE} & params.keys():
            same = mask.same_step(places.positions, places.lanes)
            rows = array(rows_of_lanes(params, config, places.lanes))
            side = replace(side, lanes=rows, same=None if same.all() else array(same))
        elif not side.lace and "model.layers.0.p_match.down_proj.weight" not in params:
            return None
        if side.lace:
            if mask.side is not None and not isinstance(rope, LaneRoPE):
                raise TinylaneError("LACE reads other lanes than the layers do; give a LaneRoPE")
            across = mask if mask.side is None else replace(mask, visibility=mask.side, side=None)
            seen = across.seen(places)
            side = replace(side, across=array(seen) if isinstance(seen, np.ndarray) else seen)
        return side

    def embed(self, params: Params, x: Array) -> Array:
        """Token embeddings, and what a row gets for its lane: (..., T, C) -> (..., T, C)."""
        if LANE_EMBED in params:
            x += params[LANE_EMBED][self.lanes]  # in place: its layout decides how BLAS rounds
        return x

    def keys_values(self, params: Params, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Keys before their rotation, and values, with what a row gets for its lane."""
        name = f"model.layers.{layer}.self_attn.lane_kv.weight"
        if name not in params:
            return k, v
        of_lane = params[name][self.lanes]
        return k + of_lane, v + of_lane

    def beside(self, params: Params, layer: int, x: Array, attend: Callable, ops: Ops) -> Array:
        """x, which attention has found, and through a gate what a narrow attention (LACE) finds
        beside it: (..., T, H D). attend: mask, entry of the cache (LACE's are behind the layers'),
        q, k, v -> (..., T, W)."""
        if layer not in self.lace:
            return x
        name, xp = f"model.layers.{layer}.lace.", x.__array_namespace__()
        low, gate = ops.linears(params, [name + "down_proj", name + "gate_proj"], x)
        entry = self.config.layers + self.lace.index(layer)
        narrow = attend(self.across, entry, *self._heads(params, name, low, ops))
        opened = 1 / (1 + xp.exp(-xp.maximum(gate, -80.0)))  # below -80, exp would overflow
        return x + opened * ops.linear(params, name + "up_proj", narrow)

    def behind(self, params: Params, layer: int, x: Array, ops: Ops) -> Array:
        """What stands behind a layer's feed-forward: (..., T, C) -> (..., T, C)."""
        name, eps = f"model.layers.{layer}.", self.config.norm_eps
        if name + "bridge.o_proj.weight" in params:
            normed = ops.rms_norm(x, params[name + "bridge.norm.weight"], eps)
            x = x + self.bridge(params, name + "bridge.", normed, ops)
        if name + "p_match.down_proj.weight" in params:
            normed = ops.rms_norm(x, params[name + "p_match.norm.weight"], eps)
            part = name + "p_match."
            gate, up = ops.linears(params, [part + "gate_proj", part + "up_proj"], normed)
            x = x + ops.linear(params, part + "down_proj", ops.gated(gate, up))
        return x

    def bridge(self, params: Params, name: str, x: Array, ops: Ops) -> Array:
        """The lanes' rows of one step attend to each other, without positions and without a cache:
        (..., T, C) -> (..., T, C). Heads have min(D, W) channels of W."""
        q, k, v = self._heads(params, name, x, ops)
        mixed = ops.attention((q,), k, v, self.same, None).swapaxes(-2, -3)
        return ops.linear(params, name + "o_proj", mixed.reshape(*mixed.shape[:-2], -1))

    def _heads(self, params: Params, name: str, x: Array, ops: Ops) -> Any:
        """q, k and v of a side path: (..., T, _) -> three of (..., W/D, T, D)."""
        for y in ops.linears(params, [name + part for part in ("q_proj", "k_proj", "v_proj")], x):
            wide = min(self.config.head_dim, y.shape[-1])
            yield y.reshape(*y.shape[:-1], -1, wide).swapaxes(-2, -3)
