"""Replaying in one pass gives the log-probabilities of the steps, whatever happened to lanes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_lanes import BACKENDS, EOS, OMEGAS, TOLERANCE, VOCAB, ids, model_of, omega, small
from helpers_life import LIVES, live
from helpers_run import F64, decoded, finished, reloaded
from helpers_view import as_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding
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


def test_a_fork_that_is_dropped_before_it_was_fed_has_no_rows(tmp_path):
    """Its copies never came: a replay that waited for them would not end."""
    decoding = decoded(F64, lane_mask=LaneMask.joint(4), max_tokens=6)
    decoding.step()
    decoding.fork(1)
    decoding.drop(3)
    list(decoding)
    run = reloaded(tmp_path, decoding.result(), F64)
    assert replay(run, F64).difference <= TOLERANCE["float64"]


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
    decoding = decoded(F64, lane_mask=LaneMask.joint(4))
    decoding.step()
    decoding.step()
    decoding.join([4, 5], max_tokens=4)
    decoding.step()
    decoding.drop(0)
    list(decoding)
    result = decoding.result()
    assert replay(as_run(F64, result), F64).difference < 1e-10
    join, drop = result.settings["events"]
    later = {**join, "step": join["step"] + 1}
    for told in ([join], [join, {**drop, "step": drop["step"] + 1}], [later, drop]):
        result.settings["events"] = told
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


@ANY
@pytest.mark.parametrize("prompt_lane", ["own", 0])
def test_a_fork_of_lanes_that_read_each_other_replays_exactly(kind, prompt_lane, tmp_path):
    """Its rows hold what the source had read at its own coordinates: they are copied again."""
    model = model_of(*kind)
    decoding = decoded(
        model,
        lane_mask=LaneMask.joint(5),
        max_tokens=9,
        lane_rope=omega(model, "layers", prompt_lane),
    )
    decoding.step()
    decoding.step()
    decoding.fork(1)
    decoding.fork(3)
    list(decoding)
    run = reloaded(tmp_path, decoding.result(), model)
    assert replay(run, model).difference <= TOLERANCE[kind[1]]
    run.result.settings["events"][0]["step"] -= 1  # the control: it copied one row less
    run.result.settings["events"][1]["step"] -= 1
    assert replay(run, model).difference > 1e-3
    run.result.settings["events"][1]["step"] += 2
    with pytest.raises(TinylaneError, match="begins with other tokens"):
        replay(run, model)


def test_a_fork_that_begins_with_other_tokens_than_its_source_is_refused():
    decoding = decoded(F64, lane_mask=LaneMask.joint(4), max_tokens=6)
    decoding.step()
    decoding.step()
    decoding.fork(1)
    list(decoding)
    result = decoding.result()
    result.lanes[3].tokens[0] = (result.lanes[3].tokens[0] + 1) % VOCAB
    words = "lane 3 was forked from lane 1, but begins with other tokens"
    with pytest.raises(TinylaneError, match=words):
        replay(as_run(F64, result), F64)


# Every operation of a life.


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=LIVES, data=st.data())
def test_any_life_replays_exactly_from_its_events(script, data, tmp_path_factory):
    """Lanes that see, wait, are sealed, given, placed anywhere, forked and dropped, in a deep model
    and from the file: the rows stand where they stood, and were there from when they were fed."""
    hogwild = data.draw(st.booleans())
    decoding = Decoding(
        F64, ids(4), 2, lane_prompts=[[1], []], max_tokens=30, seed=data.draw(st.integers(0, 9)),
        sampler=Sampler(logit_bias={EOS: data.draw(st.sampled_from([-2.0, 2.0]))}),
        lane_rope=Hogwild((1,)) if hogwild else omega(F64, "layers", data.draw(
            st.sampled_from(["own", 0]))),
        lane_mask=LaneMask.joint(data.draw(st.integers(2, 4)), data.draw(st.integers(0, 2))),
    )  # fmt: skip
    live(decoding, script)
    for _ in range(3):
        if decoding.live:
            decoding.step()
    folder = tmp_path_factory.mktemp("life")
    run = reloaded(folder, decoding.result(), F64)
    assert run.result == decoding.result()
    assert replay(run, F64).difference <= TOLERANCE["float64"]
    for rows in (1, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rerun, "ROWS", rows)
            assert replay(run, F64).difference <= TOLERANCE["float64"]


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
