"""Attention handed out block by block is the attention of one dense pass, and changes nothing."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers_lanes import OMEGAS, ids, omega, small

from tinylane.checkpoints import extras
from tinylane.core import decoder
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.files.cache_file import typed
from tinylane.testing import example_case
from tinylane.testing.additions import given
from tinylane.view.attention import attention_weights, listening

ANY = pytest.mark.parametrize("backend", ["numpy", "mlx"])
CLOSE = 2e-6  # float32: the weights of one softmax, computed twice


def by_identity(model: Any, rows: Any, rope: Any, mask: Any) -> np.ndarray:
    """The oracle. Attention averages values; averaging the rows of the identity matrix instead,
    a head's width of columns at a time, gives the weights (layers, H, T, S)."""
    heard: list[np.ndarray] = []

    def attention(queries: Any, keys: Any, values: Any, mask: Any, block_of: Any) -> Any:
        S, D = keys.shape[-2:]
        columns = []
        for start in range(0, S, D):
            one = typed(model, np.eye(S, D, -start, dtype=np.float32))
            each = one.__array_namespace__().stack([one] * keys.shape[-3])
            part = decoder.attention(queries, keys, each, mask, block_of)
            columns.append(np.array(part.astype(part.__array_namespace__().float32)))
        heard.append(np.concatenate(columns, axis=-1)[..., :S])
        return own.attention(queries, keys, values, mask, block_of)

    twin, own = replace(model), model.ops
    twin.ops = own._replace(attention=attention)
    np.asarray(twin(*rows, rope, mask))
    return np.stack(heard)


def collected(model: Any, rows: Any, rope: Any, mask: Any, block: int) -> tuple[Any, Any]:
    """The streamed weights put together again, (layers, H, T, S), and the twin's logits."""
    parts: dict[int, list[np.ndarray]] = {}
    sizes = []

    def hear(layer: int, first: int, weights: np.ndarray) -> None:
        assert first == sum(part.shape[1] for part in parts.setdefault(layer, []))
        parts[layer].append(weights)
        sizes.append(weights.shape[1])

    logits = np.asarray(listening(model, hear, block)(*rows, rope, mask))
    assert max(sizes) <= block
    return np.stack([np.concatenate(parts[k], axis=1) for k in sorted(parts)]), logits


@ANY
@pytest.mark.parametrize("block", [1, 3, 1000])
def test_streamed_weights_are_those_of_the_dense_pass_in_any_blocks(backend: str, block: int):
    """Random masks, Omegas, coordinates in any order: both query tables, mixed splits."""
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    for seed in range(10):
        case = example_case(seed)
        model, sample = case.model(backend, "float32"), case.sample
        oracle = by_identity(model, sample.rows, sample.rope, sample.mask)
        dense = attention_weights(model, *sample.rows, sample.rope, sample.mask)
        np.testing.assert_allclose(dense, oracle, rtol=0, atol=CLOSE)
        found, logits = collected(model, sample.rows, sample.rope, sample.mask, block)
        assert found.shape == oracle.shape
        np.testing.assert_allclose(found, oracle, rtol=0, atol=CLOSE)
        np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
        own = np.asarray(model(*sample.rows, lane_rope=sample.rope, lane_mask=sample.mask))
        assert np.array_equal(logits, own)  # to the bit: listening changes nothing


@ANY
@pytest.mark.parametrize("kind", OMEGAS)
@pytest.mark.parametrize("prompt_lane", ["own", 0])
def test_with_a_cache_the_cached_keys_come_first(backend: str, kind: str, prompt_lane: Any):
    """A pass of some rows over a cache: the same weights as those rows have in one dense pass."""
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    model = small(backend, "float32")
    rope, mask = omega(model, kind, prompt_lane), LaneMask.joint(3, lag=1)
    positions = np.array([*range(4), *np.repeat(np.arange(4, 9), 3)])
    lanes = np.array([SHARED] * 4 + [0, 1, 2] * 5)
    tokens = np.array(ids(len(lanes)))
    dense = attention_weights(model, tokens, positions, lanes, rope, mask)
    heard: list[tuple[int, int, np.ndarray]] = []
    twin = listening(model, lambda *said: heard.append(said), block=4)
    cache = twin.new_cache(rope, mask)
    for part in (slice(0, 4), slice(4, 13), slice(13, 19)):
        heard.clear()
        twin(tokens[part], positions[part], lanes[part], cache=cache)
        for layer, first, weights in heard:
            rows = slice(part.start + first, part.start + first + weights.shape[1])
            expected = dense[layer][:, rows, : part.stop]
            np.testing.assert_allclose(weights, expected, rtol=0, atol=CLOSE)


def test_a_stream_that_forgets_the_mask_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """Negative control: block-wise weights computed without the block's own rows of the mask."""
    case = next(c for c in map(example_case, range(50)) if len(set(c.sample.lanes)) > 2)
    model, sample = case.model("numpy", "float32"), case.sample
    dense = by_identity(model, sample.rows, sample.rope, sample.mask)
    keep = decoder.attention_weights

    def rolled(*given: Any) -> np.ndarray:
        return np.roll(keep(*given), 1, axis=-1)

    monkeypatch.setattr(decoder, "attention_weights", rolled)
    found, _ = collected(model, sample.rows, sample.rope, sample.mask, 2)
    assert np.abs(found - dense).max() > 1e-3


def test_memory_follows_the_block_not_the_length_of_the_pass():
    """The dense weights of this pass are 2 x 4 x 900 x 900 floats: 26 MB. A pass keeps its mask."""
    model = small("numpy", "float32", context=1024)
    T = 900
    rows = (np.array(ids(T)), np.arange(T), np.zeros(T, np.int64))
    whole = model.config.layers * model.config.heads * T * T * 4

    def fused(queries: Any, keys: Any, values: Any, mask: Any, block_of: Any) -> Any:
        return queries[0] * 0  # the model's own attention is not what is measured

    model.ops = model.ops._replace(attention=fused)
    peaks = {}
    for block in (16, T):
        quiet = listening(model, lambda *_: None, block)
        tracemalloc.start()
        quiet(*rows, rows=[0])
        peaks[block] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[16] < 0.6 * peaks[T] and peaks[16] < whole


@ANY
def test_a_bridge_and_lace_are_not_heard(backend: str) -> None:
    """They attend, too. Untrained ones change nothing, so the layers' own weights stay the same."""
    model = small(backend)
    assert model.config.layers > 1
    more = given(model, extras.start(model.config, ("bridge", "lace"), 2))
    i, m = np.array([0, 1, 1, 2, 2]), np.array([SHARED, 0, 1, 0, 1])
    bare, both = (
        attention_weights(x, ids(5), i, m, lane_mask=LaneMask.joint(2)) for x in (model, more)
    )
    assert np.array_equal(bare, both) and len(bare) == model.config.layers
