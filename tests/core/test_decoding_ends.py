"""Decoding: what is fed and when lanes end, the text of lanes, interrupted passes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from helpers_lanes import (
    BACKENDS,
    EOS,
    FREE,
    TOLERANCE,
    TWO,
    WARM,
    ids,
    model_of,
    omega,
    rows_of,
    same,
    scored,
    small,
)
from helpers_text import byte_level
from tokenizers import Tokenizer as Core

from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.lanes import LaneMask
from tinylane.core.oracle import naive
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding, generate, stream

F64 = model_of("numpy", "float64")


# What is fed, and when lanes end.


@TWO
def test_the_last_token_of_a_lane_at_its_limit_is_still_fed_and_seen(kind):
    """One pass with lane 0's last token gives lane 1's log-probabilities; one without does not."""
    model, mask = model_of(*kind), LaneMask.joint(2)
    rope, tolerance = omega(model), TOLERANCE[kind[1]]
    run = generate(
        model, ids(5), lanes=2, max_tokens=[2, 6], lane_rope=rope, lane_mask=mask, seed=2,
        sampler=FREE,
    )  # fmt: skip
    assert [lane.finish_reason for lane in run.lanes] == ["length", "length"]
    assert [len(lane.tokens) for lane in run.lanes] == [2, 6]
    expected = scored(model, run, 1, rows_of(run, {0}), rope, mask)
    np.testing.assert_allclose(run.lanes[1].logprobs, expected, rtol=0, atol=tolerance)
    unfed = scored(model, run, 1, rows_of(run, set()), rope, mask)
    np.testing.assert_allclose(run.lanes[1].logprobs[:2], unfed[:2], rtol=0, atol=tolerance)
    assert abs(run.lanes[1].logprobs[2] - unfed[2]) > 100 * tolerance


def early_end(model: Any, rope: Any, mask: Any, **more: Any) -> Decoding:
    """A decoding in which lane 0 has drawn the end token and lane 1 goes on."""
    for seed in range(200):
        decoding = Decoding(
            model, ids(5), lanes=2, max_tokens=9, lane_rope=rope, lane_mask=mask, seed=seed,
            sampler=Sampler(logit_bias={EOS: 3.0}), **more,
        )  # fmt: skip
        for _ in decoding:
            pass
        first, second = decoding.lanes
        if first.finish_reason == "stop" and len(first.tokens) + 3 < len(second.tokens):
            return decoding
    raise AssertionError("no seed ends lane 0 early")


@TWO
def test_an_end_token_is_never_fed_and_nobody_sees_it(kind):
    model, mask = model_of(*kind), LaneMask.joint(2)
    rope, tolerance = omega(model), TOLERANCE[kind[1]]
    decoding = early_end(model, rope, mask)
    run = decoding.result()
    first, second = run.lanes
    assert first.tokens[-1] == EOS and EOS not in first.tokens[:-1]
    assert (decoding.cache.lanes == 0).sum() == len(first.tokens) - 1
    assert len(first.logprobs) == len(first.tokens)
    expected = scored(model, run, 1, rows_of(run, set()), rope, mask)
    np.testing.assert_allclose(second.logprobs, expected, rtol=0, atol=tolerance)
    fed = scored(model, run, 1, rows_of(run, {0}), rope, mask)
    assert np.abs(np.array(second.logprobs) - fed).max() > 100 * tolerance


def test_every_eos_id_of_the_config_ends_a_lane():
    """mlx-vlm 2112: ids from generation_config replaced the others instead of joining them."""
    for end in (3, 17):
        model = small(eos_ids=(3, 17))
        run = generate(model, ids(3), max_tokens=5, sampler=Sampler(logit_bias={end: 1e4}))
        assert run.lanes[0].tokens == [end] and run.lanes[0].finish_reason == "stop"


def test_lanes_have_their_own_limits_and_steps_go_on_until_the_last_ends():
    run = generate(F64, ids(3), lanes=4, max_tokens=[5, 1, 3, 2], sampler=FREE)
    assert [len(lane.tokens) for lane in run.lanes] == [5, 1, 3, 2]
    assert run.steps == 5


def test_the_total_budget_is_never_exceeded():
    for total in range(3, 12):
        run = generate(F64, ids(3), lanes=3, max_tokens=99, total_tokens=total, sampler=FREE)
        assert [len(lane.tokens) for lane in run.lanes] == [total // 3] * 3
        assert {lane.finish_reason for lane in run.lanes} == {"budget"}


def test_the_total_budget_ends_all_lanes_after_the_step_that_reaches_it():
    run = generate(F64, ids(3), lanes=3, max_tokens=[9, 1, 9], total_tokens=7, sampler=FREE)
    assert [len(lane.tokens) for lane in run.lanes] == [3, 1, 3]
    assert [lane.finish_reason for lane in run.lanes] == ["budget", "length", "budget"]


def test_decoding_stops_at_the_end_of_the_context():
    model = small(context=9)
    decoding = Decoding(model, ids(5), lanes=2, lane_prompts=[[1], [2, 3]], max_tokens=50)
    steps = list(decoding)
    assert [lane.finish_reason for lane in decoding.lanes] == ["length", "length"]
    assert steps[-1].position == 8 and decoding.clock == 9
    assert [len(lane.tokens) for lane in decoding.lanes] == [2, 2]


@pytest.mark.parametrize(("prompt", "tokens"), [(7, 2), (8, 1), (9, 1)])
def test_a_prompt_of_exactly_the_context_gives_one_token(prompt, tokens):
    """As transformers' generate does: a token that is not fed needs no place."""
    model = small(context=9)
    run = generate(model, ids(prompt), lanes=2, max_tokens=50, sampler=FREE)
    assert [len(lane.tokens) for lane in run.lanes] == [tokens, tokens]
    assert {lane.finish_reason for lane in run.lanes} == {"length"}
    slow = naive(model, ids(prompt), [[]], tokens, FREE, omega(model, "none"), LaneMask.joint(1))
    assert run.lanes[0].tokens == slow[0].tokens


