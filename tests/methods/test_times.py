"""Masks that change over time, against loops: who reads whom, from when on, until when."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import NEVER, SHARED, LaneMask, Places
from tinylane.files.io import Fields
from tinylane.methods import times
from tinylane.testing.reference import visible_by_definition
from tinylane.testing.strategies import coordinates, masks
from tinylane.view.run_file import _mask

AT = st.integers(0, 12)
CHANGES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans(), AT), max_size=8)


@st.composite
def timed(draw: Any) -> LaneMask:
    """Any mask of four lanes, with any times."""
    mask = draw(masks(4))
    numbers = st.lists(AT | st.just(NEVER), min_size=16, max_size=16)
    since, until = (np.array(draw(numbers)).reshape(4, 4) for _ in range(2))
    return LaneMask(mask.visibility, mask.lag, since=since, until=until)


@given(coordinates(), timed())
def test_visible_is_the_definition_at_any_time(
    rows: tuple[np.ndarray, np.ndarray], mask: LaneMask
) -> None:
    positions, lanes = rows
    seen = mask.visible(positions, lanes, positions, lanes)
    assert np.array_equal(seen, visible_by_definition(positions, lanes, mask))
    assert seen.diagonal().all()


@given(coordinates(), timed(), st.integers(0, 40))
def test_the_shortcuts_of_a_pass_say_the_same_as_the_matrix(
    rows: tuple[np.ndarray, np.ndarray], mask: LaneMask, cut: int
) -> None:
    """Rows from `cut` on are the queries; None and "causal" stand for matrices."""
    i, m = rows
    cut = min(cut, len(i) - 1)
    found = mask.seen(Places(i[cut:], m[cut:], i, m))
    whole = mask.visible(i[cut:], m[cut:], i, m)
    if isinstance(found, str):
        assert np.array_equal(whole, np.arange(len(i)) <= np.arange(cut, len(i))[:, None])
    else:
        assert whole.all() if found is None else np.array_equal(found, whole)


@given(masks(4), CHANGES)
def test_reading_changes_one_pair_from_a_position_on(mask: LaneMask, changes: list[Any]) -> None:
    """Against a table that says for every pair, at every position of the reader, whether it reads.
    Positions count on, as those that have not been fed do."""
    table = {(m, n): [bool(mask.visibility[m, n])] * 20 for m in range(4) for n in range(4)}
    at = 0
    for m, n, yes, later in changes:
        at = min(at + later // 4, 18)
        if m == n:
            continue
        row = table[m, n]
        begins_again = yes and not row[at] and any(row[:at])
        if begins_again:
            with pytest.raises(TinylaneError, match=f"lane {m} read lane {n} before position"):
                times.reading(mask, m, n, yes, at)
            continue
        mask = times.reading(mask, m, n, yes, at)
        table[m, n] = row[:at] + [yes] * (20 - at)
    for (m, n), row in table.items():
        for position in range(20) if m != n else ():
            query, key = np.array([position]), np.array([position - mask.lag])
            seen = mask.visible(query, np.array([m]), key, np.array([n]))
            assert seen[0, 0] == row[position], (m, n, position)


@given(masks(3), st.lists(st.integers(0, 2)), st.dictionaries(st.integers(0, 2), AT), st.booleans())
def test_a_lane_that_joins_reads_whom_it_says_and_is_read_from_positions_on(
    mask: LaneMask, sees: list[int], seen_by: dict[int, int], more: bool
) -> None:
    m = 3 if more else 2
    sees, seen_by = [n for n in sees if n != m], {n: at for n, at in seen_by.items() if n != m}
    found = times.joined(mask, m, sees, seen_by)
    assert found.n == (4 if more else 3) and found.lag == mask.lag
    for reader in range(found.n):
        for read in range(found.n):
            if reader == read:
                continue
            for position in range(15):
                if reader == m:
                    expected = read in sees
                elif read == m and reader in seen_by:
                    expected = position >= seen_by[reader]
                else:  # as before; nobody else reads a lane that is new to the mask
                    expected = read < mask.n and bool(mask.visibility[reader, read])
                place = np.array([position])
                lanes = np.array([reader]), np.array([read])
                seen = found.visible(place, lanes[0], place - mask.lag, lanes[1])
                assert seen[0, 0] == expected, (reader, read, position)


@given(timed())
def test_a_mask_with_times_comes_back_from_json(mask: LaneMask) -> None:
    """As far as times say something: of pairs that ever read each other."""
    told = json.loads(json.dumps(mask.settings()))
    told["times"] = [t for t in told["times"] if t[0] != t[1] and t[2] <= (t[3] or NEVER) < NEVER]
    keep = np.zeros((4, 4), bool)
    for m, n, *_ in told["times"]:
        keep[m, n] = True
    again = _mask(Fields(told))
    i, m = np.tile(np.arange(15), 5), np.repeat(np.arange(-1, 4), 15)
    before, after = (x.visible(i, m, i, m) for x in (mask, again))
    pairs = keep[m[:, None], m[None, :]] & (m[:, None] != SHARED) & (m[None, :] != SHARED)
    assert np.array_equal(before[pairs], after[pairs])
    assert again.lag == mask.lag


def test_times_that_say_nothing_are_left_out() -> None:
    """So the shortcuts hold, which masks with times do not take."""
    mask = LaneMask.joint(2)
    assert times.joined(mask, 2, [0, 1], {0: 0, 1: 0}).since is None
    closed = times.reading(mask, 0, 1, False, 9)
    assert closed.since is not None and "times" in closed.settings()
    assert "times" not in mask.settings()
    assert not closed.same_as(mask) and closed.same_as(times.reading(mask, 0, 1, False, 9))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"since": np.zeros((2, 2), int)}, "since without until, or until without since"),
        ({"until": np.zeros((2, 2), int)}, "since without until, or until without since"),
        (
            {"since": np.zeros((3, 3), int), "until": np.zeros((2, 2), int)},
            r"since has shape \(3, 3\); expected integers 2 x 2",
        ),
        (
            {"since": np.zeros((2, 2), int), "until": np.full((2, 2), 0.5)},
            r"until has shape \(2, 2\); expected integers 2 x 2",
        ),
    ],
)
def test_times_of_another_shape_or_kind_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(TinylaneError, match=words):
        LaneMask(np.eye(2), **more)
