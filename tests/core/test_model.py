"""Calls of a model: rows, batches, dtypes, lanes of its own, and every refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers_decoder import CONFIG, LANES, MODEL, OMEGA, POSITIONS, TOKENS, small

from tinylane.core.decoder import (
    forward,
    make_plan,
)
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Places
from tinylane.core.model import Model
from tinylane.files.cache_file import typed
from tinylane.testing import Case, check, example_case
from tinylane.testing.checks import bound
from tinylane.testing.samples import random_weights


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            {"tokens": [1, 2]},
            "2 tokens, 4 positions, 4 lanes; expected the same number, at least one$",
        ),
        ({"lanes": [0]}, "4 tokens, 4 positions, 1 lanes"),
        ({"tokens": [], "positions": [], "lanes": []}, "0 tokens, 0 positions, 0 lanes"),
        ({"tokens": [1, 2, 3, 11]}, "token 11 is outside the vocabulary of 11"),
        ({"tokens": [1, -1, 3, 99]}, "token -1 is outside the vocabulary of 11"),
        ({"tokens": [0, 1, 12, 11]}, "token 12 is outside the vocabulary of 11"),
        ({"lanes": [SHARED, SHARED, 0, 2]}, r"lane 2 is outside the mask's 0 .. 1"),
        ({"lanes": [SHARED, -2, 0, 1]}, r"lane -2 is outside the mask's 0 .. 1 \(SHARED is -1\)"),
        ({"tokens": [1, 2, 3, 2**32 + 1]}, "token 4294967297 is outside the vocabulary of 11"),
        ({"rows": [0, 4]}, r"rows are 0 .. 4; expected 0 .. 3"),
        ({"rows": [-1]}, r"rows are -1 .. -1; expected 0 .. 3"),
        ({"tokens": [[1, 2], [3, 4]]}, r"tokens has shape \(2, 2\) and dtype"),
        ({"tokens": [1.0, 2.0, 3.0, 4.0]}, "tokens has shape .4,. and dtype float64; expected a"),
        ({"positions": [0.5, 1, 2, 2]}, "positions has shape .4,. and dtype float64"),
        ({"lanes": [True, True, False, False]}, "lanes has shape .4,. and dtype bool"),
        ({"rows": [0.0]}, "rows has shape .1,. and dtype float64"),
        ({"lane_rope": LaneRoPE(np.ones(3))}, r"Omega has shape \(3,\); this model needs \(2,\)"),
        (
            {"lane_rope": LaneRoPE(np.ones((3, 2)))},
            r"Omega has shape \(3, 2\); this model needs \(2,\) or \(2, 2\)",
        ),
    ],
)
def test_what_a_call_refuses_and_how(call: dict[str, Any], message: str) -> None:
    rows = {"tokens": TOKENS, "positions": POSITIONS, "lanes": LANES}
    with pytest.raises(TinylaneError, match=message) as caught:
        MODEL(**{**rows, "lane_mask": LaneMask.joint(2), **call})
    assert "\n" not in str(caught.value)


def test_ten_thousand_lanes_are_refused_before_anything_is_allocated() -> None:
    with pytest.raises(
        TinylaneError, match="lanes is 10000; expected a whole number from 1 to 1024"
    ):
        MODEL([1], [0], [9_999])


def test_a_refused_call_leaves_the_cache_as_it_was() -> None:
    cache = MODEL.new_cache(LaneRoPE(OMEGA), LaneMask.joint(2))
    MODEL(TOKENS, POSITIONS, LANES, cache=cache)
    with pytest.raises(TinylaneError, match="token 40"):
        MODEL([40], [3], [0], cache=cache)
    with pytest.raises(TinylaneError, match="lane 2 is outside"):
        MODEL([1], [3], [2], cache=cache)
    assert len(cache) == 4


def test_a_cache_belongs_to_its_model_and_rotation() -> None:
    cache = MODEL.new_cache(LaneRoPE(OMEGA), LaneMask.joint(2))
    with pytest.raises(TinylaneError, match="another model"):
        small()([1], [0], [SHARED], cache=cache)
    with pytest.raises(TinylaneError, match="another Omega or prompt_lane"):
        MODEL([1], [0], [SHARED], lane_rope=LaneRoPE(2 * OMEGA), cache=cache)


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_rows_picks_logits_and_changes_none(backend: str) -> None:
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    for seed in range(10):
        case = example_case(seed)
        f = bound(case.model(backend, "float32"), case.sample)
        last = len(case.sample.tokens) - 1
        some = np.asarray(f(*case.sample.rows, rows=np.array([last, 0])))
        every = np.asarray(f(*case.sample.rows))
        assert some.shape == (2, 11)
        assert np.allclose(some, every[[last, 0]], atol=1e-5)


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.uint64, list])
def test_any_integers_serve(kind: Any) -> None:
    """Lists and integers of any width, lanes apart: unsigned ones have no SHARED."""
    as_kind = (lambda x: x) if kind is list else (lambda x: np.array(x, dtype=kind))
    expected = MODEL([1, 2, 3], [0, 1, 1], [0, 0, 1])
    got = MODEL(*(as_kind(x) for x in ([1, 2, 3], [0, 1, 1], [0, 0, 1])))
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_logits_are_in_the_dtype_of_the_model(dtype: str) -> None:
    """No float64 scalar slips in, and nothing is narrowed on the way."""
    for seed in range(10):
        case = example_case(seed)
        assert bound(case.model("numpy", dtype), case.sample)(*case.sample.rows).dtype == dtype


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_mlx_logits_are_float32(dtype: str) -> None:
    mx = pytest.importorskip("mlx.core")
    for seed in range(10):
        case = example_case(seed)
        logits = bound(case.model("mlx", dtype), case.sample)(*case.sample.rows)
        assert logits.dtype == mx.float32 and np.asarray(logits).dtype == np.float32


def test_mlx_keys_stay_in_the_dtype_of_the_model() -> None:
    """A float32 table must not widen the cache."""
    mx = pytest.importorskip("mlx.core")
    case = example_case(3)
    model = case.model("mlx", "bfloat16")
    cache = model.new_cache(case.sample.rope, case.sample.mask)
    model(*case.sample.rows, cache=cache)
    assert cache.keys[0].dtype == cache.values[0].dtype == mx.bfloat16


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_a_batch_is_its_rows(backend: str) -> None:
    """tokens (B, T) under one plan, as in training: each row as if alone."""
    library = np if backend == "numpy" else pytest.importorskip("mlx.core")
    for seed in range(12):
        case = example_case(seed)
        model, sample = case.model(backend, "float32"), case.sample
        i, m = sample.positions, sample.lanes
        rope = model.rope(sample.rope)
        plan = make_plan(model.config, rope, sample.mask, Places(i, m, i, m), array=model.array)
        tokens = np.stack([sample.tokens, (sample.tokens + 3) % 11]).astype(np.int32)
        both = forward(model.params, model.config, library.array(tokens), plan, model.ops)
        assert both.shape == (2, len(i), 11)
        f = bound(model, sample)
        for row, logits in zip(tokens, np.asarray(both), strict=True):
            assert np.allclose(logits, np.asarray(f(row, i, m)), atol=3e-5)


def test_the_model_s_own_lanes_are_the_default_of_a_call() -> None:
    rope, mask = LaneRoPE(OMEGA, 0), LaneMask.joint(2, 1)
    trained = small(lane_rope=rope, visibility="joint", lag=1)
    assert trained.trained_for_lanes and not MODEL.trained_for_lanes
    rows = (TOKENS, POSITIONS, LANES)
    assert np.array_equal(trained(*rows), MODEL(*rows, lane_rope=rope, lane_mask=mask))
    plain = MODEL(*rows, lane_rope=LaneRoPE.none(MODEL.theta), lane_mask=LaneMask.independent(2))
    assert np.array_equal(MODEL(*rows), plain)


def test_a_matrix_of_visibility_serves_as_many_lanes_as_it_has() -> None:
    seen = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]])
    trained = small(visibility=seen, lag=2)
    assert np.array_equal(trained.mask(3).visibility, seen)
    assert np.array_equal(trained.mask(2).visibility, seen[:2, :2]) and trained.mask(2).lag == 2
    with pytest.raises(TinylaneError) as error:
        trained.mask(4)
    assert str(error.value) == (
        "4 lanes, but this model's visibility is a matrix for 3; give a visibility"
    )
    alone = small(visibility=np.ones((1, 1)))  # a prompt needs no more than one lane
    assert np.array_equal(alone([1, 2], [0, 1], [SHARED] * 2), MODEL([1, 2], [0, 1], [SHARED] * 2))


def test_theta_is_float64_and_the_cache_takes_the_rotation() -> None:
    assert MODEL.theta.dtype == np.float64 and MODEL.theta.shape == (2,)
    rope = LaneRoPE(OMEGA)
    assert MODEL.new_cache(rope).lane_rope is rope
    assert not MODEL.new_cache().lane_rope.omega.any()


def test_a_tied_model_shares_its_embedding_and_head() -> None:
    case = example_case(0)
    tied = Case(replace(case.config, tied=True), case.seed, case.sample, case.choose)
    params = random_weights(tied.config, 1)
    assert np.shares_memory(params["lm_head.weight"], params["model.embed_tokens.weight"])
    assert "lm_head.weight" in tied.model().params


def test_typed_reads_bfloat16_bits() -> None:
    mx = pytest.importorskip("mlx.core")
    model = Model(CONFIG, {}, "mlx", "bfloat16")
    bits = np.array([0x3F80, 0xC000], dtype=np.uint16)
    assert typed(model, bits).tolist() == [1.0, -2.0] and typed(model, bits).dtype == mx.bfloat16
    floats = np.array([[1.5, -2.0], [3.0, 0.5]], dtype=np.float32)
    assert typed(model, floats).tolist() == floats.tolist()
    found = typed(MODEL, floats.T)
    assert found.tolist() == floats.T.tolist() and found.dtype == np.float64
    assert found.flags.c_contiguous  # a product of others is 12 times slower


def test_an_array_for_numpy_is_the_array_itself() -> None:
    x = np.arange(3)
    assert MODEL.array(x) is x
    mx = pytest.importorskip("mlx.core")
    found = Model(CONFIG, {}, "mlx").array(x)
    assert isinstance(found, mx.array) and found.tolist() == [0, 1, 2]


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_64_lanes_are_no_special_case(backend: str) -> None:
    """The definition, the same in steps through a cache, and lane 63 is turned by Omega."""
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    case = example_case(1)
    model = case.model(backend, "float32")
    D = model.config.head_dim
    lanes = np.concatenate([[SHARED, SHARED], np.tile(np.arange(64), 2)])
    positions = np.concatenate([[0, 1], np.repeat([2, 3], 64)])
    rope = LaneRoPE(np.random.default_rng(0).uniform(-3, 3, D // 2))
    tokens = np.arange(len(lanes)) % 11
    sample = replace(
        case.sample,
        tokens=tokens,
        positions=positions,
        lanes=lanes,
        mask=LaneMask.joint(64),
        rope=rope,
    )
    check("definition", model, sample, case.choose)
    check("steps", model, sample, case.choose)
    plain = sample.with_rope(LaneRoPE.none(model.theta))
    apart = [np.asarray(bound(model, s)(*s.rows))[-1] for s in (sample, plain)]
    assert np.abs(apart[0] - apart[1]).max() > 1e-3
