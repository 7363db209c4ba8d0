"""Run files of lanes that join, wait, are forked, sealed and dropped: they come back, and a life
that no run can have is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from helpers_run import F64, decoded, lived, reloaded, set_

from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask
from tinylane.view.events import events_of
from tinylane.view.replay import replay
from tinylane.view.run_file import load_run, save_run


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
    settings = {**rope.settings(), **mask.settings()}
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
