"""`--collaborate` of generate and eval, and what it writes down."""

# ruff: noqa: F811 - fixtures
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import helpers_eval
import pytest
from helpers_cli import ask, game  # noqa: F401 - fixtures
from helpers_text import byte_level
from tokenizers import Tokenizer as Core

from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.view.run_file import load_run

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint with a byte-level tokenizer and nothing about lanes."""
    from helpers_checkpoint import small as raw
    from helpers_checkpoint import write_checkpoint

    vocab = Tokenizer(Core.from_str(byte_level()), NAMES).vocab_size
    folder = write_checkpoint(tmp_path_factory.mktemp("chatty") / "m", raw(vocab_size=vocab))
    (folder / "tokenizer.json").write_text(byte_level(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return str(folder)


def test_generate_with_collaboration_prompts(ask: Any, chatty: str, tmp_path: Path) -> None:
    for name, text in (("system", "You are {lanes}."), ("nudge", "\nme?"), ("finish", "\nso {")):
        (tmp_path / f"{name}.txt").write_text(text + "\n")
    argv = ("--model", chatty, "--prompt", "hi", "--lanes", 2, "--visibility", "joint")
    argv = (*argv, "--max-tokens", 30, "--temp", 1, "--seed", 3, "--collaborate", tmp_path)
    code, out, err = ask("generate", *argv, "--nudge-every", 8, "--json", "--quiet")
    assert code == 0, err
    found = json.loads(out)
    assert found["collaborate"]["system"] == "You are {lanes}."
    assert all(kinds[0][0] == "nudge" and kinds[-1][0] == "finish" for kinds in found["given"])
    assert all("\nso {" in lane["text"] for lane in found["lanes"])
    saved = tmp_path / "run.json"
    more = ("--without", "nudge", "--finish-at", 20, "--save", saved, "--quiet")
    code, out, err = ask("generate", *argv, *more)
    assert code == 0 and err == ""
    extra = load_run(saved).extra
    assert [[r[:2] for r in ranges] for ranges in extra["given"]] == [[["finish", 20]]] * 2
    code, out, _ = ask("replay", saved, "--model", chatty)
    assert code == 0


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--without", "nudge"], "--without needs --collaborate"),
        (["--nudge-every", "4"], "--nudge-every needs --collaborate"),
        (["--collaborate", "--nudge-every", "0"], "--nudge-every is 0; expected 1 or more"),
        (["--collaborate", "/no/such"], "/no/such: no collaboration prompts"),
        (["--collaborate", "--without", "all"], "invalid choice: 'all'"),
        (["--collaborate", "--without", "system", "--max-tokens", "9"], "do not fit"),
        (["--collaborate", "--beams", "2"], "--beams does not use"),
    ],
)
def test_bad_flags_are_one_line(ask: Any, chatty: str, argv: Any, expected: str) -> None:
    code, out, err = ask("generate", "--model", chatty, "--prompt", "hi", "--quiet", *argv)
    assert code == 2 and out == ""
    assert expected in err and err.count("\n") == 1


def test_the_shell_games_model_takes_no_collaboration_prompts(ask: Any, game: str) -> None:
    code, _, err = ask("generate", "--model", game, "--collaborate")
    assert code == 2 and "trained on the shell game alone" in err


def test_eval_with_collaboration_prompts(ask: Any, tmp_path: Path) -> None:
    """The prompts are part of the configuration, and a record says what its lanes were given."""
    model = helpers_eval.checkpoint(tmp_path / "m")
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"question": "How much is half of six?", "answer": "3"}))
    out = tmp_path / "run"
    argv = ("eval", "jsonl", "--model", model, "--data", data, "--compare", "exact", "--out", out)
    argv = (*argv, "--lanes", 2, "--mode", "hogwild", "--max-tokens", 48, "--backend", "numpy")
    code, _, err = ask(*argv, "--collaborate", "--without", "system")
    assert code == 2 and "do not fit" in err and "problem 1" in err
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "finish.txt").write_text("\nso \\boxed{")
    more = ("--logit-bias", "256:-50", "--collaborate", tmp_path / "p")
    code, _, err = ask(*argv, *more, "--out", tmp_path / "run2")
    assert code == 0, err
    (row,) = [json.loads(line) for line in (tmp_path / "run2" / "results.jsonl").open()]
    finish = len("\nso ") + 1  # bytes, and the word
    assert row["given"] == [[["finish", 48 - 12 - finish, 48 - 12]]] * 2
    assert all("\nso \\boxed{" in lane["text"] for lane in row["lane"])
    settings = json.loads((tmp_path / "run2" / "settings.json").read_text())["settings"]
    assert settings["collaborate"]["finish"] == "\nso \\boxed{"
    code, _, err = ask(*argv, "--logit-bias", "256:-50", "--out", tmp_path / "run2")
    assert code == 2 and "of another configuration (collaborate was" in err
