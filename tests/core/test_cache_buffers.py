"""LaneCache's buffers: how they grow, what costs no copy, what MLX computes when; its refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_lanes import BACKENDS, ids, omega, small

from tinylane.core import cache as module
from tinylane.core.cache import BLOCK, LaneCache
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.core.model import Model
from tinylane.files.cache_file import typed

ANY = pytest.mark.parametrize("kind", BACKENDS, ids="-".join)


def put(cache: LaneCache, count: int) -> None:
    """Put and commit `count` rows of zeros in every layer."""
    config = cache.model.config
    new = typed(cache.model, np.zeros((config.kv_heads, count, config.head_dim), dtype=np.float32))
    for layer in range(config.layers):
        cache.put(layer, new, new)
    cache.commit(np.arange(len(cache), len(cache) + count), np.full(count, SHARED))


def fed(model: Model, rope: Any = None, lanes: int = 3) -> LaneCache:
    """A prompt of three rows, then two rows of lane 0."""
    cache = model.new_cache(rope, LaneMask.joint(lanes))
    model(ids(3), [0, 1, 2], [SHARED] * 3, cache=cache)
    model(ids(2, seed=1), [3, 4], [0, 0], cache=cache)
    return cache


@pytest.mark.parametrize(
    ("before", "more", "blocks"),
    [
        (0, 1, 1),
        (0, BLOCK, 1),  # full, and not larger
        (BLOCK - 1, 1, 1),
        (BLOCK, 1, 2),  # an eighth more is 288 rows
        (9 * BLOCK, 1, 11),  # an eighth more is 2592 rows: two blocks
        (16 * BLOCK, 1, 18),
        (BLOCK, 5 * BLOCK, 6),
    ],
)
def test_buffers_grow_by_an_eighth_in_whole_blocks(before: int, more: int, blocks: int) -> None:
    """By a constant, a long text would be copied over and over; by more, memory lies idle."""
    cache = small(layers=1).new_cache()
    if before:
        put(cache, before)
    put(cache, more)
    assert cache.keys[0].shape == cache.values[0].shape == (2, blocks * BLOCK, 8)


@ANY
def test_forgetting_nothing_copies_nothing(kind: Any) -> None:
    cache = fed(small(*kind))
    held = [*cache.keys, *cache.values]
    cache.drop(2)
    cache.trim(5)
    assert all(a is b for a, b in zip([*cache.keys, *cache.values], held, strict=True))


@ANY
def test_a_copy_of_an_empty_cache_is_empty(kind: Any) -> None:
    model = small(*kind)
    twin = model.new_cache().copy()
    assert len(twin) == twin.nbytes == 0 and twin.keys == [None] * model.config.layers
    model([1], [0], [SHARED], cache=twin)
    assert len(twin) == 1


def test_mlx_computes_every_buffer_when_asked_and_numpy_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the graph of a long prompt would pile up, chunk upon chunk."""
    mx = pytest.importorskip("mlx.core")
    asked: list[Any] = []
    monkeypatch.setattr(mx, "eval", lambda *arrays: asked.extend(arrays))
    fed(small()).settle()
    assert asked == []
    cache = fed(small("mlx", "float32"))
    asked.clear()
    cache.settle()
    (computed,) = asked
    assert {id(b) for b in computed} == {id(b) for b in [*cache.keys, *cache.values]}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fork_turns_keys_by_tables_of_the_models_dtype(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A float64 table would make float64 copies of a long lane's keys, and a GPU has none."""
    model = small("numpy", dtype)
    cache = fed(model, omega(model))
    made: list[Any] = []
    table = module.table
    monkeypatch.setattr(module, "table", lambda *a, **k: made.append(table(*a, **k)) or made[-1])
    cache.fork(0, 1)
    assert len(made) == model.config.layers
    assert all(part.dtype == dtype for parts in made for part in parts)


@ANY
def test_a_fork_under_a_rotation_that_ignores_lanes_copies_keys_to_the_bit(kind: Any) -> None:
    """Hogwild's angle is one zero for all planes: there is nothing to turn by."""
    cache = fed(small(*kind), Hogwild())
    cache.fork(0, 1)
    assert cache.lanes.tolist() == [SHARED] * 3 + [0, 0, 1, 1]
    for rows in cache.rows(0):
        assert np.array_equal(np.array(rows)[:, 3:5], np.array(rows)[:, 5:7])


def test_a_cache_takes_its_own_model_and_rotation_and_says_what_it_refuses() -> None:
    model = small()
    rope = omega(model)
    cache = model.new_cache(rope)
    cache.check(model, None)
    cache.check(model, omega(model))  # another object that turns alike
    with pytest.raises(TinylaneError) as error:
        cache.check(small(), rope)
    assert str(error.value) == "this cache was made by another model; use model.new_cache()"
    with pytest.raises(TinylaneError) as error:
        cache.check(model, omega(model, seed=8))
    assert str(error.value) == (
        "this cache's keys were turned by another Omega or prompt_lane, or by another rotation; "
        "start a new cache"
    )
    with pytest.raises(TinylaneError) as error:
        cache.drop(SHARED)
    assert str(error.value) == "drop: the shared prompt cannot be dropped; start a new cache"
