"""What can be done to lanes that somebody plays with, against one pass over all their rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_serve import ROOT

import tinylane
from tinylane.core.errors import TinylaneError
from tinylane.serve.engine import Busy, Engine, ServerLimits
from tinylane.serve.opening import Start, begin
from tinylane.serve.session import PlaySession
from tinylane.view.attention import attention_weights

SWAPS = "1-3 2-4 1-2 3-4 1-3 2-4 1-2 3-4 1-4 2-3 1-4 2-3 1-2 2-3 3-4 1-4"


@pytest.fixture(scope="module")
def model() -> Any:
    return tinylane.load(ROOT / "weights" / "shell-game", backend="numpy")


def started(model: Any, **changes: Any) -> PlaySession:
    usual: dict[str, Any] = {
        "prompt": SWAPS, "lanes": 4, "method": "learned", "visibility": "joint",
        "max_tokens": 12, "seed": 1,
    }  # fmt: skip
    return begin(model, Start(**{**usual, **changes}))


def one_pass(session: PlaySession) -> dict[int, float]:
    """Of each lane that wrote in the last step: how likely its last token is, in one pass over all
    rows that were fed, by the mask and the rotation of now."""
    d = session.decoding
    cache, last = d.cache, {}
    logits = np.asarray(
        session.model(cache.tokens, cache.positions, cache.lanes, cache.lane_rope, d.mask),
        dtype=np.float64,
    )
    for lane in d.lanes:
        rows = np.flatnonzero(cache.lanes == lane.index)
        if len(rows) and lane.steps and lane.steps[-1] == d.steps - 1:
            row = logits[rows[cache.positions[rows].argmax()]]
            last[lane.index] = float(row[lane.tokens[-1]] - np.logaddexp.reduce(row))
    return last


def agrees(session: PlaySession) -> int:
    """Assert that the last step is that of one pass; how many lanes wrote in it."""
    expected = one_pass(session)
    for m, logprob in expected.items():
        assert session.decoding.lanes[m].logprobs[-1] == pytest.approx(logprob, abs=1e-4)
    return len(expected)


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_whatever_is_done_the_next_step_is_that_of_one_pass(model: Any, temperature: float) -> None:
    """What-ifs, words that were given, who reads whom, waiting, silence."""
    s = started(model, temperature=temperature)
    s.step()
    assert agrees(s) == 4
    s.read(0, 1, False)
    s.step()
    assert agrees(s) == 4 and not s.reads(0, 1) and s.reads(1, 0)
    s.what_if(2, 1, 40)
    s.give(3, "ABCD")
    s.pause(0, True)
    s.step()
    assert agrees(s) == 4  # of five lanes, one waits
    assert s.decoding.lanes[3].text.endswith("ABCD")
    twin = s.decoding.lanes[4]
    assert twin.prompt[-2:] == [s.decoding.lanes[2].tokens[0], 40]
    assert twin.positions[0] == s.decoding.lanes[2].positions[2]  # behind the other word
    s.pause(0, False)
    s.silence(3)
    s.step()
    assert agrees(s) == 5
    assert [row[3] for row in s.state()["reads"]] == [0, 0, 0, 1, 0]


def test_a_fork_goes_on_as_its_source_would(model: Any) -> None:
    """Greedy and alone; and a lane that is dropped is seen by nobody."""
    s = started(model, method="none", visibility="independent")
    s.step()
    s.fork(1)
    s.drop(0)
    for _ in range(3):
        s.step()
    lanes = s.decoding.lanes
    assert lanes[4].tokens == lanes[1].tokens and len(lanes[1].tokens) == 4
    state = s.state()
    assert (
        state["lanes"][0]["ended"] == "dropped" and state["lanes"][4]["begun"] == "a fork of lane 2"
    )
    assert not (s.decoding.cache.lanes == 0).any() and s.details(0, 0)["shares"] == []


@pytest.mark.parametrize("method", ["none", "ntk", "group_think", "hogwild"])
def test_another_method_reads_again_what_was_written(model: Any, method: str) -> None:
    """The next step is that of one pass under the new rotation, and not of the old."""
    s, same = started(model, temperature=3.0), started(model, temperature=3.0)
    for session in (s, same):
        for _ in range(3):
            session.step()
    s.switch(method)
    s.step()
    same.step()
    assert agrees(s) == agrees(same) == 4
    last = [[lane.top_logprobs[-1] for lane in x.decoding.lanes] for x in (s, same)]
    changed = [
        abs(dict(a)[token] - p)
        for a, b in zip(*last, strict=True)
        for token, p in b
        if token in dict(a)
    ]
    assert max(changed) > 1e-2
    assert s.state()["method"] == method


def test_a_pair_may_begin_to_read_again(model: Any) -> None:
    s = started(model, temperature=3.0)
    for yes in (False, True, False, True):
        s.step()
        s.read(0, 1, yes)
        assert s.reads(0, 1) is yes
        s.step()
        assert agrees(s) > 1


def test_patterns_change_every_pair(model: Any) -> None:
    s = started(model, visibility="independent")
    assert np.array_equal(s.state()["reads"], np.eye(4))
    s.step()
    s.arrange("star")
    assert s.state()["reads"][0] == [1, 1, 1, 1] and s.state()["reads"][1] == [0, 1, 0, 0]
    s.step()
    assert agrees(s) == 4


def test_listening_is_the_attention_of_the_row_that_drew_the_token(model: Any) -> None:
    s = started(model, temperature=3.0)
    s.step()
    s.what_if(2, 0, 40)
    for _ in range(3):
        s.step()
    d = s.decoding
    cache = d.cache
    weights = attention_weights(
        model, cache.tokens, cache.positions, cache.lanes, cache.lane_rope, d.mask
    ).mean(axis=(0, 1))
    for m, k in ((0, 0), (1, 2), (4, 1)):
        told = s.details(m, k)
        place = d.lanes[m].start - 1 + k
        row = np.flatnonzero((cache.lanes == m) & (cache.positions == place))[0]
        for one in told["shares"]:
            of = -1 if one["of"] == "the prompt" else one["lane"]
            assert one["share"] == pytest.approx(weights[row][cache.lanes == of].sum(), abs=1e-5)
        assert sum(one["share"] for one in told["shares"]) == pytest.approx(1, abs=1e-5)
        assert told["p"] == pytest.approx(np.exp(d.lanes[m].logprobs[k]), abs=1e-6)
        assert len(told["top"]) == 10


def test_a_game_says_whether_a_lane_is_right(model: Any) -> None:
    s = started(model, max_tokens=17)
    s.run(True)
    while s.running:
        s.turn()
    state = s.state()
    assert state["truth"] == "ACDB" and all(card["right"] for card in state["lanes"])
    assert {card["tokens"][-1]["text"] for card in state["lanes"]} == {"<end>"}


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (lambda s: s.fork(9), "no lane 9; there are 4, counted from 0"),
        (lambda s: s.what_if(9, 0, 3), "no lane 9; there are 4, counted from 0"),
        (lambda s: s.what_if(0, 5, 3), "token 5 of lane 1; it has 1"),
        (lambda s: s.what_if(0, 0, 99), "token 99 is outside the vocabulary"),
        (lambda s: s.details(0, 1), "token 1 of lane 1; it has 1"),
        (lambda s: s.give(0, "  "), "give a word that the model knows"),
        (lambda s: s.read(0, 7, True), "no lane 7"),
        (lambda s: s.silence(5), "no lane 5"),
        (lambda s: s.pause(0, False), "lane 0 is not paused"),
        (lambda s: s.switch("psychic"), "method is 'psychic'; expected learned"),
        (lambda s: s.arrange("all"), "visibility 'all'"),
    ],
)
def test_what_cannot_be_done_is_a_line_and_changes_nothing(model: Any, do: Any, says: str) -> None:
    s, same = started(model), started(model)
    for session in (s, same):
        session.step()
    before = s.state()
    with pytest.raises(TinylaneError, match=says):
        do(s)
    assert s.state() == before
    for session in (s, same):
        session.step()
    assert s.state() == same.state()


def test_no_more_lanes_than_a_page_can_show(model: Any) -> None:
    s = started(model)
    s.step()
    for _ in range(12):
        s.fork(0)
    with pytest.raises(TinylaneError, match="16 lanes are the most here"):
        s.fork(0)
    with pytest.raises(TinylaneError, match="lanes is 17; expected a whole number from 1 to 16"):
        started(model, lanes=17)


def held(session: PlaySession) -> int:
    """Bytes of the keys and values that a session has now."""
    cache = session.decoding.cache
    rows = (cache.rows(layer) for layer in range(len(cache.keys)))
    return sum(np.asarray(array).nbytes for pair in rows for array in pair)


def test_memory_counts_what_there_is_and_what_may_still_be_written(model: Any) -> None:
    s = started(model, max_tokens=17)
    expected = s.nbytes
    assert held(s) < expected
    s.step()
    before = s.nbytes
    s.fork(1)
    assert s.nbytes - before == pytest.approx((expected - held(started(model))) / 4, rel=0.2)
    while s.decoding.live:
        assert held(s) <= s.nbytes
        s.step()
    assert held(s) == s.nbytes  # nothing is left to write
    s.decoding.drop(0)
    assert held(s) == s.nbytes < before


def test_a_lane_more_needs_room_on_the_server(model: Any) -> None:
    """For itself and beside the others that run; what is refused changes nothing."""
    s, other = started(model), started(model)
    s.step()
    before = s.state()
    for limits in (ServerLimits(memory=s.nbytes + other.nbytes + 1), ServerLimits(lanes=8)):
        engine = Engine(limits)
        engine.running += [s, other]
        s.grow = engine.grow
        for do in (lambda: s.fork(0), lambda: s.what_if(0, 0, 3)):
            with pytest.raises(Busy, match="there is no room for more beside what runs here"):
                do()
    assert s.state() == before
    engine.running.remove(other)
    s.fork(0)
    assert len(s.state()["lanes"]) == 5


def test_what_is_too_large_is_refused_before_its_prompt_is_read(
    model: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinylane.serve import opening
    from tinylane.serve.routes import read_run

    s = started(model)
    s.step()
    run = read_run(s.save())
    monkeypatch.setattr(opening, "Decoding", None)
    for limits, says in ((ServerLimits(memory=9000), "of memory"), (ServerLimits(lanes=3), "lane")):
        check = Engine(limits).check
        with pytest.raises(TinylaneError, match=says):
            begin(model, Start(SWAPS, 4, "learned", "joint"), check)
        with pytest.raises(TinylaneError, match=says):
            opening.reopen(model, run, check)
