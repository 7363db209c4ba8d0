"""A session's run as a file: replayed in one pass, and written again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_serve import ROOT

import tinylane
from tinylane import methods
from tinylane.core.errors import TinylaneError
from tinylane.serve.opening import Start, begin, reopen
from tinylane.serve.session import PlaySession
from tinylane.view.replay import replay
from tinylane.view.replay_record import record
from tinylane.view.run_file import load_run, save_run

SWAPS = "1-3 2-4 1-2 3-4 1-3 2-4 1-2 3-4 1-4 2-3 1-4 2-3 1-2 2-3 3-4 1-4"
DEEDS = ("read", "switch", "arrange", "pause", "fork", "what_if", "give", "silence", "drop")
LIKELY = (0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025)
TURNS = ("none", "ntk", "group_think", "hogwild", "learned")


@pytest.fixture(scope="module")
def model() -> Any:
    return tinylane.load(ROOT / "weights" / "shell-game", backend="numpy")


def started(model: Any, **changes: Any) -> PlaySession:
    usual: dict[str, Any] = {
        "prompt": SWAPS, "lanes": 4, "method": "learned", "visibility": "joint",
        "temperature": 3.0, "max_tokens": 14, "seed": 1,
    }  # fmt: skip
    return begin(model, Start(**{**usual, **changes}))


def loaded(session: PlaySession, folder: Path, name: str = "run.json") -> Any:
    (folder / name).write_bytes(session.save())
    return load_run(folder / name)


def something(session: PlaySession, rng: np.random.Generator) -> None:
    """One of the things that can be done to lanes, if it can be done now."""
    lanes = session.decoding.lanes
    m, n = (int(x) for x in rng.choice(len(lanes), 2, replace=False))
    do = rng.choice(DEEDS, p=LIKELY)
    try:
        if do == "read":
            session.read(m, n, not session.reads(m, n))
        elif do == "arrange":
            session.arrange(str(rng.choice(["joint", "star", "independent", "neighbours:1"])))
        elif do == "switch":
            session.switch(str(rng.choice(TURNS)))
        elif do == "what_if":
            session.what_if(m, int(rng.integers(len(lanes[m].tokens))), int(rng.integers(54)))
        elif do == "give":
            session.give(m, "ABCD")
        elif do == "pause":
            session.pause(m, m not in session.decoding._paused)
        else:
            getattr(session, str(do))(m)
    except TinylaneError:
        pass  # of a lane that has ended, for the most part


def lived(model: Any, seed: int) -> PlaySession:
    """A session to whose lanes something happened before every step, often twice."""
    rng = np.random.default_rng(seed)
    session = started(model, seed=seed)
    for _ in range(14):
        for _ in range(int(rng.integers(3))):
            if len(session.decoding.lanes) < 12 and session.decoding.steps:
                something(session, rng)
        if session.decoding.live:
            session.step()
    return session


@pytest.mark.parametrize("seed", range(8))
def test_whatever_was_done_the_file_is_replayed_exactly(
    model: Any, tmp_path: Path, seed: int
) -> None:
    """Changed methods, and pairs that stop and begin again, too. Then it is opened: every step
    gives the same, and the lanes go on alike."""
    session = lived(model, seed)
    run = loaded(session, tmp_path)
    assert replay(run, model).difference < 5e-4
    opened = reopen(model, run)
    while opened.decoding.steps < session.decoding.steps:
        opened.step()
    same = [("tokens", "ended", "waits", "right"), (session.state(), opened.state())]
    for one, other in zip(*(state["lanes"] for state in same[1]), strict=True):
        assert [t["text"] for t in one["tokens"]] == [t["text"] for t in other["tokens"]]
        assert [one[key] for key in same[0][1:]] == [other[key] for key in same[0][1:]]
        for a, b in zip(one["tokens"], other["tokens"], strict=True):
            assert a["p"] == pytest.approx(b["p"], abs=1e-4)
    assert session.state()["reads"] == opened.state()["reads"]
    assert session.state()["method"] == opened.state()["method"]
    again = loaded(opened, tmp_path, "again.json")
    assert again.result.settings["events"] == run.result.settings["events"]
    assert replay(again, model).difference < 5e-4
    if session.decoding.live:
        for one in (session, opened):
            one.step()
        assert [x.tokens for x in session.decoding.lanes] == [
            x.tokens for x in opened.decoding.lanes
        ]


def test_a_file_without_what_was_done_is_not_replayed(model: Any, tmp_path: Path) -> None:
    """The controls: a change of the method less, or the earlier time of a pair."""
    s = started(model)
    for yes in (False, True, False):
        s.step()
        s.read(0, 1, yes)
    s.step()
    s.switch("none")
    s.step()
    s.step()
    assert replay(loaded(s, tmp_path), model).difference < 5e-4
    whole = json.loads((tmp_path / "run.json").read_text())
    pairs = whole["settings"]["times"]
    assert [pair[:2] for pair in pairs] == [[0, 1], [0, 1]] and pairs[0][3] <= pairs[1][2]
    shown = record(load_run(tmp_path / "run.json"), model)
    assert shown.difference < 5e-4 and np.allclose(shown.views[0].shares.sum(1), 1, atol=1e-5)
    for spoil in (
        lambda run: run["settings"]["events"].pop(),
        lambda run: run["settings"]["times"].pop(0),
    ):
        other = json.loads(json.dumps(whole))
        spoil(other)
        (tmp_path / "other.json").write_text(json.dumps(other))
        assert replay(load_run(tmp_path / "other.json"), model).difference > 1e-2


def test_who_does_something_to_an_opened_run_goes_another_way(model: Any, tmp_path: Path) -> None:
    """What the file still holds is not done to the lanes then; words are still written."""
    s = started(model)
    for _ in range(3):
        s.step()
    s.read(0, 1, False)
    s.fork(2)
    s.step()
    s.switch("ntk")
    s.step()
    run = loaded(s, tmp_path)
    opened = reopen(model, run)
    opened.step()
    opened.by_hand(lambda: opened.fork(3))
    for _ in range(5):
        opened.step()
    state = opened.state()
    assert len(state["lanes"]) == 5 and state["lanes"][4]["begun"] == "a fork of lane 4"
    assert state["method"] == "learned" and state["reads"][0][1] == 1
    texts = [lane.tokens[:5] for lane in opened.decoding.lanes[:4]]
    assert texts == [lane.tokens[:5] for lane in s.decoding.lanes[:4]]
    assert replay(loaded(opened, tmp_path, "other.json"), model).difference < 5e-4


def test_what_is_not_possible_changes_nothing_of_an_opened_run(model: Any, tmp_path: Path) -> None:
    s = started(model)
    for do in (lambda: s.read(0, 1, False), lambda: s.fork(2), lambda: s.switch("ntk")):
        s.step()
        do()
    s.step()
    opened = reopen(model, loaded(s, tmp_path))
    for _ in range(4):
        for do in (lambda: opened.fork(99), lambda: opened.switch("x"), lambda: opened.give(9, "")):
            with pytest.raises(TinylaneError):
                opened.by_hand(do)
        opened.step()
    told, before = opened.state(), s.state()
    assert all(told[key] == before[key] for key in ("reads", "method", "step"))
    assert [x.tokens for x in opened.decoding.lanes] == [x.tokens for x in s.decoding.lanes]


@pytest.mark.parametrize("name", [name for name in methods.NAMES if name != "beam"])
def test_a_run_of_any_method_is_written_again(model: Any, tmp_path: Path, name: str) -> None:
    """Lanes that join, end, take back their end, are sealed or dropped. Beams are no lanes."""
    sampler = tinylane.Sampler(2.0, logit_bias={1: -3})
    settings: dict[str, Any] = {"max_tokens": 8, "seed": 3, "sampler": sampler}
    result = methods.generate(model, f"cups ABCD, swap {SWAPS}: where?", name, lanes=3, **settings)
    save_run(tmp_path / "run.json", result, model)
    opened = reopen(model, load_run(tmp_path / "run.json"))
    while opened.decoding.steps < result.steps:
        opened.step()
    for one, other in zip(result.lanes, opened.decoding.lanes, strict=True):
        assert one.tokens == other.tokens and one.positions == other.positions
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    cards = opened.state()["lanes"]
    assert [len(card["tokens"]) for card in cards] == [len(x.tokens) for x in result.lanes]
    again = loaded(opened, tmp_path, "again.json")
    assert again.result.settings.get("events") == result.settings.get("events")


def test_a_game_keeps_its_right_answer(model: Any, tmp_path: Path) -> None:
    s = started(model, temperature=0.0, max_tokens=17)
    s.run(True)
    while s.running:
        s.turn()
    opened = reopen(model, loaded(s, tmp_path))
    opened.run(True)
    while opened.running:
        opened.turn()
    assert opened.state()["truth"] == "ACDB"
    assert all(card["right"] for card in opened.state()["lanes"])


def changed(path: Path, change: Any) -> Any:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    return load_run(path)


def test_what_cannot_be_opened_is_a_line(model: Any, tmp_path: Path) -> None:
    s = started(model)
    s.step()
    loaded(s, tmp_path)
    path = tmp_path / "run.json"
    with pytest.raises(TinylaneError, match="written by another model"):
        reopen(model, changed(path, lambda run: run["model"].update(identity="another")))
    loaded(s, tmp_path)
    with pytest.raises(TinylaneError, match="did not begin together"):
        reopen(model, changed(path, lambda run: run["prompt"]["ids"].pop()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"times": [[0, 1, 30, 31], [0, 1, 25, None]]}, "expected one after the time before"),
        ({"times": [[0, 1, k, k + 1] for k in range(1100)]}, "more than 1,000 beginnings"),
        ({"events": [{"was": {}}]}, "omega is missing"),
        ({"events": [{"was": {"rotation": "whirl"}}]}, "rotation is 'whirl'; expected hogwild"),
        ({"events": [{"was": 3}]}, "events 0.was is 3; expected an object"),
        ({"events": [{"method": 3, "was": {}}]}, "events 0.method is 3"),
    ],
)
def test_a_file_with_wrong_changes_is_refused_in_a_line(
    model: Any, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    s = started(model)
    s.step()
    loaded(s, tmp_path)
    usual = {"event": "rotate", "lane": 0, "step": 1, "clock": 24, "method": "ntk"}
    if "events" in change:
        change = {"events": [{**usual, **change["events"][0]}]}
    with pytest.raises(TinylaneError) as error:
        changed(tmp_path / "run.json", lambda run: run["settings"].update(change))
    assert says in str(error.value) and "\n" not in str(error.value)
