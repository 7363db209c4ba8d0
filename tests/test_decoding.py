"""Joint decoding: what `Decoding` gives is what a fresh pass over all rows at every step gives."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from helpers_lanes import BACKENDS, OMEGAS, TOLERANCE, VOCAB, ids, omega, one_pass, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinylane.decoding import Decoding, generate, stream
from tinylane.errors import TinylaneError
from tinylane.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.oracle import naive
from tinylane.sampling import Sampler, uniform

WARM = Sampler(temperature=1.0)
EOS = 3
MODELS = {kind: small(*kind, eos_ids=(EOS,)) for kind in BACKENDS}
F64 = MODELS["numpy", "float64"]
TWO = pytest.mark.parametrize("kind", [BACKENDS[0], BACKENDS[2]], ids=["numpy-float64", "mlx"])


@st.composite
def masks(draw: Any, n: int) -> LaneMask:
    lag = draw(st.integers(0, 3))
    name = draw(st.sampled_from(["independent", "joint", "star", "neighbours:1", "any"]))
    if name == "any":
        bits = draw(st.integers(0, 2 ** (n * n) - 1))
        return LaneMask(np.array([bits >> k & 1 for k in range(n * n)]).reshape(n, n), lag)
    return LaneMask.named(name, n, lag)


@st.composite
def settings_of(draw: Any, model: Any, lanes: int = 5) -> dict[str, Any]:
    n = draw(st.integers(1, lanes))
    own = draw(st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=4), min_size=n, max_size=n))
    return {
        "prompt": draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=7)),
        "lane_prompts": own,
        "max_tokens": draw(st.integers(1, 6)),
        "sampler": Sampler(
            temperature=draw(st.sampled_from([0.0, 0.6, 1.0])),
            repetition_penalty=draw(st.sampled_from([1.0, 1.3])),
            logit_bias={EOS: draw(st.sampled_from([0.0, 4.0]))},
        ),
        "lane_rope": omega(model, draw(st.sampled_from(OMEGAS)), draw(st.sampled_from(["own", 0]))),
        "lane_mask": draw(masks(n)),
        "seed": draw(st.integers(0, 2**128 - 1)),
    }


def same(found: Any, expected: Any, tolerance: float) -> None:
    """Lanes with equal tokens and reasons, and equal log-probabilities within the tolerance."""
    assert [lane.tokens for lane in found] == [lane.tokens for lane in expected]
    assert [lane.finish_reason for lane in found] == [lane.finish_reason for lane in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, rtol=0, atol=tolerance)


def check_against_oracle(kind: tuple[str, str], data: Any) -> None:
    model = MODELS[kind]
    given_ = data.draw(settings_of(model))
    slow = naive(model, **given_)
    prompt, own = given_.pop("prompt"), given_.pop("lane_prompts")
    chunk = data.draw(st.sampled_from([1, 2, 3, 512]))
    fast = generate(model, prompt, lanes=len(own), lane_prompts=own, chunk=chunk, **given_)
    same(fast.lanes, slow, TOLERANCE[kind[1]])


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(st.data())
def test_decoding_equals_the_naive_oracle_in_float64(data):
    check_against_oracle(("numpy", "float64"), data)


# Derandomized: in float32 a draw within rounding of a boundary may fall to either side.
@settings(max_examples=40, deadline=None, suppress_health_check=SLOW, derandomize=True)
@given(st.data())
def test_decoding_equals_the_naive_oracle_in_float32(data):
    check_against_oracle(("numpy", "float32"), data)


@settings(max_examples=20, deadline=None, suppress_health_check=SLOW, derandomize=True)
@given(st.data())
def test_decoding_equals_the_naive_oracle_on_mlx(data):
    check_against_oracle(("mlx", "float32"), data)


def test_the_oracle_comparison_notices_a_wrong_mask():
    """Negative control: another lag gives other log-probabilities."""
    model, rope = F64, omega(F64)
    slow = naive(model, ids(5), [[1], [2]], 4, Sampler(temperature=0), rope, LaneMask.joint(2))
    fast = generate(
        model, ids(5), lanes=2, lane_prompts=[[1], [2]], max_tokens=4, lane_rope=rope,
        sampler=Sampler(temperature=0), lane_mask=LaneMask.joint(2, lag=1),
    )  # fmt: skip
    with pytest.raises(AssertionError):
        same(fast.lanes, slow, TOLERANCE["float64"])


@pytest.mark.parametrize("n", [1, 2, 3, 8, 17, 33, 64])
def test_any_number_of_lanes_up_to_64_equals_the_oracle(n):
    own = [[m % VOCAB] * (m % 3) for m in range(n)]
    given_ = {"lane_rope": omega(F64), "lane_mask": LaneMask.joint(n), "seed": 5, "max_tokens": 2}
    slow = naive(F64, ids(6), own, sampler=WARM, **given_)
    same(generate(F64, ids(6), lanes=n, lane_prompts=own, sampler=WARM, **given_).lanes, slow, 1e-9)


def test_64_joint_lanes_on_mlx_equal_numpy():
    own = [[m % VOCAB] for m in range(64)]
    model = MODELS["mlx", "float32"]
    given_ = {
        "lanes": 64, "lane_prompts": own, "sampler": WARM, "max_tokens": 3, "seed": 11,
        "lane_rope": omega(model), "lane_mask": LaneMask.joint(64),
    }  # fmt: skip
    same(generate(model, ids(6), **given_).lanes, generate(F64, ids(6), **given_).lanes, 2e-4)


def test_sampling_defaults_of_the_checkpoint_are_used_and_nothing_else_samples():
    model = small(eos_ids=(EOS,))
    assert Decoding(model, ids(3)).sampler == Sampler(temperature=0)
    model.sampling = {"temperature": 0.6, "top_p": 0.95}
    assert Decoding(model, ids(3)).sampler == Sampler(temperature=0.6, top_p=0.95)
    assert Decoding(model, ids(3), sampler=WARM).sampler == WARM


# A lane's own run and its company.


def alone(
    model: Any, prompt: list[int], own: list[int], m: int, seed: int, sampler: Sampler, steps: int
) -> list[int]:
    """Lane m's tokens by the unmodified model: one plain sequence, no lanes, no cache."""
    text, tokens = prompt + own, []
    for k in range(steps):
        rows = len(text)
        logits = model(text, range(rows), [0] * rows, rows=[rows - 1])
        token = int(sampler(logits, np.array([uniform(seed, m, k)]), [text])[0][0])
        tokens.append(token)
        if token == EOS:
            break
        text = [*text, token]
    return tokens