def test_a_step_says_what_every_lane_drew_and_who_ended():
    decoding = Decoding(F64, ids(4), lanes=3, max_tokens=[1, 3, 2], sampler=WARM, seed=1)
    steps = list(decoding)
    for k, step in enumerate(steps):
        assert step.index == k and step.position == 4 + k
    for m, lane in enumerate(decoding.lanes):
        drawn = [step.tokens[m] for step in steps]
        assert drawn == lane.tokens + [None] * (len(steps) - len(lane.tokens))
        assert [x.logprobs[m] for x in steps][: len(lane.tokens)] == lane.logprobs
        assert steps[len(lane.tokens) - 1].finished[m] == lane.finish_reason
    assert sum(len(step.finished) for step in steps) == 3
    assert [s.tokens for s in stream(F64, ids(4), lanes=3, max_tokens=[1, 3, 2], sampler=WARM,
                                     seed=1)] == [s.tokens for s in steps]  # fmt: skip


# Text.


@functools.cache
def speaker() -> Any:
    """A model whose tokens are byte-level: its random text splits characters over tokens."""
    tokenizer = Tokenizer(Core.from_str(byte_level()), {"eos_token": "</s>"})
    return small(vocab=tokenizer.vocab_size, tokenizer=tokenizer)


def spoken(**more: Any) -> tuple[Decoding, list[str]]:
    """A run to its end, and what was streamed of every lane."""
    given_ = {"lanes": 3, "max_tokens": 40, "seed": 2, "sampler": WARM, **more}
    decoding = Decoding(speaker(), "swap the cups", **given_)
    pieces = [""] * 3
    for step in decoding:
        pieces = [a + b for a, b in zip(pieces, step.texts, strict=True)]
    return decoding, pieces


@pytest.mark.parametrize("more", [{}, {"total_tokens": 50}, {"stop": ["never written"]}], ids=str)
def test_streamed_pieces_add_up_to_the_text_and_the_text_to_the_tokens(more):
    decoding, pieces = spoken(**more)
    tokenizer = speaker().tokenizer
    for lane, piece in zip(decoding.lanes, pieces, strict=True):
        assert lane.text == piece == tokenizer.decode(lane.tokens)


def test_a_text_prompt_and_text_lane_prompts_are_encoded_by_the_tokenizer():
    tokenizer = speaker().tokenizer
    decoding = Decoding(speaker(), "swap", lanes=2, lane_prompts=["first", ""])
    assert decoding.prompt == tokenizer.prompt_ids("swap")
    assert [lane.prompt for lane in decoding.lanes] == [tokenizer.encode("first"), []]


def test_a_stop_string_ends_its_lane_before_it_and_leaves_the_others_alone():
    free, _ = spoken()
    stop = free.lanes[1].text[15:19]
    assert len(stop) == 4 and all(stop not in free.lanes[m].text for m in (0, 2))
    decoding, pieces = spoken(stop=[stop])
    lane = decoding.lanes[1]
    assert lane.finish_reason == "stop"
    assert lane.text == pieces[1] == free.lanes[1].text.split(stop)[0]
    assert lane.tokens == free.lanes[1].tokens[: len(lane.tokens)] and len(lane.tokens) < 40
    for m in (0, 2):
        assert decoding.lanes[m].tokens == free.lanes[m].tokens
        assert decoding.lanes[m].text == pieces[m] == free.lanes[m].text


