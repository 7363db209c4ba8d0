"""The cache and the decoder as state machines, and decoding by random scripts.

The machines are public (`tinylane.testing.machine`); here they run on small models.
"""

from __future__ import annotations

from typing import Any

import pytest
from helpers_machine import SCRIPT, follow, run_machine, small
from hypothesis import Phase, given
from planting import instead, swap

from tinylane.core.errors import TinylaneError
from tinylane.core.pipeline import Ahead
from tinylane.testing.machine import CacheMachine, DecoderMachine, check_machine

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
    """Join, fork, finish, drop, and its cache saved and loaded on the way."""
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
    run_machine("mlx float32", DecoderMachine)
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
    assert rules(DecoderMachine) == {"step", "join", "fork", "finish", "drop", "save_and_load"}


@pytest.mark.parametrize("backend", ["numpy float64", "mlx float32"])
@pytest.mark.parametrize(
    "bug",
    [
        swap("cache.LaneCache.fork", "if not np.array_equal(after, before):", "if False:"),
        swap("life.Life.join", "(token, begin + k, m)", "(token, begin + len(ids) - k - 1, m)"),
        swap(
            "files.cache_file.load_cache",
            "cache.tokens = positions,",
            "cache.tokens = positions + 1,",
        ),
        swap("decoding.Decoding._draw", "uniform(self.seed, lane.index,", "uniform(self.seed, 0,"),
    ],
    ids=["fork", "join", "load", "draw"],
)
def test_the_decoder_machine_catches_a_planted_bug(
    bug: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 too, where a token may differ by rounding: that must not excuse these."""
    bug(monkeypatch)
    options = {"max_examples": 200, "phases": (Phase.generate,), "database": None}
    with pytest.raises(AssertionError, match="lane"):
        run_machine(backend, DecoderMachine, derandomize=True, **options)


def test_a_deeper_model_is_refused_with_the_reason() -> None:
    with pytest.raises(TinylaneError, match="2 layers; the machines need one"):
        check_machine(CacheMachine, small("numpy", "float64", layers=2))


@given(**SCRIPT)
def test_lanes_that_join_fork_finish_and_drop_write_what_fresh_passes_give(**drawn: Any) -> None:
    """In float64, where no draw falls between two roundings."""
    follow(**drawn)
