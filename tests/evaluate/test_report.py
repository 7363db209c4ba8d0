"""`tinylane report`: the page, its numbers and its plots, from runs made here by hand."""

from __future__ import annotations

import json
import struct
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers_cli
import numpy as np
import pytest
from helpers_eval import row

from tinylane.core.errors import TinylaneError
from tinylane.evaluate import report
from tinylane.evaluate.measures import Estimate
from tinylane.evaluate.shards import RunFolder, find_runs
from tinylane.evaluate.tables import cell, markdown, number, percent, points
from tinylane.view.accuracy_figure import accuracy
from tinylane.view.figure_style import save
from tinylane.view.palette import COLOURS, DASHES, MARKERS

ask = helpers_cli.ask  # fixture

# Runs made by hand: whether each problem is right is decided here, so the tables are known.


def write_run(
    folder: Path,
    cells: dict[tuple[str, int], Callable[[int], tuple[int, bool]]],
    problems: int = 10,
    **settings: Any,
) -> Path:
    """A run directory. Of every cell a function: problem -> (step of its answer, right or not)."""
    folder.mkdir(parents=True)
    limit = 8
    made = {
        "task": {"name": "gsm8k", "data": "0" * 64},
        "count": problems,
        "seed": 0,
        "model": "abc",
        "backend": "numpy",
        "dtype": "float32",
        "sampler": {"temperature": 0.6, "top_p": 0.95},
        "told_apart": False,
        "cells": [{"mode": m, "lanes": n, "max_tokens": limit} for m, n in cells],
        **settings,
    }
    start = {"time": "2026-01-01T00:00:00Z", "versions": {"tinylane": "0"}, "git": "a" * 40}
    (folder / "settings.json").write_text(json.dumps({"settings": made, "starts": [start]}))
    lines = []
    for problem in range(problems):
        for (mode, n), says in cells.items():
            step, right = says(problem)
            lane = lambda m, step=step: {
                "tokens": [m] * limit,
                "logprobs": [-0.5] * limit,
                "answers": [[step, 0]],
                "finish_reason": "stop",
            }
            record = {
                "problem": str(problem),
                "mode": mode,
                "lanes": n,
                "steps": limit,
                "seconds": 0.8,
                "clock": [(k + 1) / 10 for k in range(limit)],
                "groups": [{"answer": "7", "correct": right, "readable": True}],
                "lane": [lane(m) for m in range(n)],
            }
            lines.append(json.dumps(record))
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    return folder


