"""The cache and the decoder as state machines, and decoding by random scripts.

The machines are public (`tinylane.testing.machine`); here they run on small models.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers_machine import SCRIPT, follow, run_machine, small
from hypothesis import Phase, given
from planting import instead, swap

from tinylane.core.decoder import PLAIN
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.pipeline import Ahead, draw
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding
from tinylane.methods.life import Life
from tinylane.testing.machine import CacheMachine, DecoderMachine, check_machine, saved_and_loaded
from tinylane.testing.shadow import Shadow

on_each_backend = pytest.mark.parametrize(
    "backend", ["numpy float64", "numpy float32", "mlx float32"]
)


@on_each_backend
def test_the_cache_equals_a_fresh_pass_after_any_operations(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinylane.core.cache.BLOCK", 4)
    run_machine(backend)


@on_each_backend
def test_a_decoding_draws_what_fresh_passes_give_after_any_operations(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a life has, and its cache saved and loaded on the way."""
    monkeypatch.setattr("tinylane.core.cache.BLOCK", 4)
    run_machine(backend, DecoderMachine)


def test_passes_built_ahead_are_taken_only_where_they_were_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next pass is built on a guess; lanes that join, fork, end or are dropped, and a cache
    that is another one, must not be answered from it."""
    monkeypatch.setattr("tinylane.core.cache.BLOCK", 4)
    monkeypatch.setattr("tinylane.core.pipeline.pays", lambda model: True)  # as on a GPU
    taken: list[bool] = []
    instead(Ahead, "logits_of", lambda old: lambda *a: [x := old(*a), taken.append(bool(x))][0])(
        monkeypatch
    )
    model = small("mlx", "float32")
    check_machine(DecoderMachine, replace(model, ops=PLAIN._replace(draw=draw)))
    assert {True, False} == set(taken), "the guess was never right, or never wrong"


def test_the_machines_have_a_rule_for_every_operation() -> None:
    """A rule that was renamed away would go untested in silence."""
    rules = lambda kind: {
        n for n, f in vars(kind).items() if hasattr(f, "hypothesis_stateful_rule")
    }
    assert rules(CacheMachine) == {
        "step", "prompt_of_a_lane", "word_to_all", "fork", "drop", "trim", "go_on_with_a_copy",
        "save_and_load", "a_refused_call_leaves_no_trace",
    }  # fmt: skip
    assert rules(DecoderMachine) == {
        "step", "join", "join_and_see", "fork", "seal", "read", "arrange", "pause", "resume",
        "give", "peek", "finish", "drop", "save_and_load",
    }  # fmt: skip
    own = {n for n, f in vars(Life).items() if inspect.isfunction(f) and n[0] != "_"}
    assert own <= rules(DecoderMachine) | LOOKS, "an operation without a rule"


@pytest.mark.parametrize("backend", ["numpy float64", "mlx float32"])
@pytest.mark.parametrize(
    "bug",
    [
        swap("cache.LaneCache.fork", "if not np.array_equal(after, before):", "if False:"),
        swap("decoding.Loop._begin", "(token, at + k,", "(token, at + len(lane.prompt) - k - 1,"),
        swap(
            "files.cache_file.load_cache",
            "cache.tokens = positions,",
            "cache.tokens = positions + 1,",
        ),
        swap("decoding.Loop._draw", "uniform(self.seed, lane.index,", "uniform(self.seed, 0,"),
    ],
    ids=["fork", "join", "load", "draw"],
)
def test_the_decoder_machine_catches_a_planted_bug(
    bug: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 too, where a token may differ by rounding: that must not excuse these."""
    bug(monkeypatch)
    options = {"max_examples": 600, "phases": (Phase.generate,), "database": None}
    with pytest.raises(AssertionError, match="lane"):
        run_machine(backend, DecoderMachine, derandomize=True, **options)


