"""Sums: every line of a transcript is true arithmetic, in step, and judged exactly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.evaluate import tasks
from tinylane.evaluate.tasks import sums
from tinylane.evaluate.tasks.task import Options, Problem
from tinylane.files import jsonl

LANES = st.sampled_from([1, 2, 4, 8])
SIZES = st.sampled_from([16, 24, 32, 64])


def numbers_of(prompt: str) -> list[int]:
    return [int(word) for word in prompt.removeprefix("Add these numbers: ").split()]


@given(SIZES, LANES, st.integers(0, 2**32))
def test_every_equation_of_every_lane_is_true(size: int, n: int, seed: int) -> None:
    """By Python's own arithmetic: each `a+b=c` of a text, and the last is the sum of all."""
    task = tasks.make("sums", Options(numbers=[size]))
    assert task.transcripts is not None
    (row,) = task.transcripts(1, seed, [n])
    numbers = numbers_of(row["prompt"])
    assert len(numbers) == size and len(row["lanes"]) == len(row["lane_prompts"]) == n
    for m, text in enumerate(row["lanes"]):
        own, *pairs = text.split(";")
        terms = re.split(r"=[0-9]{3}", own)
        added = [int(x) for x in "".join(terms).split("+")]
        assert added == numbers[m * size // n : (m + 1) * size // n]
        running = [int(x) for x in re.findall(r"=([0-9]{3})", own)]
        assert running == [sum(added[: k + 2]) for k in range(len(added) - 1)]
        for pair in pairs:
            a, b, c = (int(x) for x in re.fullmatch(r"(\d{3})\+(\d{3})=(\d{3})", pair).groups())  # type: ignore[union-attr]
            assert a + b == c
        assert task.extract(text, True) == f"{sum(numbers):03}"
    problem = Problem("0", row["prompt"], f"{sum(numbers):03}")
    assert sums.score(problem, row["lanes"], [True] * n).shares == {"own sum right": 1.0}


@given(SIZES, LANES, st.integers(0, 2**32))
def test_lanes_are_in_step_and_copy_only_what_was_written_before(
    size: int, n: int, seed: int
) -> None:
    """With lag 0 a lane that draws its character k has read characters 0 to k-1 of the others."""
    task = tasks.make("sums", Options(numbers=[size]))
    assert task.transcripts is not None
    (row,) = task.transcripts(1, seed, [n])
    texts = row["lanes"]
    marks = {re.sub("[0-9]", "d", text) for text in texts}
    assert len(marks) == 1  # the same signs at the same places
    width = 1
    for at in (match.start() for match in re.finditer(";", texts[0])):
        for m, text in enumerate(texts):
            theirs = texts[m ^ width]
            assert text[at + 5 : at + 8] == theirs[at - 3 : at]  # their sum, complete at `at`
        width *= 2


def test_problems_are_seeded_and_never_those_of_training() -> None:
    task = tasks.make("sums", Options(numbers=[8, 16]))
    assert task.transcripts is not None
    asked = task.problems(200, 3)
    assert asked == task.problems(200, 3) != task.problems(200, 4)
    assert [len(numbers_of(str(p.prompt))) for p in asked[:4]] == [8, 16, 8, 16]
    assert all(p.truth == f"{sum(numbers_of(str(p.prompt))):03}" for p in asked)
    trained = {row["prompt"] for row in task.transcripts(2000, 3, (1, 2, 4))}
    assert not trained & {p.prompt for p in asked}


def test_the_last_sum_is_the_answer_and_own_sums_are_those_of_the_shares() -> None:
    problem = Problem("0", "Add these numbers: 10 20 30 40", "100")
    task = tasks.make("sums", Options(numbers=[4]))
    assert task.extract("10+20=030;030+070=100", True) == "100"
    assert task.extract("10+20=03", False) is None  # two digits are no sum yet
    assert task.extract("10+20=0301", True) is None  # four are none either
    assert task.right("100", "100") and not task.right("101", "100")
    said = ["10+20=030;030+070=100", "30+40=071;071+030=101"]
    assert sums.score(problem, said, [True, True]).shares == {"own sum right": 0.5}
    assert sums.score(problem, ["", "30+40=070"], [False, True]).shares == {"own sum right": 0.5}


@pytest.mark.parametrize(
    ("numbers", "lanes", "says"),
    [([1], 1, "expected 2 to"), ([65], 1, "expected 2 to"), ([16], 3, "3 lanes"), ([6], 4, "6 n")],
)
def test_sums_that_lanes_cannot_share_are_refused(
    numbers: list[int], lanes: int, says: str
) -> None:
    with pytest.raises(TinylaneError, match=says):
        tasks.make("sums", Options(numbers=numbers)).lane_prompts(lanes)


def test_the_command_writes_the_transcripts(tmp_path: Path, capsys: Any) -> None:
    """The first lines of a longer file are those of a shorter one; numbers of lanes take turns."""
    from tinylane.commands.cli import main

    short, long = tmp_path / "short.jsonl", tmp_path / "long.jsonl"
    base = ["transcripts", "sums", "--numbers", "8", "16", "--lanes", "1", "2", "4", "--seed", "5"]
    assert main([*base, "--count", "7", "--out", str(short)]) == 0
    assert "7 transcripts of 1, 2, 4 lanes" in capsys.readouterr().out
    assert main([*base, "--count", "20", "--out", str(long)]) == 0
    assert long.read_text().startswith(short.read_text())
    rows = [row for _, row in jsonl.read(short)]
    assert [len(row["lanes"]) for row in rows] == [1, 2, 4, 1, 2, 4, 1]
    assert json.loads(short.read_text().splitlines()[1])["lane_prompts"] == ["1/2:", "2/2:"]
    capsys.readouterr()
    assert main(["transcripts", "sums", "--lanes", "3", "--out", str(tmp_path / "x")]) == 2
    assert "16 numbers and 3 lanes" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert main(["transcripts", "shell-game", "--cups", "3", "--out", str(tmp_path / "x")]) == 2
    assert "does not say what lanes should write" in capsys.readouterr().err
