"""One behaviour of every method that no other method has, on a small model. Methods whose lanes are
paths that are joined: `test_behaviour_paths`."""

from __future__ import annotations

import numpy as np
import pytest
from helpers_behaviour import END, MODEL, begin, go, ids, reads, texts, write
from helpers_methods import PROMPT, small

from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneRoPE
from tinylane.methods import METHODS, decode
from tinylane.methods.logit_averaging import Tied
from tinylane.methods.modes import mode
from tinylane.methods.tool_lane import calculator


def test_independent_lanes_write_what_they_write_alone() -> None:
    alone, together = begin("independent", 1), begin("independent", 3)
    assert texts(go(together))[0] == texts(go(alone))[0]
    assert len({*texts(together)}) == 3


def test_the_likeliest_lane_answers_for_best_of_n() -> None:
    assert METHODS["best_of_n"].answer == "best"
    assert texts(go(begin("best_of_n"))) == texts(go(begin("independent")))


def test_beam_search_has_no_steps_of_lanes() -> None:
    with pytest.raises(TinylaneError, match="beam_search"):
        begin("beam")


def test_lanerope_turns_lanes_by_the_omega_that_it_is_told() -> None:
    d = begin("lanerope", omega="ntk", slot=16)
    rope, mask = mode("joint", MODEL, 3, omega="ntk", slot=16)
    assert d.cache.lane_rope.same_as(rope) and d.mask.same_as(mask)
    assert texts(go(d)) != texts(go(begin("lanerope", omega="none")))


def test_group_think_stands_at_virtual_positions() -> None:
    d = go(begin("group_think", slot=50), 3)
    rope = d.cache.lane_rope
    assert isinstance(rope, LaneRoPE) and rope.prompt_lane == 0
    np.testing.assert_allclose(rope.omega, 50 * MODEL.theta)
    i, m, t = d.cache.positions, d.cache.lanes, d.cache.tokens
    got = MODEL(t, i, m, lane_rope=rope, lane_mask=d.mask)
    zero = LaneRoPE.none(MODEL.theta)
    by_hand = MODEL(t, i, m, lane_rope=LaneRoPE(zero.omega + 50 * MODEL.theta, 0), lane_mask=d.mask)
    np.testing.assert_array_equal(got, by_hand)


def test_hogwild_reads_one_text_with_the_own_part_last() -> None:
    d = go(begin("hogwild"), 3)
    assert d.cache.lane_rope == Hogwild() and reads(d, 0) == {1, 2}


def test_hogwild_as_evaluated_moves_a_finished_step_to_the_common_history() -> None:
    d = go(begin("hogwild_steps", 2, max_tokens=40), 1)
    assert [*d.cache.lane_rope.order] == [0, 2, 3, 1]  # heading, both workers, heading
    write(d, 2, "so it is.\n\n")
    d.schedule(d)
    assert d.lanes[2].finish_reason == "sealed" and d.lanes[4].follows == 2
    assert [*d.cache.lane_rope.order] == [2, 0, 3, 4, 1]  # what is finished comes first
    assert go(d, 20).lanes[4].text.startswith("**Alice [2]:** ")
    assert reads(d, 3) >= {0, 1, 2, 4}


def test_hogwild_as_evaluated_asks_for_the_answer_when_one_has_it() -> None:
    d = go(begin("hogwild_steps", 2, max_tokens=40, answer_tokens=3), 1)
    go(write(d, 3, "\\boxed{46}"))
    last = d.lanes[-1]
    assert len(last.tokens) <= 3 and d.lanes[2].finish_reason == "answered"
    assert MODEL.tokenizer.decode(last.prompt).endswith("the final answer is \\boxed{")
    assert "\\boxed{46}" in MODEL.tokenizer.decode(last.prompt) and reads(d, last.index) == set()


