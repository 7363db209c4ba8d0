"""Who sees whom, against a loop (method, section 3); Omega's starts; every message."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import MAX_LANES, MAX_STEPS, SHARED, LaneMask, LaneRoPE
from tinylane.testing.reference import visible_by_definition
from tinylane.testing.strategies import coordinates, masks

THETA = np.array([1.0, 0.1, 0.01, 0.001])


def bits(mask: LaneMask) -> list[str]:
    return ["".join(str(int(x)) for x in row) for row in mask.visibility]


@given(coordinates(), masks(4))
def test_visible_is_spec_3(rows: tuple[np.ndarray, np.ndarray], mask: LaneMask) -> None:
    """The vectorised mask against a loop over pairs, exactly; nobody is fully masked."""
    positions, lanes = rows
    seen = mask.visible(positions, lanes, positions, lanes)
    assert np.array_equal(seen, visible_by_definition(positions, lanes, mask))
    assert seen.dtype == bool and seen.diagonal().all()


@given(coordinates(), masks(4), st.integers(0, 50))
def test_a_step_sees_what_a_whole_pass_sees(
    rows: tuple[np.ndarray, np.ndarray], mask: LaneMask, cut: int
) -> None:
    """Queries may be fewer than keys: the rows of the matrix are the same."""
    positions, lanes = rows
    whole = mask.visible(positions, lanes, positions, lanes)
    part = mask.visible(positions[cut:], lanes[cut:], positions, lanes)
    assert np.array_equal(part, whole[cut:])


@pytest.mark.parametrize(
    ("query", "key", "lag", "seen"),
    [
        ((5, 0), (5, SHARED), 3, True),  # shared keys know no lag
        ((5, 0), (6, SHARED), 0, False),  # but causality
        ((5, 0), (5, 0), 3, True),  # nor does the own lane
        ((5, 0), (6, 0), 0, False),
        ((5, 0), (5, 1), 0, True),  # fed in this very step, sampled in the one before
        ((5, 0), (5, 1), 1, False),
        ((5, 0), (4, 1), 1, True),
        ((5, 0), (0, 2), 0, False),  # lane 0 does not read lane 2
        ((5, 2), (0, 0), 0, True),  # though lane 2 reads lane 0
        ((5, SHARED), (0, 0), 0, False),  # the prompt reads no lane
        ((5, SHARED), (5, SHARED), 2, True),
    ],
)
def test_one_query_and_one_key(
    query: tuple[int, int], key: tuple[int, int], lag: int, seen: bool
) -> None:
    mask = LaneMask(np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1]]), lag)
    i, m, j, n = (np.array([x]) for x in (*query, *key))
    assert mask.visible(i, m, j, n).tolist() == [[seen]]


@given(masks(4))
def test_reaches_is_the_transitive_closure(mask: LaneMask) -> None:
    """By powers of the matrix: n steps reach whatever can be reached."""
    step = (mask.visibility | np.eye(mask.n, dtype=bool)).astype(np.int64)
    assert np.array_equal(mask.reaches(), np.linalg.matrix_power(step, mask.n) > 0)


def test_reach_goes_through_a_chain_one_way() -> None:
    chain = np.eye(4, dtype=bool) | np.eye(4, k=1, dtype=bool)  # lane m reads lane m + 1
    assert np.array_equal(LaneMask(chain).reaches(), np.triu(np.ones((4, 4), dtype=bool)))


def test_named_patterns() -> None:
    assert bits(LaneMask.independent(3)) == ["100", "010", "001"]
    assert bits(LaneMask.joint(3)) == ["111", "111", "111"]
    assert bits(LaneMask.neighbours(4)) == ["1100", "1110", "0111", "0011"]
    assert bits(LaneMask.neighbours(4, 2)) == ["1110", "1111", "1111", "0111"]
    assert bits(LaneMask.neighbours(3, 0)) == bits(LaneMask.independent(3))
    assert bits(LaneMask.star(3)) == ["111", "010", "001"]
    assert LaneMask.joint(3, 2).lag == LaneMask.star(3, 2).lag == 2
    assert LaneMask.neighbours(3, 1, 4).lag == 4 and LaneMask.independent(3).lag == 0
    assert LaneMask.joint(3).lag == LaneMask.star(3).lag == LaneMask.neighbours(3).lag == 0
    assert LaneMask.named("joint", 3).lag == 0


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("independent", LaneMask.independent(5)),
        ("joint", LaneMask.joint(5, 2)),
        ("star", LaneMask.star(5, 2)),
        ("neighbours", LaneMask.neighbours(5, 1, 2)),
        ("neighbours:3", LaneMask.neighbours(5, 3, 2)),
    ],
)
def test_patterns_by_name(name: str, same: LaneMask) -> None:
    named = LaneMask.named(name, 5, 2)
    assert np.array_equal(named.visibility, same.visibility)
    assert named.lag == 2


def test_masks_compare_by_what_they_say() -> None:
    mask = LaneMask.joint(2, 1)
    assert mask.same_as(LaneMask(np.ones((2, 2)), 1))
    assert not mask.same_as(None)
    assert not mask.same_as(LaneMask.joint(2))
    assert not mask.same_as(LaneMask.joint(3, 1))
    assert not mask.same_as(LaneMask.star(2, 1))


def test_a_silenced_lane_still_listens() -> None:
    silent = LaneMask.joint(3, 2).silence(1)
    assert bits(silent) == ["101", "101", "101"] and silent.lag == 2
    i, m, n = np.array([9]), np.array([1]), np.array([0])
    assert silent.visible(i, m, i - 2, n).all() and silent.visible(i, m, i, m).all()


def test_a_mask_cannot_be_changed_behind_its_back() -> None:
    given_matrix = np.ones((2, 2), dtype=bool)
    mask = LaneMask(given_matrix)
    given_matrix[:] = False
    assert mask.visibility.all()
    with pytest.raises(ValueError, match="read-only"):
        mask.visibility[0, 0] = False


@pytest.mark.parametrize("matrix", [[[1, 0], [1, 1]], np.array([[1.0, 0.0], [1.0, 1.0]])])
def test_zeros_and_ones_are_as_good_as_booleans(matrix: Any) -> None:
    mask = LaneMask(matrix, 2.0)  # type: ignore[arg-type]
    assert bits(mask) == ["10", "11"] and mask.visibility.dtype == bool
    assert mask.lag == 2 and type(mask.lag) is int  # a float would go into run files


ONE_OF = "expected independent, joint, star, bridge, neighbours:K or a matrix"
LANES = "; expected a whole number from 1 to 1024"
SQUARE = "expected N x N, one row a lane"
FLAT = "expected (D/2,) or (layers, D/2)"
STEPS = "expected a whole number from 0 to 2147483647"
SCALE = "expected a number > 0, usually N"
SLOT = "expected a number of positions, 0 to 2147483647"
NOT_BOOL = "visibility holds values other than true and false"
NOT_FINITE = "Omega holds NaN or infinite entries; expected radians per lane"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LaneMask(np.ones((2, 3))), f"visibility has shape (2, 3); {SQUARE}"),
        (lambda: LaneMask(np.ones(4)), f"visibility has shape (4,); {SQUARE}"),
        (lambda: LaneMask(np.ones((0, 0))), f"lanes is 0{LANES}"),
        (lambda: LaneMask(np.ones((1025, 1025), bool)), f"lanes is 1025{LANES}"),
        (lambda: LaneMask([[1, 2], [0, 1]]), NOT_BOOL),
        (lambda: LaneMask([[1.0, np.nan], [0, 1]]), NOT_BOOL),
        (lambda: LaneMask(np.eye(2), -1), f"lag is -1; {STEPS}"),
        (lambda: LaneMask(np.eye(2), 1.5), f"lag is 1.5; {STEPS}"),  # type: ignore[arg-type]
        (lambda: LaneMask(np.eye(2), True), f"lag is True; {STEPS}"),
        (lambda: LaneMask(np.eye(2), 2**31), f"lag is {2**31}; {STEPS}"),
        (lambda: LaneMask.joint(10_000), f"lanes is 10000{LANES}"),
        (lambda: LaneMask.joint(0), f"lanes is 0{LANES}"),
        (lambda: LaneMask.independent(-1), f"lanes is -1{LANES}"),
        (lambda: LaneMask.star(1.5), f"lanes is 1.5{LANES}"),  # type: ignore[arg-type]
        (lambda: LaneMask.neighbours(True), f"lanes is True{LANES}"),
        (
            lambda: LaneMask.neighbours(3, -1),
            "neighbours is -1; expected a whole number at least 0",
        ),
        (
            lambda: LaneMask.neighbours(3, 0.5),
            "neighbours is 0.5; expected a whole number at least 0",
        ),  # type: ignore[arg-type]
        (
            lambda: LaneMask.neighbours(3, True),
            "neighbours is True; expected a whole number at least 0",
        ),
        (lambda: LaneMask.named("everyone", 3), f"visibility 'everyone'; {ONE_OF}"),
        (lambda: LaneMask.named("star:2", 3), f"visibility 'star:2'; {ONE_OF}"),
        (lambda: LaneMask.named("neighbours:x", 3), f"visibility 'neighbours:x'; {ONE_OF}"),
        (lambda: LaneMask.named("neighbours:-1", 3), f"visibility 'neighbours:-1'; {ONE_OF}"),
        (lambda: LaneMask.named("neighbours:", 3), f"visibility 'neighbours:'; {ONE_OF}"),
        (lambda: LaneMask.named("star:", 3), f"visibility 'star:'; {ONE_OF}"),
        (lambda: LaneMask.named("neighbours:٣", 3), f"visibility 'neighbours:٣'; {ONE_OF}"),
        (
            lambda: LaneMask.named(f"neighbours:{10**9}", 3),
            f"visibility 'neighbours:1000000000'; {ONE_OF}",
        ),
        (lambda: LaneMask.named("named", 3), f"visibility 'named'; {ONE_OF}"),
        (lambda: LaneMask.named("x" * 99, 3), f"visibility '{'x' * 60}'; {ONE_OF}"),
        (lambda: LaneMask.named("joint", 3, -2), f"lag is -2; {STEPS}"),
        (lambda: LaneRoPE(np.ones((2, 2, 2))), f"Omega has shape (2, 2, 2); {FLAT}"),
        (lambda: LaneRoPE(np.float64(1.0)), f"Omega has shape (); {FLAT}"),  # type: ignore[arg-type]
        (lambda: LaneRoPE(np.ones(0)), f"Omega has shape (0,); {FLAT}"),
        (lambda: LaneRoPE(np.array([1.0, np.nan])), NOT_FINITE),
        (lambda: LaneRoPE(np.array([1.0, np.inf])), NOT_FINITE),
        (lambda: LaneRoPE(THETA, 1), "prompt_lane is 1; expected 'own' or 0"),  # type: ignore
        (lambda: LaneRoPE(THETA, False), "prompt_lane is False; expected 'own' or 0"),
        (lambda: LaneRoPE(THETA, "shared"), "prompt_lane is 'shared'; expected 'own' or 0"),  # type: ignore[arg-type]
        (
            lambda: LaneRoPE.group_think(THETA, np.inf),
            f"slot is inf; {SLOT}",
        ),
        (lambda: LaneRoPE.ntk(THETA, np.nan, 2), f"slot is nan; {SLOT}"),
        (lambda: LaneRoPE.ntk(THETA, -0.5, 2), f"slot is -0.5; {SLOT}"),
        (lambda: LaneRoPE.group_think(THETA, -3), f"slot is -3; {SLOT}"),
        (lambda: LaneRoPE.group_think(THETA, 2**31), f"slot is {2**31}; {SLOT}"),
        (lambda: LaneRoPE.ntk(THETA, 1, 0), f"ntk scale is 0; {SCALE}"),
        (lambda: LaneRoPE.ntk(THETA, 1, np.inf), f"ntk scale is inf; {SCALE}"),
    ],
)
def test_what_is_refused_and_how(make: Any, message: str) -> None:
    with pytest.raises(TinylaneError) as caught:
        make()
    assert str(caught.value) == message


def test_the_ends_of_every_range_are_allowed() -> None:
    assert LaneMask(np.ones((MAX_LANES, MAX_LANES), dtype=bool)).n == MAX_LANES
    assert LaneMask.independent(MAX_LANES).n == MAX_LANES and LaneMask.joint(1).n == 1
    assert LaneMask.joint(2, MAX_STEPS).lag == MAX_STEPS
    assert LaneMask.named(f"neighbours:{10**9 - 1}", 3).visibility.all()
    assert np.array_equal(LaneRoPE.ntk(THETA, 10, 1).omega, 10 * THETA)


def test_the_starts_of_omega() -> None:
    assert not LaneRoPE.none(THETA).omega.any()
    assert np.array_equal(LaneRoPE.group_think(THETA, 64).omega, 64 * THETA)
    ntk = LaneRoPE.ntk(THETA, 10, 4).omega
    # method, section 2.2: slot * theta_d * scale^(-2d/(head_dim-2)), head_dim 8
    assert np.allclose(ntk, [10 * t * 4 ** (-2 * d / 6) for d, t in enumerate(THETA)], rtol=1e-15)
    assert ntk[0] == 10 * THETA[0] and ntk[-1] == pytest.approx(10 * THETA[-1] / 4)
    assert np.array_equal(LaneRoPE.ntk(THETA[:1], 3, 8).omega, [3.0])  # a single plane: the fastest


def test_a_float32_theta_gives_omega_in_float64() -> None:
    """A product in float32 would be off by half a float32 unit, which the lane then multiplies."""
    narrow = THETA.astype(np.float32)
    wide = narrow.astype(np.float64)
    assert np.array_equal(LaneRoPE.group_think(narrow, 0.1).omega, 0.1 * wide)
    assert np.array_equal(LaneRoPE.ntk(narrow, 0.1, 4).omega, LaneRoPE.ntk(wide, 0.1, 4).omega)


def test_settings_are_what_json_can_say() -> None:
    """A run file holds them; to read them back is to have the same rotation."""
    per_layer = LaneRoPE(np.stack([THETA, 2 * THETA]), 0)
    assert per_layer.settings() == {
        "omega": [THETA.tolist(), (2 * THETA).tolist()],
        "prompt_lane": 0,
    }
    again = json.loads(json.dumps(LaneRoPE(THETA / 3).settings()))
    assert LaneRoPE(np.array(again["omega"]), again["prompt_lane"]).same_as(LaneRoPE(THETA / 3))


@pytest.mark.parametrize("prompt_lane", ["own", 0])
def test_every_start_takes_both_readings_of_the_prompt(prompt_lane: Any) -> None:
    assert LaneRoPE.none(THETA, prompt_lane).prompt_lane == prompt_lane
    assert LaneRoPE.group_think(THETA, 1, prompt_lane).prompt_lane == prompt_lane
    assert LaneRoPE.ntk(THETA, 1, 2, prompt_lane).prompt_lane == prompt_lane
    assert LaneRoPE(THETA).prompt_lane == "own"


def test_lane_angles_are_lane_times_omega() -> None:
    lanes = np.array([SHARED, 0, 1, 3])
    assert np.array_equal(LaneRoPE(THETA).angles(lanes, 5), np.array([0, 0, 1, 3])[:, None] * THETA)
    per_layer = LaneRoPE(np.stack([THETA, 2 * THETA]))
    assert np.array_equal(per_layer.angles(lanes, 1)[3], 6 * THETA)
    assert np.array_equal(per_layer.angles(lanes, 0)[3], 3 * THETA)


def test_rotations_compare_to_the_bit() -> None:
    rope = LaneRoPE(THETA)
    assert rope.same_as(LaneRoPE(THETA.copy()))
    assert not rope.same_as(LaneRoPE(THETA, 0))
    assert not rope.same_as(LaneRoPE(THETA + 1e-16 * np.array([0, 1, 1, 1])))
    assert not rope.same_as(LaneRoPE(np.stack([THETA, THETA])))
    assert not rope.same_as(LaneRoPE(THETA + 2 * np.pi))


def test_omega_is_kept_in_float64_and_cannot_be_changed() -> None:
    given_omega = THETA.astype(np.float32)
    rope = LaneRoPE(given_omega)
    given_omega[:] = 0
    assert rope.omega.dtype == np.float64 and rope.omega[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        rope.omega[0] = 2.0
