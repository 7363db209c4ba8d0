"""What a view says in words about a run: its settings, who reads whom, what silence changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers_view import decoded

from tinylane import plot
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.sampling import Sampler
from tinylane.methods import times
from tinylane.view import replay_page as paging
from tinylane.view.replay_page import page
from tinylane.view.replay_record import record
from tinylane.view.replay_words import about, describe, first_shown, most_to_others, sentences


def test_the_settings_of_a_run_are_named_where_they_are_not_the_usual_ones() -> None:
    """A penalty too, whose replay needs what each lane had read: the draws come out again."""
    sampler = Sampler(temperature=0.8, top_p=0.9, top_k=12, min_p=0.01, repetition_penalty=1.3)
    model, run = decoded(sampler=sampler)
    found = record(run, model)
    said = dict(about(found))
    chosen = "temperature 0.8, top_p 0.9, top_k 12, min_p 0.01, repetition_penalty 1.3; seed 4"
    assert said["sampling"] == chosen and said["model"] == "the model inside"
    assert said["rotation"] == "LaneRoPE, the prompt as a part of every lane"
    assert said["check"].startswith("log-probabilities recomputed: largest difference ")
    assert [name for name, _ in about(found)].count("check") == 1  # all drawn as they were


def test_tokens_that_this_machine_would_not_draw_are_counted() -> None:
    model, run = decoded()
    found = record(run, model)
    other = found.redrawn.copy()
    other[[1, 4]] += 1
    checks = [text for name, text in about(replace(found, redrawn=other)) if name == "check"]
    assert checks[1:] == ["2 tokens would be drawn differently on this machine"]


@pytest.mark.parametrize(
    ("kind", "said"),
    (
        ("hogwild", "Hogwild"),
        ("group_think", "LaneRoPE, the prompt at lane 1"),
        ("none", "none: lanes are not told apart by position"),
    ),
)
def test_the_rotation_is_named(kind: str, said: str) -> None:
    more = {"lane_rope": LaneRoPE.none(decoded()[0].theta)} if kind == "none" else {}
    model, run = decoded("joint" if kind == "none" else kind, **more)
    assert dict(about(record(run, model)))["rotation"] == said


def test_who_reads_whom_is_said_by_name_lane_by_lane_or_as_a_count() -> None:
    ring = np.eye(3, dtype=bool) | np.roll(np.eye(3, dtype=bool), 1, axis=1)
    assert describe(LaneMask(ring), 3) == "1 reads 2; 2 reads 3; 3 reads 1"
    ring[2] = [False, False, True]
    said = describe(LaneMask(ring, lag=2), 3)
    assert said == "1 reads 2; 2 reads 3; 3 reads nobody, 2 steps late"
    many = np.eye(20, dtype=bool)
    many[0, :5] = True
    assert describe(LaneMask(many), 20) == "a matrix, 24 of 400 set"
    assert describe(LaneMask.star(20, lag=1), 20) == "star, 1 step late"
    assert describe(LaneMask.joint(4), 2) == "joint"


def test_what_silence_changes_is_said_as_it_is() -> None:
    """Another token, the same token less likely, or nothing worth a sentence."""
    model, run = decoded("joint")
    found = record(run, model, influence=True)
    drawn = np.concatenate([lane.tokens for lane in run.result.lanes])
    least = [replace(s, kl=np.full_like(s.kl, 1e-5)) for s in found.silences]
    nothing = replace(found, silences=least)
    assert sentences(nothing)[-1] == (
        "Silencing any one lane would have changed no other lane's next token."
    )
    assert first_shown(nothing) == most_to_others(found)
    same = replace(found, silences=[replace(s, drawn=drawn) for s in found.silences])
    assert " would still have written " in sentences(same)[-1]
    assert sentences(same)[-1].endswith("the largest change that silence makes.")
    other = replace(found, silences=[replace(s, drawn=drawn + 1) for s in found.silences])
    assert " instead of " in sentences(other)[-1]


def test_a_lane_that_wrote_nothing_has_no_curve_and_no_share() -> None:
    """A lane whose room is nothing more than its prompt."""
    model, run = decoded(lanes=3)
    lane = run.result.lanes[2]
    lane.tokens, lane.logprobs, lane.text = [], [], ""
    found = record(run, model)
    assert np.isnan(found.lane_shares()[2]).all() and not np.isnan(found.lane_shares()[:2]).any()
    curves = [x for x in plot.shares(found).axes[0].lines if len(x.get_xdata()) > 2]
    assert len(curves) == 2


def test_a_page_of_one_lane_ranks_heads_though_none_listens() -> None:
    model, run = decoded(lanes=1, lane_prompts=None, max_tokens=4)
    found = record(run, model)
    html, said = page(found, None)
    assert "<html" in html and said
    assert paging.ranked(found)[0] == 1 and (found.to_others(1) == 0.0).all()


def test_half_a_character_at_the_end_of_a_lane_is_shown_as_what_it_is() -> None:
    """A lane may end within one; its bytes must not vanish from the page."""
    from helpers_lanes import small
    from helpers_text import byte_level
    from tokenizers import Tokenizer as Core

    from tinylane.checkpoints.tokenizer import Tokenizer
    from tinylane.view.replay_page import Texts

    tokenizer = Tokenizer(Core.from_str(byte_level()), {"eos_token": "</s>"})
    model = small(vocab=tokenizer.vocab_size, tokenizer=tokenizer)
    ball = tokenizer.encode("🎾")
    model, run = decoded(model=model, lane_prompts=[[], [], []])
    halves = (ball[:2], [*tokenizer.encode("x"), ball[0]])
    for lane, tokens in zip(run.result.lanes, halves, strict=False):
        lane.tokens, lane.logprobs = tokens, [-1.0] * len(tokens)
    texts = Texts(record(run, model), tokenizer)
    P = len(run.result.prompt)
    first = [texts.table[k] for k in texts.number[P : P + 2]]
    second = [texts.table[k] for k in texts.number[P + 2 : P + 4]]
    assert first[0] == "·" and first[1] not in ("", "·") and second[0] == "x" != second[1]


def test_the_token_that_ended_a_lane_is_shown_only_if_there_is_no_other() -> None:
    model, run = decoded("joint")
    found = record(run, model)
    q = most_to_others(found)
    lane = run.result.lanes[int(found.of[q])]
    last = int(np.flatnonzero(found.of == lane.index)[-1])
    shares = found.views[0].shares.copy()
    shares[last] = 0.0
    shares[last, 1 + (lane.index + 1) % found.n] = 1.0  # all of it to another lane
    loudest = replace(found, views=[replace(found.views[0], shares=shares)])
    assert most_to_others(loudest) == last
    lane.finish_reason = "stop"
    assert most_to_others(loudest) != last


def test_who_reads_whom_is_said_to_change_where_it_does():
    star = LaneMask.star(3)
    assert describe(star, 3) == "star"
    later = times.reading(star, 0, 1, False, 9)
    assert describe(later, 3) == "star, from or until some position"
