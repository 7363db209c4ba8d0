"""Hogwild! inference (arXiv:2504.06261): every lane reads one text, its own part last.

For lane m the rows that it sees stand as one plain sequence without gaps: the prompt, then what
each other lane wrote, in the order of lanes or in another that is given, then what m wrote. This
sequence is the lane's view. A cached key is turned by its index in its block (the prompt, or a
lane), and stays so. The query moves: for each block it is turned by its place in the view less the
place where the block begins,

    R(a) q . R(b + j) k  =  R(a - b) q . R(j) k        a: query's place, b: block's, j: key's index

A query is so turned once for every block, and one softmax runs over all of them. A block is as long
as the number of its rows that this query sees, counted by the mask: lag, any visibility, lanes that
join late, are dropped or trimmed need no special case. YaRN's attention factor is in each key once
and in each query once. There is nothing to train. N lanes cost N + 1 products of queries
and keys in place of one.

Not handled: masks that hide the beginning of a block and show its end. A row that comes after a
later row of its block was cached is refused, because the indices of cached rows would change.

    T query rows      S key rows      B blocks      D channels of one head
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError, of_kind, whole
from tinylane.core.lanes import MAX_LANES, SHARED, LaneMask, Places, Views


@dataclass(frozen=True)
class Hogwild:
    """The rotation of Hogwild!; it has no parameters. See `tinylane.core.lanes.Rotation`.

    order: lanes whose parts stand first in every view, in this order; the others follow by index.
    It moves queries only: cached keys stay true when it changes.
    """

    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        order = of_kind("order", self.order, (list, tuple), "different lanes")
        lanes = tuple(whole("order: a lane", m, 0, MAX_LANES - 1) for m in order)
        if len({*lanes}) != len(lanes):
            raise TinylaneError(f"order is {list(lanes)}; expected different lanes")
        object.__setattr__(self, "order", lanes)

    def views(self, theta: np.ndarray, mask: LaneMask, places: Places) -> Views:
        """As `Rotation.views`: a block for the prompt and for every lane that has rows.

        Raises TinylaneError for a row that would come before a cached one of its block.
        """
        _, lanes, _, key_lanes = places
        if (key_lanes == lanes[0]).all() and isinstance(mask.seen(places), str):  # a prefill
            keys = np.arange(len(key_lanes) - len(lanes), len(key_lanes))[:, None] * theta
            return keys, (keys,), None
        _in_order(places)
        blocks, block_of = np.unique(key_lanes, return_inverse=True)  # SHARED is the first
        if self.order:
            rank = {lane: k - len(self.order) for k, lane in enumerate(self.order)}
            first = [(n != SHARED, rank.get(n, 0), n) for n in blocks.tolist()]
            by_rank = np.array(sorted(range(len(blocks)), key=first.__getitem__))
            blocks, block_of = blocks[by_rank], np.argsort(by_rank)[block_of]
        seen = mask.visible(*places)
        length = np.stack([seen[:, key_lanes == n].sum(axis=1) for n in blocks], axis=1)  # (T, B)
        is_own = lanes[:, None] == blocks
        others = np.where(is_own, 0, length)
        begin = np.where(is_own, others.sum(axis=1, keepdims=True), others.cumsum(axis=1) - others)
        index = length[is_own] - 1  # a row sees itself and the rows of its block before it
        place = begin[is_own] + index
        keys = index[:, None] * theta
        if len(blocks) == 1:
            return keys, (keys,), None
        queries = tuple((place - b)[:, None] * theta for b in begin.T)
        return keys, queries, block_of.astype(np.int32)

    def angles(self, lanes: np.ndarray, layer: int) -> np.ndarray:
        """(T, 1) zeros: an index in a lane turns a key alike, whichever lane it is."""
        return np.zeros((len(lanes), 1))

    def same_as(self, other: Any) -> bool:
        """Whether the other is a Hogwild too."""
        return isinstance(other, Hogwild)

    def settings(self) -> dict[str, Any]:
        """As JSON, for run files."""
        return {"rotation": "hogwild", **({"order": list(self.order)} if self.order else {})}


def _in_order(places: Places) -> None:
    positions, lanes, key_positions, key_lanes = places
    cached = slice(0, len(key_positions) - len(positions))
    behind = (key_lanes[cached] == lanes[:, None]) & (key_positions[cached] >= positions[:, None])
    if behind.any():
        t = int(behind.any(axis=1).argmax())
        where = "the prompt" if lanes[t] == SHARED else f"lane {lanes[t]}"
        raise TinylaneError(
            f"hogwild: position {positions[t]} of {where} comes after position "
            f"{key_positions[cached][behind[t]].max()} was cached; feed {where} in order"
        )
