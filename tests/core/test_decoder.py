"""The functions of the decoder: plans, blocks of keys, softmax, on both libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_decoder import APART, CONFIG, JOINT, OMEGA

from tinylane.core import numpy_ops
from tinylane.core.decoder import (
    PLAIN,
    attention,
    attention_weights,
    gated,
    make_plan,
    rms_norm,
    widen,
)
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Places
from tinylane.core.numpy_ops import spans
from tinylane.testing import check, example_case
from tinylane.testing.checks import bound


def test_the_plain_decoder_on_mlx_equals_the_fused_one() -> None:
    """One source for both libraries: the text of `model.py` runs on MLX arrays as it stands."""
    pytest.importorskip("mlx.core")
    for seed in range(20):
        case = example_case(seed)
        fused, text = case.model("mlx", "float32"), case.model("mlx", "float32")
        text.ops = PLAIN
        a, b = (np.asarray(bound(m, case.sample)(*case.sample.rows)) for m in (fused, text))
        assert np.abs(a - b).max() <= 3e-5 * max(1.0, np.abs(b).max()), seed


def test_two_query_tables_only_where_shared_and_lane_keys_meet() -> None:
    def tables(prompt_lane: Any, lanes: list[int], omega: np.ndarray = OMEGA) -> int:
        i, m = np.arange(len(lanes)), np.array(lanes)
        rope, mask = LaneRoPE(omega, prompt_lane), LaneMask.joint(2)
        plan = make_plan(CONFIG, rope, mask, Places(i, m, i, m))
        assert (plan.block_of is None) == (len(plan.queries[0]) == 1)
        return len(plan.queries[0])

    assert tables("own", [SHARED, 0, 1]) == 2
    assert tables(0, [SHARED, 0, 1]) == 1
    assert tables("own", [0, 1]) == 1
    assert tables("own", [SHARED, SHARED]) == 1
    assert tables("own", [SHARED, 0, 0]) == 1  # lane 0 is not turned
    assert tables("own", [SHARED, 0, 1], 0 * OMEGA) == 1


def test_every_key_is_in_the_block_of_the_prompt_or_of_the_lanes() -> None:
    i, mask = np.arange(4), LaneMask.joint(2)
    for lanes, blocks in (
        ([SHARED, SHARED, 0, 1], [0, 0, 1, 1]),
        ([SHARED, 1, SHARED, 0], [0, 1, 0, 1]),
    ):
        m = np.array(lanes)
        plan = make_plan(CONFIG, LaneRoPE(OMEGA), mask, Places(i, m, i, m))
        assert plan.block_of is not None and plan.block_of.tolist() == blocks


def test_spans_are_the_places_of_blocks_that_follow_one_another() -> None:
    for blocks, count, expected in (
        ([0, 0, 1], 2, [(0, 2), (2, 3)]),
        ([1, 1], 2, [(0, 0), (0, 2)]),
        ([0, 2, 2], 3, [(0, 1), (1, 1), (1, 3)]),
        ([0, 1, 0], 2, None),
    ):
        assert spans(np.array(blocks), count) == expected


def test_a_decoding_step_of_joint_lanes_has_no_mask() -> None:
    keys_i, keys_m = np.array([0, 1, 2, 2]), np.array([SHARED, SHARED, 0, 1])
    for mask, none in (
        (LaneMask.joint(2), True),
        (LaneMask.joint(2, 1), False),
        (LaneMask.star(2), False),
    ):
        step = keys_i[2:], keys_m[2:]
        plan = make_plan(CONFIG, LaneRoPE(OMEGA), mask, Places(*step, keys_i, keys_m))
        assert (plan.mask is None) == none
    late = make_plan(CONFIG, LaneRoPE(OMEGA), LaneMask.joint(2), Places(*step, keys_i + 1, keys_m))
    assert late.mask is not None


def test_a_step_of_joint_lanes_does_not_even_ask_for_the_matrix(monkeypatch: Any) -> None:
    """Rows times keys: at 64 lanes and 4096 keys it would take longer than a small model's step."""

    def refuse(*_: Any) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(LaneMask, "visible", refuse)
    keys_i, keys_m = np.array([0, 1, 2, 2]), np.array([SHARED, SHARED, 0, 1])
    step = keys_i[2:], keys_m[2:], keys_i, keys_m
    assert make_plan(CONFIG, LaneRoPE(OMEGA), LaneMask.joint(2), Places(*step)).mask is None
    with pytest.raises(AssertionError, match="asked"):
        make_plan(CONFIG, LaneRoPE(OMEGA), LaneMask.star(2), Places(*step))


def test_a_mask_that_hides_nothing_is_none() -> None:
    """Attention without a mask is quicker: lag 1, and no other lane's key is younger."""
    lagged = LaneMask.joint(2, 1)
    keys_i, keys_m = np.array([0, 1, 1, 2]), np.array([SHARED, 0, 1, 1])
    row = keys_i[3:], keys_m[3:]
    assert make_plan(CONFIG, LaneRoPE(OMEGA), lagged, Places(*row, keys_i, keys_m)).mask is None