@TWO
def test_an_independent_lane_is_token_for_token_the_plain_run_of_that_lane(kind):
    """Law 7, for any Omega; no lane of 5 hears the other four (mlx-lm 965, 1776)."""
    model, prompt = MODELS[kind], ids(9)
    own = [ids(2, seed=m) for m in range(5)]
    sampler = Sampler(temperature=0.8, top_p=0.9, repetition_penalty=1.2)
    run = generate(
        model, prompt, lanes=5, lane_prompts=own, lane_rope=omega(model), seed=4, max_tokens=12,
        lane_mask=LaneMask.independent(5), sampler=sampler,
    )  # fmt: skip
    for m, lane in enumerate(run.lanes):
        assert lane.tokens == alone(model, prompt, own[m], m, 4, sampler, 12)


def test_a_lanes_draws_depend_neither_on_how_many_lanes_there_are_nor_on_when_they_end():
    def tokens(n: int, budgets: Any) -> list[list[int]]:
        run = generate(F64, ids(4), lanes=n, max_tokens=budgets, sampler=WARM, seed=9)
        return [lane.tokens for lane in run.lanes]

    few, many = tokens(3, 10), tokens(16, 10)
    assert few == many[:3]
    assert tokens(3, [1, 10, 3])[1] == few[1]
    assert tokens(2, [1, 10])[1] == few[1]
    assert len({tuple(lane) for lane in many}) == 16  # and no two lanes draw the same