CELLS: dict[tuple[str, int], Callable[[int], tuple[int, bool]]] = {
    ("independent", 1): lambda p: (8, p < 5),
    ("independent", 4): lambda p: (6, p < 6),
    ("joint", 4): lambda p: (2, p < 9),
    ("hogwild", 4): lambda p: (2, p < 1),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", CELLS)


def read(folder: Path) -> list[report.EvalRun]:
    return [report.read(run) for run in find_runs([folder])]


def table(page: str, first: str) -> list[list[str]]:
    """The rows of the table whose first column is called so."""
    lines = page.splitlines()
    k = next(k for k, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    while k < len(lines) and lines[k].startswith("|"):
        rows.append([word.strip() for word in lines[k].strip("|").split("|")])
        k += 1
    return rows[2:]


def test_the_page_says_what_was_put_in(ask: Any, run: Path) -> None:
    code, out, err = ask("report", run, "--no-plots")
    assert code == 0 and (run / "report.md").read_text() == out and "report.md" in err
    ends = {(r[0], r[1]): r for r in table(out, "mode")}
    assert ends["joint", "4"][7].startswith("90.0% (59.6 to 98.2)")  # scipy's Wilson, 9 of 10
    assert ends["independent", "4"][7].startswith("60.0% (31.3 to 83.2)")
    assert ends["joint", "4"][2] == "8" and ends["joint", "4"][4] == "32.0"
    found = {(r[0], r[1], r[2].partition(":")[0]): r for r in table(out, "cell")}
    # 3 of 10 problems more than four samples have, at equal steps and at equal tokens
    for axis, budget in (("steps", "8"), ("tokens", "32")):
        difference = found["joint x4", "independent x4", axis]
        assert difference[2] == f"{axis}: {budget}" and difference[3] == "90.0% / 60.0%"
        assert difference[4].startswith("+30.0 (+0.0 to +60.0)") or "+30.0 (+10.0" in difference[4]
    # the lone lane has written its 8 tokens when four lanes have written 2 each: 9 against 5
    assert found["joint x4", "independent x1", "tokens"][3] == "90.0% / 50.0%"
    assert found["independent x4", "independent x1", "tokens"][2] == "tokens: 32"
    assert "gsm8k, 10 problems, seed 0" in out and "40 of 40 results" in out
    assert "**Warning**" not in out


def accuracy_of(section: report.Section, axis: str) -> Any:
    lanes = {label: rows[0].lanes for label, rows in section.cells.items()}
    return accuracy(report.curves(section), lanes, axis, section.title)


def test_json_has_the_same_numbers(ask: Any, run: Path) -> None:
    code, out, _ = ask("report", run, "--no-plots", "--json")
    (section,) = json.loads(out)["sections"]
    assert code == 0 and section["cells"]["joint x4"]["majority"]["value"] == 0.9
    pairs = {(c["cell"], c["against"], c["at_equal"]) for c in section["comparisons"]}
    assert ("hogwild x4", "independent x4", "steps") in pairs and len(pairs) == 10
    assert section["of_k"]["joint x4"]["2"]["any"]["value"] == 0.9


def test_figures_are_written_and_described(ask: Any, run: Path, tmp_path: Path) -> None:
    code, out, _ = ask("report", run, "--out", tmp_path / "page")
    assert code == 0
    for axis in ("steps", "tokens", "seconds"):
        svg = (tmp_path / "page" / f"accuracy-{axis}.svg").read_bytes()
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        png = (tmp_path / "page" / f"accuracy-{axis}.png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert png[:8] == b"\x89PNG\r\n\x1a\n" and width > 500 and height > 300
        assert f"](accuracy-{axis}.svg)" in out
    assert "joint x4: 90.0% (59.6% to 98.2%) at 8" in out
    (section,) = report.sections(read(run))  # the same run gives the same file
    again = save(accuracy_of(section, "steps"), tmp_path / "again.svg")
    assert again.read_bytes() == (tmp_path / "page" / "accuracy-steps.svg").read_bytes()


def test_every_curve_is_in_a_file(ask: Any, run: Path) -> None:
    """Accuracy of one lane, the majority and any, of k lanes too, by steps, tokens and seconds."""
    assert ask("report", run, "--no-plots")[0] == 0
    said = json.loads((run / "curves.json").read_text())
    joint = said["joint x4"]
    assert set(said) == {"independent x1", "independent x4", "joint x4", "hogwild x4"}
    assert set(joint) == {"steps", "tokens", "seconds"}
    by_step = dict(zip(joint["steps"]["budgets"], joint["steps"]["majority"], strict=True))
    assert by_step[1][0] == 0 and by_step[2] == pytest.approx([0.9, 0.59584, 0.98212], abs=1e-4)
    tokens = joint["tokens"]
    by_token = dict(zip(tokens["budgets"], tokens["one"], strict=True))
    assert by_token[7][0] == 0 and by_token[8][0] == 0.9
    seconds = dict(zip(joint["seconds"]["budgets"], joint["seconds"]["any"], strict=True))
    assert [v[0] for t, v in seconds.items() if t < 0.2] == [0] * sum(t < 0.2 for t in seconds)
    assert seconds[0.8][0] == 0.9
    of_k = joint["steps"]["of_k"]
    assert set(of_k) == {"budgets", *(f"{m} of {k}" for m in ("majority", "any") for k in (1, 2))}
    assert [v[0] for v in of_k["majority of 2"]] == [0.0 if s < 2 else 0.9 for s in of_k["budgets"]]


def test_lines_are_told_apart_without_colour(run: Path) -> None:
    """Every mode has a dash and a marker of its own, each line a band, every axis a label."""
    (section,) = report.sections(read(run))
    figure = accuracy_of(section, "steps")
    (axes,) = figure.axes
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 1]
    assert len(lines) == 4
    looks = {(str(line.get_linestyle()), line.get_marker()) for line in lines}
    dashes = {str(getattr(line, "_unscaled_dash_pattern", line.get_linestyle())) for line in lines}
    assert len({marker for _, marker in looks}) == 4 and len(dashes) == 4
    assert len(axes.collections) == 4 and axes.get_xlabel() == "decoding steps"
    assert "majority" in axes.get_ylabel()
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["one lane", "independent", "joint", "hogwild"]
    joint = lines[names.index("joint")]
    steps = dict(zip(joint.get_xdata(), joint.get_ydata(), strict=True))
    assert steps[1] == 0 and steps[2] == 0.9 and steps[8] == 0.9
    assert len(COLOURS) == len(DASHES) == len(MARKERS) == len(set(MARKERS))


def test_other_measures_are_plotted_if_asked(
    ask: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    keep = lambda figure, path: drawn.append(Path(path).name)
    monkeypatch.setattr("tinylane.view.figure_style.save", keep)
    code, out, _ = ask("report", run, "--measure", "any", "one", "any")
    kinds = [(m, axis) for m in ("any", "one") for axis in ("steps", "tokens", "seconds")]
    assert code == 0 and drawn == [f"{m}-{a}.{kind}" for m, a in kinds for kind in ("svg", "png")]
    assert "any lane, against decoding steps" in out and "one lane by itself, against" in out


def test_panels_are_numbers_of_lanes(tmp_path: Path) -> None:
    cells = {("independent", 1): CELLS["independent", 1]}
    cells |= {("joint", n): CELLS["joint", 4] for n in (2, 4, 8)}
    (section,) = report.sections(read(write_run(tmp_path / "run", cells)))
    figure = accuracy_of(section, "tokens")
    assert [axes.get_title() for axes in figure.axes] == ["2 lanes", "4 lanes", "8 lanes"]


def test_a_run_that_goes_on_is_read_as_far_as_all_cells_are(ask: Any, run: Path) -> None:
    """A torn last line and a cell that is behind: only problems that all cells have done count."""
    lines = (run / "results.jsonl").read_text().splitlines()
    (run / "results.jsonl").write_text("\n".join(lines[:22]) + "\n" + lines[22][:100])
    code, out, _ = ask("report", run, "--no-plots")
    assert code == 0 and "gsm8k, 5 problems" in out and "22 of 40 results" in out
    assert "1 more problems are not done by all cells yet" in out
    assert table(out, "mode")[2][7].startswith("100.0%")


def test_runs_of_one_task_are_compared_and_others_are_not(ask: Any, tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", CELLS)
    second = write_run(tmp_path / "b", {("joint", 4): lambda p: (2, p < 7)}, model="def")
    other = write_run(tmp_path / "c", {("joint", 4): lambda p: (2, True)}, seed=1)
    code, out, _ = ask("report", first, second, other, "--no-plots", "--out", tmp_path / "page")
    assert code == 0 and out.count("\n## ") == 2
    found = {(r[0], r[1], r[2].partition(":")[0]): r for r in table(out, "cell")}
    assert found["b: joint x4", "a: joint x4", "steps"][3] == "70.0% / 90.0%"
    assert not any("c:" in a or "c:" in b for a, b, _ in found)


def test_what_else_differs_between_runs_is_said(ask: Any, tmp_path: Path) -> None:
    """Two runs of one task under two temperatures are no comparison of their modes alone."""
    cell = {("independent", 1): lambda p: (2, True)}
    runs = [write_run(tmp_path / name, cell) for name in ("a", "b")]
    assert "differ in more" not in ask("report", *runs, "--no-plots", "--out", tmp_path / "o")[1]
    other = {"sampler": {"temperature": 0.9}, "collaborate": {"system": "x"}}
    runs.append(write_run(tmp_path / "c", cell, **other))
    page = ask("report", *runs, "--no-plots", "--out", tmp_path / "o")[1]
    assert "differ in more than their modes**: sampler, collaborate." in page


def test_identical_lanes_are_warned_of(ask: Any, run: Path) -> None:
    text = (run / "results.jsonl").read_text()
    (run / "results.jsonl").write_text(
        text.replace("[1, 1, 1, 1, 1", "[0, 0, 0, 0, 0", 1).replace(
            '"tokens": [1, 1, 1, 1, 1, 1, 1, 1]', '"tokens": [0, 0, 0, 0, 0, 0, 0, 0]'
        )
    )
    code, out, _ = ask("report", run, "--no-plots")
    assert code == 0 and "**Warning**: independent x4: two lanes wrote the same" in out
    said = json.loads((run / "settings.json").read_text())
    said["settings"]["told_apart"] = True  # lanes that were told different things
    (run / "settings.json").write_text(json.dumps(said))
    assert "**Warning**" not in ask("report", run, "--no-plots")[1]


def test_a_run_without_answers_has_a_page(ask: Any, tmp_path: Path) -> None:
    """All wrong, all right: no interval of a difference, and nothing that is not a number."""
    cells = {("independent", 4): lambda p: (1, False), ("joint", 4): lambda p: (1, True)}
    code, out, _ = ask("report", write_run(tmp_path / "run", cells, 3), "--no-plots")
    assert code == 0 and "+100.0 (all alike)" in out and "nan" not in out.lower()


# Bad input.


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("settings.json", "{", "not valid JSON"),
        ("settings.json", "{}", "is not that of tinylane eval"),
        ("settings.json", '{"settings": {"cells": 3}}', "is not that of tinylane eval"),
        ("results.jsonl", "", "no results yet"),
        ("results.jsonl", "{}\n", "line 1: is not a result"),
        ("results.jsonl", "[]\n", "line 1: expected a JSON object"),
        ("results.jsonl", None, "results.jsonl"),
    ],
)
def test_what_is_no_run_is_one_line(
    ask: Any, run: Path, file: str, text: str | None, says: str
) -> None:
    (run / file).unlink() if text is None else (run / file).write_text(text)
    code, out, err = ask("report", run)
    assert (code, out, err.count("\n")) == (2, "", 1) and says in err, err


def test_transcripts_are_no_run_and_say_so(ask: Any, run: Path) -> None:
    found = json.loads((run / "settings.json").read_text())
    found["settings"]["what"] = "transcripts"
    (run / "settings.json").write_text(json.dumps(found))
    code, out, err = ask("report", run)
    assert (code, out, err.count("\n")) == (2, "", 1) and "of tinylane collect" in err


@pytest.mark.parametrize("field", ["mode", "lanes"])
def test_a_field_of_another_kind_is_one_line(ask: Any, run: Path, field: str) -> None:
    """A list where a name or a number is expected cannot even be looked up."""
    path = run / "results.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), field: [1]}), *rest]) + "\n")
    code, out, err = ask("report", run)
    assert (code, out, err.count("\n")) == (2, "", 1) and "results.jsonl, line 1" in err


def test_folders_that_are_none_are_one_line(ask: Any, run: Path, tmp_path: Path) -> None:
    for argv in ([tmp_path / "none"], [run, tmp_path], [run, "--out", "/proc/none"]):
        code, out, err = ask("report", *argv, "--no-plots")
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_result_of_other_work_or_one_twice_is_refused(ask: Any, run: Path) -> None:
    lines = (run / "results.jsonl").read_text().splitlines()
    for more, says in ((lines[0], "there twice"), (lines[0].replace("independent", "star"), "not")):
        (run / "results.jsonl").write_text("\n".join([*lines, more]) + "\n")
        code, _, err = ask("report", run, "--no-plots")
        assert (code, err.count("\n")) == (2, 1) and "line 41" in err and says in err


def test_hostile_names_stay_in_their_place(ask: Any, tmp_path: Path) -> None:
    """A run directory may come from elsewhere: neither Markdown nor a terminal obeys its text."""
    bad = "a`](x)<b>|\x1b[31m\n# h"
    cells = {("joint", 4): lambda p: (1, True)}
    task = {"name": bad, "data": "0"}
    folder = write_run(tmp_path / "r`](x) |n", cells, 3, task=task, model=bad, backend=bad)
    code, out, _ = ask("report", folder, "--no-plots")
    assert code == 0 and "\x1b" not in out and "<b>" not in out and "\n# h" not in out
    mode = write_run(tmp_path / "m", {(bad, 4): lambda p: (1, True)}, 3)
    code, out, err = ask("report", mode, "--no-plots")
    assert (code, out, err.count("\n")) == (2, "", 1) and "\x1b" not in err


def test_without_scipy_or_matplotlib_a_line_says_what_to_install(
    ask: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = ask("report", run)
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("pip install 'tinylane[plot]', or --no-plots\n")
    assert ask("report", run, "--no-plots")[0] == 0
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    code, _, err = ask("report", run, "--no-plots")
    assert (code, err.count("\n")) == (2, 1) and "tinylane[eval]" in err


# Words.


def test_numbers_as_words() -> None:
    nan = float("nan")
    assert percent(Estimate(0.125, 0.04, 0.301)) == "12.5% (4.0 to 30.1)"
    assert percent(Estimate(0.5, nan, nan)) == "50.0%" and percent(Estimate(nan, nan, nan)) == "-"
    assert points(Estimate(-0.1, -0.2, 0.0)) == "-10.0 (-20.0 to +0.0)"
    assert points(Estimate(1.0, nan, nan)) == "+100.0 (all alike)"
    assert number(Estimate(2.314, 2.0, 2.5)) == "2.31 (2.00 to 2.50)"
    assert cell("a|b\nc") == "a\\|b c"
    assert markdown(["x"], [["1"]]) == "| x |\n| --- |\n| 1 |"


def test_sections_need_a_common_problem() -> None:
    one = row([[(1, 0)]], [True], [1], problem="1")
    two = row([[(1, 0)]], [True], [1], problem="2", mode="independent")
    cells = {("joint", 1): [one], ("independent", 1): [two]}
    folder = RunFolder(Path("r"), {}, {"task": {}, "seed": 0}, [])
    run = report.EvalRun(folder, cells, dict.fromkeys(cells, 1), 2)
    with pytest.raises(TinylaneError, match="no problem that all cells have done"):
        report.sections([run])
    assert np.isfinite(one.seconds)
