"""What keeps a decoding step fast on a Mac's GPU, which no test here can time.

MLX tells what it would run: `mx.export_function` calls back with every operation of a graph, its
shapes and dtypes. So a step is recorded, and what would be slow or impossible on Metal is looked
for. On a CPU MLX spells out `mx.fast`; where what matters is what a GPU runs, one operation stands
in for each fused one (`fused`).

    H heads   K kv heads   D head dim   N lanes
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from tinylane.core.cache import BLOCK
from tinylane.core.config import ModelConfig
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.random_weights import random_params
from tinylane.core.sampling import Sampler

mx = pytest.importorskip("mlx.core")
from tinylane.core import mlx_ops  # noqa: E402

SMALL = ModelConfig(
    vocab=64, width=32, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=48, tied=True
)
# Views cost nothing, or are part of what reads them.
VIEWS = {
    "Broadcast",
    "ExpandDims",
    "Flatten",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unflatten",
}
CPU_ONLY = {"Cholesky", "Eig", "Eigh", "Inverse", "LUF", "QRF", "SVD"}  # mx.linalg
KERNELS_PER_LAYER = 20  # of a step without biases or norms of queries and keys


class Op(NamedTuple):
    """An operation of a graph: shapes and dtypes of what it reads and writes."""

    name: str
    inputs: list[tuple[tuple[int, ...], Any]]
    outputs: list[tuple[tuple[int, ...], Any]]


def record(function: Callable[[], Any]) -> list[Op]:
    """The operations of the graph of `function`'s arrays."""
    seen: list[dict[str, Any]] = []

    def arrays(_: Any) -> Any:
        return function()

    mx.export_function(seen.append, arrays, mx.array(0.0))
    strip = lambda group: [(tuple(shape), dtype) for _, shape, dtype in group]
    return [
        Op(op["name"], strip(op["inputs"]), strip(op["outputs"]))
        for op in seen
        if op["type"] == "primitive"
    ]


def model_of(config: ModelConfig = SMALL, dtype: str = "float32") -> Model:
    params = {
        name: mx.array(w.T).T if w.ndim == 2 else mx.array(w)
        for name, w in random_params(config, 0).items()
    }
    params = {name: w.astype(getattr(mx, dtype)) for name, w in params.items()}
    mx.eval(params)
    return Model(config, params, "mlx", dtype, ops=mlx_ops.OPS)


def model_dtype(model: Model) -> Any:
    return getattr(mx, model.dtype)


def prefilled(
    model: Model, lanes: int, rows: int = 10, joint: bool = True, own: bool = False
) -> Any:
    """A cache with a prompt, and the step that comes next, as a function -> logits and buffers."""
    theta = model.theta
    rope = LaneRoPE.group_think(theta, 8.0, "own" if own else 0) if joint else LaneRoPE.none(theta)
    mask = LaneMask.joint(lanes) if joint else LaneMask.independent(lanes)
    cache = model.new_cache(rope, mask)
    K, D = model.config.kv_heads, model.config.head_dim
    for layer in range(
        model.config.layers
    ):  # as if a prompt had passed: the reference BLAS is slow
        cache.put(layer, *(mx.random.normal((K, rows, D)).astype(model_dtype(model)),) * 2)
    cache.commit(np.arange(rows), np.full(rows, SHARED))
    cache.settle()

    def step() -> Any:
        at = int(cache.positions[-1]) + 1
        logits = model(np.arange(lanes), np.full(lanes, at), np.arange(lanes), cache=cache)
        return [logits, *cache.keys, *cache.values]

    return cache, step


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """One operation for each of MLX's fused ones, as on a GPU; what attention was called with."""
    calls: list[dict[str, Any]] = []

    def attention(q: Any, k: Any, v: Any, *, scale: float, mask: Any = None) -> Any:
        calls.append({"q": q.shape, "k": k.shape, "v": v.shape, "mask": mask, "dtype": q.dtype})
        return mx.logaddexp(q, q)

    def turned(x: Any, c: Any, s: Any) -> Any:  # compiled: the flip is a copy, the rest one kernel
        half = x.shape[-1] // 2
        flipped = mx.concatenate([x[..., half:], x[..., :half]], axis=-1)
        return mx.logaddexp(flipped, c).astype(x.dtype)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(mx.fast, "rms_norm", lambda x, weight, eps: mx.logaddexp(x, weight))
    ops = mlx_ops.OPS._replace(rotate=turned, gated=mx.logaddexp)
    monkeypatch.setattr(mlx_ops, "OPS", ops)
    return calls


MODES = ("one", "independent", "joint", "own")
on_each_mode = pytest.mark.parametrize("mode", MODES)


def of_mode(mode: str, model: Model, rows: int = 10, lanes: int = 4) -> Any:
    lanes = 1 if mode == "one" else lanes
    return prefilled(model, lanes, rows, mode in ("joint", "own"), mode == "own")


# What a GPU cannot do at all.