LOOKS = {"position", "end", "giving", "reread"}  # operations that change nothing
PLANTED = {
    "a lane that reads all reads none that joins": swap(
        "life.Life.join", "for reader in live", "for reader in ()"
    ),
    "a new lane reads all": swap("times.joined", "np.isin(np.arange(n), [*sees, m])", "True"),
    "the clock stays where it was": swap("life.Life.join", "self.clock = lane.start", "pass"),
    "a place is forgotten": swap(
        "life.Life.join", "self._shift[m] = lane.start - self.clock", "self._shift[m] = 0"
    ),
    "reading begins a row late": swap(
        "times.reading", "True, position, NEVER", "True, position + 1, NEVER"
    ),
    "reading stops a row late": swap(
        "times.reading", "max(position, since[m, n])", "max(position + 1, since[m, n])"
    ),
    "the author begins with the prompt's logits": swap(
        "life.Life.seal", "self._after[m] = lane", "self._logits[m] = self._prompt_logits"
    ),
    "the author does not read what it wrote": swap(
        "life.Life.seal", "self._grow(m, lane, [lane])", "self._grow(m, lane, [])"
    ),
    "given tokens stay with the sealed lane": swap(
        "life.Life.seal", "(self._shift, self._given)", "(self._shift,)"
    ),
    "a fork reads its source": swap(
        "life.Life.fork", "self._grow(m, source, [])", "self._grow(m, source, [source])"
    ),
    "a fork is fed nothing": swap("life.Life.fork", "in self._feed if lane == source", "in ()"),
    "a lane that waits is fed nothing": swap(
        "life.Life.pause",
        "self._paused.add(lane)",
        "self._feed = [x for x in self._feed if x[2] != lane]; self._paused.add(lane)",
    ),
    "another lane waits": swap("life.Life.pause", "self._paused.add(lane)", "pass"),
    "the end token is kept": swap("life.Life.resume", "x.tokens[:-1], x", "x.tokens, x"),
    "given tokens are forgotten": swap(
        "life.Life._draw", "drawn[k] = self._given[m].pop(0)", "self._given[m].pop(0)"
    ),
    "the parts stand as they stood": swap(
        "life.Life.arrange", "self.cache.lane_rope = replace(rope, order=order)", "pass"
    ),
    "a file forgets the parts' order": swap(
        "files.cache_file._rotation", "Hogwild(tuple(map(int, order)))", "Hogwild()"
    ),
    "rows of a peek stay": swap("life.Life.peek", "self.cache.rewind(before)", "pass"),
    "a peek sees no unfed rows": swap("life.Life.peek", "*self._feed, *", "*"),
    "rows of a dropped lane are fed": swap("life.Life.drop", "if row[2] != lane", "if True"),
    "a file forgets since when": swap(
        "files.cache_file.save_cache", "if x is not None", "if False"
    ),
}


def a_life(shadow: Shadow, hogwild: bool) -> None:
    """Every operation once or more, each followed by the step that shows its effect."""
    d = shadow.decoding
    steps = lambda n=1: [shadow.step() for _ in range(n)]
    steps(2)
    shadow.join([3, 4], "all", "end")  # lane 2 reads all that join, too
    steps()
    shadow.join([5], "none", "before")
    steps(2)
    shadow.join([6, 7], [0], len(d.prompt) + 1)  # lane 4 stands behind the others
    steps(2)
    shadow.peek(2, [1, 2])
    shadow.peek(0, [])
    shadow.read(0, 1, True)
    steps(2)
    shadow.read(0, 1, False)
    steps()
    shadow.read(0, 1, True)  # not again: refused
    shadow.fork(1)
    steps(2)
    if hogwild:
        shadow.arrange([4, 2])
        steps()
    shadow.pause(1)
    steps(2)
    shadow.resume(1)
    shadow.give(0, [2, 3, 4])
    steps()
    shadow.seal(0)
    author = len(d.lanes) - 1
    shadow.peek(author, [1])
    steps(3)
    d.cache = saved_and_loaded(d.cache)
    steps()
    shadow.drop(author)
    shadow.drop(2)
    steps()
    shadow.give(1, [0])  # an end token
    steps()
    shadow.resume(1)
    steps(2)


def led(backend: str, rotation: Any = None) -> None:
    """`a_life` of two lanes, of which the second reads the first, with no room for more."""
    model = small(*backend.split())
    rope = LaneRoPE(np.array([0.9, -1.4, 0.5, 2.0])) if rotation is None else rotation
    decoding = Decoding(
        model, [1, 2, 3], 2, max_tokens=50, lane_prompts=[[4], []], seed=3, lane_rope=rope,
        sampler=Sampler(logit_bias={0: -np.inf}), schedule=lambda d: None,
        lane_mask=LaneMask(np.array([[1, 0], [1, 1]])),
    )  # fmt: skip
    a_life(Shadow(decoding), isinstance(rope, Hogwild))


@on_each_backend
@pytest.mark.parametrize("rotation", [None, Hogwild((1,))], ids=["lanerope", "hogwild"])
def test_a_life_of_every_operation_is_what_fresh_passes_give(backend: str, rotation: Any) -> None:
    led(backend, rotation)


@pytest.mark.parametrize("bug", PLANTED)
def test_a_bug_in_any_operation_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same script, which passes without it (the test above)."""
    PLANTED[bug](monkeypatch)
    with pytest.raises(TinylaneError if "since" in bug else AssertionError):
        led("numpy float64", Hogwild((1,)) if "part" in bug else None)


def test_a_deeper_model_is_refused_with_the_reason() -> None:
    with pytest.raises(TinylaneError, match="2 layers of attention; the machines need one"):
        check_machine(CacheMachine, small("numpy", "float64", layers=2))


@given(**SCRIPT)
def test_lanes_that_join_fork_finish_and_drop_write_what_fresh_passes_give(**drawn: Any) -> None:
    """In float64, where no draw falls between two roundings."""
    follow(**drawn)
