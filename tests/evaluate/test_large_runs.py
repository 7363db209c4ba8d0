# ruff: noqa: F811 - fixtures
"""Runs of very many results: memory does not follow what the lanes wrote, and the numbers are the
same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_cli import ask, game  # noqa: F401 - fixtures

from tinylane.commands.progress import Pulse
from tinylane.evaluate import measures, report, results
from tinylane.evaluate.rows import COLUMNS, Rows, column, pick, problems
from tinylane.evaluate.shards import find_runs

LANES, LONG = 4, 50  # tokens of a lane
PEAK = """
import resource, sys
from tinylane.commands.cli import main
from tinylane.evaluate import report
from tinylane.evaluate.shards import find_runs
what, folder, *argv = sys.argv[1:]
if what == "eval":
    assert main(["eval", *argv, "--out", folder]) == 0
else:
    (run,) = map(report.read, find_runs([folder]))
    assert sum(1 for row in run.cells["joint", 4]) == int(argv[-1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def argv(game: str, count: int) -> list[object]:
    more = ["--lanes", LANES, "--mode", "joint", "--quiet", "--count", count]
    return ["shell-game", "--model", game, *more]


@pytest.fixture()
def make(ask: Any, game: str, tmp_path_factory: Any) -> Callable[[int], Path]:
    """A run of `count` results: real ones again and again under other problems' names, their
    lanes as long as LONG."""
    real = tmp_path_factory.mktemp("real") / "run"
    assert ask("eval", *argv(game, 2), "--out", real)[0] == 0
    document = json.loads((real / "settings.json").read_text())
    (first, second) = map(json.loads, (real / "results.jsonl").read_text().splitlines())
    for row in (first, second):
        row["steps"], row["clock"] = LONG, (row["clock"] * LONG)[:LONG]
        for lane in row["lane"]:
            lane["tokens"] = (lane["tokens"] * LONG)[:LONG]
            lane["logprobs"] = (lane["logprobs"] * LONG)[:LONG]

    def of(count: int) -> Path:
        folder = tmp_path_factory.mktemp("many") / "run"
        folder.mkdir()
        document["settings"]["count"] = count
        (folder / "settings.json").write_text(json.dumps(document))
        lines = [
            json.dumps({**row, "problem": "@", "index": "@"}, separators=(",", ":")) + "\n"
            for row in (first, second)
        ]
        with (folder / "results.jsonl").open("w") as file:
            for k in range(count):
                line = lines[k % 2].replace('"problem":"@"', f'"problem":"{k}"')
                file.write(line.replace('"index":"@"', f'"index":{k}'))
        return folder

    return of


@pytest.mark.parametrize("what", ["eval", "report"])
def test_memory_does_not_grow_with_what_the_lanes_wrote(
    make: Callable[[int], Path], game: str, what: str
) -> None:
    """18,000 more results of 4 lanes of 50 tokens: kept as arrays they would take 60 MB. A process
    of its own each; the last problem is still to do."""
    peaks = []
    for count in (2_000, 20_000):
        folder = make(count)
        if what == "eval":  # not read into this process: a child's peak begins with its parent's
            with (folder / "results.jsonl").open("r+b") as file:
                end = file.seek(-10, 2)
                file.truncate(end)  # a torn line
        command = [sys.executable, "-c", PEAK, what, folder, *argv(game, count)]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-500:]
        peaks.append(int(done.stderr.split()[-1]) // (1024 if sys.platform == "darwin" else 1))
    assert peaks[1] - peaks[0] < 30 * 1024, peaks  # KiB


def test_rows_on_disk_have_the_values_of_rows_in_memory(make: Callable[[int], Path]) -> None:
    (folder,) = find_runs([make(20)])
    run = report.read(folder)
    stored = run.cells["joint", LANES]
    plain = [results.read(row, where, run.limits) for where, row in folder.rows()]
    for a, b in zip(stored, plain, strict=True):
        for field in fields(a):
            np.testing.assert_equal(getattr(a, field.name), getattr(b, field.name))
    order = [3, 19, 0]
    assert isinstance(stored, Rows) and len(stored[2:5]) == 3
    for name in COLUMNS:
        assert list(column(stored, name)) == list(column(plain, name))
    assert problems(pick(stored, order)) == problems(pick(plain, order)) == ["3", "19", "0"]
    assert [row.problem for row in pick(stored, order)] == ["3", "19", "0"]
    summaries = (asdict(measures.summary(rows)) for rows in (stored, plain))
    np.testing.assert_equal(*summaries)  # some intervals are NaN, which Python 3.13 compares
    both = [report.EvalRun(folder, {("joint", LANES): r}, run.limits, 20) for r in (stored, plain)]
    first, second = (report.sections([each])[0] for each in both)
    assert report.curves(first) == report.curves(second) and first.as_json() == second.as_json()


def test_a_long_report_says_how_far_it_is(
    make: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    now = iter(range(0, 10**6, 5))  # each row takes five seconds
    monkeypatch.setattr("tinylane.commands.progress.time.monotonic", partial(next, now))
    folder = make(4)
    report.read(find_runs([folder])[0], Pulse())
    said = capsys.readouterr().err.splitlines()
    assert said == [f"reading {folder}: {k} of 4" for k in (0, 2)]
    report.read(find_runs([folder])[0], Pulse(quiet=True))
    assert capsys.readouterr().err == ""


def test_what_eval_has_done_before_is_read_with_progress(
    make: Callable[[int], Path], ask: Any, game: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinylane.commands.progress.SILENT", 0.0)
    code, _, err = ask("eval", *argv(game, 20)[:-3], "--count", 20, "--out", make(20))
    assert code == 0 and "reading the results so far: 10 of 20" in err
    assert "20 of 20 done before; nothing left to do" in err