def test_asking_the_thinker_leaves_no_trace_and_the_writer_waits() -> None:
    asked = go(begin("async_reasoning", ask_every=1, yes=" no"), 11)  # yes is never likelier
    left = go(begin("async_reasoning", ask_every=1000), 11)
    assert asked.lanes[4].tokens == left.lanes[4].tokens
    assert asked.lanes[5].tokens == [] and asked.lanes[4].finish_reason is None
    go(asked)
    assert asked.lanes[5].tokens and asked.lanes[5].finish_reason


def test_the_writer_and_the_thinker_have_views_of_their_own() -> None:
    d = go(begin("async_reasoning"), 2)
    assert reads(d, 4) == {1, 3, 5} and reads(d, 5) == {0, 2, 4}
    write(d, 4, "</think>")
    d.schedule(d)
    assert d.lanes[4].finish_reason == "thought" and d.lanes[5] in d.live


def test_a_given_stream_is_read_one_step_late_and_then_silent() -> None:
    d = begin("multi_stream", 2, given={"0": "12 cups"}, quiet_steps=0)
    assert d.mask.lag == 1
    go(d)
    silence = ids(" -")[0]
    assert d.lanes[0].text.startswith("12 cups") and d.lanes[0].tokens[-1] == silence
    quiet = go(begin("multi_stream", 2, given={"0": "a", "1": "b"}, quiet_steps=2))
    assert {lane.finish_reason for lane in quiet.lanes} == {"silence"} and quiet.steps < 12


def heard(method: str, extra: str) -> np.ndarray:
    """By how much the next logits of lanes 0 and 2 move if lane 1, which has ended, had begun with
    another token, in a model of one layer."""
    model, logits = small(extra=extra), []
    for first in (7, 8):
        d = decode(model, PROMPT, method, 3, max_tokens=6)
        for lane in range(3):
            d.give(lane, [first if lane == 1 else 7, 5, 6, 4])
        go(d, 3)
        d.finish(1, "ended")
        go(d, 1)
        logits.append(np.stack([d.peek(lane) for lane in (0, 2)]))
    return np.abs(logits[0] - logits[1]).max(axis=1)


def test_lace_reads_older_tokens_of_other_lanes_in_its_side_path_alone() -> None:
    """Also those of a lane that has ended, which a bridge does not know any more. Where lanes are
    joint, it is the layers' own attention that reads."""
    assert (heard("lace", "lace") > 1e-3).all() and reads(begin("lace"), 0) == set()
    assert (heard("lanerope", "") > 1e-3).all() and reads(begin("lanerope"), 0) == {1, 2}
    assert not heard("bridge", "bridge").any() and not heard("lace", "").any()


def test_plain_lanes_begin_one_step_after_the_first() -> None:
    d = go(begin("plain_lanes", slot=30))
    assert [lane.start for lane in d.lanes] == [7, 8, 8] and d.lanes[1].prompt == ids("\n")[:1]
    assert d.cache.lane_rope.prompt_lane == 0
    np.testing.assert_allclose(d.cache.lane_rope.omega, 30 * MODEL.theta)


def test_gambit_gives_the_place_of_the_worst_to_a_copy_of_the_best() -> None:
    d = begin("gambit", 3, warmup=4, every=4, score=lambda lane: -lane.index)
    go(d, 5)
    assert d.lanes[2].finish_reason == "dropped" and d.lanes[3].forked[0] == 0
    assert d.lanes[3].tokens[:4] == d.lanes[0].tokens[:4] and len(d.live) == 3
    low = go(begin("gambit", 3, warmup=4, floor=1e9), 5)
    assert low.lanes[0].finish_reason in ("dropped", None) and len(low.live) >= 1


def test_stop_keeps_the_best_beginnings() -> None:
    d = go(begin("stop", 4, prefix=5, keep=2, score=lambda lane: lane.index), 6)
    assert [lane.index for lane in d.live] == [2, 3]
    assert len(d.lanes[0].tokens) == 5 and 0 not in d.cache.lanes


