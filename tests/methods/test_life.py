"""What may happen to lanes between two steps: what each operation leaves, and every refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers_lanes import BACKENDS, EOS, FREE, WARM, ids, log_softmax, model_of, omega, small
from planting import Patch

from tinylane.core import lanes
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.core.result import Lane
from tinylane.methods import times
from tinylane.methods.decoding import Decoding, generate, stream

ANY = pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
F64 = model_of("numpy", "float64")


def begun(model: Any = F64, **more: Any) -> Decoding:
    """Two lanes that read each other, after two steps; the mask has no room for a third."""
    settings = {
        "lane_prompts": [[1], []],
        "max_tokens": 20,
        "lane_rope": omega(model),
        "lane_mask": LaneMask.joint(2),
        "sampler": FREE,
        "seed": 4,
        **more,
    }
    decoding = Decoding(model, ids(5), 2, **settings)
    decoding.step()
    decoding.step()
    return decoding


def state(d: Decoding) -> tuple[Any, ...]:
    """All that an operation could change."""
    held = d.cache.positions.tolist(), d.cache.lanes.tolist()
    lanes_ = [(x.tokens[:], x.finish_reason, x.dropped, x.max_tokens, x.spans[:]) for x in d.lanes]
    hidden = d._feed[:], sorted(d._logits), dict(d._after), dict(d._shift), {*d._paused}
    return *held, lanes_, d.clock, d.steps, d.events[:], d.mask.settings(), *hidden


# What each operation leaves.


def test_a_lane_s_spans_say_where_and_when_each_token_was_drawn() -> None:
    lane = Lane(0, [], 7, 9)
    places = [(7, 0), (8, 1), (11, 4), (12, 5), (13, 7), (15, 8)]
    for k, (position, step) in enumerate(places):
        lane.write(k, -1.0, position, step)
    assert lane.positions == [7, 8, 11, 12, 13, 15] and lane.steps == [0, 1, 4, 5, 7, 8]
    assert lane.spans == [(0, 7, 0), (2, 11, 4), (4, 13, 7), (5, 15, 8)]
    plain = Lane(0, [], 7, 9, tokens=[5, 6])  # not written by steps: it counts on from its start
    assert plain.positions == [7, 8] and plain.steps == [0, 1] and Lane(0, [], 7, 9).positions == []


@pytest.mark.parametrize(
    ("at", "begin", "clock", "start"),
    [("before", 6, 8, 8), ("end", 8, 10, 10), (5, 5, 8, 7), (30, 30, 8, 32), (None, 8, 10, 10)],
)
def test_a_prompt_that_joins_stands_where_it_is_told(
    at: Any, begin: int, clock: int, start: int
) -> None:
    d = begun()
    assert d.clock == 8
    lane = d.join([7, 9], sees=[0], at=at)
    assert (lane.start, d.clock, d.position(2)) == (start, clock, start)
    d.step()
    d.step()
    mine = d.cache.positions[d.cache.lanes == 2].tolist()
    assert mine == [begin, begin + 1, start] and lane.positions == [start, start + 1]
    assert d.events == [
        {"event": "join", "lane": 2, "step": 2, "clock": clock, "sees": [0], "at": begin}
    ]


def test_the_end_is_behind_all_rows_also_those_that_stand_ahead_of_the_clock() -> None:
    d = begun()
    d.join([7, 9], sees=[0], at=30)
    assert d.end() == 32 and d.end([0, 1]) == 8
    lane = d.join([4], sees="all")
    assert lane.start == 33 and d.clock == 33


def test_a_fork_where_the_mask_has_no_room_reads_and_is_read_as_its_source() -> None:
    d = begun(lane_mask=LaneMask(np.array([[1, 1], [0, 1]])))  # lane 0 reads lane 1
    d.fork(1)
    d.fork(0)
    reads = d.mask.visibility & ~np.eye(4, dtype=bool)
    assert [np.flatnonzero(row).tolist() for row in reads] == [[1, 2], [], [], [1, 2]]
    assert d.mask.since is not None and d.mask.since[0, 2] == 7, "lane 0's unfed row is the first"


def test_what_is_sealed_stands_and_its_author_goes_on() -> None:
    d = begun()
    before = d.lanes[0].tokens[:]
    new = d.seal(0)
    assert (d.lanes[0].finish_reason, new.follows, new.start, new.max_tokens) == (
        "sealed",
        0,
        8,
        18,
    )
    twin = begun()
    for _ in range(3):
        d.step()
        twin.step()
    assert d.lanes[0].tokens == before and new.positions == [8, 9, 10]
    # The same logits, so the first token's chances are those of the lane that was not sealed.
    peeked = log_softmax(begun().peek(0))
    assert abs(new.logprobs[0] - peeked[new.tokens[0]]) < 1e-10
    assert abs(twin.lanes[0].logprobs[2] - peeked[twin.lanes[0].tokens[2]]) < 1e-10


@ANY
def test_a_peek_is_what_writing_these_tokens_would_have_given(kind: Any) -> None:
    model = model_of(*kind)
    d, twin = begun(model), begun(model)
    logits = d.peek(1, [7, 9])
    assert logits.shape == (model.config.vocab,) and logits.dtype == np.dtype(kind[1])
    twin.pause(0)
    twin.give(1, [7, 9])
    for _ in range(3):
        twin.step()
    expected = log_softmax(logits)[twin.lanes[1].tokens[-1]]
    assert abs(twin.lanes[1].logprobs[-1] - expected) < (1e-10 if kind[1] == "float64" else 2e-4)


def test_given_tokens_are_written_one_a_step_with_their_own_chances() -> None:
    d = begun()
    d.give(1, [7, 9])
    chances = log_softmax(d.peek(1))
    assert d.giving(1) and not d.giving(0)
    d.step()
    d.step()
    assert d.lanes[1].tokens[2:] == [7, 9] and not d.giving(1)
    assert abs(d.lanes[1].logprobs[2] - chances[7]) < 1e-10
    d.step()
    assert len(d.lanes[1].tokens) == 5


def test_a_lane_that_ended_takes_back_its_end_and_goes_on() -> None:
    d = begun(max_tokens=3)
    d.give(0, [EOS])
    step = d.step()
    assert step.finished == {0: "stop", 1: "length"} and d.lanes[0].tokens[-1] == EOS
    before = d.lanes[0].tokens[:-1]
    d.resume(0)
    assert d.lanes[0].tokens == before and d.lanes[0].finish_reason is None
    d.step()
    assert d.lanes[0].positions == [6, 7, 9], "the place of the end stays empty"
    assert EOS not in d.cache.tokens[d.cache.lanes == 0]


def test_reread_is_the_text_of_others_without_their_ends() -> None:
    d = begun()
    d.give(0, [EOS])
    d.step()
    first, second = d.lanes
    assert d.reread([1, 0]) == [*second.tokens, 1, *first.tokens[:-1]]


def test_lanes_of_numpy_s_integers_are_lanes_and_events_are_plain_json() -> None:
    import json

    d = begun()
    one = np.int64(1)
    d.read(one, np.int64(0), False)
    d.pause(one)
    d.resume(one)
    d.fork(one)
    d.seal(one)
    d.drop(np.int64(0))
    assert json.loads(json.dumps(d.events)) == d.events


# Every refusal: one line, and nothing has changed.

Do = Callable[[Decoding], Any]
REFUSED: dict[str, tuple[Do, str]] = {
    "at a word": (lambda d: d.join([1], at="middle"), "at is 'middle'; expected before, end or a"),
    "at true": (lambda d: d.join([1], sees="none", at=True), "at is True; expected before, end"),
    "at in the prompt": (
        lambda d: d.join([1], sees="none", at=4),
        "at is 4; expected a position from 5 on, behind the prompt",
    ),
    "before the prompt": (
        lambda d: d.join([1, 2, 3, 4], sees="none", at="before"),
        "the lane's prompt has 4 tokens, but the clock is only 3 past the shared prompt",
    ),
    "beyond the context": (
        lambda d: d.join([1], sees="none", at=511),
        "no lane can join at position 512: the context ends",
    ),
    "no prompt": (
        lambda d: d.join([], sees=[0]),
        "a lane that reads others needs a prompt of at least one token",
    ),
    "sees a word": (
        lambda d: d.join([1], sees="some"),
        "sees is 'some'; expected all, none, or la",
    ),
    "sees a number": (lambda d: d.join([1], sees=1), "sees is 1; expected all, none, or lanes"),
    "sees no lane": (lambda d: d.join([1], sees=[2]), r"lane 2; there are lanes 0 \.\. 1"),
    "no room": (lambda d: d.join([1]), "visibility is 2 x 2: no room for lane 2; give a lane_mask"),
    "joins no token": (lambda d: d.join([99], sees="none"), "token 99 is outside the vocabulary"),
    "max_tokens": (lambda d: d.join([1], sees="none", max_tokens=0), "max_tokens is 0"),
    "fork of none": (lambda d: d.fork(2), r"lane 2; there are lanes 0 \.\. 1"),
    "fork of a word": (lambda d: d.fork("a"), "lane 'a'; there are lanes"),  # type: ignore[arg-type]
    "fork limit": (lambda d: d.fork(0, max_tokens=-1), "max_tokens is -1"),
    "read none": (lambda d: d.read(0, 5), r"lane 5; there are lanes 0 \.\. 1"),
    "arrange without": (
        lambda d: d.arrange([1]),
        r"arrange: \[1\]; expected different lanes, with",
    ),
    "resume of a live one": (lambda d: d.resume(0), r"resume: lane 0 is not paused \(it goes on\)"),
    "give no token": (lambda d: d.give(0, [1.5]), "the prompt holds 1.5; expected text or token"),  # type: ignore[list-item]
    "give text": (lambda d: d.give(0, "hello"), "no tokenizer.json; give lane prompts as ids"),
    "peek text": (lambda d: d.peek(0, "hello"), "no tokenizer.json; give lane prompts as ids"),
    "peek too far": (
        lambda d: d.peek(0, [1] * 504),
        "no lane can peek at position 512: the context ends",
    ),
    "peek none": (lambda d: d.peek(-1), "lane -1; there are lanes"),
    "reread none": (lambda d: d.reread([0, 3]), r"lane 3; there are lanes 0 \.\. 1"),
    "drop none": (lambda d: d.drop(2), r"lane 2; there are lanes 0 \.\. 1"),
    "finish none": (lambda d: d.finish(2), r"lane 2; there are lanes 0 \.\. 1"),
}


def refuses(d: Decoding, do: Do, words: str) -> None:
    before = state(d)
    with pytest.raises(TinylaneError, match=words) as caught:
        do(d)
    assert "\n" not in str(caught.value) and state(d) == before
    assert len(d.step().tokens) == len(d.lanes), "the decoding goes on"


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_is_one_line_and_changes_nothing(what: str) -> None:
    refuses(begun(), *REFUSED[what])


@pytest.mark.parametrize("what", ["fork", "seal", "pause", "give", "peek"])
@pytest.mark.parametrize("end", ["finish", "drop", "seal"])
def test_what_has_ended_does_nothing_more(what: str, end: str) -> None:
    d = begun()
    getattr(d, end)(0)
    reason = {"finish": "interrupted", "drop": "dropped", "seal": "sealed"}[end]
    more = [[1]] if what == "give" else []
    refuses(d, lambda d: getattr(d, what)(0, *more), rf"{what}: lane 0 has finished \({reason}\)")
    refuses(d, lambda d: d.resume(0), rf"resume: lane 0 is not paused \({reason}\)")


def test_a_seal_of_nothing_and_a_drop_of_what_was_just_sealed_are_refused() -> None:
    d = begun(lane_mask=LaneMask.joint(3))
    d.join([])
    refuses(d, lambda d: d.seal(2), "seal: lane 2 has written nothing yet")
    d.seal(0)
    refuses(d, lambda d: d.drop(0), "drop: lane 0 was just sealed; take a step first")
    d.drop(0)  # the step has been taken


def test_a_pair_reads_begins_and_stops_once() -> None:
    d = begun()
    d.read(0, 1, False)
    d.read(0, 1, False)
    d.step()
    refuses(
        d, lambda d: d.read(0, 1), "lane 0 read lane 1 before position 7; it cannot begin again"
    )


def test_lanes_that_began_without_omega_cannot_begin_to_read() -> None:
    """It was left out, because with lanes alone the numbers are the same (law 7)."""
    d = begun(lane_mask=LaneMask.independent(2))
    words = "the lanes began without Omega, because none read another; give a schedule, or a"
    for do in (lambda d: d.read(0, 1), lambda d: d.join([1], sees="all"), lambda d: d.fork(0)):
        refuses(d, do, words)
    told = begun(lane_mask=LaneMask.independent(2), schedule=lambda d: None)
    told.read(0, 1)
    assert told.mask.visibility[0, 1]


def test_an_order_names_different_lanes() -> None:
    d = begun(lane_rope=Hogwild())
    refuses(d, lambda d: d.arrange([1, 1]), r"arrange: \[1, 1\]; expected different lanes")
    refuses(d, lambda d: d.arrange([2]), r"lane 2; there are lanes 0 \.\. 1")
    d.arrange([1])
    assert d.events == [
        {"event": "arrange", "lane": 1, "step": 4, "clock": 10, "order": [1], "was": []}
    ]


def test_a_step_of_lanes_that_all_wait_is_refused() -> None:
    d = begun()
    d.pause(0)
    d.pause(1)
    with pytest.raises(TinylaneError, match="every lane has finished or waits; join, fork or resu"):
        d.step()
    d.resume(1)
    assert d.step().tokens[0] is None


def test_a_schedule_by_which_all_lanes_wait_for_ever_is_told_so() -> None:
    settings: dict[str, Any] = {"lanes": 2, "max_tokens": 9, "sampler": FREE}
    wait = lambda d: [d.pause(lane.index) for lane in d.live if d.steps == 2]
    with pytest.raises(TinylaneError, match="every lane has finished or waits; join, fork or"):
        generate(F64, ids(5), schedule=wait, **settings)
    wait = lambda d: d.pause(0) if d.steps == 1 else None
    result = generate(F64, ids(5), schedule=wait, total_tokens=5, **settings)
    assert [(x.finish_reason, len(x.tokens)) for x in result.lanes] == [
        ("budget", 1),
        ("budget", 4),
    ]


# Schedules.


def test_a_schedule_is_called_before_every_step_and_once_after_the_last() -> None:
    calls: list[tuple[int, int]] = []
    settings = {"lanes": 2, "max_tokens": 4, "sampler": FREE}
    note = lambda d: calls.append((d.steps, len(d.live)))
    result = generate(F64, ids(5), schedule=note, **settings)
    assert result.steps == 4 and calls == [(0, 2), (1, 2), (2, 2), (3, 2), (4, 0)]
    calls.clear()
    steps = list(stream(F64, ids(5), schedule=note, **settings))
    assert [step.index for step in steps] == [0, 1, 2, 3] and len(calls) == 5


def test_what_a_schedule_begins_after_the_last_step_goes_on() -> None:
    def summary(d: Decoding) -> None:
        if not d.live and len(d.lanes) == 2:
            d.join([7], sees="all", max_tokens=3)

    settings = {"lanes": 2, "max_tokens": 4, "sampler": FREE, "schedule": summary}
    result = generate(F64, ids(5), **settings)
    assert [len(lane.tokens) for lane in result.lanes] == [4, 4, 3]
    assert [event["event"] for event in result.settings["events"]] == ["join"]
    assert result.lanes[2].positions == [10, 11, 12]
    assert [step.index for step in stream(F64, ids(5), **settings)] == [*range(7)]


def test_a_schedule_that_is_no_function_is_refused() -> None:
    with pytest.raises(TinylaneError, match="schedule is 'often'; expected a function"):
        generate(F64, ids(5), schedule="often")


def test_a_schedule_that_joins_for_ever_is_bounded_by_the_lanes(monkeypatch: Patch) -> None:
    monkeypatch.setattr(lanes, "MAX_LANES", 6)
    with pytest.raises(TinylaneError, match=r"lanes is 7; expected .*6") as caught:
        generate(F64, ids(5), lanes=2, schedule=lambda d: d.join([], sees="none"))
    assert "\n" not in str(caught.value)


def test_a_schedule_that_joins_or_goes_on_for_ever_is_bounded_by_the_context() -> None:
    model = small(context=24, eos_ids=(EOS,))
    again = lambda d: d.join([1, 2], sees="all", at="end")
    with pytest.raises(
        TinylaneError, match=r"no lane can join at position 2[45]: the context ends"
    ):
        generate(model, ids(5), lanes=2, schedule=again)

    def stubborn(d: Decoding) -> None:
        if d.steps and not d.live:
            d.resume(0)
        d.give(0, [EOS])

    with pytest.raises(TinylaneError, match="no lane can go on at position 24: the context ends"):
        generate(model, ids(5), lanes=1, schedule=stubborn)


def test_no_row_beyond_the_context_is_fed() -> None:
    """The clock is moved on for a lane that waits; it writes one token more, and is full."""
    model = small(context=16)
    d = begun(model, sampler=WARM)
    d.pause(1)
    d.join([1] * 7, sees="all", at="end", max_tokens=30)
    assert d.clock == 15
    d.resume(1)
    while d.live:
        d.step()
    assert d.cache.positions.max() < 16
    assert {lane.finish_reason for lane in d.lanes} == {"length"}


def test_shared_rows_see_no_lane_at_any_time() -> None:
    mask = times.reading(LaneMask.independent(2), 0, 1, True, 3)
    at, lane = np.array([2, 4, 4]), np.array([SHARED, 0, 1])
    assert mask.visible(at, lane, at, lane).astype(int).tolist() == [
        [1, 0, 0],
        [1, 1, 1],
        [1, 0, 1],
    ]