def test_adding_a_lane_that_nobody_sees_changes_nobody_else():
    """Law 13; the new lane itself does listen."""
    rope, base = omega(F64), LaneMask.joint(4).silence(3)
    three = generate(
        F64, ids(4), lanes=3, sampler=WARM, max_tokens=8, lane_rope=rope, lane_mask=base
    )
    four = generate(
        F64, ids(4), lanes=4, sampler=WARM, max_tokens=8, lane_rope=rope, lane_mask=base
    )
    same(four.lanes[:3], three.lanes, 1e-10)
    heard = generate(
        F64, ids(4), lanes=4, sampler=WARM, max_tokens=8, lane_rope=rope,
        lane_mask=LaneMask.joint(4),
    )  # fmt: skip
    assert [x.tokens for x in heard.lanes[:3]] != [x.tokens for x in three.lanes]


def test_a_seed_gives_the_same_run_again_and_another_seed_another():
    """mlx-lm 1439 (the same text on every call) and 1245 (a seed without effect)."""

    def run(seed: int, sampler: Sampler = WARM) -> list[list[int]]:
        result = generate(F64, ids(4), lanes=3, sampler=sampler, max_tokens=8, seed=seed)
        return [lane.tokens for lane in result.lanes]

    assert run(1) == run(1) != run(2)
    assert run(1, Sampler(temperature=0)) == run(2, Sampler(temperature=0))


@pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
def test_two_generations_in_two_threads_do_not_disturb_each_other(kind):
    """mlx-lm 1181, 1256: errors off the main thread."""
    model = MODELS[kind]

    def run(seed: int) -> list[list[int]]:
        result = generate(
            model, ids(5, seed), lanes=3, sampler=WARM, max_tokens=12, seed=seed,
            lane_rope=omega(model), lane_mask=LaneMask.joint(3),
        )  # fmt: skip
        return [lane.tokens for lane in result.lanes]

    expected = {seed: run(seed) for seed in range(4)}
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: run(seed)}))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


# What is fed, and when lanes end.


def rows_of(run: Any, with_last: set[int]) -> list[tuple[int, int, int]]:
    """All rows of a run; a lane's last token only for the lanes in `with_last`."""
    rows = [(token, i, SHARED) for i, token in enumerate(run.prompt)]
    for lane in run.lanes:
        begin = lane.start - len(lane.prompt)
        fed = lane.prompt + (lane.tokens if lane.index in with_last else lane.tokens[:-1])
        rows += [(token, begin + k, lane.index) for k, token in enumerate(fed)]
    return rows


def scored(model: Any, run: Any, lane: int, rows: list, rope: Any, mask: Any) -> np.ndarray:
    """Log-probabilities of a lane's tokens out of one pass over `rows`."""
    logprobs = one_pass(model, rows, rope, mask)
    mine = [k for k, row in enumerate(rows) if row[2] == lane]
    own = run.lanes[lane]
    before = mine[len(own.prompt) - 1] if own.prompt else len(run.prompt) - 1
    after = mine[len(own.prompt) :]
    places = [before, *after][: len(own.tokens)]
    return logprobs[places, own.tokens]


@TWO
def test_the_last_token_of_a_lane_at_its_limit_is_still_fed_and_seen(kind):
    """One pass with lane 0's last token gives lane 1's log-probabilities; one without does not."""
    model, mask = MODELS[kind], LaneMask.joint(2)
    rope, tolerance = omega(model), TOLERANCE[kind[1]]
    run = generate(
        model, ids(5), lanes=2, max_tokens=[2, 6], lane_rope=rope, lane_mask=mask, seed=2,
        sampler=Sampler(logit_bias={EOS: -np.inf}),
    )  # fmt: skip
    assert [lane.finish_reason for lane in run.lanes] == ["length", "length"]
    assert [len(lane.tokens) for lane in run.lanes] == [2, 6]
    expected = scored(model, run, 1, rows_of(run, {0}), rope, mask)
    np.testing.assert_allclose(run.lanes[1].logprobs, expected, rtol=0, atol=tolerance)
    unfed = scored(model, run, 1, rows_of(run, set()), rope, mask)
    np.testing.assert_allclose(run.lanes[1].logprobs[:2], unfed[:2], rtol=0, atol=tolerance)
    assert abs(run.lanes[1].logprobs[2] - unfed[2]) > 100 * tolerance


