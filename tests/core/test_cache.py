"""LaneCache: rows stay what they were; operations on lanes equal an uncached pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_cache import ANY, PROMPT, contents, equal, feed, lane_rows
from helpers_lanes import TOLERANCE, ids, omega, one_pass, small

from tinylane.core.cache import BLOCK
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.files.cache_file import typed

# Rows.


@ANY
def test_growing_across_blocks_keeps_every_row_to_the_bit(kind):
    """Every row is what was put, whether its buffer was grown since or not."""
    model = small(*kind, layers=1)
    cache = model.new_cache()
    rng = np.random.default_rng(0)
    put: list[np.ndarray] = []
    for count in (1, BLOCK - 2, 1, 1, 3, 2 * BLOCK, 1, 40, BLOCK):
        new = rng.standard_normal((2, 2, count, 8)).astype(np.float32)
        keys, values = cache.put(0, typed(model, new[0]), typed(model, new[1]))
        first = len(cache)
        cache.commit(np.arange(first, first + count), np.zeros(count, dtype=np.int64))
        put.append(new)
        expected = np.concatenate(put, axis=2)
        assert keys.shape == values.shape == (2, len(cache), 8)
        for held in ((keys, values), cache.rows(0)):
            assert np.array_equal(np.array(held[0]), expected[0].astype(kind[1]))
            assert np.array_equal(np.array(held[1]), expected[1].astype(kind[1]))
    assert cache.keys[0].shape[1] % BLOCK == 0
    assert cache.nbytes == cache.keys[0].nbytes * 2


@ANY
@pytest.mark.parametrize("chunk", [1, 7, BLOCK - 1, BLOCK, BLOCK + 1])
def test_a_long_text_has_the_same_logits_in_any_chunks(kind, chunk):
    model = small(*kind, layers=1)
    rows = [(token, i, SHARED) for i, token in enumerate(ids(BLOCK + 5))]
    if chunk == 1:
        rows = [*rows[:3], *((t, i - BLOCK + 8, SHARED) for t, i, _ in rows[BLOCK - 5 :])]
    cache = model.new_cache()
    chunks = [feed(model, cache, rows[k : k + chunk]) for k in range(0, len(rows), chunk)]
    np.testing.assert_allclose(
        np.concatenate(chunks), one_pass(model, rows), rtol=0, atol=TOLERANCE[kind[1]]
    )


@ANY
def test_no_view_that_was_handed_out_changes_later(kind):
    """mlx-lm 1097, 1699, 1805: an array mutated in place after it was read."""
    model = small(*kind, layers=1)
    cache = model.new_cache(omega(model, "random"), LaneMask.joint(3))
    held: list[tuple[Any, np.ndarray]] = []

    def hold() -> None:
        for view in (*cache.rows(0), cache.positions, cache.lanes):
            held.append((view, np.array(view, copy=True)))

    for step in (
        lambda: feed(model, cache, PROMPT),
        lambda: feed(model, cache, lane_rows(0, 5, 9)),
        lambda: cache.fork(0, 1),
        lambda: feed(model, cache, lane_rows(1, 9, 12)),
        lambda: cache.drop(0),
        lambda: feed(model, cache, lane_rows(2, 9, 12)),
        lambda: cache.trim(10),
        lambda: feed(model, cache, lane_rows(2, 10, 14, seed=5)),
        lambda: cache.copy(),
        lambda: cache.rewind(len(cache) - 2),
        lambda: feed(model, cache, lane_rows(1, 12, 14 + BLOCK)),
    ):
        step()
        hold()
        if cache.positions[-1] < 14:  # a rewound view may be written over: it was never committed
            for view, was in held:
                assert np.array_equal(np.array(view), was)


@ANY
def test_a_copy_and_its_original_go_separate_ways(kind):
    model = small(*kind)
    cache = model.new_cache(omega(model), LaneMask.joint(2))
    feed(model, cache, PROMPT)
    twin = cache.copy()
    equal(twin, cache)
    before = contents(cache)
    feed(model, twin, lane_rows(0, 5, 9))
    feed(model, cache, lane_rows(1, 5, 8))
    fresh = model.new_cache(omega(model), LaneMask.joint(2))
    feed(model, fresh, PROMPT)
    feed(model, fresh, lane_rows(0, 5, 9))
    equal(twin, fresh)  # nothing of the original was written into it
    twin.trim(2)
    feed(model, twin, lane_rows(0, 2, 4))
    assert len(cache) == 8 and len(twin) == 4
    for now, was in zip(contents(cache), before, strict=True):
        assert np.array_equal(now[:, :5], was)
    fresh = model.new_cache(omega(model), LaneMask.joint(2))
    feed(model, fresh, PROMPT)
    feed(model, fresh, lane_rows(1, 5, 8))
    equal(cache, fresh)


# Operations on lanes.


@ANY
@pytest.mark.parametrize("prompt_lane", ["own", 0])
@pytest.mark.parametrize("shape", ["random", "layers"])
def test_a_fork_of_one_layer_has_the_rows_of_a_lane_fed_the_same(kind, shape, prompt_lane):
    """For an Omega of one row and one for each layer, forwards and backwards."""
    model = small(*kind, layers=1)
    rope, mask = omega(model, shape, prompt_lane), LaneMask.joint(6)
    for source, target in ((1, 4), (5, 0)):
        cache, fresh = (model.new_cache(rope, mask) for _ in range(2))
        own = lane_rows(source, 5, 9)
        feed(model, cache, [*PROMPT, *own])
        cache.fork(source, target)
        feed(model, fresh, [*PROMPT, *own, *((t, i, target) for t, i, _ in own)])
        equal(cache, fresh, 20 * np.finfo(kind[1]).eps)


@ANY
def test_a_fork_of_two_layers_turns_each_by_its_own_omega(kind):
    """A lane that reads nobody: its copy is that of a lane fed the same, in every layer."""
    model = small(*kind)
    rope, mask = omega(model, "layers"), LaneMask.star(4)
    cache, fresh = (model.new_cache(rope, mask) for _ in range(2))
    own = lane_rows(1, 5, 9)
    feed(model, cache, [*PROMPT, *own])
    cache.fork(1, 3)
    feed(model, fresh, [*PROMPT, *own])
    feed(model, fresh, [(t, i, 3) for t, i, _ in own])
    equal(cache, fresh, 200 * np.finfo(kind[1]).eps)
    one = small(*kind)
    flat = one.new_cache(LaneRoPE(rope.omega[0]), mask)
    feed(one, flat, [*PROMPT, *own])
    flat.fork(1, 3)
    with pytest.raises(AssertionError):  # negative control: the first layer's Omega for both
        equal(flat, fresh, 1e-2)


@ANY
def test_after_dropping_and_trimming_logits_are_those_of_a_pass_over_what_is_left(kind):
    """Lanes that read nobody, so what is left does not depend on what is gone."""
    model = small(*kind)
    rope, mask = omega(model), LaneMask.star(4)
    cache = model.new_cache(rope, mask)
    one, two = lane_rows(1, 5, 10), lane_rows(2, 6, 11)
    for rows in (PROMPT, one, two):
        feed(model, cache, rows)
    cache.drop(1)
    assert not (cache.lanes == 1).any() and len(cache) == 10
    cache.trim(9)
    left = [*PROMPT, *two[:3]]
    assert cache.positions.tolist() == [row[1] for row in left]
    new = [(4, 9, 2), (7, 9, 3), (9, 9, 0)]
    expected = one_pass(model, [*left, *new], rope, mask)[len(left) :]
    np.testing.assert_allclose(feed(model, cache, new), expected, rtol=0, atol=TOLERANCE[kind[1]])


@ANY
def test_a_cache_that_was_emptied_is_as_new(kind):
    model = small(*kind)
    cache = model.new_cache(omega(model), LaneMask.joint(2))
    cache.fork(0, 1)
    cache.drop(0)
    cache.trim(0)
    assert len(cache) == 0 and cache.nbytes == 0
    feed(model, cache, [*PROMPT, *lane_rows(0, 5, 7)])
    cache.trim(0)
    assert len(cache) == len(cache.copy()) == 0
    fresh = model.new_cache(omega(model), LaneMask.joint(2))
    assert np.array_equal(feed(model, cache, PROMPT), feed(model, fresh, PROMPT))


def test_operations_that_cannot_be_are_refused():
    model, other = small(), small(seed=1)
    cache = model.new_cache(omega(model), LaneMask.joint(2))
    feed(model, cache, [*PROMPT, *lane_rows(0, 5, 7), *lane_rows(1, 5, 7)])
    for call, words in (
        (lambda: cache.fork(0, 1), "already has rows"),
        (lambda: cache.fork(SHARED, 1), "the lane is -1"),
        (lambda: cache.fork(0, 2), "the lane is 2; expected"),
        (lambda: cache.drop(SHARED), "shared prompt cannot"),
        (lambda: feed(other, cache, PROMPT), "another model"),
        (lambda: model([1], [7], [0], omega(model, "ntk"), cache=cache), "another Omega"),
        (lambda: model([1], [7], [2], cache=cache), "lane 2 is outside"),
        (lambda: model.new_cache(LaneRoPE(np.zeros(9))), "Omega has shape"),
    ):
        with pytest.raises(TinylaneError, match=words):
            call()
    assert len(cache) == 9
