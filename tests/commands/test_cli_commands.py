"""`tinylane inspect`, `eval`, `train`, `replay`, and `generate --beams`."""

from __future__ import annotations

import json
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers_cli
import pytest
from helpers_cli import GAME, write_checkpoint

import tinylane
from tinylane.evaluate.tasks import make
from tinylane.evaluate.tasks.shell_game_task import game_of
from tinylane.evaluate.tasks.task import Options
from tinylane.methods.decoding import Decoding
from tutorials.study.score_one import Score, evaluate

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
    assert code == 0 and "60 of 60" in err
    document = json.loads(out)
    got = [(s["lanes"], s["mode"]) for s in document["scores"]]
    assert got == [
        (1, "independent"),
        (2, "joint"),
        (2, "independent"),
        (4, "joint"),
        (4, "independent"),
    ]
    model = tinylane.load(game, backend="numpy")
    score = evaluate(model, GAME, 2, "joint", count=12)
    majority = document["scores"][1]["majority"]
    assert majority["value"] == pytest.approx(score.right / 12)
    assert list(score.interval) == pytest.approx(majority["interval_95"])
    right = 0
    for problem in make("shell-game", Options(), model).problems(12, 0):
        swaps = problem.prompt.split("swap ")[1].split(":")[0]
        argv = ["generate", "--model", game, "--lanes", 2, "--prompt", swaps, "--temp", 0]
        right += json.loads(ask(*argv, "--json")[1])["task"]["correct"]
    assert right == score.right
    _, out, err = ask("eval", "shell-game", "--model", game, "--count", 3, "--lanes", 2, "--quiet")
    assert len(out.splitlines()) == 4 and err == ""


def test_eval_scores_a_right_lane_as_right(game: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the truth put in every lane's mouth, all are right; with it in one of four, that one."""
    model = tinylane.load(game, backend="numpy")
    truths = [p.truth for p in make("shell-game", Options(), model).problems(5, 0)]
    original, told, asked = Decoding.step, [0, 1, 2, 3], []

    def step(self: Decoding) -> Any:
        if self.steps == 0:
            asked.append(self)
        truth = truths[(len(asked) - 1) % 5]
        found = original(self)
        said = [truth if m in told else "XXX" for m in range(4)]
        return replace(found, texts=[f" {word}" for word in said])

    monkeypatch.setattr(Decoding, "step", step)
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
    assert (code, err.count("\n")) == (2, 1) and "another configuration" in err


def test_training_without_mlx_says_what_installs_it(
    ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlx", None)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    monkeypatch.delitem(sys.modules, "tinylane.train.from_scratch", raising=False)
    code, _, err = ask("train", "shell-game", "--out", "x")
    assert (code, err.count("\n")) == (2, 1) and 'pip install "tinylane[mlx]"' in err


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.25, 0.125)])
def test_shares_that_do_not_fit_the_numbers_of_lanes_are_one_line(
    ask: Any, tmp_path: Path, shares: tuple[float, ...]
) -> None:
    pytest.importorskip("mlx.core")
    out = tmp_path / "out"
    flags = ["--lanes", 1, 2, 4, "--shares", *shares, "--quiet"]
    code, _, err = ask("train", "shell-game", "--out", out, *flags)
    assert code == 2 and err.count("\n") == 1 and not out.exists()
    assert "expected a share for each number of lanes, 1 in all" in err


# Saved runs.


def test_a_saved_run_replays_and_a_changed_one_does_not(
    ask: Any, game: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    argv = ["generate", "--model", game, "--temp", 1.5, "--seed", 4]
    code, out, _ = ask(*argv, "--save", file)
    assert code == 0 and ask(*argv)[1] == out
    code, out, _ = ask("replay", file)  # the file knows its model
    assert code == 0 and out.rstrip().endswith("agrees")
    code, out, _ = ask("replay", file, "--model", game, "--dtype", "float64", "--json")
    document = json.loads(out)
    assert code == 0 and document["agrees"] and document["difference"] < 1e-4
    run = json.loads(file.read_text())
    run["lanes"][2]["logprobs"][1] -= 0.5
    file.write_text(json.dumps(run))
    code, out, _ = ask("replay", file)
    assert code == 1 and "(lane 3, token 2)" in out and out.rstrip().endswith("DIFFERS")
    assert ask("replay", file, "--tolerance", 1)[0] == 0


def test_a_run_of_another_model_and_a_file_that_is_no_run_are_one_line(
    ask: Any, game: str, plain: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.json"
    assert ask("generate", "--model", game, "--save", file, "--quiet")[0] == 0
    other = write_checkpoint(tmp_path / "other", seed=1)
    (tmp_path / "no.json").write_text("{}")
    for flags in ([file, "--model", other], [tmp_path / "no.json"], [tmp_path / "none.json"]):
        code, out, err = ask("replay", *flags)
        assert (code, out, err.count("\n")) == (2, "", 1), err


def test_an_interrupted_run_is_saved(
    ask: Any, game: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.json"
    original = Decoding.step

    def step(self: Decoding) -> Any:
        if self.steps == 2:
            signal.raise_signal(signal.SIGINT)
        return original(self)

    monkeypatch.setattr(Decoding, "step", step)
    code, _, _ = ask("generate", "--model", game, "--save", file, "--logit-bias", "1:-inf")
    assert code == 130
    assert [x["finish_reason"] for x in json.loads(file.read_text())["lanes"]] == [
        "interrupted"
    ] * 4
    assert ask("replay", file)[0] == 0


def test_what_cannot_be_saved_is_shown_first(
    ask: Any, game: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinylane.view import run_file

    def save_run(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_file, "save_run", save_run)
    code, out, err = ask("generate", "--model", game, "--save", tmp_path / "run.json")
    assert code == 2 and "vote: " in out and err.endswith("No space left on device\n")


# Beams.


def test_beams_are_shown_best_first(ask: Any, plain: str, game: str) -> None:
    argv = ["generate", "--model", plain, "--prompt", "cups ABC", "--beams", 3, "-m", 4]
    code, out, _ = ask(*argv, "--json")
    scores = [beam["score"] for beam in json.loads(out)["beams"]]
    assert code == 0 and len(scores) == 3 and scores == sorted(scores, reverse=True)
    code, out, _ = ask(*argv)
    assert code == 0 and out.startswith(f"beam 1, score {scores[0]:.3f} | ")
    code, out, _ = ask("generate", "--model", game, "--beams", 2, "--prompt", "1-2")
    assert code == 0 and re.search(r"^best: .*; the truth: BAC; ", out, re.MULTILINE)
    code, out, err = ask("generate", "--model", game, "--beams", 2, "--prompt", "1-2", "--quiet")
    verdict = re.search(r"the truth: BAC; (correct|wrong)$", out, re.MULTILINE)
    assert (code, err) == (0, "") and verdict is not None
    _, out, _ = ask("generate", "--model", game, "--beams", 2, "--prompt", "1-2", "--json")
    task = {"name": "shell-game", "truth": "BAC", "correct": verdict[1] == "correct"}
    assert json.loads(out)["task"] == task


@pytest.mark.parametrize("flags", [["--lanes", 2], ["--temp", 1], ["--beams", 0], ["--vote"]])
def test_beams_refuse_what_they_do_not_do(ask: Any, plain: str, flags: list) -> None:
    code, out, err = ask("generate", "--model", plain, "--prompt", "cups", "--beams", 2, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