def early_end(model: Any, rope: Any, mask: Any, **more: Any) -> Decoding:
    """A decoding in which lane 0 has drawn the end token and lane 1 goes on."""
    for seed in range(200):
        decoding = Decoding(
            model, ids(5), lanes=2, max_tokens=9, lane_rope=rope, lane_mask=mask, seed=seed,
            sampler=Sampler(logit_bias={EOS: 3.0}), **more,
        )  # fmt: skip
        for _ in decoding:
            pass
        first, second = decoding.lanes
        if first.finish_reason == "stop" and len(first.tokens) + 3 < len(second.tokens):
            return decoding
    raise AssertionError("no seed ends lane 0 early")


@TWO
def test_an_end_token_is_never_fed_and_nobody_sees_it(kind):
    model, mask = MODELS[kind], LaneMask.joint(2)
    rope, tolerance = omega(model), TOLERANCE[kind[1]]
    decoding = early_end(model, rope, mask)
    run = decoding.result()
    first, second = run.lanes
    assert first.tokens[-1] == EOS and EOS not in first.tokens[:-1]
    assert (decoding.cache.lanes == 0).sum() == len(first.tokens) - 1
    assert len(first.logprobs) == len(first.tokens)
    expected = scored(model, run, 1, rows_of(run, set()), rope, mask)
    np.testing.assert_allclose(second.logprobs, expected, rtol=0, atol=tolerance)
    fed = scored(model, run, 1, rows_of(run, {0}), rope, mask)
    assert np.abs(np.array(second.logprobs) - fed).max() > 100 * tolerance


def test_every_eos_id_of_the_config_ends_a_lane():
    """mlx-vlm 2112: ids from generation_config replaced the others instead of joining them."""
    for end in (3, 17):
        model = small(eos_ids=(3, 17))
        run = generate(model, ids(3), max_tokens=5, sampler=Sampler(logit_bias={end: 1e4}))
        assert run.lanes[0].tokens == [end] and run.lanes[0].finish_reason == "stop"


def test_lanes_have_their_own_limits_and_steps_go_on_until_the_last_ends():
    free = Sampler(logit_bias={EOS: -np.inf})
    run = generate(F64, ids(3), lanes=4, max_tokens=[5, 1, 3, 2], sampler=free)
    assert [len(lane.tokens) for lane in run.lanes] == [5, 1, 3, 2]
    assert run.steps == 5


def test_the_total_budget_ends_all_lanes_after_the_step_that_reaches_it():
    free = Sampler(logit_bias={EOS: -np.inf})
    run = generate(F64, ids(3), lanes=3, max_tokens=[9, 1, 9], total_tokens=7, sampler=free)
    assert [len(lane.tokens) for lane in run.lanes] == [3, 1, 3]
    assert [lane.finish_reason for lane in run.lanes] == ["budget", "length", "budget"]


def test_decoding_stops_at_the_end_of_the_context():
    model = small(context=9)
    decoding = Decoding(model, ids(5), lanes=2, lane_prompts=[[1], [2, 3]], max_tokens=50)
    steps = list(decoding)
    assert [lane.finish_reason for lane in decoding.lanes] == ["length", "length"]
    assert steps[-1].position == 8 and decoding.clock == 9
    assert [len(lane.tokens) for lane in decoding.lanes] == [2, 2]


def test_a_step_says_what_every_lane_drew_and_who_ended():
    decoding = Decoding(F64, ids(4), lanes=3, max_tokens=[1, 3, 2], sampler=WARM, seed=1)
    steps = list(decoding)
    for k, step in enumerate(steps):
        assert step.index == k and step.position == 4 + k
    for m, lane in enumerate(decoding.lanes):
        drawn = [step.tokens[m] for step in steps]
        assert drawn == lane.tokens + [None] * (len(steps) - len(lane.tokens))
        assert [x.logprobs[m] for x in steps][: len(lane.tokens)] == lane.logprobs
        assert steps[len(lane.tokens) - 1].finished[m] == lane.finish_reason
    assert sum(len(step.finished) for step in steps) == 3
    assert [s.tokens for s in stream(F64, ids(4), lanes=3, max_tokens=[1, 3, 2], sampler=WARM,
                                     seed=1)] == [s.tokens for s in steps]  # fmt: skip


# Join, fork, drop, finish.