def test_the_token_that_completes_a_stop_string_is_never_fed():
    model, mask = speaker(), LaneMask.joint(3)
    more = {"lane_mask": mask, "lane_rope": omega(model)}
    free, _ = spoken(**more)
    stop = free.lanes[1].text[15:19]
    decoding, _ = spoken(stop=[stop], **more)
    run, lane = decoding.result(), decoding.lanes[1]
    assert lane.finish_reason == "stop"
    assert (decoding.cache.lanes == 1).sum() == len(lane.tokens) - 1
    expected = scored(model, run, 0, rows_of(run, {0}), omega(model), mask)
    np.testing.assert_allclose(run.lanes[0].logprobs, expected, rtol=0, atol=1e-9)


def test_an_end_token_has_no_text_and_releases_what_was_held_back():
    tokenizer = speaker().tokenizer
    (end,) = tokenizer.eos_ids
    held = Decoding(speaker(), "swap", max_tokens=9, stop=["swap!"], sampler=WARM)
    say = tokenizer.encode("swap")
    for token in [*say, end]:
        held.sampler = Sampler(logit_bias={token: 1e4})
        step = held.step()
    assert held.lanes[0].tokens == [*say, end] and held.lanes[0].finish_reason == "stop"
    assert held.lanes[0].text == step.texts[0] == "swap"


def test_a_fork_has_its_sources_text_and_streams_on_from_there():
    decoding = Decoding(
        speaker(), "swap", max_tokens=30, sampler=WARM, lane_mask=LaneMask.independent(2)
    )
    for _ in range(12):
        decoding.step()
    fork = decoding.fork(0)
    assert fork.text == decoding.lanes[0].text != ""
    text = fork.text
    for step in decoding:
        text += step.texts[1]
    assert fork.text == text == speaker().tokenizer.decode(fork.tokens)


# Interruption.


class Stop(BaseException):
    """As KeyboardInterrupt, but ours."""


def interrupt(model: Any, calls: int) -> Any:
    """Make the model raise Stop after so many feed-forwards; returns what undoes it."""
    ops, left = model.ops, [calls]

    def gated(gate: Any, up: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        return ops.gated(gate, up)

    model.ops = ops._replace(gated=gated)
    return lambda: setattr(model, "ops", ops)


@pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
@pytest.mark.parametrize("calls", [0, 1])
def test_a_pass_that_is_interrupted_leaves_no_trace(kind, calls):
    """Ctrl-C in any layer: the cache has the same rows, and the next step is the one it was."""
    model = small(*kind)
    given_ = {
        "lanes": 3, "max_tokens": 8, "lane_rope": omega(model), "lane_mask": LaneMask.joint(3),
        "sampler": WARM, "seed": 8,
    }  # fmt: skip
    expected = generate(model, ids(5), **given_)
    decoding = Decoding(model, ids(5), **given_)
    for _ in range(3):
        decoding.step()
    before = len(decoding.cache)
    undo = interrupt(model, calls)
    with pytest.raises(Stop):
        decoding.step()
    undo()
    assert len(decoding.cache) == before and decoding.steps == 3
    list(decoding)
    assert [x.tokens for x in decoding.lanes] == [x.tokens for x in expected.lanes]
    assert [x.logprobs for x in decoding.lanes] == [x.logprobs for x in expected.lanes]


@pytest.mark.parametrize("calls", range(1, 6))
def test_a_prefill_of_several_chunks_that_is_interrupted_leaves_no_trace(calls):
    model = small()

    def begin() -> Decoding:
        decoding = Decoding(
            model, ids(3), lanes=1, max_tokens=9, chunk=2, lane_mask=LaneMask.joint(2),
            lane_rope=omega(model), sampler=WARM,
        )  # fmt: skip
        for _ in range(6):
            decoding.step()
        decoding.join([5, 6, 7, 8, 9, 10], max_tokens=3)
        return decoding

    expected, decoding = begin(), begin()
    list(expected)
    before = len(decoding.cache)
    undo = interrupt(model, calls)
    with pytest.raises(Stop):
        decoding.step()
    undo()
    assert len(decoding.cache) == before
    list(decoding)
    same(decoding.lanes, expected.lanes, 0)


@TWO
def test_generate_tells_of_every_step_as_stream_gives_it(kind):
    """`on_step` is how a program shows text while it is written."""
    model, told = model_of(*kind), []
    given_ = {"lanes": 2, "max_tokens": 6, "sampler": FREE, "seed": 4}
    result = generate(model, ids(5), on_step=told.append, **given_)
    assert told == list(stream(model, ids(5), **given_)) and len(told) == result.steps == 6
