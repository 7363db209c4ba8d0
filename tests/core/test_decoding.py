"""Joint decoding: what `Decoding` gives is what a fresh pass over all rows at every step gives."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from helpers_lanes import (
    BACKENDS,
    EOS,
    OMEGAS,
    TOLERANCE,
    TWO,
    VOCAB,
    WARM,
    ids,
    model_of,
    omega,
    same,
    small,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.oracle import naive
from tinylane.core.sampling import Sampler, uniform
from tinylane.methods.decoding import Decoding, generate

F64 = model_of("numpy", "float64")


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


def check_against_oracle(kind: tuple[str, str], data: Any) -> None:
    model = model_of(*kind)
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
    model = model_of("mlx", "float32")
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
    model, prompt = model_of(*kind), ids(9)
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
    model = model_of(*kind)

    def run(seed: int) -> list[list[int]]:
        result = generate(
            model, ids(5, seed), lanes=3, sampler=WARM, max_tokens=12, seed=seed,
            lane_rope=omega(model), lane_mask=LaneMask.joint(3),
        )  # fmt: skip
        return [lane.tokens for lane in result.lanes]

    expected = {seed: run(seed) for seed in range(4)}
    results: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: results.update({seed: run(seed)}))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


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
    assert "context is 9" in refusal(model, ids(10))
    assert "context is 9" in refusal(model, ids(5), lane_prompts=[ids(5)])
    assert Decoding(model, ids(9)).clock == 9
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
    with pytest.raises(TinylaneError, match="no room for lane 3"):
        decoding.join()
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