def joined(model: Any, prompt: Any, mask: LaneMask, rope: LaneRoPE, after: int = 3) -> Decoding:
    decoding = Decoding(
        model, ids(5), lanes=2, max_tokens=10, lane_rope=rope, lane_mask=mask, seed=6,
        sampler=Sampler(logit_bias={EOS: -np.inf}),
    )  # fmt: skip
    for _ in range(after):
        decoding.step()
    decoding.join(prompt, max_tokens=5)
    list(decoding)
    return decoding


@TWO
def test_a_lane_that_joins_late_starts_at_the_current_position_and_is_heard_from_then_on(kind):
    model, mask = MODELS[kind], LaneMask.joint(3)
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
        sampler=Sampler(logit_bias={EOS: -np.inf}),
    )  # fmt: skip
    list(late)
    assert decoding.lanes[2].tokens == late.lanes[2].tokens


def forked(model: Any, mask: LaneMask, rope: LaneRoPE) -> Decoding:
    decoding = Decoding(
        model, ids(5), lanes=2, lane_prompts=[[1], [2, 4]], max_tokens=12, lane_rope=rope,
        lane_mask=mask, seed=3, sampler=Sampler(logit_bias={EOS: -np.inf}),
    )  # fmt: skip
    for _ in range(4):
        decoding.step()
    decoding.fork(1)
    return decoding


