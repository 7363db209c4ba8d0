"""Hogwild! in the cache, in decoding, in the files: keys stay where they are, runs come back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_lanes import BACKENDS, FREE, TOLERANCE, ids, log_softmax, model_of, omega, small
from helpers_machine import SCRIPT, follow, run_machine
from hypothesis import given
from hypothesis import strategies as st
from planting import Patch

from tinylane.core import hogwild
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.oracle import naive
from tinylane.core.rope import rotate, table
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding, generate
from tinylane.testing.machine import CacheMachine, DecoderMachine
from tinylane.view.replay import replay
from tinylane.view.run_file import load_run, save_run

ANY = pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
F64 = model_of("numpy", "float64")

# The cache: keys stand at their index in their lane and are never turned again.


def filled(model: Any, rope: Any = None) -> Any:
    """A prompt of 4, lanes 0 and 1 of two and three rows; lane 0 begins a step later."""
    cache = model.new_cache(rope or Hogwild(), LaneMask.joint(3))
    i, m = np.array([0, 1, 2, 3, 4, 5, 5, 6, 6]), np.array([SHARED] * 4 + [1, 0, 1, 0, 1])
    model(np.array(ids(9)), i, m, cache=cache)
    return cache


@ANY
def test_keys_are_cached_at_their_index_in_their_lane_for_good(kind) -> None:
    model = small(*kind, layers=1)
    cache, index = filled(model), np.array([0, 1, 2, 3, 0, 0, 1, 1, 2])
    bare = model.new_cache(LaneRoPE.none(model.theta))
    for token in ids(9):  # at position 0 nothing is turned
        model([token], [0], [SHARED], cache=bare)
    turn = table(index[:, None] * model.theta, dtype=np.float64)
    before = [np.array(x) for x in cache.rows(0)]
    assert (
        np.abs(rotate(np.array(bare.rows(0)[0], dtype=np.float64), *turn) - before[0]).max() < 1e-5
    )
    model([1, 2], [7, 7], [0, 1], cache=cache)
    cache.fork(0, 2)
    keys, values = (np.array(x) for x in cache.rows(0))
    assert np.array_equal(keys[:, :9], before[0]) and np.array_equal(values[:, :9], before[1])
    assert np.array_equal(keys[:, 11:], keys[:, [5, 7, 9]])  # the copies: not turned at all


def test_a_row_before_a_cached_one_of_its_lane_is_refused(monkeypatch: Patch) -> None:
    """Its lane's cached keys would all stand one too early."""
    cache, late = filled(F64), ([1, 2], [3, 7], [0, 1])
    for rows, words in (
        (late, "position 3 of lane 0 comes after position 6 was cached"),
        (([1], [3], [SHARED]), "position 3 of the prompt comes after position 3"),
    ):
        with pytest.raises(TinylaneError, match=words):
            F64(*rows, cache=cache)
        assert len(cache) == 9  # nothing was put
    cache.trim(5)
    F64([1], [5], [0], cache=cache)  # trimmed rows may come again
    monkeypatch.setattr(hogwild, "_in_order", lambda places: None)
    wrong = F64(*late, cache=filled(F64))
    i, m = np.array([0, 1, 2, 3, 4, 5, 5, 6, 6]), np.array([SHARED] * 4 + [1, 0, 1, 0, 1])
    columns = zip((ids(9), i, m), late, strict=True)
    whole = F64(*(np.concatenate([a, b]) for a, b in columns), Hogwild(), LaneMask.joint(3))
    assert np.abs(wrong - whole[9:]).max() > 1e-3


