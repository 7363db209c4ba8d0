"""The attention function that transformers calls instead of its own, and what it is told.

Keys are cached as the model caches them: turned by their position alone. The lane's turn stands in
the query, once for every block of keys (method, section 2):

    q R(theta (j - i) + Omega (n - m)) k = [R(Omega (m - n)) R(theta i) q] . [R(theta j) k]

So any cache of transformers works, and no model is copied or patched: the function is registered
with `AttentionInterface` and chosen for the time of a pass. The pass travels as `lane_pass`, a
keyword argument that models hand on to their attention.

    B batch   T rows   S keys   H heads   K kv heads   D head dim
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AttentionInterface

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Places, Rotation

NAME = "tinylane_lanes"
Turn = tuple[torch.Tensor, torch.Tensor]  # cosines and sines, (T, D/2) each


class OfLanes(NamedTuple):
    """What the keys' lanes add to keys and values (`lane_kv`, see `tinylane.checkpoints.side`).

    table: (layers, 1 + M, D). rows: (S,) each key's row in it. turn: of the keys, (S, D/2) each.
    """

    table: torch.Tensor
    rows: torch.Tensor
    turn: Turn


@dataclass(frozen=True)
class LanePass:
    """One pass: for every block of keys, where its keys lie in the cache and how queries turn.

    rows: (S_b,) indices, a tensor a block. coefficients: (T,) a block, what `turns` (D/2,) or
    (layers, D/2), in radians, is multiplied by; None turns nothing. mask: (T, S) booleans, the keys
    in the order of the blocks; None: every row sees every key. of_lanes: of the keys in that order.
    """

    rows: tuple[torch.Tensor, ...]
    coefficients: tuple[torch.Tensor | None, ...]
    turns: torch.Tensor
    mask: torch.Tensor | None
    of_lanes: OfLanes | None = None

    def turn(self, block: int, layer: int) -> Turn | None:
        """The table of a block's queries in a layer."""
        coefficients = self.coefficients[block]
        if coefficients is None:
            return None
        radians = self.turns if self.turns.ndim == 1 else self.turns[layer]
        angles = coefficients[:, None] * radians
        return angles.cos(), angles.sin()


def make_pass(
    rope: Rotation,
    mask: LaneMask,
    places: Places,
    stand: np.ndarray,
    physical: np.ndarray,
    turns: torch.Tensor,
    of_lanes: OfLanes | None = None,
) -> LanePass:
    """The pass of T rows over S keys, which lie in the rows `physical` (S,) of the cache.

    stand: `standing` of all keys. turns: Omega of a LaneRoPE, theta of another rotation. of_lanes:
    of all keys as they come.
    """
    blocks, coefficients = _blocks(rope, mask, places, stand)
    order = np.concatenate(blocks)
    seen = mask.visible(*places)[:, order]
    put = lambda x: torch.as_tensor(x, device=turns.device)
    if of_lanes is not None:
        (c, s), by = of_lanes.turn, put(order)
        of_lanes = OfLanes(of_lanes.table, of_lanes.rows[by], (c[by], s[by]))
    return LanePass(
        tuple(put(physical[block]) for block in blocks),
        tuple(put(c).to(turns.dtype) if c.any() else None for c in coefficients),
        turns,
        None if seen.all() else put(seen),
        of_lanes,
    )


def standing(rope: Rotation, mask: LaneMask, places: Places) -> np.ndarray:
    """(T,) the positions by which the keys of a pass should be turned.

    That is where they are, for a LaneRoPE; Hogwild puts them elsewhere. The model turns them by
    where they are in any case, and `_blocks` lets the queries make up for it.
    """
    if isinstance(rope, LaneRoPE):
        return places.positions
    keys, _, _ = rope.views(np.ones(1), mask, places)  # its angles are whole multiples of theta
    return np.round(keys[:, 0]).astype(np.int64)


def _blocks(
    rope: Rotation, mask: LaneMask, places: Places, stand: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Indices of the keys of every block, and by what its queries turn on, (T,) coefficients."""
    positions, lanes, key_positions, key_lanes = places
    apart: dict[bytes, np.ndarray] = {}  # blocks with equal coefficients are one
    keys: dict[bytes, list[np.ndarray]] = {}

    def add(which: np.ndarray, coefficients: np.ndarray) -> None:
        name = coefficients.astype(np.float64).tobytes()
        apart[name] = coefficients.astype(np.float64)
        keys.setdefault(name, []).append(np.flatnonzero(which))

    if isinstance(rope, LaneRoPE):
        me = np.maximum(lanes, 0)
        for n in np.unique(key_lanes):
            as_own = n == SHARED and rope.prompt_lane == "own"
            add(key_lanes == n, np.zeros(len(me)) if as_own else me - max(int(n), 0))
    else:
        _, queries, block_of = rope.views(np.ones(1), mask, places)
        block = np.zeros(len(key_lanes), np.int64) if block_of is None else block_of
        late = key_positions - stand
        for b, shift in sorted(set(zip(block.tolist(), late.tolist(), strict=True))):
            add((block == b) & (late == shift), queries[b][:, 0] - positions + shift)
    return [np.concatenate(keys[name]) for name in apart], list(apart.values())


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    lane_pass: LanePass | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of transformers' interface: (B, H, T, D), (B, K, S, D) -> (B, T, H, D).

    One softmax, in at least float32, runs over all blocks. Raises TinylaneError for what it would
    leave out.
    """
    if lane_pass is None:
        raise TinylaneError(
            f"{type(module).__name__} does not hand on its keyword arguments to its attention; "
            "this model cannot have lanes"
        )
    left_out = [name for name in ("softcap", "s_aux") if others.get(name) is not None]
    if left_out:
        raise TinylaneError(f"{type(module).__name__} uses {left_out[0]}, which lanes do not have")
    (B, H, T, D), K = query.shape, key.shape[1]
    scaling = D**-0.5 if scaling is None else scaling
    order = torch.cat(lane_pass.rows)
    keys, values = key[:, :, order], value[:, :, order]
    if lane_pass.of_lanes is not None:
        of_lanes = lane_pass.of_lanes
        added = of_lanes.table[module.layer_idx][of_lanes.rows].to(value.dtype)
        keys, values = keys + rotate(added[None, None], *of_lanes.turn), values + added
    parts = []
    for block, some in enumerate(keys.split([len(rows) for rows in lane_pass.rows], dim=2)):
        turn = lane_pass.turn(block, module.layer_idx)
        turned = (query if turn is None else rotate(query, *turn)) * scaling
        folded = turned.reshape(B, K, H // K * T, D)
        parts.append(folded @ some.transpose(-1, -2))
    scores = torch.cat(parts, dim=-1).reshape(B, H, T, -1)
    scores = scores if scores.dtype == torch.float64 else scores.float()
    if lane_pass.mask is not None:
        scores = scores.masked_fill(~lane_pass.mask, -torch.inf)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    weights = torch.nn.functional.dropout(weights, dropout, module.training)
    mixed = weights.reshape(B, K, H // K * T, -1) @ values
    return mixed.reshape(B, H, T, D).transpose(1, 2).contiguous(), None


def rotate(x: torch.Tensor, c: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """x (B, H, T, D) turned by the tables (T, D/2), in the half-split layout."""
    c, s = c.to(x.dtype), s.to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * c - right * s, right * c + left * s), dim=-1)


AttentionInterface.register(NAME, attend)


@contextmanager
def attending(model: Any) -> Iterator[None]:
    """The model's attention is `attend` while the block runs, then again what it was."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