@on_each_mode
@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16"))
def test_a_step_has_no_float64_and_nothing_that_only_a_cpu_can_do(mode: str, dtype: str) -> None:
    """Prefill, the first step and the second (which has lane rows behind it) of each mode."""
    config = replace(SMALL, family="qwen3", qk_norm=True, qkv_bias=True)
    model = model_of(config, dtype)
    _, step = of_mode(mode, model)
    ops = record(step) + record(step)
    index = np.arange(7)
    cache = model.new_cache()
    ops += record(lambda: model(index, index, np.full(7, SHARED), cache=cache))
    assert len(ops) > 100
    check_portable(ops)


def check_portable(ops: list[Op]) -> None:
    for op in ops:
        assert op.name not in CPU_ONLY, op
        assert all(kind != mx.float64 for _, kind in op.inputs + op.outputs), op
        if op.name.startswith("Scatter"):  # what it writes; indices may have any width
            assert op.outputs[0][1].size < 8, op


@pytest.mark.parametrize(
    "sampler",
    (
        Sampler(temperature=0),
        Sampler(temperature=0.7, top_k=5, top_p=0.9, min_p=0.05),
        Sampler(repetition_penalty=1.3, logit_bias={3: -1.0}),
    ),
)
def test_sampling_has_no_float64_and_nothing_that_only_a_cpu_can_do(sampler: Sampler) -> None:
    logits = mx.array(np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32))
    ops = record(lambda: list(sampler.draw(logits, np.array([0.1, 0.5, 0.9]), [[1, 2], [], [3]])))
    assert len(ops) > 3
    check_portable(ops)


def test_the_guard_sees_float64_and_cpu_only_operations_and_wide_scatters() -> None:
    """It would not be worth much otherwise."""
    x = mx.array(np.eye(3, dtype=np.float32))

    def wide() -> Any:  # an assignment: MLX 0.30.0 cannot tell of `at[].add`
        y = mx.zeros(4, mx.int64)
        y[mx.array([1])] = 2
        return y

    assert any(op.name.startswith("Scatter") for op in record(wide))
    with mx.stream(mx.cpu):
        bad = [
            record(lambda: x.astype(mx.float64) + 1),
            record(lambda: mx.linalg.inv(x)),
            record(wide),
        ]
    for ops in bad:
        with pytest.raises(AssertionError):
            check_portable(ops)


# Attention stays fused, and K and V are read as they are.