def test_a_cache_file_says_how_its_keys_are_turned(tmp_path: Path) -> None:
    file, next_ = tmp_path / "cache.safetensors", ([1, 2], [7, 7], [0, 1])
    cache = filled(F64)
    cache.save(file)
    loaded = type(cache).load(file, F64, Hogwild(), LaneMask.joint(3))
    assert isinstance(loaded.lane_rope, Hogwild)
    assert np.array_equal(F64(*next_, cache=loaded), F64(*next_, cache=cache))
    with pytest.raises(TinylaneError, match="rotation"):
        type(cache).load(file, F64, LaneRoPE.none(F64.theta))
    with pytest.raises(TinylaneError, match="another rotation"):
        F64(*next_, omega(F64), cache=loaded)
    filled(F64, omega(F64)).save(file)
    with pytest.raises(TinylaneError, match="rotation"):
        type(cache).load(file, F64, Hogwild())
    monster = filled(F64)
    monster.lane_rope = object()
    with pytest.raises(TinylaneError, match="rotation object cannot be saved"):
        monster.save(file)


# Decoding: joins, forks, drops, and the file that says it all again.


def busy(model: Any, mask: LaneMask, fork: bool = False) -> Decoding:
    """Two lanes; one joins late with a prompt, one is dropped, one is forked if asked for."""
    own = [ids(1, 1), ids(3, 2)]
    decoding = Decoding(
        model, ids(5), 2, lane_prompts=own, max_tokens=12, sampler=FREE, seed=5, lane_mask=mask,
        lane_rope=Hogwild(),
    )  # fmt: skip
    for _ in range(3):
        decoding.step()
    decoding.join(ids(2, 3), max_tokens=9)
    decoding.step()
    if fork:
        decoding.fork(1)
    for _ in range(2):
        decoding.step()
    decoding.drop(0)
    list(decoding)
    return decoding


@ANY
@pytest.mark.parametrize("lag", [0, 2])
def test_replay_gives_a_hogwild_run_again(kind, lag: int, tmp_path: Path) -> None:
    """Late joins and dropped lanes: a view shrinks with the rows that are gone, and not before."""
    model = model_of(*kind)
    for name, mask, fork in (
        ("joint", LaneMask.joint(4, lag), False),
        ("star", LaneMask.star(4, lag), False),
        ("independent", LaneMask.independent(4), True),
    ):
        result = busy(model, mask, fork).result()
        assert result.lanes[0].dropped is not None and len(result.lanes) == 3 + fork
        save_run(tmp_path / name, result, model)
        run = load_run(tmp_path / name)
        assert isinstance(run.lane_rope, Hogwild)
        assert replay(run, model).difference < TOLERANCE[kind[1]]
        other = replace(run, lane_rope=LaneRoPE.none(model.theta))
        assert replay(other, model).difference > 1e-2, name


def test_replay_needs_the_rows_that_had_been_dropped(tmp_path: Path) -> None:
    """The control: had lane 0 stayed, or never been, the others would have written otherwise."""
    save_run(tmp_path / "run", busy(F64, LaneMask.joint(4)).result(), F64)
    for change in (None, 1):
        run = load_run(tmp_path / "run")
        events = run.result.settings["events"]
        assert events[-1]["event"] == "drop"
        events[-1] = {**events[-1], "step": change}
        if change is None:
            del events[-1]
        assert replay(run, F64).difference > 1e-3


@ANY
def test_replay_gives_forks_of_lanes_that_read_each_other_again(kind, tmp_path: Path) -> None:
    model = model_of(*kind)
    save_run(tmp_path / "run", busy(model, LaneMask.joint(4), fork=True).result(), model)
    assert replay(load_run(tmp_path / "run"), model).difference < TOLERANCE[kind[1]]


