"""A lane's own text, for the repetition penalty: what it wrote before it was sealed counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_lanes import BACKENDS, EOS, ids, model_of, omega
from helpers_view import as_run

from tinylane.core.lanes import LaneMask
from tinylane.core.result import Lane
from tinylane.core.sampling import Sampler, uniform
from tinylane.methods.decoding import Decoding
from tinylane.methods.life import own_text
from tinylane.view.replay_record import record

PENALTY = Sampler(temperature=1.0, repetition_penalty=1.7, logit_bias={EOS: -np.inf})


def sealed(model: Any) -> Decoding:
    """Two lanes; lane 0 is sealed twice, and what it became is forked."""
    settings = {"lane_prompts": [[1], []], "max_tokens": 14, "seed": 4, "sampler": PENALTY}
    settings |= {"lane_rope": omega(model), "lane_mask": LaneMask.joint(2)}
    return Decoding(model, ids(5), 2, **settings)


def life(d: Decoding) -> list[list[int]]:
    """Every lane's own text, lane by lane, as a person would write it down."""
    first = second = 0
    for step in range(9):
        if step == 3:
            first = d.seal(0).index
        if step == 6:
            second = d.seal(first).index
        if step == 7:
            d.fork(second)
        d.step()
    lane = [x.tokens for x in d.lanes]
    one = [1, *lane[0], *lane[first]]
    return [[1, *lane[0]], lane[1], one, one + lane[second], one + lane[second + 1]]


def test_the_text_of_a_lane_begins_with_that_of_the_sealed_lanes_it_goes_on() -> None:
    d = sealed(model_of("numpy", "float64"))
    assert life(d) == [own_text(d.lanes, lane) for lane in d.lanes]
    many = [Lane(m, [m], 0, 1, follows=m - 1 if m else None) for m in range(1024)]
    assert own_text(many, many[-1]) == [*range(1024)]


@pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
def test_the_repetition_penalty_counts_the_sealed_text(kind: Any) -> None:
    """Each token is drawn anew from the logits that `peek` gives, with the text written down."""
    model = model_of(*kind)
    d, differ = sealed(model), 0
    d.step()
    d.step()
    before = [1, *d.lanes[0].tokens]
    new = d.seal(0)
    for _ in range(8):
        logits = model.array(d.peek(new.index)[None])
        number = [uniform(d.seed, new.index, len(new.tokens))]
        with_it = PENALTY(logits, number, [[*d.prompt, *before, *new.tokens]])[0]
        without = PENALTY(logits, number, [[*d.prompt, *new.tokens]])[0]
        d.step()
        assert new.tokens[-1] == int(with_it[0])
        differ += int(with_it[0]) != int(without[0])
    assert differ > 0, "the sealed text made no difference: this test shows nothing"


def test_a_replay_draws_the_tokens_of_a_sealed_lane_with_the_same_penalty() -> None:
    model = model_of("numpy", "float64")
    d = sealed(model)
    life(d)
    for lane in d.live:
        d.finish(lane.index)
    found = record(as_run(model, d.result()), model)
    assert found.redrawn.tolist() == [t for lane in d.lanes for t in lane.tokens]