def test_leap_tells_each_lane_what_the_next_has_found() -> None:
    d = go(begin("leap", 2, every=3, summary=4, max_tokens=60), 40)
    a, b = d.lanes
    ask = ids("\nIn short:")
    assert a.tokens[3 : 3 + len(ask)] == ask
    summary = b.tokens[3 + len(ask) : 7 + len(ask)]
    told = a.tokens[7 + len(ask) :]
    assert told[: len(ids("\nAnother found:")) + 4] == [*ids("\nAnother found:"), *summary]
    assert reads(d, 0) == set()


def test_cpt_tells_a_fact_once_to_every_other_lane() -> None:
    d = begin("cpt", 2, max_tokens=200)
    d.give(0, "seven\n")
    d.give(1, "eight\n")
    go(d, max(len(ids("seven\n")), len(ids("eight\n"))))
    d.schedule(d)
    assert d.schedule.of(d).facts.keys() >= {"seven", "eight"}
    write(d, 0, "more\n")
    go(d, 20)
    assert d.lanes[0].text.count("Another found: eight") == 1
    assert "Another found: seven" not in d.lanes[0].text


def test_a_thought_that_ends_too_early_is_told_to_wait() -> None:
    d = begin("budget_forcing", 1, max_tokens=60, least=20, waits=1, answer_tokens=4)
    d.give(0, [*ids("so"), END])
    go(d, len(ids("so")) + 1 + len(ids(" Wait")))
    assert d.lanes[0].text == "so Wait" and END not in d.lanes[0].tokens
    go(d)
    assert "\nFinal Answer:" in d.lanes[0].text or d.lanes[0].finish_reason == "stop"


def test_a_thought_that_is_too_long_is_asked_for_its_answer() -> None:
    d = go(begin("budget_forcing", 2, max_tokens=40, answer_tokens=4))
    at = 40 - 4 - len(ids("\nFinal Answer:"))
    for lane in (x for x in d.lanes if len(x.tokens) > at):
        assert lane.tokens[at:36] == ids("\nFinal Answer:")
    assert any(len(x.tokens) > at for x in d.lanes)


def test_tied_lanes_write_one_text_drawn_from_their_mean() -> None:
    d = begin("logit_averaging")
    assert isinstance(d.sampler, Tied)
    means = []
    for _ in range(6):
        logits = np.stack([d.peek(m) for m in range(3)]).astype(np.float64)
        means.append(logits.mean(axis=0))
        d.step()
    assert len({*map(tuple, (lane.tokens for lane in d.lanes))}) == 1
    greedy = decode(MODEL, PROMPT, "logit_averaging", 3, max_tokens=6)
    first = np.stack([greedy.peek(m) for m in range(3)]).astype(np.float64).mean(axis=0)
    assert greedy.step().tokens == [int(first.argmax())] * 3


def test_dynamic_lanes_fork_where_the_model_was_unsure_and_drop_what_repeats() -> None:
    d = go(begin("dynamic_lanes", 3, unlikely=0.0), 3)
    assert len(d.live) == 3 and d.lanes[1].forked is not None
    for lane in (0, 1):
        d.give(lane, "same words in both of these lanes")
    go(d, 40)
    assert d.lanes[1].finish_reason in ("dropped", "length")
    repeated = begin("dynamic_lanes", 2, unlikely=0.0, overlap=3, apart=3, max_tokens=60)
    go(repeated, 2)
    repeated.give(0, "ababab")
    repeated.give(1, "ababab")
    assert go(repeated, 8).lanes[1].finish_reason == "dropped"


def test_the_tool_lane_writes_what_was_asked_of_it() -> None:
    d = begin("tool_lane", 1, max_tokens=40)
    write(d, 0, "12+34=")
    go(d, 20)
    assert d.lanes[1].text == " 12+34=46;" and reads(d, 0) == {1}
    assert calculator(["7*8=", "x", "10-12= "]) == " 7*8=56; 10-12=-2;"


def test_every_method_says_its_five_choices() -> None:
    for method in METHODS.values():
        texts = (method.what, method.place, method.sees, method.life, method.draws)
        assert all((*texts, method.extra, method.equation, method.law, method.source)), method.name
