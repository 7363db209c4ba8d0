"""Masks that change while lanes are written: a lane more, a lane that reads another from now on.

A `LaneMask` says for every pair of lanes from which position of the reader on (`since`), and until
which, it reads the other. So visibility stays a function of coordinates, and these functions give
a new mask for positions that have not been fed yet. Times that say nothing are left out of it.

    N lanes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import NEVER, LaneMask


def joined(mask: LaneMask, m: int, sees: Sequence[int], seen_by: dict[int, int]) -> LaneMask:
    """The mask with a lane m, the last or one more, which reads the lanes `sees`.

    seen_by: lanes that read m, and from which of their positions on.

    >>> joined(LaneMask.independent(2), 2, [0, 1], {}).visibility.astype(int).tolist()
    [[1, 0, 0], [0, 1, 0], [1, 1, 1]]
    """
    n, more = max(mask.n, m + 1), m == mask.n
    v, since, until = (np.pad(x, (0, n - mask.n)) for x in mask.times())
    v[m], since[m], until[m] = np.isin(np.arange(n), [*sees, m]), 0, NEVER
    for reader, position in seen_by.items():
        v[reader, m], since[reader, m] = True, position
    if more:
        until[:, m] = NEVER
    side = mask.side
    if side is not None:
        side = np.pad(side, (0, n - mask.n))
        side[m], side[list(seen_by), m] = v[m], True
    return _timed(mask, v, since, until, side)


def reading(mask: LaneMask, m: int, n: int, yes: bool, position: int) -> LaneMask:
    """The mask, but from its position `position` on lane m reads lane n, or no more.

    Raises TinylaneError where it did and had stopped, or reads in a side path, which has no times.
    """
    if not yes and mask.side is not None and mask.side[m, n]:
        raise TinylaneError(f"lane {m} reads lane {n} in a side path, which it cannot stop")
    v, since, until = (x.copy() for x in mask.times())
    reads = v[m, n] and since[m, n] < until[m, n]
    if yes and reads and until[m, n] != NEVER:
        raise TinylaneError(
            f"lane {m} read lane {n} before position {until[m, n]}; it cannot begin again"
        )
    if yes and not reads:
        v[m, n], since[m, n], until[m, n] = True, position, NEVER
    elif not yes and reads:
        until[m, n] = min(until[m, n], max(position, since[m, n]))
    return _timed(mask, v, since, until, mask.side)


def _timed(
    mask: LaneMask, v: np.ndarray, since: np.ndarray, until: np.ndarray, side: np.ndarray | None
) -> LaneMask:
    """Times that say nothing are left out, so that the shortcuts of `LaneMask.seen` hold."""
    say = ((since > 0) | (until < NEVER)) & v & ~np.eye(len(v), dtype=bool)
    told = {"since": since, "until": until} if say.any() else {"since": None, "until": None}
    return replace(mask, visibility=v, side=side, **told)
