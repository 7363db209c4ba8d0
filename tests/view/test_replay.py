"""Replaying in one pass gives the log-probabilities of the steps, whatever happened to lanes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_lanes import BACKENDS, EOS, OMEGAS, TOLERANCE, VOCAB, ids, model_of, omega, small
from helpers_run import F64, decoded, finished, reloaded
from helpers_view import as_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinylane.core.decoding import Decoding
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask
from tinylane.core.sampling import Sampler
from tinylane.view import replay as rerun
from tinylane.view.replay import replay

ANY = pytest.mark.parametrize("kind", BACKENDS, ids="-".join)


@ANY
@pytest.mark.parametrize("prompt_lane", ["own", 0])
def test_replaying_in_one_pass_gives_the_log_probabilities_of_the_steps(
    kind, prompt_lane, tmp_path
):
    model = model_of(*kind)
    result = finished(model, lane_rope=omega(model, prompt_lane=prompt_lane))
    again = replay(reloaded(tmp_path, result, model), model)
    assert again.difference <= TOLERANCE[kind[1]]
    assert [len(x) for x in again.logprobs] == [8, 2, 6]
    assert len(again.by_lane) == 3 and max(again.by_lane) == again.difference


def test_a_run_of_one_backend_replays_on_the_other(tmp_path):
    numpy, mlx = model_of("numpy", "float32"), model_of("mlx", "float32")
    for one, other in ((numpy, mlx), (mlx, numpy)):
        run = reloaded(tmp_path, finished(one), one)
        assert run.backend == one.backend
        assert replay(run, other).difference <= TOLERANCE["float32"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_run_with_lanes_that_join_end_and_are_dropped_replays_exactly(data):
    """Whatever happens to lanes between steps, one pass over all rows gives every number."""
    lag = data.draw(st.integers(0, 2))
    n = data.draw(st.integers(1, 3))
    bits = data.draw(st.integers(0, 2**36 - 1))
    matrix = np.array([bits >> k & 1 for k in range(36)]).reshape(6, 6)
    decoding = Decoding(
        F64,
        ids(data.draw(st.integers(1, 5))),
        lanes=n,
        lane_prompts=[ids(data.draw(st.integers(0, 3)), m) for m in range(n)],
        max_tokens=7,
        sampler=Sampler(logit_bias={EOS: data.draw(st.sampled_from([-2.0, 2.0]))}),
        lane_rope=omega(F64, data.draw(st.sampled_from(OMEGAS)), data.draw(
            st.sampled_from(["own", 0]))),
        lane_mask=LaneMask(matrix, lag),
        seed=data.draw(st.integers(0, 99)),
    )  # fmt: skip
    for _ in range(data.draw(st.integers(1, 12))):
        act = data.draw(st.sampled_from(["step", "step", "step", "join", "drop", "finish"]))
        if act == "step" and decoding.live:
            decoding.step()
        elif act == "join" and len(decoding.lanes) < 6:
            room = min(3, decoding.clock - len(decoding.prompt))
            decoding.join(ids(data.draw(st.integers(0, room)), 9), max_tokens=5)
        elif act in ("drop", "finish"):
            getattr(decoding, act)(data.draw(st.integers(0, len(decoding.lanes) - 1)))
    list(decoding)
    result = decoding.result()
    run = as_run(F64, result)
    assert replay(run, F64).difference <= TOLERANCE["float64"]


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_a_run_too_long_for_one_pass_is_replayed_in_several(rows, lag, monkeypatch):
    """Passes of one position, too, see a dropped lane no more (where plain masks are skipped)."""
    decoding = decoded(F64, lane_mask=LaneMask.joint(5, lag))
    decoding.step()
    decoding.step()
    decoding.join([4, 5], max_tokens=4)
    decoding.step()
    decoding.drop(0)
    list(decoding)
    run = as_run(F64, decoding.result())
    whole = replay(run, F64)
    monkeypatch.setattr(rerun, "ROWS", rows)
    parts = replay(run, F64)
    assert max(whole.difference, parts.difference) <= 1e-10
    monkeypatch.setattr(rerun, "ROWS", 2048)
    monkeypatch.setattr(rerun, "ELEMENTS", rows * VOCAB)
    assert replay(run, F64).difference <= 1e-10


def test_replay_finds_the_token_that_is_off(tmp_path):
    """Negative control: a log-probability that was changed by 0.1, and a token that was changed."""
    result = finished(F64)
    result.lanes[2].logprobs[3] -= 0.1
    again = replay(reloaded(tmp_path, result, F64), F64)
    assert again.worst == (2, 3) and abs(again.difference - 0.1) < 1e-9
    assert again.by_lane[0] < 1e-10 and again.by_lane[1] < 1e-10
    result = finished(F64)
    result.lanes[0].tokens[2] = (result.lanes[0].tokens[2] + 1) % VOCAB
    again = replay(as_run(F64, result), F64)
    assert again.by_lane[0] > 1e-3 and again.by_lane[2] > 1e-3  # lane 1 had ended by then


@pytest.mark.parametrize("change", [{"lag": 0}, {"prompt_lane": 0}, {"omega": [0.0] * 4}])
def test_replay_notices_other_lane_settings(change):
    result = finished(F64)
    result.settings = {**result.settings, **change}
    assert replay(as_run(F64, result), F64).difference > 1e-3


def test_replay_notices_a_drop_and_a_late_prompt_that_the_file_hides():
    for hide in ({"dropped": None, "finish_reason": "length"}, {"start": 9}):
        decoding = decoded(F64, lane_mask=LaneMask.joint(4))
        decoding.step()
        decoding.step()
        decoding.join([4, 5], max_tokens=4)
        decoding.step()
        decoding.drop(0)
        list(decoding)
        result = decoding.result()
        assert replay(as_run(F64, result), F64).difference < 1e-10
        lane = result.lanes[3 if "start" in hide else 0]
        for name, value in hide.items():
            setattr(lane, name, value + 1 if name == "start" else value)
        assert replay(as_run(F64, result), F64).difference > 1e-3


@ANY
@pytest.mark.parametrize("matrix", ["independent", "star"])
def test_a_fork_of_a_lane_that_reads_nobody_replays_exactly(kind, matrix, tmp_path):
    """In the star, lane 0 reads the fork, from the moment it was forked on."""
    model = model_of(*kind)
    decoding = decoded(model, lane_mask=LaneMask.named(matrix, 5, 1), max_tokens=9)
    for _ in range(3):
        decoding.step()
    decoding.fork(1)
    decoding.step()
    decoding.drop(1)
    decoding.fork(3)
    list(decoding)
    run = reloaded(tmp_path, decoding.result(), model)
    assert [lane.forked for lane in run.result.lanes[3:]] == [(1, 10), (3, 11)]
    assert run.result.lanes[1].dropped == 11
    assert replay(run, model).difference <= TOLERANCE[kind[1]]


@pytest.mark.parametrize(
    ("mask", "prompt_lane", "words"),
    [
        (LaneMask.joint(4), "own", "lane 1 reads other lanes"),
        (LaneMask.star(4), 0, "prompt at lane 0"),
    ],
)
def test_a_fork_that_no_pass_can_give_is_refused(mask, prompt_lane, words):
    decoding = decoded(F64, lane_mask=mask, lane_rope=omega(F64, prompt_lane=prompt_lane))
    decoding.step()
    decoding.fork(1)
    list(decoding)
    with pytest.raises(TinylaneError, match=words):
        replay(as_run(F64, decoding.result()), F64)


def test_a_run_of_another_model_is_refused(tmp_path):
    run = reloaded(tmp_path, finished(F64), F64)
    with pytest.raises(TinylaneError, match=r"some/model.*'other'"):
        replay(run, small(identity="other"))
    with pytest.raises(TinylaneError, match="Omega has shape"):
        replay(run, small(head_dim=16))
    with pytest.raises(TinylaneError, match=r"lane 0 ends at position 15; .* context is 14"):
        replay(run, small(context=14))
    with pytest.raises(TinylaneError, match="outside the vocabulary"):
        replay(run, small(vocab=4))


def test_a_prompt_of_exactly_the_context_replays(tmp_path):
    """Its one token was never fed; a second one could not have been drawn."""
    model = small(context=9)
    decoding = Decoding(model, ids(9), 2, max_tokens=5)
    list(decoding)
    run = reloaded(tmp_path, decoding.result(), model)
    assert [len(lane.tokens) for lane in run.result.lanes] == [1, 1]
    assert replay(run, model).worst is not None
    run.result.lanes[0].tokens *= 2
    with pytest.raises(TinylaneError, match="context is 9"):
        replay(run, model)


def test_an_interrupted_run_replays_as_far_as_it_got(tmp_path):
    decoding = decoded(F64)
    empty = replay(reloaded(tmp_path, decoding.result(), F64), F64)
    assert empty.worst is None and empty.difference == 0.0 and empty.logprobs == [[], [], []]
    for _ in range(3):
        decoding.step()
    for lane in range(3):
        decoding.finish(lane)
    run = reloaded(tmp_path, decoding.result(), F64)
    assert {lane.finish_reason for lane in run.result.lanes} == {"interrupted", "length"}
    assert replay(run, F64).difference <= 1e-10