@ANY
def test_replay_takes_the_order_that_held_at_each_step(kind, tmp_path: Path) -> None:
    model = model_of(*kind)
    decoding = Decoding(
        model, ids(5), 3, max_tokens=8, sampler=FREE, seed=5, lane_mask=LaneMask.joint(3),
        lane_rope=Hogwild((2, 1)),
    )  # fmt: skip
    for order in ([], [1], [0, 2]):
        decoding.step()
        decoding.step()
        decoding.arrange(order)
    list(decoding)
    save_run(tmp_path / "run", decoding.result(), model)
    run = load_run(tmp_path / "run")
    assert run.lane_rope == Hogwild((0, 2)) and run.result == decoding.result()
    assert replay(run, model).difference < TOLERANCE[kind[1]]
    events = run.result.settings["events"]
    for k, field in ((0, "was"), (1, "order"), (2, "order")):  # the controls
        run.result.settings["events"] = [*events]
        run.result.settings["events"][k] = {**events[k], field: [1, 2, 0]}
        assert replay(run, model).difference > 1e-3, (k, field)


def test_a_run_with_an_unknown_rotation_is_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", busy(F64, LaneMask.joint(4)).result(), F64)
    text = (tmp_path / "run").read_text()
    for value in ('"spiral"', "null", "1"):
        (tmp_path / "run").write_text(text.replace('"hogwild"', value))
        with pytest.raises(TinylaneError, match="expected hogwild"):
            load_run(tmp_path / "run")


def test_a_lane_that_joins_late_reads_and_is_read() -> None:
    """One layer, whose keys are the tokens' own: a pass over the rows there were at the end."""
    model = small(layers=1)
    decoding = Decoding(
        model,
        ids(5),
        1,
        max_tokens=9,
        sampler=FREE,
        lane_rope=Hogwild(),
        lane_mask=LaneMask.joint(2),
    )
    for _ in range(3):
        decoding.step()
    late = decoding.join(ids(2, 3), max_tokens=4)
    list(decoding)
    rows = [(t, i, SHARED) for i, t in enumerate(ids(5))]
    for lane in decoding.lanes:
        text = [*lane.prompt, *lane.tokens]
        rows += [(t, lane.start - len(lane.prompt) + k, lane.index) for k, t in enumerate(text)]
    tokens, positions, lanes = (np.array(x) for x in zip(*rows, strict=True))
    whole = log_softmax(model(tokens, positions, lanes, Hogwild(), LaneMask.joint(2)))
    mine = np.flatnonzero(lanes == 1)[1:-1]
    expected = whole[mine, late.tokens]
    assert np.abs(expected - late.logprobs).max() < 1e-10


def test_sampled_lanes_are_the_oracle_s_on_every_backend() -> None:
    prompt, own = ids(6), [ids(2, 1), ids(1, 2), []]
    for kind in BACKENDS:
        model = model_of(*kind)
        settings = {"lane_rope": Hogwild(), "lane_mask": LaneMask.joint(3, 1), "seed": 2}
        warm = Sampler(temperature=0.8, logit_bias=FREE.logit_bias)
        fast = generate(
            model, prompt, lanes=3, lane_prompts=own, max_tokens=6, sampler=warm, **settings
        )
        slow = naive(model, prompt, own, 6, warm, **settings)
        for a, b in zip(fast.lanes, slow, strict=True):
            assert a.tokens == b.tokens
            assert np.abs(np.array(a.logprobs) - b.logprobs).max() < TOLERANCE[kind[1]]


# Anything in any order, as for LaneRoPE (`test_machine`).


class HogwildMachine(CacheMachine):
    def rotation(self, data: Any) -> Hogwild:
        return Hogwild()


class HogwildDecoderMachine(DecoderMachine):
    def rotation(self, data: Any) -> Hogwild:
        return Hogwild()


@pytest.mark.parametrize("kind", [HogwildMachine, HogwildDecoderMachine])
@pytest.mark.parametrize("backend", ["numpy float64", "mlx float32"])
def test_it_equals_a_fresh_pass_after_any_operations(backend: str, kind: Any) -> None:
    run_machine(backend, kind)


@given(**{**SCRIPT, "rope": st.just(Hogwild())})
def test_lanes_that_join_fork_finish_and_drop_write_what_fresh_passes_give(**drawn: Any) -> None:
    follow(**drawn)