def test_a_mask_of_its_own_kind_decides_for_every_row() -> None:
    """A subclass whose matrix says that all see all, and whose `visible` says otherwise."""

    class Own(LaneMask):
        def visible(self, i: Any, m: Any, j: Any, n: Any) -> np.ndarray:
            return (i[:, None] == j) & (m[:, None] == n)

    i, m = np.array([2, 2]), np.array([0, 1])
    plan = make_plan(CONFIG, LaneRoPE(OMEGA), Own(np.ones((2, 2))), Places(i, m, i, m))
    assert plan.mask is not None and plan.mask.tolist() == [[True, False], [False, True]]


def test_a_rotation_is_told_the_mask() -> None:
    """Hogwild's blocks are as long as what the mask lets a lane see."""
    i, m = np.array([0, 1, 1]), np.array([SHARED, 0, 1])
    plans = [make_plan(CONFIG, Hogwild(), mask, Places(i, m, i, m)) for mask in (JOINT, APART)]
    assert [len(plan.queries[0]) for plan in plans] == [3, 3]
    cosines = [np.array([turn[0] for turn in plan.queries[0]]) for plan in plans]
    assert not np.array_equal(*cosines)


def test_the_tables_of_a_plan_have_the_dtype_asked_for_and_the_keys_serves_queries_too() -> None:
    i, m = np.arange(4), np.array([SHARED, 0, SHARED, 1])
    for omega in (OMEGA, np.stack([OMEGA, 2 * OMEGA])):
        for dtype in (np.float32, np.float64):
            plan = make_plan(CONFIG, LaneRoPE(omega), JOINT, Places(i, m, i, m), dtype)
            made = [*plan.keys, *(turn for turns in plan.queries for turn in turns)]
            assert all(part.dtype == dtype for turn in made for part in turn)
            for key, turns in zip(plan.keys, plan.queries, strict=True):
                assert len(turns) == 2 and turns[1] is key  # not computed twice


def test_a_plan_for_mlx_holds_its_arrays() -> None:
    """A NumPy array left in it would be copied to the device in every layer. The blocks of the keys
    stay on the host, where it is seen at once that they follow one another."""
    mx = pytest.importorskip("mlx.core")
    i, m = np.arange(4), np.array([SHARED, 0, SHARED, 1])
    plan = make_plan(CONFIG, LaneRoPE(OMEGA), JOINT, Places(i, m, i, m), array=mx.array)
    turns = [*plan.keys, *plan.queries[0]]
    parts = [plan.mask, *(part for turn in turns for part in turn)]
    assert all(isinstance(part, mx.array) for part in parts)
    assert isinstance(plan.block_of, np.ndarray)


@pytest.mark.parametrize("law", ["definition", "steps"])
def test_in_float64_the_decoder_is_its_definition_whole_and_in_pieces(law: str) -> None:
    """To 1e-12 and better, which a table in float32 would not allow; with and without a lag."""
    for seed in range(12):
        case = example_case(seed)
        check(law, case.model("numpy", "float64"), case.sample, case.choose)


def test_layers_share_one_table_unless_omega_is_per_layer() -> None:
    i, m = np.arange(3), np.array([SHARED, 0, 1])
    for omega, shared in ((OMEGA, True), (np.stack([OMEGA, OMEGA]), False)):
        plan = make_plan(CONFIG, LaneRoPE(omega), LaneMask.joint(2), Places(i, m, i, m))
        assert (plan.keys[0] is plan.keys[1]) == shared


def test_the_gate_does_not_overflow() -> None:
    """exp(-gate) would, from about -88 on in float32."""
    gate = np.array([-1e4, -100.0, 0.0, 100.0], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert np.allclose(gated(gate, np.ones_like(gate)), [0, 0, 0, 100], atol=1e-30)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("attention", [attention, numpy_ops.attention], ids=["text", "blas"])
def test_softmax_bears_scores_of_any_size(attention: Any, dtype: str) -> None:
    """Each row is taken relative to its own largest: rows thousands apart, above exp's range."""
    keys = np.array([[[1.0], [2.0]]], dtype=dtype)
    values = np.array([[[0.0], [1.0]]], dtype=dtype)
    queries = np.array([[[5000.0], [-5000.0], [0.0], [1e-3]]], dtype=dtype)
    with np.errstate(all="raise", under="ignore"):
        weighted = attention((queries,), keys, values, None, None)
    np.testing.assert_allclose(weighted[0, :, 0], [1, 0, 0.5, 0.50025], atol=1e-6)


def test_each_block_is_scored_by_its_own_query() -> None:
    """Each key is scored by the query of its block, and by no other."""
    k = np.ones((1, 3, 2))
    queries = tuple(np.full((1, 1, 2), float(block)) for block in (0, 1, 2))
    weights = attention_weights(queries, k, None, np.array([2, 0, 1]))
    expected = np.exp(np.array([2.0, 0.0, 1.0]) * 2 / np.sqrt(2))
    assert np.allclose(weights[0, 0], expected / expected.sum())


def test_what_is_wide_is_not_copied_and_16_bits_are_widened() -> None:
    for dtype in (np.float32, np.float64):
        x = np.ones(3, dtype=dtype)
        assert widen(x) is x
    assert widen(np.ones(3, dtype=np.float16)).dtype == np.float32


def test_the_norm_of_zeros_is_zero() -> None:
    assert not rms_norm(np.zeros((2, 4)), np.ones(4), 1e-6).any()
