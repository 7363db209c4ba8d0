"""Each fused seam against the text it stands for, on MLX, dtype by dtype."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylane.core import decoder
from tinylane.core.rope import frequencies, rotate, table
from tinylane.testing import TOLERANCES, example_case

mx = pytest.importorskip("mlx.core")
from tinylane.core import mlx_ops  # noqa: E402

DTYPES = ("float32", "float16", "bfloat16")
on_each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def drawn(seed: int, *shape: int, dtype: str = "float32") -> Any:
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return mx.array(x).astype(getattr(mx, dtype))


def wide(x: Any) -> np.ndarray:
    return np.array(x.astype(mx.float32), dtype=np.float64)


def agree(fused: Any, text: Any, exact: np.ndarray, dtype: str, c: float = 4.0) -> None:
    """Same shape and dtype; both within c eps of the result in float64, relative to its largest."""
    assert fused.shape == text.shape == exact.shape
    assert fused.dtype == text.dtype
    allowed = c * TOLERANCES[dtype].eps * max(1.0, np.abs(exact).max())
    assert np.abs(wide(fused) - exact).max() <= allowed
    assert np.abs(wide(text) - exact).max() <= allowed


@on_each_dtype
@given(seed=st.integers(0, 999), flat=st.booleans())
def test_norm(dtype: str, seed: int, flat: bool) -> None:
    x = drawn(seed, *((5,) if flat else (2, 3, 5)), 24, dtype=dtype) * 3
    weight = drawn(seed + 1, 24, dtype=dtype)
    exact = decoder.rms_norm(wide(x), wide(weight), 0.01)
    agree(mlx_ops.rms_norm(x, weight, 0.01), decoder.rms_norm(x, weight, 0.01), exact, dtype)


@on_each_dtype
@given(seed=st.integers(0, 999))
def test_rotation(dtype: str, seed: int) -> None:
    x = drawn(seed, 2, 3, 5, 8, dtype=dtype)
    theta, _ = frequencies(example_case(seed, ("default",)).config.rope, 8)
    tables = table((seed + np.arange(5))[:, None] * theta)
    c, s = (mx.array(t) for t in tables)
    exact = rotate(wide(x), *(t.astype(np.float64) for t in tables))
    agree(mlx_ops.rotate(x, c, s), rotate(x, c, s), exact, dtype, 2.0)


@on_each_dtype
@given(seed=st.integers(0, 999), scale=st.sampled_from((1.0, 30.0)))
def test_gate(dtype: str, seed: int, scale: float) -> None:
    gate, up = drawn(seed, 4, 6, dtype=dtype) * scale, drawn(seed + 1, 4, 6, dtype=dtype)
    exact = decoder.gated(wide(gate), wide(up))
    agree(mlx_ops.gated(gate, up), decoder.gated(gate, up), exact, dtype)


def test_the_gate_is_zero_far_down_in_every_dtype() -> None:
    for dtype in DTYPES:
        gate = mx.array([-3e4, -200.0]).astype(getattr(mx, dtype))
        for seam in (mlx_ops.gated, decoder.gated):
            assert np.abs(wide(seam(gate, mx.ones_like(gate)))).max() < 1e-4, (dtype, seam)


@st.composite
def attentions(draw: Any) -> tuple[Any, ...]:
    """Grouped heads or not, with and without a batch axis, mask and second query."""
    kv, group = draw(st.sampled_from(((1, 1), (2, 1), (1, 3), (2, 2))))
    rows, keys = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    batch = draw(st.sampled_from(((), (1,), (2,))))
    seed, masked = draw(st.integers(0, 999)), draw(st.booleans())
    blocks = draw(st.sampled_from((1, 2, 2, 3, 5)))
    mixed = blocks > 2 or draw(st.booleans())
    rng = np.random.default_rng(seed)
    mask = None
    if masked:
        mask = rng.random((rows, keys)) < 0.5
        mask[np.arange(rows), rng.integers(keys, size=rows)] = True  # never a fully masked row
    where: Any = None
    if blocks > 1:
        where = rng.integers(blocks, size=keys)
        where = where if mixed else np.sort(where)
    return kv, kv * group, rows, keys, batch, seed, mask, blocks, where


@on_each_dtype
@given(case=attentions())
def test_attention(dtype: str, case: tuple[Any, ...]) -> None:
    kv, heads, rows, keys, batch, seed, mask, blocks, where = case
    queries = tuple(
        drawn(seed + n, *batch, heads, rows, 8, dtype=dtype) for n in range(2, 2 + blocks)
    )
    k = drawn(seed, *batch, kv, keys, 8, dtype=dtype)
    v = drawn(seed + 1, *batch, kv, keys, 8, dtype=dtype)
    seen = None if mask is None else mx.array(mask)
    exact = decoder.attention(tuple(wide(q) for q in queries), wide(k), wide(v), mask, where)
    args = (queries, k, v, seen, where)
    agree(mlx_ops.attention(*args), decoder.attention(*args), exact, dtype, 16.0)


def by_hand(
    queries: Any, keys: np.ndarray, values: np.ndarray, mask: Any, block_of: Any
) -> np.ndarray:
    """Head by head, row by row, key by key."""
    H, T, D = queries[0].shape
    out = np.zeros((H, T, D))
    for head in range(H):
        own = head // (H // keys.shape[0])
        for t in range(T):
            seen = [s for s in range(keys.shape[1]) if mask is None or mask[t, s]]
            scores = []
            for s in seen:
                block = 0 if block_of is None else block_of[s]
                scores.append(queries[block][head, t] @ keys[own, s] / np.sqrt(D))
            weights = np.exp(np.array(scores) - max(scores))
            out[head, t] = weights / weights.sum() @ values[own, seen]
    return out


@given(case=attentions())
def test_the_text_of_attention_is_attention(case: tuple[Any, ...]) -> None:
    """The twin that the fused one is compared with, against loops."""
    kv, heads, rows, keys, _, seed, mask, blocks, where = case
    queries = tuple(wide(drawn(seed + n, heads, rows, 8)) for n in range(2, 2 + blocks))
    k, v = wide(drawn(seed, kv, keys, 8)), wide(drawn(seed + 1, kv, keys, 8))
    got = decoder.attention(queries, k, v, mask, where)
    assert np.abs(got - by_hand(queries, k, v, mask, where)).max() < 1e-13


@on_each_dtype
def test_linear_with_bias_and_update(dtype: str) -> None:
    params = {
        "a.weight": drawn(0, 6, 5, dtype=dtype),
        "a.bias": drawn(1, 5, dtype=dtype),
        "a.lora_a": drawn(2, 6, 2, dtype=dtype),
        "a.lora_b": drawn(3, 2, 5, dtype=dtype),
    }
    x = drawn(4, 3, 6, dtype=dtype)
    exact = decoder.linear({name: wide(w) for name, w in params.items()}, "a", wide(x))
    agree(mlx_ops.linear(params, "a", x), decoder.linear(params, "a", x), exact, dtype)


def test_embedding_picks_rows_exactly() -> None:
    params = {"model.embed_tokens.weight": drawn(0, 7, 4)}
    tokens = mx.array([[3, 0], [6, 3]])
    assert mx.array_equal(mlx_ops.embed(params, tokens), decoder.embed(params, tokens))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_quantized_linear_and_embedding_equal_the_dequantized_ones(bits: int) -> None:
    w = drawn(bits, 10, 64)
    packed, scales, biases = mx.quantize(w, group_size=32, bits=bits)
    dense = mx.dequantize(packed, scales, biases, group_size=32, bits=bits)
    for name in ("a", "model.embed_tokens"):
        params = {name + ".weight": packed, name + ".scales": scales, name + ".biases": biases}
        if name == "a":
            params |= {
                "a.bias": drawn(1, 10),
                "a.lora_a": drawn(2, 64, 2),
                "a.lora_b": drawn(3, 2, 10),
            }
            x = drawn(4, 3, 64)
            lora = {k: v for k, v in params.items() if "lora" in k or k == "a.bias"}
            text = decoder.linear({"a.weight": dense.T, **lora}, "a", x)
            assert np.abs(wide(mlx_ops.linear(params, "a", x)) - wide(text)).max() < 1e-4
        else:
            params["model.norm.weight"] = drawn(5, 64)
            tokens = mx.array([9, 0, 9])
            assert mx.array_equal(mlx_ops.embed(params, tokens), dense[tokens])


def test_mxfp4_linear() -> None:
    w = drawn(0, 8, 64)
    packed, scales = mx.quantize(w, group_size=32, bits=4, mode="mxfp4")
    dense = mx.dequantize(packed, scales, group_size=32, bits=4, mode="mxfp4")
    x = drawn(1, 3, 64)
    got = mlx_ops.linear({"a.weight": packed, "a.scales": scales}, "a", x)
    assert np.abs(wide(got) - wide(x @ dense.T)).max() < 1e-4


def test_every_seam_has_a_twin_of_the_same_signature() -> None:
    for name, fused, text in zip(decoder.Ops._fields, mlx_ops.OPS, decoder.PLAIN, strict=True):
        if inspect.isfunction(fused):
            a, b = (list(inspect.signature(f).parameters) for f in (fused, text))
            assert a == b, name
        assert fused.__doc__ and text.__doc__, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_on_the_way_is_float64(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU has none. Every array that a seam takes or gives is looked at."""
    dtypes: list[Any] = []

    def watched(seam: Any) -> Any:
        def run(*args: Any) -> Any:
            out = seam(*args)
            for x in [out, *args, *(args[0] if isinstance(args[0], tuple) else ())]:
                if isinstance(x, mx.array):
                    dtypes.append(x.dtype)
            return out

        return run

    monkeypatch.setattr(mlx_ops, "OPS", decoder.Ops(*(watched(seam) for seam in mlx_ops.OPS)))
    for seed in range(6):
        case = example_case(seed)
        m = case.model("mlx", dtype, "fast")
        mx.eval(m(*case.sample.rows, lane_rope=case.sample.rope, lane_mask=case.sample.mask))
    assert len(dtypes) > 100
    assert mx.float64 not in dtypes and mx.complex64 not in dtypes
    assert {d for d in dtypes if mx.issubdtype(d, mx.floating)} <= {mx.float32, getattr(mx, dtype)}


