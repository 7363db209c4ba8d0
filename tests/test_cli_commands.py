"""`tinylane inspect`, `eval` and `train`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import helpers_cli
import pytest
from helpers_cli import GAME

import tinylane
from tinylane.tasks.evaluate import Score, evaluate, game_of

ask, game, plain = helpers_cli.ask, helpers_cli.game, helpers_cli.plain  # fixtures

# The other commands.


def test_inspect_says_what_was_chosen_and_from_which_file(ask: Any, game: str) -> None:
    code, out, _ = ask("inspect", game, "--lanes", 4, "--prompt-tokens", 10, "--max-tokens", 20)
    assert code == 0 and "qwen3" in out and "[config.json]" in out and "4 lanes of 20" in out
    code, out, _ = ask("inspect", game, "--json")
    assert code == 0 and json.loads(out)["family"]["value"] == "qwen3"
    code, out, err = ask("inspect", "/no/such")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_eval_counts_what_generate_answers(ask: Any, game: str) -> None:
    code, out, err = ask("eval", "shell-game", "--model", game, "--count", 12, "--json")
    assert code == 0 and "12 of 12" in err
    document = json.loads(out)
    got = [(s["lanes"], s["visibility"]) for s in document["scores"]]
    assert got == [
        (1, "independent"),
        (2, "joint"),
        (2, "independent"),
        (4, "joint"),
        (4, "independent"),
    ]
    model = tinylane.load(game, backend="numpy")
    score = evaluate(model, GAME, 2, "joint", count=12)
    assert score.right == document["scores"][1]["right"]
    assert list(score.interval) == document["scores"][1]["interval_95"]
    _, out, err = ask("eval", "shell-game", "--model", game, "--count", 3, "--lanes", 2, "--quiet")
    assert len(out.splitlines()) == 4 and err == ""


def test_eval_scores_a_right_lane_as_right(game: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the truth put in every lane's mouth, all are right; with it in one of four, that one."""
    from tinylane import decoding

    model = tinylane.load(game, backend="numpy")
    original, told = decoding.generate, [0, 1, 2, 3]

    def generate(model: Any, prompt: str, **settings: Any) -> Any:
        result = original(model, prompt, **settings)
        for lane in result.lanes:
            lane.text = "ABC XXX"
            if lane.index in told:
                lane.text = "XXX " + GAME.answer(GAME.parse(prompt))
        return result

    monkeypatch.setattr(decoding, "generate", generate)
    score = evaluate(model, GAME, 4, "joint", count=5)
    assert (score.right, score.per_lane) == (5, (5, 5, 5, 5))
    told[:] = [2]
    score = evaluate(model, GAME, 4, "joint", count=5)
    assert (score.right, score.per_lane) == (0, (0, 0, 5, 0))


def test_the_interval_is_wilson_s() -> None:
    score = Score(4, "joint", 1000, 990, (990,), 7, 7000, 1.0)
    assert score.interval == pytest.approx((0.98168, 0.99457), abs=1e-4)
    assert Score(4, "joint", 10, 10, (10,), 7, 70, 1.0).interval[1] == pytest.approx(1)


def test_eval_of_a_model_without_the_task_is_one_line(ask: Any, plain: str) -> None:
    code, out, err = ask("eval", "shell-game", "--model", plain)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert game_of(tinylane.load(plain, backend="numpy")) is None


def test_train_goes_on_where_it_stopped_and_exports(ask: Any, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core")
    out = tmp_path / "run"
    sizes = {"cups": 2, "swaps": 2, "width": 16, "layers": 1, "heads": 1, "kv-heads": 1}
    sizes |= {"head-dim": 8, "mlp-width": 16, "steps": 4, "rows": 64, "warmup": 1}
    recipe = [word for name, value in sizes.items() for word in (f"--{name}", value)]
    recipe += ["--lanes", 1, 2, "--shares", 0.5, 0.5]
    argv = ["train", "shell-game", "--out", out, *recipe, "--every", 1, "--check-every", 2]
    code, text, err = ask(*argv, "--stop-at", 2)
    assert code == 0 and "stopped at step 2 of 4" in text
    assert re.search(r"step 2 of 4, \d+ s; loss .*; exact ", err)
    code, text, err = ask(*argv, "--quiet")
    assert code == 0 and text.startswith("trained: ") and err == ""
    code, text, _ = ask("generate", "--model", out, "--backend", "numpy", "--lanes", 2)
    assert code == 0 and "vote: " in text
    code, _, err = ask(*argv, "--seed", 1)
    assert (code, err.count("\n")) == (2, 1) and "another recipe" in err


def test_training_without_mlx_says_what_installs_it(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlx", None)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    monkeypatch.delitem(sys.modules, "tinylane.train.shell_game", raising=False)
    code, _, err = ask("train", "shell-game", "--out", "x")
    assert (code, err.count("\n")) == (2, 1) and 'pip install "tinylane[mlx]"' in err
