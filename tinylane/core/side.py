"""What a checkpoint may have for its lanes beside the plain decoder's tensors. Absent, it costs
nothing and changes no bit.

    model.lane_embed.weight (1 + M, C)           added to a row's token embedding (Multi-Stream,
                                                 arXiv:2605.12460)
    ...self_attn.lane_kv.weight (1 + M, D)       added to k before its rotation, and to v
                                                 (ParaThinker, arXiv:2509.04475, equations 4 to 7)
    ...bridge.{norm,q_proj,k_proj,v_proj,o_proj} rows of one step attend to each other, behind the
                                                 feed-forward (Bridge, arXiv:2510.01143)
    ...p_match.{norm,gate_proj,...}              its control: as many parameters, no exchange

Row `lane + 1` of a table is the lane's, row 0 that of SHARED rows.

    T rows   C width   D head dim   M lanes   W width of a bridge
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask, Places

Array = Any  # numpy.ndarray or mlx.core.array
Params = dict[str, Array]
LANE_EMBED, LANE_KV = "model.lane_embed.weight", "model.layers.0.self_attn.lane_kv.weight"
BRIDGE = "model.layers.0.bridge.o_proj.weight"  # a kind is in every layer or in none


def planned(
    params: Params, mask: LaneMask, places: Places, array: Callable[[np.ndarray], Array]
) -> dict[str, Array]:
    """The fields `lanes` and `same` of a `decoder.Plan`, if a tensor asks for them.

    Raises TinylaneError for a lane that a table has no row for.
    """
    if not {LANE_EMBED, LANE_KV, BRIDGE} & params.keys():
        return {}
    same = mask.same_step(places.positions, places.lanes)
    lanes = array(rows_of_lanes(params, places.lanes))
    return {"lanes": lanes, "same": None if same.all() else array(same)}


def rows_of_lanes(params: Params, lanes: np.ndarray) -> np.ndarray:
    """Where the tables have the rows of these lanes: (T,) int32.

    Raises TinylaneError for a lane that a table has no row for.
    """
    last = int(lanes.max())
    for name in (LANE_EMBED, LANE_KV):
        if name in params and last + 1 >= len(params[name]):
            have = len(params[name]) - 1
            raise TinylaneError(f"lane {last} has no row in {name}, which is for {have} lanes")
    return (lanes + 1).astype(np.int32)


def embed_rows(params: Params, tokens: Array, lanes: Array, ops: Any) -> Array:
    """Token embeddings, and what a row gets for its lane: (..., T) -> (..., T, C)."""
    x = ops.embed(params, tokens)
    if LANE_EMBED in params:
        x += params[LANE_EMBED][lanes]  # in place: its layout in memory decides how BLAS rounds
    return x


def side_paths(
    params: Params, config: ModelConfig, name: str, x: Array, same: Array, ops: Any
) -> Array:
    """What stands behind the feed-forward of the layer `name`: (..., T, C) -> (..., T, C).

    same: of a `decoder.Plan`. ops: `decoder.Ops`.
    """
    if name + "bridge.o_proj.weight" in params:
        normed = ops.rms_norm(x, params[name + "bridge.norm.weight"], config.norm_eps)
        x = x + bridge(params, config, name + "bridge.", normed, same, ops)
    if name + "p_match.down_proj.weight" in params:
        normed = ops.rms_norm(x, params[name + "p_match.norm.weight"], config.norm_eps)
        part = name + "p_match."
        gate, up = ops.linears(params, [part + "gate_proj", part + "up_proj"], normed)
        x = x + ops.linear(params, part + "down_proj", ops.gated(gate, up))
    return x


def bridge(
    params: Params, config: ModelConfig, name: str, x: Array, same: Array, ops: Any
) -> Array:
    """The lanes' rows of one step attend to each other, without positions and without a cache:
    (..., T, C) -> (..., T, C). Heads have min(D, W) channels of W."""
    names = [name + projection for projection in ("q_proj", "k_proj", "v_proj")]
    q, k, v = (
        y.reshape(*y.shape[:-1], -1, min(config.head_dim, y.shape[-1])).swapaxes(-2, -3)
        for y in ops.linears(params, names, x)
    )
    mixed = ops.attention((q,), k, v, same, None).swapaxes(-2, -3)
    return ops.linear(params, name + "o_proj", mixed.reshape(*mixed.shape[:-2], -1))
