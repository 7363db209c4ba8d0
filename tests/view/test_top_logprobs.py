"""The likeliest tokens beside each drawn one: in steps, run files, replay and the shell."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers_lanes import BACKENDS, VOCAB, ids, model_of, omega
from helpers_run import decoded, finished, reloaded
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylane.commands.cli import main
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding, generate, likeliest
from tinylane.view.replay import replay
from tinylane.view.run_file import load_run

F64 = model_of("numpy", "float64")


def slow(logits: list[float], k: int) -> list[tuple[int, float]]:
    """All tokens sorted, one exponential at a time."""
    total = math.fsum(math.exp(x) for x in logits)
    ranked = sorted(range(len(logits)), key=lambda t: (-logits[t], t))
    return [(t, logits[t] - math.log(total)) for t in ranked if logits[t] > -math.inf][:k]


@given(
    st.lists(st.sampled_from([-math.inf, -2.5, 0.0, 0.5, 3.0]), min_size=1, max_size=30), st.data()
)
@settings(deadline=None)
def test_the_likeliest_come_first_of_equals_the_lowest_id_and_none_that_is_impossible(logits, data):
    logits[data.draw(st.integers(0, len(logits) - 1))] = 1.0
    k = data.draw(st.integers(0, len(logits)))
    got, expected = likeliest(np.array(logits), k), slow(logits, k)
    assert [t for t, _ in got] == [t for t, _ in expected]
    np.testing.assert_allclose([p for _, p in got], [p for _, p in expected], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
def test_the_likeliest_token_is_what_greedy_draws_with_the_same_log_probability(kind):
    """And asking changes nothing: neither tokens nor log-probabilities."""
    model = model_of(*kind)
    asked, plain = (
        generate(
            model, ids(5), lanes=3, max_tokens=9, top_logprobs=k, sampler=Sampler(temperature=0),
            lane_rope=omega(model), lane_mask=LaneMask.joint(3),
        )
        for k in (4, 0)
    )  # fmt: skip
    for lane, other in zip(asked.lanes, plain.lanes, strict=True):
        assert lane.tokens == other.tokens and lane.logprobs == other.logprobs
        firsts = [top[0] for top in lane.top_logprobs]
        assert firsts == list(zip(lane.tokens, lane.logprobs, strict=True))
        assert {len(top) for top in lane.top_logprobs} == {4} and other.top_logprobs == []


def test_all_tokens_together_have_probability_1_and_steps_tell_what_lanes_keep():
    decoding = decoded(F64, top_logprobs=VOCAB)
    told: list[list] = [[], [], []]
    for step in decoding:
        for m, top in enumerate(step.top_logprobs):
            told[m] += [top] if top else []
    for lane, tops in zip(decoding.lanes, told, strict=True):
        assert lane.top_logprobs == tops and len(tops) == len(lane.tokens)
        for token, logprob, top in zip(lane.tokens, lane.logprobs, tops, strict=True):
            assert dict(top)[token] == logprob
            assert math.fsum(math.exp(p) for _, p in top) == pytest.approx(1, abs=1e-12)


def test_a_fork_keeps_what_its_source_was_told():
    decoding = Decoding(F64, ids(4), lanes=1, lane_mask=LaneMask.independent(2), top_logprobs=2)
    decoding.step()
    fork = decoding.fork(0)
    decoding.step()
    assert fork.top_logprobs[0] == decoding.lanes[0].top_logprobs[0]
    assert [len(lane.top_logprobs) for lane in decoding.lanes] == [2, 2]


@pytest.mark.parametrize("k", [-1, VOCAB + 1, 1.5, "3", None, True])
def test_a_number_of_likeliest_tokens_that_cannot_be_is_refused(k):
    with pytest.raises(TinylaneError, match="top_logprobs is"):
        generate(F64, ids(4), top_logprobs=k)


def test_a_run_file_holds_them_and_replay_checks_every_one(tmp_path):
    result = finished(F64, top_logprobs=3)
    run = reloaded(tmp_path, result, F64)
    assert run.result == result
    again = replay(run, F64)
    assert again.difference < 1e-10
    assert [[[t for t, _ in top] for top in lane] for lane in again.top_logprobs] == [
        [[t for t, _ in top] for top in lane.top_logprobs] for lane in result.lanes
    ]
    token, logprob = result.lanes[2].top_logprobs[1][2]
    result.lanes[2].top_logprobs[1][2] = (token, logprob - 0.25)
    changed = replay(reloaded(tmp_path, result, F64), F64)
    assert changed.worst == (2, 1) and changed.difference == pytest.approx(0.25, abs=1e-9)
    result.lanes[2].top_logprobs[1][2] = (VOCAB, logprob)
    with pytest.raises(TinylaneError, match="lane 2 has tokens outside the vocabulary"):
        replay(reloaded(tmp_path, result, F64), F64)


def test_a_run_file_without_them_is_what_it_was_and_replay_can_give_them(tmp_path):
    run = reloaded(tmp_path, finished(F64), F64)
    raw = json.loads((tmp_path / "run.json").read_text())
    assert all("top_logprobs" not in lane for lane in raw["lanes"])
    assert replay(run, F64).top_logprobs == [[[]] * len(x.tokens) for x in run.result.lanes]
    told = finished(F64, top_logprobs=2)
    for lane, expected in zip(replay(run, F64, 2).top_logprobs, told.lanes, strict=True):
        np.testing.assert_allclose(lane, expected.top_logprobs, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "wrong", [5, [[]], [[[1, -1.0]]] * 7, [[[1]]] * 8, [[[1, 0.5]]] * 8, [[[-1, -1.0]]] * 8,
              [[["1", -1.0]]] * 8, [3] * 8, [[3]] * 8, [[[1, "x"]]] * 8],
)  # fmt: skip
def test_a_run_file_with_others_is_refused(wrong, tmp_path):
    reloaded(tmp_path, finished(F64, top_logprobs=1), F64)
    path = tmp_path / "run.json"
    raw = json.loads(path.read_text())
    raw["lanes"][0]["top_logprobs"] = wrong
    path.write_text(json.dumps(raw))
    with pytest.raises(TinylaneError, match=r"lane 0\.top_logprobs is"):
        load_run(path)


def test_generate_and_replay_print_them(tmp_path, capsys):
    path = str(tmp_path / "run.json")
    words = ["generate", "--seed", "7", "--lanes", "2", "--json", "--save", path]
    assert main([*words, "--top-logprobs", "2"]) == 0
    lanes = json.loads(capsys.readouterr().out)["lanes"]
    assert all(len(top) == 2 for lane in lanes for top in lane["top_logprobs"])
    assert main(["replay", path, "--json", "--top-logprobs", "1"]) == 0
    again = json.loads(capsys.readouterr().out)["top_logprobs"]
    assert [[top[0][0] for top in lane] for lane in again] == [
        [top[0][0] for top in lane["top_logprobs"]] for lane in lanes
    ]
    assert main(["generate", "--seed", "7", "--top-logprobs", "2"]) == 2
    assert main(["replay", path, "--top-logprobs", "1"]) == 2
    assert capsys.readouterr().err.count("--top-logprobs needs --json") == 2
