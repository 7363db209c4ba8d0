"""The README says what is so: its code runs, and its picture is what the command draws."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tinylane
from tinylane.commands.cli import main
from tinylane.evaluate.tasks.shell_game import ShellGame

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_first_two_blocks_are_one_line_of_shell_each() -> None:
    for kind, text in BLOCKS[:2]:
        assert kind == "sh" and text.count("\n") == 1


def test_the_python_block_runs_and_votes_for_the_truth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    exec(compile(code, "README.md", "exec"), {})
    swaps = re.search(r"swap (.*): where", code)
    assert swaps is not None
    game = ShellGame()
    assert capsys.readouterr().out.split()[-1] == game.answer(game.parse(swaps[1]))


def test_the_picture_is_what_seed_7_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--seed", "7", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    box = next(text for _, text in BLOCKS if "lane 1/4" in text)
    cells = [row.strip("│").split("│") for row in box.splitlines() if row.startswith("│")]
    columns = [[cell.split()[-1] for cell in column] for column in zip(*cells, strict=True)]
    for column, lane in zip(columns, said["lanes"], strict=True):
        assert column[1:-1] == lane["text"].split() and column[-1] == column[-2]
    assert f"vote: {said['task']['truth']}, 4 of 4 lanes" in box and said["task"]["correct"]
    prompt = next(line for line in box.splitlines() if line.startswith("cups"))
    assert prompt == said["prompt"]


def test_the_commands_named_are_commands() -> None:
    commands = set(re.findall(r"^tinylane ([\w-]+)", README, re.MULTILINE))
    done = subprocess.run(
        [sys.executable, "-m", "tinylane", "--help"], capture_output=True, text=True, check=True
    )
    assert commands and commands <= set(done.stdout.split())


def test_every_file_named_is_there() -> None:
    for path in re.findall(r"(?:tinylane|weights|tests)/[\w/]+\.(?:py|md)", README):
        assert (ROOT / path).is_file(), path


def test_every_public_name_is_there() -> None:
    for name in tinylane.__all__:
        assert getattr(tinylane, name) is not None
