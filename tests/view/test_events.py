"""What happened to lanes: in words, by older files, and which tokens came from outside."""

from __future__ import annotations

from typing import Any

import pytest
from helpers_run import F64, decoded

from tinylane.core.lanes import LaneMask
from tinylane.core.result import Lane
from tinylane.view.events import DETAILS, events_of, given_tokens, happened, words

SAID: list[tuple[dict[str, Any], str]] = [
    ({"event": "join", "sees": None, "at": 14}, "lane 3 joins at position 14"),
    ({"event": "join", "sees": [], "at": 14}, "lane 3 joins at position 14 and reads nobody"),
    ({"event": "join", "sees": [0], "at": 14}, "lane 3 joins at position 14 and reads lane 1"),
    ({"event": "join", "sees": [0, 1], "at": 9}, "lane 3 joins at position 9 and reads lanes 1, 2"),
    ({"event": "fork", "source": 0}, "lane 3 begins as a fork of lane 1"),
    ({"event": "seal", "source": 0}, "lane 1 is sealed; its author goes on as lane 3"),
    (
        {"event": "rotate", "method": "ntk\n", "was": {}},
        "the method is ntk now; what was written is read again",
    ),
    ({"event": "read", "of": 1, "yes": True}, "lane 3 reads lane 2 from here on"),
    ({"event": "read", "of": 1, "yes": False}, "lane 3 reads lane 2 no longer"),
    (
        {"event": "arrange", "order": [2, 0], "was": []},
        "in every view the text of lanes 3, 1 comes first",
    ),
    ({"event": "arrange", "order": [], "was": [2]}, "in every view lanes stand by number again"),
    ({"event": "pause"}, "lane 3 waits"),
    ({"event": "resume"}, "lane 3 goes on"),
    ({"event": "give", "tokens": [5]}, "lane 3 is given 1 token to write"),
    ({"event": "give", "tokens": [5, 6]}, "lane 3 is given 2 tokens to write"),
    ({"event": "drop"}, "lane 3 is dropped"),
    ({"event": "finish", "reason": "enough\n"}, "lane 3 is ended (enough)"),
]


@pytest.mark.parametrize(("event", "said"), SAID)
def test_an_event_in_words_counts_lanes_from_one(event: dict[str, Any], said: str) -> None:
    assert words({"lane": 2, "step": 4, "clock": 9, **event}) == said


def test_every_event_has_words() -> None:
    assert {event["event"] for event, _ in SAID} == set(DETAILS)


def test_what_happened_is_told_in_order_and_cut_short_when_long() -> None:
    pause = {"event": "pause", "lane": 0, "step": 0, "clock": 5}
    lines = happened([pause, *[{**pause, "step": k} for k in range(3, 30)]], most=3)
    assert lines == [
        "before step 1: lane 1 waits",
        "after step 3: lane 1 waits",
        "after step 4: lane 1 waits",
        "and 25 more",
    ]
    assert happened([]) == []


def test_a_file_without_events_tells_them_by_its_lanes() -> None:
    """What the decoding noted itself, were the file older."""
    decoding = decoded(F64, lane_mask=LaneMask.joint(6), max_tokens=9)
    for _ in range(3):
        decoding.step()
    decoding.join([4, 5])
    decoding.fork(1)
    decoding.step()
    decoding.drop(1)
    decoding.drop(3)
    list(decoding)
    result = decoding.result()
    noted = result.settings.pop("events")
    assert events_of(result) == noted
    assert [event["event"] for event in noted] == ["join", "fork", "drop", "drop"]


def test_given_tokens_are_found_also_where_a_lane_waits_or_is_sealed() -> None:
    decoding = decoded(F64, max_tokens=9, schedule=lambda d: None)
    decoding.step()
    decoding.give(0, [7, 8, 9])
    decoding.give(2, [6])
    decoding.pause(2)
    decoding.step()
    decoding.resume(2)
    decoding.seal(0)
    decoding.fork(2)
    list(decoding)
    lanes: list[Lane] = decoding.lanes
    found = given_tokens(decoding.events, lanes)
    assert found == {(0, 1), (3, 0), (3, 1), (2, 1)}
    assert [lanes[m].tokens[k] for m, k in sorted(found)] == [7, 6, 8, 9]


def test_a_fork_s_copies_of_given_tokens_stay_given_and_it_is_given_nothing_more() -> None:
    decoding = decoded(F64, max_tokens=9, schedule=lambda d: None)
    decoding.give(0, [7, 8, 9])
    decoding.step()
    decoding.step()
    first = decoding.fork(0).index
    second = decoding.fork(first).index
    assert not decoding.giving(first) and not decoding.giving(second)
    decoding.give(second, [5])
    decoding.step()
    lanes = decoding.lanes
    assert [lane.tokens[:2] for lane in (lanes[0], lanes[first], lanes[second])] == [[7, 8]] * 3
    copies = {(m, k) for m in (first, second) for k in (0, 1)}
    given = {(0, 0), (0, 1), (0, 2), (second, 2)}
    assert given_tokens(decoding.events, lanes) == given | copies


def test_what_follows_a_given_end_that_was_taken_back_was_drawn() -> None:
    """The end counts as one of the given tokens, though the lane holds it no more."""
    end = next(iter(F64.config.eos_ids))
    decoding = decoded(F64, max_tokens=9, schedule=lambda d: None)
    decoding.give(0, [7, end])
    decoding.step()
    decoding.pause(1)
    decoding.step()
    decoding.resume(1)  # a lane that waited takes nothing back
    decoding.give(1, [6])
    decoding.resume(0)
    decoding.step()
    lanes = decoding.lanes
    assert lanes[0].tokens[0] == 7 and len(lanes[0].tokens) == 2 and end not in lanes[0].tokens
    assert given_tokens(decoding.events, lanes) == {(0, 0), (1, 1)}


def test_what_is_given_after_a_drawn_end_was_taken_back_was_given() -> None:
    lane = Lane(0, [], 5, 9, tokens=[7, 8], spans=[(0, 5, 0), (1, 7, 2)])
    told = {"lane": 0, "clock": 5}
    events: list[dict[str, Any]] = [
        {"event": "resume", "step": 2, **told},
        {"event": "give", "step": 2, "tokens": [8], **told},
    ]
    assert given_tokens(events, [lane]) == {(0, 1)}
    assert given_tokens([{**events[1], "step": 0}, events[0]], [lane]) == {(0, 0)}