@TWO
def test_a_fork_has_written_what_its_source_has_and_draws_for_itself(kind):
    model = MODELS[kind]
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
    model, mask = MODELS[kind], LaneMask.star(3)
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
    model = MODELS[kind]
    mask, rope = LaneMask.joint(3).silence(1), omega(model)

    def run(dropping: bool) -> Decoding:
        decoding = Decoding(
            model, ids(5), lanes=3, max_tokens=9, lane_rope=rope, lane_mask=mask, seed=3,
            sampler=Sampler(logit_bias={EOS: -np.inf}),
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
            seed=3, sampler=Sampler(logit_bias={EOS: -np.inf}),
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
        sampler=Sampler(logit_bias={EOS: -np.inf}),
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


# Interruption.


class Stop(BaseException):
    """As KeyboardInterrupt, but ours."""


def interrupt(model: Any, calls: int) -> Any:
    """Make the model raise Stop after so many feed-forwards; returns what undoes it."""
    seams, left = model.seams, [calls]

    def gated(gate: Any, up: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        return seams.gated(gate, up)

    model.seams = seams._replace(gated=gated)
    return lambda: setattr(model, "seams", seams)


@pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
@pytest.mark.parametrize("calls", [0, 1])
def test_a_pass_that_is_interrupted_leaves_no_trace(kind, calls):
    """Ctrl-C in any layer: the cache has the same rows, and the next step is the one it was."""
    model = small(*kind)
    given_ = {
        "lanes": 3, "max_tokens": 8, "lane_rope": omega(model), "lane_mask": LaneMask.joint(3),
        "sampler": WARM, "seed": 8,
    }  # fmt: skip
    expected = generate(model, ids(5), **given_)
    decoding = Decoding(model, ids(5), **given_)
    for _ in range(3):
        decoding.step()
    before = len(decoding.cache)
    undo = interrupt(model, calls)
    with pytest.raises(Stop):
        decoding.step()
    undo()
    assert len(decoding.cache) == before and decoding.steps == 3
    list(decoding)
    assert [x.tokens for x in decoding.lanes] == [x.tokens for x in expected.lanes]
    assert [x.logprobs for x in decoding.lanes] == [x.logprobs for x in expected.lanes]


@pytest.mark.parametrize("calls", range(1, 6))
def test_a_prefill_of_several_chunks_that_is_interrupted_leaves_no_trace(calls):
    model = small()

    def begin() -> Decoding:
        decoding = Decoding(
            model, ids(3), lanes=1, max_tokens=9, chunk=2, lane_mask=LaneMask.joint(2),
            lane_rope=omega(model), sampler=WARM,
        )  # fmt: skip
        for _ in range(6):
            decoding.step()
        decoding.join([5, 6, 7, 8, 9, 10], max_tokens=3)
        return decoding

    expected, decoding = begin(), begin()
    list(expected)
    before = len(decoding.cache)
    undo = interrupt(model, calls)
    with pytest.raises(Stop):
        decoding.step()
    undo()
    assert len(decoding.cache) == before
    list(decoding)
    same(decoding.lanes, expected.lanes, 0)


# Errors: one line that names the value.


def refusal(*args: Any, **more: Any) -> str:
    with pytest.raises(TinylaneError) as caught:
        Decoding(*args, **more)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_prompts_that_cannot_be_are_refused():
    model = small(context=9)
    assert "empty" in refusal(model, [])
    assert "empty" in refusal(model, np.zeros(0, dtype=int))
    assert "no tokenizer" in refusal(model, "text")
    assert "no tokenizer" in refusal(model, [{"role": "user", "content": "text"}])
    assert "no tokenizer" in refusal(model, [1], lane_prompts=["text"])
    assert "context is 9" in refusal(model, ids(9))
    assert "context is 9" in refusal(model, ids(5), lane_prompts=[ids(4)])
    assert Decoding(model, ids(8)).clock == 8
    assert "vocabulary" in refusal(model, [VOCAB])
    assert "vocabulary" in refusal(model, [-1])
    assert "1.5" in refusal(model, [1, 1.5])
    assert "'a'" in refusal(model, ["a"])
    assert "vocabulary" in refusal(model, [1], lane_prompts=[[VOCAB]])


@pytest.mark.parametrize("lanes", [0, -1, 1025, 10_000, 2.5, True, None, "4"])
def test_a_number_of_lanes_that_cannot_be_is_refused(lanes):
    assert repr(lanes) in refusal(F64, [1], lanes=lanes)


@pytest.mark.parametrize(
    ("named", "value"),
    [
        ("seed", -1),
        ("seed", 1.5),
        ("seed", 2**128),
        ("chunk", 0),
        ("total_tokens", 0),
        ("max_tokens", 0),
        ("max_tokens", -5),
        ("max_tokens", True),
        ("max_tokens", [4, 0]),
        ("max_tokens", [4, 4, 4]),
        ("max_tokens", 1.5),
        ("lane_prompts", [[1]]),
        ("lane_prompts", []),
        ("lane_prompts", [[1], [2], [3]]),
    ],
)
def test_a_setting_out_of_range_is_refused(named, value):
    line = refusal(F64, [1], **{"lanes": 2, named: value})
    assert named.replace("_", " ") in line.replace("_", " ")


def test_a_mask_or_omega_of_the_wrong_size_is_refused():
    assert "2 x 2" in refusal(F64, [1], lanes=3, lane_mask=LaneMask.joint(2))
    assert "Omega" in refusal(F64, [1], lane_rope=LaneRoPE(np.zeros(3)))


def test_operations_on_lanes_that_cannot_be_are_refused():
    decoding = Decoding(F64, ids(4), lanes=2, max_tokens=2, lane_mask=LaneMask.joint(3))
    for call, words in (
        (lambda: decoding.fork(2), "lane 2"),
        (lambda: decoding.fork(-1), "lane -1"),
        (lambda: decoding.drop(5), "lane 5"),
        (lambda: decoding.finish(5), "lane 5"),
        (lambda: decoding.join([1]), "only 0 past"),
        (lambda: decoding.join([VOCAB]), "vocabulary"),
        (lambda: decoding.join(max_tokens=0), "max_tokens"),
        (lambda: decoding.fork(0, max_tokens=0), "max_tokens"),
    ):
        with pytest.raises(TinylaneError, match=words):
            call()
    assert len(decoding.lanes) == 2
    decoding.join()
    for call in (decoding.join, lambda: decoding.fork(0)):
        with pytest.raises(TinylaneError, match="no room for lane 3"):
            call()
    list(decoding)
    with pytest.raises(TinylaneError, match="finished"):
        decoding.step()
    with pytest.raises(TinylaneError, match="has finished"):
        decoding.fork(0)


def test_no_lane_joins_at_the_end_of_the_context():
    decoding = Decoding(small(context=6), ids(4), max_tokens=9, lane_mask=LaneMask.joint(2))
    list(decoding)
    with pytest.raises(TinylaneError, match="context"):
        decoding.join()