@on_each_mode
def test_attention_is_called_so_that_metal_runs_it_fused(mode: str, fused: Any) -> None:
    """Up to 8 rows with rows * H / K <= 32 and D of 64, 96, 128 or 256; a boolean mask or none; K
    and V neither repeated nor with a batch axis of their own. Two tables (prompt_lane="own") cannot
    be one call: see the next test."""
    for lanes in (2, 4, 8):
        fused.clear()
        _, step = of_mode(mode, model_of(), lanes=lanes)
        mx.eval(step())
        fused.clear()
        step()
        rows = 1 if mode == "one" else lanes
        if mode == "own":
            assert fused == []
            continue
        assert len(fused) == SMALL.layers
        for call in fused:
            (_, H, T, D), (_, K, S, _) = call["q"], call["k"]
            assert call["q"] == (1, SMALL.heads, rows, D) and call["v"] == call["k"]
            assert call["k"] == (1, SMALL.kv_heads, 10 + 2 * rows, D)
            assert T <= 8 and T * (H // K) <= 32 and D in (64, 96, 128, 256)
            mask = call["mask"]
            assert (mask is None) == (mode in ("one", "joint"))
            assert mask is None or (mask.dtype == mx.bool_ and mask.shape == (T, S))


def test_own_prompt_lanes_score_two_blocks_without_repeating_keys(fused: Any) -> None:
    """The price of one softmax over two blocks: three products a layer, no more, none repeated."""
    _, step = of_mode("own", model_of())
    mx.eval(step())
    fused.clear()
    check_unrepeated(record(step))
    assert fused == []


@on_each_mode
def test_no_operation_repeats_keys_or_values(mode: str, fused: Any) -> None:
    _, step = of_mode(mode, model_of())
    mx.eval(step())
    check_unrepeated(record(step))


def check_unrepeated(ops: list[Op]) -> None:
    """Nothing is broadcast or gathered whose last two axes are the cached rows."""
    long = lambda shape: len(shape) >= 2 and shape[-1] == SMALL.head_dim and shape[-2] > 10
    for op in ops:
        if op.name in ("Broadcast", "Concatenate", "Gather", "Repeat", "Copy", "Contiguous"):
            assert not any(long(shape) for shape, _ in op.outputs), op


def test_the_guard_sees_repeated_keys() -> None:
    k = mx.zeros((2, 18, SMALL.head_dim))
    for repeated in (lambda: mx.repeat(k, 2, axis=0), lambda: mx.broadcast_to(k, (3, *k.shape))):
        with pytest.raises(AssertionError):
            check_unrepeated(record(repeated))  # type: ignore[arg-type]


def test_two_tables_are_used_only_where_a_rotation_needs_them(fused: Any) -> None:
    """The law: a lone lane, independent lanes and prompt_lane=0 stay with the fused call."""
    for mode in ("one", "independent", "joint"):
        fused.clear()
        _, step = of_mode(mode, model_of())
        mx.eval(step())
        assert len(fused) >= SMALL.layers, mode


# The number of operations: on a GPU each costs a launch, in Python each costs about a microsecond.


@on_each_mode
def test_a_layer_of_a_step_takes_few_kernels(mode: str, fused: Any) -> None:
    """The difference between three layers and two; views are not counted."""
    counts, views = [], []
    for layers in (2, 3):
        _, step = of_mode(mode, model_of(replace(SMALL, layers=layers)))
        mx.eval(step())
        names = [op.name for op in record(step)]
        counts.append(sum(name not in VIEWS for name in names))
        views.append(sum(name in VIEWS for name in names))
    extra = 6 if mode == "own" else 0  # a second table, two products joined, one softmax
    assert counts[1] - counts[0] <= KERNELS_PER_LAYER + extra
    assert views[1] - views[0] <= 24 + extra


def test_tables_and_mask_are_computed_once_for_all_layers(fused: Any) -> None:
    """The step's operations outside the layers do not grow with them: constants, one gather."""
    total = []
    for layers in (1, 4):
        _, step = of_mode("independent", model_of(replace(SMALL, layers=layers)))
        mx.eval(step())
        total.append(len([op for op in record(step) if op.name not in VIEWS]))
    assert total[0] - (total[1] - total[0]) / 3 <= 4  # embedding, last norm, head


# The cache is written in place.

LONG = replace(SMALL, layers=4, context=1 << 16)
ROWS = 3000
BUFFER = SMALL.kv_heads * (-(-ROWS // BLOCK) * BLOCK) * SMALL.head_dim * 4  # keys of a layer


def peak_over(function: Callable[[], Any]) -> int:
    """Bytes taken at most while `function`'s arrays are computed, above what was held before."""
    mx.synchronize()
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(function())
    return mx.get_peak_memory() - held


@on_each_mode
def test_the_peak_of_a_step_is_under_one_layers_cache(mode: str) -> None:
    """A live view of a buffer while it is written, or a repeated K, would make a copy of it."""
    cache, step = of_mode(mode, model_of(LONG), ROWS)
    for _ in range(3):
        peak = peak_over(step)
    assert cache.keys[0].nbytes == BUFFER
    assert peak < 2 * BUFFER


def test_the_guard_sees_a_live_view() -> None:
    cache, step = of_mode("one", model_of(LONG), ROWS)
    mx.eval(step())
    held = [cache.rows(layer) for layer in range(LONG.layers)]
    mx.eval(held)
    assert peak_over(step) > 2 * BUFFER
    assert len(held) == LONG.layers


def test_nothing_that_was_handed_out_is_written_into() -> None:
    """The other side of the same coin: a view taken before a step stays as it was."""
    cache, step = of_mode("joint", model_of(LONG), 20)
    before = [np.array(x) for x in cache.rows(0)]
    kept = cache.rows(0)
    mx.eval(kept, step())
    assert all(np.array_equal(np.array(a), b) for a, b in zip(kept, before, strict=True))


def test_growing_never_copies_all_layers_at_once() -> None:
    """A block more for every layer, and at most the buffers of one layer beside them."""
    cache, step = of_mode("one", model_of(LONG), ROWS)
    while len(cache) < cache.keys[0].shape[1]:
        mx.eval(step())
    before = cache.nbytes
    peak = peak_over(step)
    grown = cache.nbytes - before
    assert grown > 0 and cache.keys[0].shape[1] % BLOCK == 0
    assert peak < grown + 3 * BUFFER


def test_prefill_in_chunks_holds_one_chunk_of_activations() -> None:
    """Without `settle` between them the graph of a long prompt would pile up."""
    from tinylane.methods.decoding import Decoding

    model, prompt = model_of(LONG), [k % 64 for k in range(512)]

    def peak(chunk: int) -> int:
        mx.clear_cache()
        return peak_over(lambda: Decoding(model, prompt, chunk=chunk).cache.keys)

    assert peak(32) < 0.5 * peak(512)


# What compiles on a GPU does not on a CPU, where it calls a C++ compiler.


def test_rotation_and_gate_are_compiled_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mlx_ops.rotate.__name__ == "rotate" and mlx_ops.gated.__name__ == "gated"
    compiled: list[str] = []
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx, "compile", lambda f: compiled.append(f.__name__) or f)
    for function in (mlx_ops.rotate, mlx_ops.gated):
        mlx_ops._compiled(function)
    assert compiled == ["rotate", "gated"]
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    mlx_ops._compiled(mlx_ops.gated)
    assert len(compiled) == 2


def test_wired_memory_is_left_alone() -> None:
    """Wiring more than there is takes a Mac down (mlx-lm 883, 1666): only on request."""
    import tinylane.checkpoints.load
    import tinylane.core.cache
    import tinylane.core.decoding

    for module in (mlx_ops, tinylane.core.cache, tinylane.checkpoints.load, tinylane.core.decoding):
        assert "set_wired_limit" not in inspect.getsource(module)
