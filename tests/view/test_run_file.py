"""run.json: what was saved comes back, nothing else is believed, and replay checks every number."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from helpers_lanes import (
    BACKENDS,
    FREE,
    WARM,
    model_of,
    omega,
    small,
)
from helpers_run import decoded, finished, reloaded
from helpers_text import byte_level
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Core

from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core import times
from tinylane.core.decoding import Decoding, generate
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask
from tinylane.core.sampling import Sampler
from tinylane.view import run_file
from tinylane.view.events import events_of
from tinylane.view.replay import replay
from tinylane.view.run_file import load_run, save_run

ANY = pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
F64 = model_of("numpy", "float64")


# Saving and loading.


@pytest.mark.parametrize(
    "sampler",
    [
        WARM,
        FREE,
        Sampler(0.6, top_p=0.9, top_k=9, min_p=0.01, repetition_penalty=1.1, logit_bias={2: 1.5}),
    ],
    ids=["plain", "banned", "all"],
)
def test_a_run_comes_back_as_it_was_saved(sampler, tmp_path):
    result = finished(F64, sampler=sampler, seed=2**128 - 1)
    run = reloaded(tmp_path, result, F64, extra={"answer": ["42", None, 1.5]})
    assert run.result.lanes == result.lanes and run.result.prompt == result.prompt
    assert run.result == result
    assert (run.model_source, run.identity) == ("some/model", "small")
    assert (run.backend, run.dtype, run.seed) == ("numpy", "float64", 2**128 - 1)
    assert run.sampler == sampler and run.extra == {"answer": ["42", None, 1.5]}
    assert run.lane_rope.same_as(omega(F64)) and run.lane_mask.same_as(LaneMask.joint(5, lag=1))
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    save_run(tmp_path / "again.json", run.result, F64, run.model_source, run.extra)
    assert (tmp_path / "again.json").read_text() == (tmp_path / "run.json").read_text()


def test_a_saved_run_can_be_run_again_from_its_file(tmp_path):
    """The settings are all there: the same lanes come out (mlx-lm 1245)."""
    result = finished(F64)
    run = reloaded(tmp_path, result, F64)
    again = generate(
        F64,
        run.result.prompt,
        lanes=3,
        lane_prompts=[lane.prompt for lane in run.result.lanes],
        max_tokens=[lane.max_tokens for lane in run.result.lanes],
        lane_rope=run.lane_rope,
        lane_mask=run.lane_mask,
        sampler=run.sampler,
        seed=run.seed,
    )
    assert again.lanes == result.lanes


def test_texts_of_any_kind_come_back(tmp_path):
    tokenizer = Tokenizer(Core.from_str(byte_level()), {"eos_token": "</s>"})
    model = small(vocab=tokenizer.vocab_size, tokenizer=tokenizer)
    result = generate(model, "Überall 🎾", lanes=2, max_tokens=30, sampler=WARM, stop=["\u2028"])
    run = reloaded(tmp_path, result, model, extra={"odd": "\ud83c \u2028 \x1b \x00"})
    assert run.result == result and any(lane.text for lane in run.result.lanes)
    assert run.prompt_text == "Überall 🎾"
    assert run.extra == {"odd": "\ud83c \u2028 \x1b \x00"}


def test_a_run_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    result = finished(F64)
    with pytest.raises(TinylaneError, match="not JSON"):
        save_run(tmp_path / "run.json", result, F64, "x", extra={"array": np.zeros(2)})
    with pytest.raises(TinylaneError, match="not JSON"):
        save_run(tmp_path / "run.json", result, F64, "x", extra={"nan": math.nan})
    with pytest.raises(TinylaneError, match="cannot be written"):
        save_run(tmp_path / "absent" / "run.json", result, F64, "x")
    assert list(tmp_path.iterdir()) == []


def set_(*path: Any) -> Any:
    """What puts the last of `path` where the rest leads; without a value, it removes."""

    def change(raw: Any) -> None:
        *way, last, value = path
        for step in way:
            raw = raw[step]
        if value is KeyError:
            del raw[last]
        else:
            raw[last] = value

    return change


WRONG = {
    "format": (set_("format", "tinylane run 9"), "not a run"),
    "no format": (set_("format", KeyError), "not a run"),
    "no model": (set_("model", KeyError), "model is missing"),
    "model a list": (set_("model", []), r"model is \[\]"),
    "identity": (set_("model", "identity", 5), "identity is 5"),
    "no prompt": (set_("prompt", "ids", []), "prompt.ids is empty"),
    "prompt ids": (set_("prompt", "ids", [1, -1]), "ids is"),
    "prompt bools": (set_("prompt", "ids", [True]), "ids is"),
    "prompt text": (set_("prompt", "text", None), "text is missing"),
    "no lanes": (set_("lanes", []), "0 lanes"),
    "lanes a text": (set_("lanes", "three"), "lanes is 'three'"),
    "lane a number": (set_("lanes", 0, 7), "lane 0 is 7"),
    "lane without text": (set_("lanes", 0, "text", KeyError), "lane 0 is"),
    "lane with more": (set_("lanes", 0, "more", 1), "lane 0 is"),
    "index": (set_("lanes", 1, "index", 0), "lane 1.index is 0; expected"),
    "tokens": (set_("lanes", 0, "tokens", [1.0] * 8), "tokens is"),
    "logprobs short": (
        set_("lanes", 0, "logprobs", [-1.0]),
        "logprobs is .* 8 numbers",
    ),
    "logprobs texts": (
        set_("lanes", 0, "logprobs", ["-1"] * 8),
        "logprobs is .* 8 numbers",
    ),
    "logprobs positive": (
        set_("lanes", 0, "logprobs", [2.0] * 8),
        "logprobs is .* 8 numbers",
    ),
    "start": (set_("lanes", 0, "start", 5), "start is 5"),
    "huge start": (set_("lanes", 0, "start", 1 << 40), "start is"),
    "max_tokens": (set_("lanes", 0, "max_tokens", 0), "max_tokens is 0"),
    "reason": (set_("lanes", 0, "finish_reason", 3), "finish_reason is 3"),
    "lane text": (set_("lanes", 0, "text", ["a"]), "text is"),
    "forked shape": (set_("lanes", 1, "forked", [0]), "forked is"),
    "forked from itself": (set_("lanes", 1, "forked", [1, 7]), "cannot be forked"),
    "forked too late": (set_("lanes", 1, "forked", [0, 70]), "cannot be forked"),
    "dropped early": (set_("lanes", 0, "dropped", 7), "dropped is 7"),
    "seed": (set_("settings", "seed", -1), "seed is"),
    "seed text": (set_("settings", "seed", "12a"), "seed is"),
    "seed large": (set_("settings", "seed", "9" * 39), "seed is"),
    "sampler field": (set_("settings", "sampler", "heat", 1), "sampler has fields"),
    "sampler value": (set_("settings", "sampler", "temperature", -1), "temperature"),
    "sampler text": (set_("settings", "sampler", "top_p", "0.5"), "top_p"),
    "bias": (set_("settings", "sampler", "logit_bias", [[1, 2, 3]]), "logit_bias holds"),
    "bias text": (set_("settings", "sampler", "logit_bias", [[1, "x"]]), "logit_bias"),
    "omega": (set_("settings", "omega", [["1", "2"]]), "omega is"),
    "omega ragged": (set_("settings", "omega", [[1.0], [1.0, 2.0]]), "omega is"),
    "omega mixed": (set_("settings", "omega", [[1.0], 2.0]), "omega is"),
    "omega empty": (set_("settings", "omega", []), "Omega has shape"),
    "prompt_lane": (set_("settings", "prompt_lane", 1), "prompt_lane is 1"),
    "visibility": (set_("settings", "visibility", [[1, 1]]), "visibility has shape"),
    "visibility values": (set_("settings", "visibility", [[2]]), "other than true and false"),
    "visibility small": (set_("settings", "visibility", [[1]]), "3 lanes, but visibility"),
    "lag": (set_("settings", "lag", -1), "lag is -1"),
    "lag real": (set_("settings", "lag", 1.0), "lag is 1.0"),
    "stop": (set_("settings", "stop", [1.5]), "stop is [^;]*; expected a list of texts"),
    "steps": (set_("steps", "8"), "steps is '8'"),
    "seconds": (set_("seconds", -1), "seconds is -1"),
    "extra": (set_("extra", None), "extra is missing"),
}


def lived(hogwild: bool = False) -> Any:
    """Lanes that join, wait, are forked, sealed, given, told whom to read, dropped; 4 steps."""
    rope = Hogwild((1,)) if hogwild else omega(F64)
    decoding = Decoding(
        F64, [5, 6, 7], 2, max_tokens=9, lane_rope=rope, lane_mask=LaneMask.joint(2), sampler=FREE
    )
    decoding.step()
    decoding.pause(1)
    decoding.join([4, 5], sees=[0], max_tokens=9)
    decoding.step()
    decoding.resume(1)
    decoding.fork(2)
    decoding.give(3, [8])
    decoding.step()
    decoding.seal(0)
    decoding.read(1, 2)
    if hogwild:
        decoding.arrange([2, 1])
    decoding.step()
    decoding.drop(2)
    decoding.finish(1)
    return decoding.result()


def event(k: int, field: str, value: Any) -> Any:
    return set_("settings", "events", k, field, value)


def moved(raw: Any) -> None:
    """The fork's event before that of the lane it comes from."""
    events = raw["settings"]["events"]
    events.insert(0, {**events.pop(3), "step": 0, "clock": 3})


