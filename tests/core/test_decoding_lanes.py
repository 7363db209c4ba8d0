"""Decoding: lanes that join late, fork, are dropped or finished by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers_lanes import (
    EOS,
    FREE,
    TOLERANCE,
    TWO,
    WARM,
    ids,
    model_of,
    omega,
    rows_of,
    same,
    scored,
    small,
)

from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding, generate

F64 = model_of("numpy", "float64")


# Join, fork, drop, finish.


def joined(model: Any, prompt: Any, mask: LaneMask, rope: LaneRoPE, after: int = 3) -> Decoding:
    decoding = Decoding(
        model, ids(5), lanes=2, max_tokens=10, lane_rope=rope, lane_mask=mask, seed=6,
        sampler=FREE,
    )  # fmt: skip
    for _ in range(after):
        decoding.step()
    decoding.join(prompt, max_tokens=5)
    list(decoding)
    return decoding


@TWO
def test_a_lane_that_joins_late_starts_at_the_current_position_and_is_heard_from_then_on(kind):
    model, mask = model_of(*kind), LaneMask.joint(3)
    rope, tolerance = omega(model), TOLERANCE[kind[1]]
    decoding = joined(model, (), mask, rope)
    run, late = decoding.result(), decoding.lanes[2]
    assert late.start == 5 + 3 and len(late.tokens) == 5
    rows = rows_of(run, {0, 1, 2})
    for m in range(3):
        expected = scored(model, run, m, rows, rope, mask)
        np.testing.assert_allclose(run.lanes[m].logprobs, expected, rtol=0, atol=tolerance)
    before = joined(model, (), LaneMask.joint(3).silence(2), rope)
    assert before.lanes[0].logprobs[:4] == decoding.lanes[0].logprobs[:4]
    assert before.lanes[0].logprobs[4] != decoding.lanes[0].logprobs[4]


def test_a_late_lanes_prompt_ends_just_before_the_position_where_it_joins():
    """Nobody sees the late lane, so what was written before it joined is as in one pass."""
    mask, rope, own = LaneMask.joint(3).silence(2), omega(F64), [7, 8, 9]
    decoding = joined(F64, own, mask, rope)
    run, late = decoding.result(), decoding.lanes[2]
    assert late.start == 8
    assert decoding.cache.positions[decoding.cache.lanes == 2][:4].tolist() == [5, 6, 7, 8]
    for m in range(3):
        expected = scored(F64, run, m, rows_of(run, {0, 1, 2}), rope, mask)
        np.testing.assert_allclose(run.lanes[m].logprobs, expected, rtol=0, atol=1e-10)


def test_an_independent_lane_that_joins_late_writes_what_it_would_alone():
    decoding = joined(F64, [7, 8, 9], LaneMask.independent(3), LaneRoPE.none(F64.theta))
    late = Decoding(
        F64, ids(5), lanes=3, lane_prompts=[[], [], [7, 8, 9]], max_tokens=5, seed=6,
        sampler=FREE,
    )  # fmt: skip
    list(late)
    assert decoding.lanes[2].tokens == late.lanes[2].tokens


def forked(model: Any, mask: LaneMask, rope: LaneRoPE) -> Decoding:
    decoding = Decoding(
        model, ids(5), lanes=2, lane_prompts=[[1], [2, 4]], max_tokens=12, lane_rope=rope,
        lane_mask=mask, seed=3, sampler=FREE,
    )  # fmt: skip
    for _ in range(4):
        decoding.step()
    decoding.fork(1)
    return decoding


@TWO
def test_a_fork_has_written_what_its_source_has_and_draws_for_itself(kind):
    model = model_of(*kind)
    decoding = forked(model, LaneMask.joint(3), omega(model))
    source, fork = decoding.lanes[1:]
    assert fork.tokens == source.tokens and fork.logprobs == source.logprobs
    assert fork.tokens is not source.tokens
    list(decoding)
    assert fork.tokens[:4] == source.tokens[:4] and fork.tokens != source.tokens
    assert len(fork.tokens) == len(source.tokens) == 12


@TWO
def test_a_fork_of_a_lane_that_reads_nobody_equals_a_lane_fed_the_same_tokens(kind):
    """Its copied keys are turned on to the new lane; lane 0 of the star keeps Omega in force."""
    model, mask = model_of(*kind), LaneMask.star(3)
    rope, tolerance = omega(model), TOLERANCE[kind[1]]
    decoding = forked(model, mask, rope)
    list(decoding)
    run = decoding.result()
    for m in (1, 2):
        expected = scored(model, run, m, rows_of(run, {0, 1, 2}), rope, mask)
        np.testing.assert_allclose(run.lanes[m].logprobs, expected, rtol=0, atol=tolerance)


def test_in_one_layer_a_fork_that_all_see_has_the_rows_of_a_lane_fed_the_same_tokens():
    """In one layer a row's key and value depend on its token and coordinate only."""
    model = small(layers=1, eos_ids=(EOS,))
    mask, rope = LaneMask.joint(3), omega(model, "random")
    decoding = forked(model, mask, rope)
    decoding.step()
    cache = decoding.cache
    mine = np.flatnonzero(cache.lanes == 2)
    rows = rows_of(decoding.result(), set())
    fresh = model.new_cache(rope, mask)
    tokens, positions, lanes = (np.array(column) for column in zip(*rows, strict=True))
    model(tokens, positions, lanes, cache=fresh)
    theirs = np.flatnonzero(fresh.lanes == 2)
    assert (cache.positions[mine] == fresh.positions[theirs]).all()
    for a, b in zip(cache.rows(0), fresh.rows(0), strict=True):
        np.testing.assert_allclose(a[:, mine], b[:, theirs], rtol=0, atol=1e-12)


