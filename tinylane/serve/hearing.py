"""Whom a lane listened to when it drew a token.

N lanes   S cached rows
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.lanes import SHARED, LaneMask
from tinylane.serve.answers import piece

if TYPE_CHECKING:
    from tinylane.core.cache import LaneCache
    from tinylane.core.result import Lane
    from tinylane.methods.decoding import Decoding


def listened(decoding: Decoding, lane: Lane, index: int) -> dict[str, Any]:
    """Shares of the attention of the row that token `index` was drawn from, over all layers and
    heads: on the prompt, on itself, on every other lane; and the rows it went to most."""
    if lane.dropped is not None:  # its rows are gone
        return {"shares": [], "most": []}
    d, m, tokenizer = decoding, lane.index, decoding.model.tokenizer
    rows = [*lane.prompt, *lane.tokens]
    place = len(lane.prompt) + index - 1  # of the row before
    if place < 0:  # drawn from the prompt's last row, which sees the prompt alone
        return {"shares": [{"of": "the prompt", "share": 1.0}], "most": []}
    where = lane.start - 1 if index == 0 else lane.positions[index - 1]
    share, cache = heard(d.cache, d.mask, rows[place], where, m)
    shares = [{"of": "the prompt", "share": float(share[cache.lanes == SHARED].sum())}]
    for n in range(len(d.lanes)):
        part = float(share[cache.lanes == n].sum())
        if n == m or part:
            name = "itself" if n == m else f"lane {n + 1}"
            shares.append({"of": name, "lane": n, "share": part})
    best = np.argsort(-share, kind="stable")[:6]
    most = [
        {
            "lane": int(cache.lanes[s]),
            "text": piece(tokenizer, int(cache.tokens[s]))[0],
            "share": float(share[s]),
        }
        for s in best
        if share[s] > 0.01
    ]
    return {"shares": shares, "most": most}


def heard(
    cache: LaneCache, mask: LaneMask, token: int, position: int, lane: int
) -> tuple[np.ndarray, LaneCache]:
    """(S,): how the row at a coordinate shared its attention among rows, the mean over layers and
    heads; and a cache of those S rows."""
    from tinylane.view.attention import listening

    weights: list[np.ndarray] = []
    mean = lambda layer, first, heads: weights.append(heads.mean(axis=(0, 1)))
    twin = listening(cache.model, mean)
    before = cache.positions <= position
    before &= (cache.lanes != lane) | (cache.positions < position)
    seen = cache.copy()
    seen.keep(before)
    seen.model, seen.lane_mask = twin, mask
    np.asarray(twin([token], [position], [lane], cache=seen, rows=[0]))
    return np.mean(weights, axis=0), seen