# Events: 0 pause 1, 1 join 2, 2 resume 1, 3 fork 3 of 2, 4 give 3, 5 seal 0 (4), 6 read 1 of 2,
# 7 drop 2, 8 finish 1.
WRONG_LIFE = {
    "events no list": (set_("settings", "events", {}), "events is {}; expected a list of objects"),
    "an event a text": (set_("settings", "events", 0, "pause"), "expected a list of objects"),
    "unknown event": (event(0, "event", "sleep"), "events 0 is .* expected the fields of join, fo"),
    "event a number": (event(0, "event", 5), "events 0 is .* expected the fields of join"),
    "event a list": (event(0, "event", []), "events 0 is .* expected the fields of join"),
    "a field more": (event(0, "more", 1), "events 0 is .* expected the fields of"),
    "a field less": (event(1, "at", KeyError), "events 1 is .* expected the fields of"),
    "no such lane": (
        event(0, "lane", 2),
        "events 0.lane is 2; expected a whole .* 0 to 1",
    ),
    "lane real": (event(0, "lane", 1.0), "events 0.lane is 1.0; expected a whole number"),
    "lane true": (event(0, "lane", True), "events 0.lane is True; expected a whole number"),
    "a lane begins late": (event(1, "lane", 3), "events 1.lane is 3; expected .* from 2 to 2"),
    "too many begin": (
        lambda raw: raw["settings"]["events"].extend([raw["settings"]["events"][1]] * 4),
        "events begin more lanes than the 5 that there are",
    ),
    "step back": (event(2, "step", 0), "events 2.step is 0; expected a whole number from 1 to 4"),
    "step beyond": (event(8, "step", 5), "events 8.step is 5; expected a whole number from 4 to 4"),
    "clock back": (event(3, "clock", 2), "events 3.clock is 2; expected a whole number from 7"),
    "clock a text": (event(3, "clock", "7"), "events 3.clock is '7'; expected a whole number"),
    "sees itself": (event(1, "sees", [2]), r"events 1.sees is \[2\]; expected different lanes fro"),
    "sees twice": (event(1, "sees", [0, 0]), r"events 1.sees is \[0, 0\]; expected different lan"),
    "sees texts": (event(1, "sees", ["0"]), "events 1.sees is .* expected a list of whole num"),
    "at another": (event(1, "at", 5), "events 1.at is 5; expected 4, as lane 2 says"),
    "source later": (event(3, "source", 3), "events 3.source is 3; expected a whole .* 0 to 2"),
    "another source": (event(3, "source", 1), "lane 3 was forked, sealed or dropped otherwise"),
    "fork first": (moved, "events 0.lane is 3; expected a whole number from 2 to 2"),
    "seal of another": (event(5, "source", 1), "lane 4 was forked, sealed or dropped otherwise"),
    "seal too late": (event(5, "step", 4), r"events 5.step is 4; expected none after lane 4 wrote"),
    "of no lane": (event(6, "of", 5), "events 6.of is 5; expected a whole number from 0 to 4"),
    "yes a number": (event(6, "yes", 1), "events 6.yes is 1; expected true or false"),
    "given texts": (event(4, "tokens", ["a"]), "events 4.tokens is .* expected token ids"),
    "reason": (event(8, "reason", 0), "events 8.reason is 0; expected a text"),
    "another drop": (event(7, "lane", 1), "lane 1 was forked, sealed or dropped otherwise"),
    "a hidden drop": (
        lambda raw: raw["settings"]["events"].pop(7),
        "lane 2 was forked, sealed or dropped otherwise than the events say",
    ),
    "spans no list": (set_("lanes", 1, "spans", 5), "lane 1.spans is 5; expected a list of lists"),
    "span short": (set_("lanes", 1, "spans", 0, [0, 3]), "lane 1.spans is .* an index, a position"),
    "span real": (set_("lanes", 1, "spans", 0, [0, 3.0, 0]), "lane 1.spans is .* an index, a posi"),
    "spans begin late": (
        set_("lanes", 1, "spans", 0, [1, 3, 0]),
        "lane 1.spans holds .* counts on",
    ),
    "spans again": (
        set_("lanes", 1, "spans", 1, [0, 7, 2]),
        "lane 1.spans holds .* counts on",
    ),
    "spans back": (set_("lanes", 1, "spans", 1, [1, 3, 2]), "lane 1.spans holds .* counts on"),
    "spans before": (set_("lanes", 1, "spans", 0, [0, 2, 0]), "lane 1.spans holds .* counts on"),
    "spans too long": (set_("lanes", 1, "spans", 1, [9, 20, 9]), "lane 1.spans holds .* counts on"),
    "spans too far": (set_("lanes", 1, "spans", 1, [1, 1 << 40, 2]), "lane 1.spans holds"),
    "spans too late": (set_("lanes", 1, "spans", 1, [1, 7, 9]), "lane 1.spans go beyond step 4"),
    "follows itself": (set_("lanes", 4, "follows", 4), "follows is 4; expected a whole number"),
    "follows a text": (set_("lanes", 4, "follows", "0"), "follows is '0'; expected a whole"),
    "follows nobody": (set_("lanes", 4, "follows", KeyError), "lane 4 was forked, sealed or drop"),
    "times no list": (set_("settings", "times", 3), "times is 3; expected a list of lists"),
    "times short": (set_("settings", "times", 0, [1]), r"times holds \[1\]; expected two lanes"),
    "times of itself": (set_("settings", "times", 0, [1, 1, 0, None]), "of lanes that do not read"),
    "times of no lane": (
        set_("settings", "times", 0, [1, 9, 0, None]),
        "of lanes that do not read",
    ),
    "times back": (set_("settings", "times", 0, [1, 2, 5, 4]), "times holds .* since, and until"),
    "times negative": (set_("settings", "times", 0, [1, 2, -1, 4]), "times holds .* since, and"),
    "arranged": (
        lambda raw: raw["settings"]["events"].append(
            {"event": "arrange", "lane": 1, "step": 4, "clock": 9, "order": [1], "was": []}
        ),
        "events arrange lanes, which only the rotation hogwild can",
    ),
}