def test_a_fork_before_the_first_step_repeats_the_lane_prompt():
    decoding = Decoding(
        F64, ids(5), lanes=1, lane_prompts=[[1, 2]], max_tokens=4, seed=3,
        lane_mask=LaneMask.independent(2), sampler=WARM,
    )  # fmt: skip
    decoding.fork(0)
    twin = generate(F64, ids(5), lanes=2, lane_prompts=[[1, 2]] * 2, max_tokens=4, seed=3,
                    sampler=WARM)  # fmt: skip
    list(decoding)
    same(decoding.lanes, twin.lanes, 1e-10)


@TWO
def test_after_a_drop_the_others_go_on_as_if_the_lane_had_not_been_seen(kind):
    """Law 13 in the large: a lane that nobody sees is dropped, and nobody else changes."""
    model = model_of(*kind)
    mask, rope = LaneMask.joint(3).silence(1), omega(model)

    def run(dropping: bool) -> Decoding:
        decoding = Decoding(
            model, ids(5), lanes=3, max_tokens=9, lane_rope=rope, lane_mask=mask, seed=3,
            sampler=FREE,
        )  # fmt: skip
        for _ in range(4):
            decoding.step()
        if dropping:
            decoding.drop(1)
        list(decoding)
        return decoding

    kept, dropped = run(False), run(True)
    same([dropped.lanes[m] for m in (0, 2)], [kept.lanes[m] for m in (0, 2)], TOLERANCE[kind[1]])
    assert dropped.lanes[1].finish_reason == "dropped" and len(dropped.lanes[1].tokens) == 4
    assert not (dropped.cache.lanes == 1).any()


def test_a_dropped_lane_is_not_seen_any_more():
    def run(end: str) -> list[float]:
        decoding = Decoding(
            F64, ids(5), lanes=2, max_tokens=6, lane_rope=omega(F64), lane_mask=LaneMask.joint(2),
            seed=3, sampler=FREE,
        )  # fmt: skip
        decoding.step()
        decoding.step()
        getattr(decoding, end)(0)
        list(decoding)
        return decoding.lanes[1].logprobs

    dropped, finished = run("drop"), run("finish")
    assert dropped[:2] == finished[:2] and dropped[2] != finished[2]


def test_a_lane_that_is_finished_by_hand_stays_visible_with_its_last_token():
    mask, rope = LaneMask.joint(2), omega(F64)
    decoding = Decoding(
        F64, ids(5), lanes=2, max_tokens=6, lane_rope=rope, lane_mask=mask, seed=3,
        sampler=FREE,
    )  # fmt: skip
    decoding.step()
    decoding.step()
    decoding.finish(0)
    list(decoding)
    assert decoding.lanes[0].finish_reason == "interrupted"
    assert len(decoding.lanes[0].tokens) == 2
    run = decoding.result()
    expected = scored(F64, run, 1, rows_of(run, {0, 1}), rope, mask)
    np.testing.assert_allclose(decoding.lanes[1].logprobs, expected, rtol=0, atol=1e-10)
    decoding.finish(0, "again")
    assert decoding.lanes[0].finish_reason == "interrupted"


def test_lanes_that_nothing_tells_apart_write_the_same() -> None:
    """Prompts that differ but end with one token, no rotation, lag 0: the rows behind them read the
    same keys from the same place, so their logits are equal. Omega tells them apart, and so does a
    lag of 2: with it the last row reads its own first token, and not yet the others'."""
    prompts = [[7, 3], [8, 3], [9, 3]]

    def apart(rope: LaneRoPE, lag: int) -> float:
        rows = [(t, i, -1) for i, t in enumerate(ids(5))]
        rows += [(p[i], 5 + i, m) for i in range(2) for m, p in enumerate(prompts)]
        tokens, positions, lanes = np.array(rows).T
        mask = LaneMask.joint(3, lag)
        logits = F64(tokens, positions, lanes, lane_rope=rope, lane_mask=mask)[-3:]
        return float(np.abs(logits - logits[0]).max())

    none = LaneRoPE.none(F64.theta)
    assert apart(none, 0) < 1e-12
    assert apart(omega(F64), 0) > 1e-3
    assert apart(none, 1) < 1e-12 and apart(none, 2) > 1e-3

    decoding = Decoding(F64, ids(5), lanes=3, max_tokens=6, lane_prompts=prompts, lane_rope=none,
                        lane_mask=LaneMask.joint(3), sampler=Sampler(temperature=0))  # fmt: skip
    list(decoding)
    assert len({tuple(lane.tokens) for lane in decoding.lanes}) == 1
