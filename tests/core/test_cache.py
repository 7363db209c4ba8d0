"""LaneCache: rows stay what they were, operations equal an uncached pass, files are checked."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_lanes import BACKENDS, TOLERANCE, VOCAB, ids, log_softmax, omega, one_pass, small
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tinylane.core.cache import BLOCK, LaneCache
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.model import Model

ANY = pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
Rows = list[tuple[int, int, int]]  # token, position, lane
PROMPT = [(token, i, SHARED) for i, token in enumerate(ids(5))]


def feed(model: Model, cache: LaneCache, rows: Rows) -> np.ndarray:
    """(T, V) log-probabilities."""
    return log_softmax(model(*map(np.array, zip(*rows, strict=True)), cache=cache))


def lane_rows(lane: int, start: int, stop: int, seed: int = 0) -> Rows:
    return [(token, start + k, lane) for k, token in enumerate(ids(stop - start, seed + 10 * lane))]


def contents(cache: LaneCache) -> list[np.ndarray]:
    """Every key and value, as copies, 16-bit ones widened."""
    found = [x for layer in range(len(cache.keys)) for x in cache.rows(layer)]
    if cache.model.backend == "mlx":
        import mlx.core as mx

        found = [x.astype(mx.float32) for x in found]
    return [np.array(x, copy=True) for x in found]


def equal(found: LaneCache, expected: LaneCache, tolerance: float = 0.0) -> None:
    assert found.positions.tolist() == expected.positions.tolist()
    assert found.lanes.tolist() == expected.lanes.tolist()
    for a, b in zip(contents(found), contents(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


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
        keys, values = cache.put(0, model.typed(new[0]), model.typed(new[1]))
        first = len(cache)
        cache.commit(np.arange(first, first + count), np.zeros(count, dtype=np.int64))
        put.append(new)
        expected = np.concatenate(put, axis=2)
        assert keys.shape == values.shape == (2, len(cache), 8)
        for found in ((keys, values), cache.rows(0)):
            assert np.array_equal(np.array(found[0]), expected[0].astype(kind[1]))
            assert np.array_equal(np.array(found[1]), expected[1].astype(kind[1]))
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
    found = [feed(model, cache, rows[k : k + chunk]) for k in range(0, len(rows), chunk)]
    np.testing.assert_allclose(
        np.concatenate(found), one_pass(model, rows), rtol=0, atol=TOLERANCE[kind[1]]
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
        (lambda: cache.fork(SHARED, 1), "-1 is not a lane"),
        (lambda: cache.fork(0, 2), "2 is not a lane"),
        (lambda: cache.drop(SHARED), "shared prompt cannot"),
        (lambda: feed(other, cache, PROMPT), "another model"),
        (lambda: model([1], [7], [0], omega(model, "ntk"), cache=cache), "another Omega"),
        (lambda: model([1], [7], [2], cache=cache), "lane 2 is outside"),
        (lambda: model.new_cache(LaneRoPE(np.zeros(9))), "Omega has shape"),
    ):
        with pytest.raises(TinylaneError, match=words):
            call()
    assert len(cache) == 9


# Files.

SAVED = [*BACKENDS, ("mlx", "bfloat16"), ("mlx", "float16")]


def filled(model: Model, lane_mask: LaneMask | None = None) -> LaneCache:
    cache = model.new_cache(omega(model), lane_mask or LaneMask.neighbours(3, 1, lag=2))
    feed(model, cache, [*PROMPT, *lane_rows(0, 5, 7), *lane_rows(2, 5, 7)])
    return cache


@pytest.mark.parametrize("kind", SAVED, ids="-".join)
def test_a_saved_cache_comes_back_to_the_bit_and_goes_on_the_same(kind, tmp_path):
    model, file = small(*kind), tmp_path / "cache.safetensors"
    cache = filled(model)
    cache.save(file)
    back = LaneCache.load(file, model)
    equal(back, cache)
    assert back.lane_rope.same_as(cache.lane_rope) and cache.lane_mask.same_as(back.lane_mask)
    assert {str(x.dtype) for x in back.keys} == {str(x.dtype) for x in cache.keys}
    new = lane_rows(1, 6, 8)
    assert np.array_equal(feed(model, back, new), feed(model, cache, new))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    again = tmp_path / "again.safetensors"
    LaneCache.load(file, model, cache.lane_rope, cache.lane_mask).save(again)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(("saver", "loader"), [("numpy", "mlx"), ("mlx", "numpy")])
def test_a_cache_saved_on_one_backend_is_read_on_the_other(saver, loader, tmp_path):
    file = tmp_path / "cache.safetensors"
    cache, model = filled(small(saver, "float32")), small(loader, "float32")
    cache.save(file)
    back = LaneCache.load(file, model)
    equal(back, cache)
    new = lane_rows(1, 6, 8)
    np.testing.assert_allclose(
        feed(model, back, new), feed(cache.model, cache, new), rtol=0, atol=TOLERANCE["float32"]
    )


def test_an_empty_cache_and_one_without_a_mask_come_back(tmp_path):
    model, file = small(), tmp_path / "cache.safetensors"
    model.new_cache(omega(model)).save(file)
    back = LaneCache.load(file, model)
    assert len(back) == 0 and back.lane_mask is None
    feed(model, back, PROMPT)
    back.save(file)
    equal(LaneCache.load(file, model), back)


def rewritten(file: Path, change: Any) -> None:
    """The same tensors under a header that `change` has edited."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def renamed(old: str, new: str) -> Any:
    return lambda header: header.update({new: header.pop(old)})