@pytest.mark.parametrize("what", WRONG_LIFE)
def test_a_life_that_no_run_can_have_is_refused_in_one_line(what: str, tmp_path: Any) -> None:
    change, words = WRONG_LIFE[what]
    file = tmp_path / "run.json"
    save_run(file, lived(), F64)
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))
    with pytest.raises(TinylaneError, match=words) as caught:
        load_run(file)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(file))


@pytest.mark.parametrize("hogwild", [False, True])
def test_a_life_comes_back_as_it_was_saved(hogwild: bool, tmp_path: Any) -> None:
    result = lived(hogwild)
    run = reloaded(tmp_path, result, F64)
    assert run.result == result and run.lane_mask.since is not None
    assert len(run.result.settings["events"]) == 9 + hogwild
    if hogwild:
        assert run.lane_rope == Hogwild((2, 1))
    i, m = np.tile(np.arange(12), 6), np.repeat(np.arange(-1, 5), 12)
    rope, mask = run.lane_rope, run.lane_mask
    settings = {**rope.settings(), **times.settings(mask)}
    assert settings.items() <= json.loads(json.dumps(result.settings)).items()
    assert mask.visible(i, m, i, m).any() and replay(run, F64).difference < 1e-10


def test_an_order_of_lanes_that_are_not_there_is_refused(tmp_path: Any) -> None:
    save_run(tmp_path / "run.json", lived(hogwild=True), F64)
    raw = json.loads((tmp_path / "run.json").read_text())
    for order, words in (
        ([9], r"order is \[9\]; expected different lanes from 0 to 4"),
        ([1, 1], r"order is \[1, 1\]; expected different lanes"),
        ("12", "order is '12'; expected a list of whole numbers"),
    ):
        raw["settings"]["order"] = order
        (tmp_path / "run.json").write_text(json.dumps(raw))
        with pytest.raises(TinylaneError, match=words):
            load_run(tmp_path / "run.json")


