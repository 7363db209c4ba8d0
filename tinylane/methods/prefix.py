"""What a new prompt and an earlier decoding's cache have in common, so that it is not fed again.

Rows of a prompt see the prompt alone. They are the same for every mask and rotation of the lanes,
and as far as two prompts begin with the same tokens, for both. A lane's rows are those of a prompt
if no lane reads another and the lane begins where the prompt ends (laws 6 and 7): then its text
counts as prompt. The text of lanes that read each other came from what they read: it is fed again.

    S cached rows
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylane.checkpoints.side import LANE_EMBED, LANE_KV
from tinylane.core.cache import LaneCache
from tinylane.core.errors import of_kind
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Rotation


def keep_prefix(
    cache: LaneCache, model: Any, rope: Rotation, mask: LaneMask, tokens: list[int]
) -> int:
    """Keep the rows that a prefill of `tokens` begins with, as the prompt of lanes with this
    rotation and mask; returns how many. The last token's is not among them: its logits are needed.

    Raises TinylaneError, and changes nothing, for a cache of another model, or with rows of lanes
    that were turned by another rotation.
    """
    of_kind("cache", cache, LaneCache, "a LaneCache")
    lanes = np.unique(cache.lanes[cache.lanes != SHARED])
    cache.check(model, rope if len(lanes) else None)
    shared, best = np.flatnonzero(cache.lanes == SHARED), np.zeros(0, dtype=np.int64)
    for rows in (shared, *(np.flatnonzero(cache.lanes == m) for m in lanes if _plain(cache))):
        rows = rows if rows is shared else np.concatenate([shared, rows])
        rows = rows[: len(tokens) - 1]
        same = cache.tokens[rows] == np.array(tokens[: len(rows)], dtype=np.int64)
        same &= cache.positions[rows] == np.arange(len(rows))
        best = max(best, rows[: len(rows) if same.all() else int(same.argmin())], key=len)
    cache.keep(np.isin(np.arange(len(cache)), best))
    cache.lanes = np.full_like(best, SHARED)
    cache.lane_rope, cache.lane_mask = rope, mask
    return len(best)


def _plain(cache: LaneCache) -> bool:
    """Whether each lane has the rows that a prompt of the same tokens has: lane 0 is not turned."""
    rope, mask = cache.lane_rope, cache.lane_mask
    tables = {LANE_EMBED, LANE_KV} & cache.model.params.keys()  # a prompt has another row there
    if not isinstance(rope, LaneRoPE) or mask is None or not mask.alone or tables:
        return False
    return mask.n == 1 or not rope.omega.any()