def meta(**changes: str) -> Any:
    return lambda header: header["__metadata__"].update(changes)


REFUSED = {
    "another model": (small(identity="other"), {}, None, "identity is 'small'"),
    "other sizes": (small(layers=1), {}, None, "sizes is"),
    "another vocabulary": (small(vocab=30), {}, None, "sizes is"),
    "another dtype": (small(dtype="float32"), {}, None, "dtype is 'float64'"),
    "another Omega": (small(), {"lane_rope": omega(small(), "ntk")}, None, "another Omega"),
    "another prompt lane": (
        small(),
        {"lane_rope": omega(small(), "layers", 0)},
        None,
        "another Omega or prompt_lane",
    ),
    "another mask": (small(), {"lane_mask": LaneMask.joint(3)}, None, "another visibility"),
    "another lag": (small(), {"lane_mask": LaneMask.neighbours(3, 1)}, None, "visibility or lag"),
    "not a cache": (small(), {}, meta(format="something"), "not a cache"),
    "a lag that is no number": (small(), {}, meta(lag="-1"), "lag is '-1'"),
    "a tensor missing": (
        small(),
        {},
        renamed("layers.1.values", "layers.2.values"),
        "layers.1.values is missing",
    ),
    "a tensor of another shape": (
        small(),
        {},
        lambda header: header["layers.0.keys"].update(shape=[2, 8, 9]),
        r"layers.0.keys has shape \(2, 8, 9\)",
    ),
    "lanes that are not there": (
        small(),
        {},
        lambda header: header.update(positions=header["lanes"], lanes=header["positions"]),
        "lanes outside -1 .. 2",
    ),
    "a tensor of another dtype": (
        small(),
        {},
        lambda header: header["layers.0.keys"].update(dtype="I64"),
        "layers.0.keys is I64; expected F64",
    ),
    "a prompt lane that is none": (small(), {}, meta(prompt_lane="1"), "prompt_lane is None"),
    "visibility that is not square": (
        small(),
        {},
        lambda header: header["lane_mask.visibility"].update(shape=[9]),
        "visibility has shape",
    ),
    "coordinates of another shape": (
        small(),
        {},
        lambda header: header["positions"].update(shape=[9, 1]),
        r"positions has shape \(9, 1\)",
    ),
    "an Omega of another length": (
        small(),
        {},
        lambda header: header["lane_rope.omega"].update(shape=[8]),
        "omega has shape",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_cache_file_that_does_not_fit_is_refused_in_one_line(why, tmp_path):
    model, given_, change, words = REFUSED[why]
    file = tmp_path / "cache.safetensors"
    filled(small()).save(file)
    if change is not None:
        rewritten(file, change)
    with pytest.raises(TinylaneError, match=words) as caught:
        LaneCache.load(file, model, **given_)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_truncated_or_foreign_file_is_refused(tmp_path):
    file = tmp_path / "cache.safetensors"
    filled(small()).save(file)
    whole = file.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(TinylaneError, match=r"cache\.safetensors"):
            LaneCache.load(file, small())
    file.write_text("not a tensor in it" * 99)
    for path in (file, tmp_path / "absent", tmp_path):
        with pytest.raises(TinylaneError):
            LaneCache.load(path, small())
    with pytest.raises(TinylaneError, match="cannot be written"):
        filled(small()).save(tmp_path / "absent" / "cache.safetensors")


# Any sequence of operations.

MACHINE = small()
MASK = LaneMask.star(5)  # lanes 1 .. 4 read nobody: a fork equals a lane fed the same tokens
ROPE = omega(MACHINE, "layers")


class CacheMachine(RuleBasedStateMachine):
    """A cache against a list of rows and an uncached pass over it."""

    @initialize(prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4))
    def begin(self, prompt: list[int]) -> None:
        self.cache = MACHINE.new_cache(ROPE, MASK)
        self.rows: Rows = [(token, i, SHARED) for i, token in enumerate(prompt)]
        self.copies: list[tuple[LaneCache, Rows]] = []
        feed(MACHINE, self.cache, self.rows)

    def _next(self, lane: int) -> int:
        own = [i for _, i, m in self.rows if m in (lane, SHARED)]
        return max(own, default=-1) + 1

    def _feed(self, rows: Rows) -> None:
        found = feed(MACHINE, self.cache, rows)
        self.rows = self.rows + rows
        expected = one_pass(MACHINE, self.rows, ROPE, MASK)[-len(rows) :]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)

    @rule(lane=st.integers(1, 4), gap=st.integers(0, 2), text=st.lists(
        st.integers(0, VOCAB - 1), min_size=1, max_size=4))  # fmt: skip
    def append(self, lane: int, gap: int, text: list[int]) -> None:
        start = self._next(lane) + gap
        self._feed([(token, start + k, lane) for k, token in enumerate(text)])

    @rule(tokens=st.lists(st.integers(0, VOCAB - 1), min_size=4, max_size=4))
    def step(self, tokens: list[int]) -> None:
        now = max(self._next(lane) for lane in range(1, 5))
        self._feed([(token, now, lane) for token, lane in zip(tokens, range(1, 5), strict=True)])

    @rule(source=st.integers(1, 4), to=st.integers(1, 4))
    def fork(self, source: int, to: int) -> None:
        if any(m == to for _, _, m in self.rows):
            with pytest.raises(TinylaneError):
                self.cache.fork(source, to)
            return
        self.cache.fork(source, to)
        self.rows = self.rows + [(t, i, to) for t, i, m in self.rows if m == source]

    @rule(lane=st.integers(1, 4))
    def drop(self, lane: int) -> None:
        self.cache.drop(lane)
        self.rows = [row for row in self.rows if row[2] != lane]

    @precondition(lambda self: len(self.rows) > 1)
    @rule(data=st.data())
    def trim(self, data: Any) -> None:
        at = data.draw(st.integers(1, max(i for _, i, _ in self.rows) + 1))
        self.cache.trim(at)
        self.rows = [row for row in self.rows if row[1] < at]

    @rule(swap=st.booleans())
    def copy(self, swap: bool) -> None:
        twin = self.cache.copy()
        self.copies = [*self.copies[-2:], (self.cache if swap else twin, self.rows)]
        self.cache = twin if swap else self.cache

    @precondition(lambda self: self.copies)
    @rule()
    def go_back(self) -> None:
        other = (self.cache, self.rows)
        self.cache, self.rows = self.copies[0]
        self.copies[0] = other

    @rule()
    def save_and_load(self) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.cache.save(Path(folder) / "cache.safetensors")
            self.cache = LaneCache.load(Path(folder) / "cache.safetensors", MACHINE, ROPE, MASK)

    @rule(token=st.integers(0, VOCAB - 1))
    def interrupted(self, token: int) -> None:
        """One layer has put its rows when the pass is broken off."""
        odd = np.full((2, 3, 8), float(token))
        self.cache.put(0, odd, odd)

    @invariant()
    def coordinates(self) -> None:
        if hasattr(self, "cache"):
            assert self.cache.positions.tolist() == [i for _, i, _ in self.rows]
            assert self.cache.lanes.tolist() == [m for _, _, m in self.rows]

    @invariant()
    def next_step(self) -> None:
        """Lane 0 reads them all: its logits say whether every row is right."""
        if hasattr(self, "cache"):
            now = max(i for _, i, _ in self.rows) + 1
            found = feed(MACHINE, self.cache.copy(), [(1, now, 0)])
            expected = one_pass(MACHINE, [*self.rows, (1, now, 0)], ROPE, MASK)[-1:]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)

    def teardown(self) -> None:
        for cache, rows in getattr(self, "copies", []):
            assert cache.positions.tolist() == [i for _, i, _ in rows]


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
