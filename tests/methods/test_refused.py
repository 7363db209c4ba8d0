"""Options and settings of a wrong kind, budgets, and who answers: what a hostile reader tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers_methods import PROMPT, WARM, small

import tinylane
from tinylane.commands.cli import main
from tinylane.core.errors import TinylaneError
from tinylane.evaluate.answers import answering
from tinylane.methods import NAMES, generate, prepare
from tinylane.view.run_file import load_run

MODEL = small()
DECODED = [name for name in NAMES if name != "beam"]


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("hogwild_steps", {"until": "["}, "until is no regular expression"),
        ("hogwild_steps", {"names": []}, "names is empty"),
        ("hogwild_steps", {"forbidden": 3}, "forbidden is 3; expected a list of texts"),
        ("multi_stream", {"given": []}, "expected an object"),
        ("gambit", {"floor": "x"}, "floor"),
        ("dynamic_lanes", {"unlikely": None}, "unlikely"),
        ("tool_lane", {"tool": "x"}, "a function"),
        ("stop", {"score": "x"}, "a function"),
        ("pasta", {"sync": 3}, "a text"),
        ("async_reasoning", {"until": 3}, "a text"),
        ("logit_averaging", {"prompts": 7}, "a list"),
        ("parathinker", {"first_finish": "no"}, "true or false"),
        ("parathinker", {"open": 5}, "open is 5; expected a text or token ids"),
    ],
)
def test_an_option_of_a_wrong_kind_is_refused_by_name(name: str, options: Any, says: str) -> None:
    with pytest.raises(TinylaneError, match=says.replace("[", r"\[")):
        prepare(MODEL, name, 3, 12, options)


@pytest.mark.parametrize("name", DECODED)
def test_no_method_spends_more_than_all_lanes_may(name: str) -> None:
    endless = tinylane.Sampler(1.0, logit_bias=dict.fromkeys(MODEL.tokenizer.eos_ids, -1e30))
    for total in (6, 40):
        how = {"max_tokens": 30, "seed": 3, "sampler": endless, "total_tokens": total}
        result = generate(MODEL, PROMPT, name, 3, **how)
        assert sum(len(lane.tokens) for lane in result.lanes) <= total


def test_a_dropped_lane_does_not_answer() -> None:
    for seed in range(8):
        how = {"max_tokens": 20, "seed": seed, "sampler": WARM}
        options = {"warmup": 4, "every": 4}
        result = generate(MODEL, PROMPT, "gambit", 3, options=options, **how)
        assert any(lane.dropped is not None for lane in result.lanes)
        assert tinylane.best_of(result).dropped is None
        assert all(lane.dropped is None for lane in answering("gambit", result))
    last = generate(MODEL, PROMPT, "parathinker", 2, max_tokens=20, seed=1, sampler=WARM)
    assert [lane.index for lane in answering("parathinker", last)] == [2]


def test_slot_0_is_slot_0() -> None:
    rope = prepare(MODEL, "group_think", 2, 9, {"slot": 0}).settings["lane_rope"]
    assert not rope.omega.any()


def test_a_run_whose_schedule_cannot_go_on_is_shown_and_saved(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "run.json"
    config = json.dumps({"first_finish": False, "close": "", "end": ""})
    words = ["generate", "--raw", "--prompt", "swap", "--seed", "3", "--backend", "numpy"]
    words += ["--temp", "2", "--logit-bias", '{"1":-100}', "--max-tokens", "600", "--lanes", "2"]
    code = main([*words, "--method", "parathinker", "--method-config", config, "--save", str(file)])
    said = capsys.readouterr()
    assert code == 2 and "the context ends" in said.err
    assert sum(len(lane.tokens) for lane in load_run(file).result.lanes) > 900


def test_what_is_no_file_is_not_replaced(tmp_path: Path, capsys: Any) -> None:
    import os

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = main(["generate", "--seed", "3", "--save", str(pipe)])
    assert code == 2 and "is no regular file" in capsys.readouterr().err
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    "words, says",
    [
        (["--method", "lanerope", "--visibility", "[[1,1],[1,1]]", "--lanes", "3"], "2 x 2"),
        (["--method", "parathinker", "--lane-prompt", "A", "B", "C", "D"], "texts of its own"),
        (["--method", "gambit", "--method-config", '{"width": 9}'], "no 'width'"),
    ],
)
def test_flags_that_a_method_cannot_use_are_refused(
    words: list[str], says: str, capsys: Any
) -> None:
    assert main(["generate", "--raw", "--prompt", "swap", *words]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
