"""Method, section 5, law by law, over random small models, masks, Omegas, coordinates and dtypes.

`test_law_controls.py` shows that each of these laws catches what it is there to catch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.rope import frequencies
from tinylane.testing import (
    EXTRA,
    LAWS,
    LawViolation,
    assert_equal,
    assert_isolation,
    assert_steps,
    assert_token_shift,
    check,
    example_case,
    tolerance,
)
from tinylane.testing.checks import bound, plain
from tinylane.testing.strategies import cases

BACKENDS = ("numpy float64", "numpy float32", "mlx float32")
on_each_backend = pytest.mark.parametrize("backend", BACKENDS)
Holds = Callable[..., None]


@pytest.fixture
def holds(monkeypatch: pytest.MonkeyPatch, record_property: Any) -> Holds:
    """Check a law on random cases; cache buffers grow by 3 rows, so that they do grow."""
    monkeypatch.setattr("tinylane.core.cache.BLOCK", 3)

    def run(law: str, backend: str) -> None:
        library, dtype = backend.split()
        if library == "mlx":
            pytest.importorskip("mlx.core")
        ratios: list[float] = []
        tried = compared = 0

        @given(cases())
        def law_holds(case: Any) -> None:
            nonlocal tried, compared
            report = check(law, case.model(library, dtype), case.sample, case.choose)
            tried, compared = tried + 1, compared + report.compared
            if report.allowed:
                ratios.append(report.worst / report.allowed)

        began = time.perf_counter()
        law_holds()
        assert compared > tried // 4, "most samples left nothing to compare"
        worst = max(ratios) if ratios else None
        record_property("law", (law, backend, tried, time.perf_counter() - began, worst))

    return run


@on_each_backend
def test_1_adding_c_to_every_position_changes_no_logits(holds: Holds, backend: str) -> None:
    holds("token shift", backend)


@on_each_backend
def test_2_adding_c_to_every_lane_changes_no_logits(holds: Holds, backend: str) -> None:
    holds("lane shift", backend)


@on_each_backend
def test_3_permuting_rows_permutes_the_logits(holds: Holds, backend: str) -> None:
    holds("storage order", backend)


@on_each_backend
def test_4_a_token_changes_exactly_nothing_before_it(holds: Holds, backend: str) -> None:
    holds("causality", backend)


@on_each_backend
def test_5_a_lane_that_is_not_reached_changes_exactly_nothing(holds: Holds, backend: str) -> None:
    holds("isolation", backend)


@on_each_backend
def test_6_one_lane_is_the_unmodified_model(holds: Holds, backend: str) -> None:
    holds("one lane", backend)


@on_each_backend
def test_7_independent_lanes_are_separate_runs(holds: Holds, backend: str) -> None:
    holds("independent", backend)


@on_each_backend
def test_8_pieces_through_the_cache_equal_one_pass(holds: Holds, backend: str) -> None:
    holds("steps", backend)


@on_each_backend
def test_9_the_shared_prompt_equals_a_copy_per_lane(holds: Holds, backend: str) -> None:
    holds("shared prompt", backend)


@on_each_backend
def test_10_omega_plus_whole_turns_equals_omega(holds: Holds, backend: str) -> None:
    holds("periodicity", backend)


@on_each_backend
def test_11_group_think_is_the_plain_model_at_virtual_positions(holds: Holds, backend: str) -> None:
    holds("group think", backend)


@pytest.mark.parametrize("backend", [*BACKENDS[1:], "mlx float16", "mlx bfloat16"])
def test_12_backends_and_dtypes_agree(holds: Holds, backend: str) -> None:
    holds("backends", backend)


@on_each_backend
def test_13_a_lane_that_nobody_sees_changes_nobody(holds: Holds, backend: str) -> None:
    holds("company", backend)


@on_each_backend
def test_14_the_probabilities_of_all_continuations_add_up_to_1(holds: Holds, backend: str) -> None:
    holds("chain rule", backend)


@on_each_backend
def test_15_paths_in_another_order_change_nothing(holds: Holds, backend: str) -> None:
    holds("permuted paths", backend)


@on_each_backend
def test_16_fork_and_join_are_one_flat_pass(holds: Holds, backend: str) -> None:
    holds("fork join", backend)


@on_each_backend
def test_17_one_path_is_no_path(holds: Holds, backend: str) -> None:
    holds("one path", backend)


@on_each_backend
def test_18_rereading_is_the_plain_model_and_of_one_path_it_is_reuse(
    holds: Holds, backend: str
) -> None:
    holds("reread", backend)


@on_each_backend
def test_19_what_adds_zero_for_lanes_changes_no_bit(holds: Holds, backend: str) -> None:
    holds("identity", backend)


@on_each_backend
def test_20_a_bridge_knows_no_lanes_and_no_earlier_step(holds: Holds, backend: str) -> None:
    holds("bridge", backend)


@on_each_backend
def test_21_multi_stream_without_embeddings_is_lag_1(holds: Holds, backend: str) -> None:
    holds("multi stream", backend)


@on_each_backend
def test_22_a_sealed_piece_stands_where_every_view_says(holds: Holds, backend: str) -> None:
    holds("seal", backend)


@on_each_backend
def test_23_blocks_of_keys_merge_by_log_sum_exp(holds: Holds, backend: str) -> None:
    holds("blocks merge", backend)


@on_each_backend
def test_24_a_rollout_is_what_training_sees(holds: Holds, backend: str) -> None:
    holds("rollout", backend)


@on_each_backend
def test_25_a_moved_cache_is_that_of_moved_rows(holds: Holds, backend: str) -> None:
    holds("moved cache", backend)


@on_each_backend
@pytest.mark.parametrize("oracle", [name for name in EXTRA if name != "decoding"])
def test_oracle(holds: Holds, oracle: str, backend: str) -> None:
    """What the laws are blind to: the definition itself, and the operations of the cache."""
    holds(oracle, backend)


def test_the_cached_generator_writes_what_the_uncached_one_writes(holds: Holds) -> None:
    """In float64, where no draw falls between two roundings."""
    holds("decoding", "numpy float64")


def test_every_law_of_the_spec_is_here() -> None:
    assert [law.number for law in LAWS.values()] == list(range(1, 26))


def _joint(seed: int) -> Any:
    """A case whose lanes see each other, are at least two, and can be told apart."""
    case = example_case(seed)
    rng = np.random.default_rng(seed)
    D = case.config.head_dim
    rows = np.array([(3, 0, SHARED), (4, 1, 0), (5, 1, 1), (6, 1, 2), (1, 2, 0), (2, 2, 1)])
    tokens, positions, lanes = rows.T.copy()
    rope = LaneRoPE(rng.uniform(0.5, 2.5, D // 2))
    sample = type(case.sample)(tokens, positions, lanes, LaneMask.joint(3), rope, 11)
    return case, sample


@pytest.mark.parametrize("seed", range(8))
def test_relabelling_lanes_changes_the_logits_when_omega_is_not_zero(seed: int) -> None:
    """Else all the laws could hold because lanes are ignored."""
    case, sample = _joint(seed)
    f = bound(case.model(), sample)
    label = np.array([2, 0, 1, SHARED])
    moved = f(sample.tokens, sample.positions, label[sample.lanes])
    with pytest.raises(LawViolation):
        assert_equal("permutation", moved, f(*sample.rows), sample)


@pytest.mark.parametrize("seed", range(8))
def test_other_lanes_are_heard(seed: int) -> None:
    """Isolation must fail between joint lanes, or its law would compare nothing with nothing."""
    case, sample = _joint(seed)
    with pytest.raises(LawViolation):
        assert_isolation(
            bound(case.model(), sample),
            sample.with_mask(LaneMask.independent(3)),
            1,
        )


def test_a_report_has_the_error_on_success_too() -> None:
    case, sample = _joint(1)
    report = assert_token_shift(bound(case.model(), sample), sample, 5)
    assert report.law == "token shift" and report.compared == 6
    assert 0 < report.worst <= report.allowed < 1e-10
    assert str(report).startswith("token shift: worst error ")


def test_a_violation_names_law_row_size_and_sample() -> None:
    case, sample = _joint(2)
    f = bound(case.model(), sample)

    def broken(tokens: Any, positions: Any, lanes: Any) -> Any:
        logits = f(tokens, positions, lanes)
        logits[3, 2] += 1e-6 * positions[0]
        return logits

    with pytest.raises(LawViolation) as caught:
        assert_token_shift(broken, sample, 5)
    assert caught.value.report.row == 3
    assert caught.value.report.worst == pytest.approx(5e-6, rel=1e-3)
    message = str(caught.value)
    assert message.startswith("token shift: row 3 differs by 5e-06, allowed ")
    assert "shift 5" in message and "6@1,2" in message and "visibility 111/111/111" in message


def test_nan_is_a_violation() -> None:
    _, sample = _joint(3)
    nothing = np.full((6, 11), np.nan)
    with pytest.raises(LawViolation, match="row 0 differs by inf"):
        assert_equal("backends", nothing, nothing, sample)


def test_a_law_that_can_compare_nothing_says_so() -> None:
    case, sample = _joint(4)
    report = assert_isolation(bound(case.model(), sample), sample.select([1, 2, 3]), 0)
    assert report.compared == 0


def test_steps_do_not_part_a_position() -> None:
    case, sample = _joint(5)
    seen: list[int] = []

    def start() -> Any:
        cache = case.model().new_cache(sample.rope, sample.mask)

        def feed(tokens: Any, positions: Any, lanes: Any) -> Any:
            seen.append(len(tokens))
            return cache.model(tokens, positions, lanes, cache=cache)

        return feed

    assert_steps(bound(case.model(), sample), start, sample, [2, 3])
    assert seen == [4, 2]


def test_tolerances_grow_with_logits_and_angles() -> None:
    assert tolerance("float64", 1.0) < 1e-12 < tolerance("float64", 1.0, 1e6) < 1e-6
    assert tolerance("float32", 10.0) == 10 * tolerance("float32", 1.0)
    assert tolerance("float32", 0.0) == tolerance("float32", 1.0)


def test_the_definition_of_a_plain_model_needs_no_lanes() -> None:
    """Positions alone, causal: the reference with no rope equals itself with one lane."""
    case, sample = _joint(6)
    run = plain(case.model())
    causal = sample.positions[None, :] <= sample.positions[:, None]
    same = run(sample.tokens, sample.positions, causal)
    assert np.array_equal(run(sample.tokens, sample.positions), same)


def test_the_laws_hold_for_a_transformers_model_under_a_lane_mask() -> None:
    """A user's PyTorch model is a callable like any other."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tinylane.testing import hf

    _, sample = _joint(7)
    config = transformers.LlamaConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    theta, _ = frequencies(example_case(0, ("default",)).config.rope, 4)
    sample = sample.with_rope(LaneRoPE.none(theta))
    f = hf.lanes(model, sample.mask)
    report = assert_token_shift(f, sample, 7, dtype="float32")
    assert report.worst > 0
    assert_isolation(hf.lanes(model, LaneMask.independent(3)), _only(sample), 1)
    with pytest.raises(LawViolation):
        assert_isolation(f, _only(sample), 1)


def _only(sample: Any) -> Any:
    return sample.with_mask(LaneMask.independent(sample.mask.n))
