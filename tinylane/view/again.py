"""What may be done to a run that its `Decoding` has no words for: lanes are turned otherwise than
before, and what they wrote is read again; a pair that had stopped reads again.

`tinylane play` does both. A run file holds them: an event `rotate`, and a pair more than once in
`times`. A replay does the same at the same row.

    N lanes   S rows of a cache
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import NEVER, LaneMask, LaneRoPE, Rotation
from tinylane.files.io import Fields
from tinylane.view.events import check_lanes

if TYPE_CHECKING:
    from tinylane.core.cache import LaneCache


class Spell(NamedTuple):
    """Lane `reader` read lane `of` from its own position `since` on and before `until`."""

    reader: int
    of: int
    since: int
    until: int


@dataclass(frozen=True, eq=False)
class Spells(LaneMask):
    """A mask in which pairs have read before. earlier: when; `since` and `until` say the last time.

    >>> mask = Spells(np.ones((2, 2)), 1, earlier=(Spell(0, 1, 0, 4),),
    ...     since=np.array([[0, 6], [0, 0]]), until=np.full((2, 2), NEVER))
    >>> i, key = np.arange(3, 8), np.array([2])
    >>> mask.visible(i, np.zeros(5, int), key, np.array([1]))[:, 0].astype(int).tolist()
    [1, 0, 0, 1, 1]
    """

    earlier: tuple[Spell, ...] = field(default=(), kw_only=True)

    def visible(
        self,
        positions: np.ndarray,
        lanes: np.ndarray,
        key_positions: np.ndarray,
        key_lanes: np.ndarray,
    ) -> np.ndarray:
        """As `LaneMask.visible`, and what was to be seen in earlier spells."""
        seen = super().visible(positions, lanes, key_positions, key_lanes)
        i = positions[:, None]
        for reader, of, since, until in self.earlier:
            now = (lanes[:, None] == reader) & (since <= i) & (i < until)
            seen = seen | (now & (key_lanes == of) & (i - key_positions >= self.lag))
        return seen

    def silence(self, lane: int) -> Spells:
        """As `LaneMask.silence`."""
        quiet = LaneMask.silence(self, lane)
        left = tuple(spell for spell in self.earlier if spell.of != lane)
        return replace(self, visibility=quiet.visibility, side=quiet.side, earlier=left)


def may_begin_again(mask: LaneMask, reader: int, of: int) -> LaneMask:
    """The mask, in which a pair that had stopped counts as one that never read, and so may begin.
    When it read is kept."""
    v, since, until = (x.copy() for x in mask.times())
    if not v[reader, of] or until[reader, of] == NEVER:
        return mask
    old = Spell(reader, of, int(since[reader, of]), int(until[reader, of]))
    v[reader, of], since[reader, of], until[reader, of] = False, 0, NEVER
    earlier = (*getattr(mask, "earlier", ()), *([old] if old.since < old.until else []))
    return Spells(v, mask.lag, since=since, until=until, side=mask.side, earlier=earlier)


def up_to(mask: LaneMask, unfed: list[int]) -> LaneMask:
    """What a mask says of the rows so far, as if no more were known. unfed: of each lane that
    there is, the first position that was not fed."""
    n = len(unfed)
    v, since, until = np.eye(n, dtype=bool), np.zeros((n, n), int), np.full((n, n), NEVER)
    last = [Spell(m, k, int(mask.times()[1][m, k]), int(mask.times()[2][m, k]))
            for m, k in np.argwhere(mask.visibility[:n, :n]).tolist()]  # fmt: skip
    earlier: list[Spell] = []
    for spell in (*getattr(mask, "earlier", ()), *last):
        m, k, begin, end = spell
        if max(m, k) >= n or m == k or begin > unfed[m]:
            continue
        if v[m, k]:
            earlier.append(Spell(m, k, int(since[m, k]), int(until[m, k])))
        v[m, k], since[m, k], until[m, k] = True, begin, end if end <= unfed[m] else NEVER
    side = None if mask.side is None else mask.side[:n, :n]
    return Spells(v, mask.lag, since=since, until=until, side=side, earlier=tuple(earlier))


def mask_settings(mask: LaneMask) -> dict[str, Any]:
    """As `LaneMask.settings`, the earlier spells first."""
    told = mask.settings()
    earlier = [list(spell) for spell in getattr(mask, "earlier", ())]
    return {**told, "times": earlier + told.get("times", [])} if earlier else told


def read_matrix(raw: Fields, name: str) -> np.ndarray:
    """Numbers in one or in equally long lists."""
    value = raw.items(name)
    rows = value if value and all(isinstance(row, list) for row in value) else [value]
    same = len({len(row) for row in rows}) == 1
    if not same or not all(type(x) in (int, float) for row in rows for x in row):
        raw.fail(name, "numbers in equally long lists")
    return np.array(value, dtype=np.float64)


def read_rotation(settings: Fields, n: int) -> Rotation:
    """The rotation that is named; a LaneRoPE where none is. n: how many lanes may be."""
    if "rotation" not in settings.raw:
        return LaneRoPE(read_matrix(settings, "omega"), settings.get("prompt_lane"))
    if settings.get("rotation") != "hogwild":
        settings.fail("rotation", "hogwild")
    order = settings.items("order", int, default=None) or []
    check_lanes(settings, "order", order, n)
    return Hogwild(tuple(order))


def rotations(settings: dict[str, Any], last: Rotation, n: int) -> list[Rotation]:
    """By which rotations a run was written: the first, and what every event `rotate` changed it to.
    last: the one at its end. Raises TinylaneError."""
    turned = [event["was"] for event in settings.get("events") or () if event["event"] == "rotate"]
    return [*(read_rotation(Fields(was, parent="was"), n) for was in turned), last]


def again(cache: LaneCache, rope: Rotation, mask: LaneMask, chunk: int) -> LaneCache:
    """The rows of a cache, computed anew under another rotation; those of one position together.

    They stand in the new cache in the same order. chunk: rows of a pass.
    """
    fresh = cache.model.new_cache(rope, mask)
    order = np.lexsort((cache.lanes, cache.positions))
    positions, start = cache.positions[order], 0
    while start < len(order):
        stop = min(start + chunk, len(order))
        while stop < len(order) and positions[stop] == positions[stop - 1]:
            stop += 1
        rows = order[start:stop]
        cache.model(
            cache.tokens[rows], cache.positions[rows], cache.lanes[rows], cache=fresh, rows=[0]
        )
        fresh.settle()
        start = stop
    back = cache.model.array(np.argsort(order).astype(np.int32))
    for buffers in (fresh.keys, fresh.values):
        buffers[:] = [buffer[:, back, :] for buffer in buffers]
    fresh.positions, fresh.lanes, fresh.tokens = cache.positions, cache.lanes, cache.tokens
    fresh.settle()
    return fresh
