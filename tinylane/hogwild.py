"""Hogwild! inference (arXiv:2504.06261): every lane reads one text, its own part last.

In the view of lane m the rows it sees stand as one plain sequence: the prompt, then what the other
lanes wrote, lane by lane, then what m wrote. No row is turned twice for that. A key is cached as it
stands in its own lane's block, at its index there, and the query moves instead: for the block of
lane n it is turned to its own place in the view less the place where that block begins, because

    R(a) q . R(b + j) k  =  R(a - b) q . R(j) k            a: the query, b: the block, j: the key

A query is therefore turned once for every block, and one softmax runs over all of them. A block is
as long as the number of its rows that this query sees, counted through the mask: lag, any
visibility, late joins and dropped lanes need nothing of their own.

Nothing else is turned: YaRN's attention factor is in the key once and in the query once, as ever.
No lane stands at a distance that is not a number of tokens, so there is nothing to train.

Not handled: masks that hide the beginning of a block and show its end; a row that comes after a
later row of its lane has been cached (refused: the indices of cached rows would change).

    T query rows      S key rows      D channels of one head
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinylane.errors import TinylaneError
from tinylane.lanes import LaneMask


@dataclass(frozen=True)
class Hogwild:
    """The rotation of Hogwild!, with the interface of `tinylane.lanes.LaneRoPE`; no parameters."""

    layered = False

    def views(
        self,
        theta: np.ndarray,
        mask: LaneMask,
        positions: np.ndarray,
        lanes: np.ndarray,
        key_positions: np.ndarray,
        key_lanes: np.ndarray,
        layer: int,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...], Any]:
        """As `LaneRoPE.views`: a block of keys for the prompt and for every lane that has rows."""
        raise NotImplementedError
