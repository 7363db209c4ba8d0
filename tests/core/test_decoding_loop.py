"""The loop that one reads first: token ids in, token ids out, as the oracle and as `Decoding`."""

from __future__ import annotations

from typing import Any

import pytest
from helpers_lanes import EOS, TOLERANCE, TWO, WARM, ids, model_of, omega, same
from planting import swap

from tinylane.core.decoding import Loop
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask
from tinylane.core.oracle import naive
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import generate

F64 = model_of("numpy", "float64")
ENDS = Sampler(temperature=1.0, repetition_penalty=1.3, logit_bias={EOS: 2.0})


def compared(model: Any, tolerance: float) -> set[str | None]:
    """Loops with lanes that begin and end apart, beside the oracle; how their lanes ended."""
    reasons: set[str | None] = set()
    for seed, (visibility, lag, sampler) in enumerate(
        [("joint", 0, WARM), ("star", 2, ENDS), ("neighbours:1", 1, ENDS), ("joint", 0, ENDS)]
    ):
        own = [[1, 2], [], [3], [4, 5, 6]]
        how: dict[str, Any] = {"lane_rope": omega(model), "sampler": sampler, "seed": seed}
        how["lane_mask"] = LaneMask.named(visibility, 4, lag)
        loop = Loop(model, ids(9), 4, lane_prompts=own, max_tokens=7, chunk=4, **how)
        steps = list(loop)
        same(loop.lanes, naive(model, ids(9), own, 7, **how), tolerance)
        assert [step.tokens[1] for step in steps][: len(loop.lanes[1].tokens)] == (
            loop.lanes[1].tokens
        )
        reasons |= {lane.finish_reason for lane in loop.lanes}
    return reasons


@TWO
def test_it_gives_what_a_fresh_pass_at_every_step_gives(kind: Any) -> None:
    assert compared(model_of(*kind), TOLERANCE[kind[1]]) == {"stop", "length"}


@pytest.mark.parametrize(
    "bug",
    [
        swap("decoding.Loop.step", "(token, place, lane.index)", "(token, place + 1, lane.index)"),
        swap("decoding.Loop._stops", "token in self.model.end_ids", "False"),
        swap("decoding.Loop._written", "*lane.prompt, ", ""),
        swap("decoding.Loop._begin", "at + k", "at"),
    ],
    ids=["fed a position late", "goes on after its end", "half a history", "one place for all"],
)
def test_the_comparison_catches_a_planted_bug(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        compared(F64, TOLERANCE["float64"])


def test_a_decoding_to_which_nothing_happens_is_a_loop() -> None:
    """To the last bit, and so is what a run file would hold, but for the texts that end lanes."""
    how: dict[str, Any] = {"lane_rope": omega(F64), "lane_mask": LaneMask.joint(3), "seed": 8}
    how |= {"max_tokens": [4, 6, 5], "lane_prompts": [[1], [2], [3]], "sampler": ENDS}
    loop = Loop(F64, ids(6), 3, **how)
    list(loop)
    run, told = loop.result(), generate(F64, ids(6), lanes=3, **how)
    assert [lane.logprobs for lane in run.lanes] == [lane.logprobs for lane in told.lanes]
    assert [lane.tokens for lane in run.lanes] == [lane.tokens for lane in told.lanes]
    assert {**run.settings, "stop": []} == told.settings and run.steps == told.steps


@pytest.mark.parametrize(
    ("prompt", "settings", "line"),
    [
        ([], {}, "2 lanes; expected a prompt, 2 lane_prompts, 2 max_tokens"),
        ([1], {"lane_prompts": [[1]]}, "2 lanes; expected a prompt, 2 lane_prompts"),
        ([1], {"max_tokens": [1, 2, 3]}, "2 lanes; expected a prompt, 2 lane_prompts"),
        ([1], {"max_tokens": 0}, "max_tokens is 0; expected a whole number"),
        ([1] * 9999, {}, "the prompt has 9999 tokens; this model's context is"),
        ([1], {"lane_mask": LaneMask.joint(1)}, "2 lanes, but visibility is 1 x 1"),
        ([1], {"stop": "x"}, "'stop' is no setting; expected one of max_tokens"),
        ([1], {"chunk": 0}, "chunk is 0"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused(prompt: list[int], settings: Any, line: str) -> None:
    with pytest.raises(TinylaneError, match=line):
        Loop(F64, prompt, 2, **settings)


def test_there_is_no_step_after_the_last() -> None:
    loop = Loop(F64, ids(3), max_tokens=1)
    list(loop)
    with pytest.raises(TinylaneError, match="every lane has finished"):
        loop.step()