def test_files_that_are_older_load_and_replay_as_before(tmp_path: Any) -> None:
    """They have neither spans nor events: lanes count on, and their fields tell what happened."""
    decoding = decoded(F64, lane_mask=LaneMask.star(6))
    decoding.step()
    decoding.step()
    decoding.join([4, 5], max_tokens=4)
    decoding.fork(2)
    decoding.step()
    decoding.drop(0)
    list(decoding)
    result = decoding.result()
    save_run(tmp_path / "run.json", result, F64)
    raw = json.loads((tmp_path / "run.json").read_text())
    events = raw["settings"].pop("events")
    for lane in raw["lanes"]:
        del lane["spans"]
    (tmp_path / "run.json").write_text(json.dumps(raw))
    run = load_run(tmp_path / "run.json")
    assert run.result.lanes == result.lanes, "with the spans that they had"
    assert events_of(run.result) == events
    assert replay(run, F64).difference < 1e-10


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("run")
    save_run(folder / "run.json", finished(F64), F64, "some/model")
    return json.loads((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def saved_life(tmp_path_factory: Any) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("life")
    save_run(folder / "run.json", lived(), F64, "some/model")
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("what", WRONG)
def test_a_malformed_run_is_refused_in_one_line_that_names_the_field(what, saved, tmp_path):
    change, words = WRONG[what]
    raw, file = copy.deepcopy(saved), tmp_path / "run.json"
    change(raw)
    file.write_text(json.dumps(raw))
    with pytest.raises(TinylaneError, match=words) as caught:
        load_run(file)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(file))


def test_files_that_are_no_run_are_refused(tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    for text in ("", "[]", "{}", '{"format": "tinylane run 1"}', "{" * 100_000, "\xff"):
        file.write_bytes(text.encode("latin-1"))
        with pytest.raises(TinylaneError, match=r"run\.json"):
            load_run(file)
    with pytest.raises(TinylaneError):
        load_run(tmp_path)
    reloaded(tmp_path, finished(F64), F64)
    monkeypatch.setattr(run_file, "MAX_RUN", 100)
    with pytest.raises(TinylaneError, match="larger than 100 bytes"):
        load_run(file)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow,
          HealthCheck.function_scoped_fixture], derandomize=True)  # fmt: skip
@given(data=st.data())
def test_any_change_of_a_run_file_is_read_or_refused_and_never_crashes(data, saved, saved_life):
    """Values of any kind at any place."""
    raw = copy.deepcopy(data.draw(st.sampled_from([saved, saved_life])))
    at, key = None, None
    place = raw
    while isinstance(place, (dict, list)) and place:
        keys = sorted(place) if isinstance(place, dict) else range(min(len(place), 3))
        at, key = place, data.draw(st.sampled_from(keys))
        place = place[key]
        if data.draw(st.integers(0, 3)) == 0:
            break
    odd = st.sampled_from([None, True, -1, 0, 1, 1.5, 1e300, 10**19, "", "x", [], [[]], [None], {}])
    at[key] = data.draw(odd | st.lists(odd, max_size=2))
    try:
        run = run_file._run(raw)
    except TinylaneError as error:
        assert "\n" not in str(error)
    else:
        try:
            replay(run, F64)
        except TinylaneError as error:
            assert "\n" not in str(error)