def test_one_softmax_runs_over_both_blocks_whatever_the_seam() -> None:
    """Two queries are scored by the text: the fused call must not see them."""
    queries = (drawn(0, 2, 1, 8), drawn(1, 2, 1, 8))
    k, v = drawn(2, 2, 4, 8), drawn(3, 2, 4, 8)
    block_of = np.array([0, 0, 1, 1])
    both = wide(mlx_ops.attention(queries, k, v, None, block_of))
    assert np.abs(both - wide(mlx_ops.attention(queries[:1], k, v, None, None))).max() > 1e-2
    exact = by_hand(tuple(wide(q) for q in queries), wide(k), wide(v), None, block_of)
    assert np.abs(both - exact).max() < 1e-5


@pytest.mark.parametrize("plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_scores_are_not_rounded_to_16_bits(dtype: str, plain: bool) -> None:
    """Scores near 40, as models have them: rounded to bfloat16 they are off by up to 0.125, and the
    weights by 13%. Two blocks of keys, as with prompt_lane="own". The control rounds them."""
    eps, seam = TOLERANCES[dtype].eps, decoder.attention if plain else mlx_ops.attention
    errors, rounded = [], []
    for seed in range(8):
        queries = tuple(drawn(seed + n, 4, 3, 64, dtype=dtype) * 5 for n in (1, 2))
        k, v = drawn(seed, 2, 300, 64, dtype=dtype), drawn(seed + 3, 2, 300, 64, dtype=dtype)
        block_of = (np.arange(300) > 100).astype(np.int32)
        exact = decoder.attention(tuple(wide(q) for q in queries), wide(k), wide(v), None, block_of)
        got = seam(queries, k, v, None, block_of)
        assert got.dtype == k.dtype
        errors.append(np.abs(wide(got) - exact).max())
        scores = decoder.scores([decoder.fold(q, 2) for q in queries], k, block_of)
        weights = mx.softmax(scores, axis=-1, precise=True)
        rounded.append(np.abs(wide((weights @ v).reshape(4, 3, 64)) - exact).max())
    print(f"{dtype}: largest error {max(errors):.4f}, with rounded scores {max(rounded):.4f}")
    assert max(errors) < 4 * eps < max(rounded)
