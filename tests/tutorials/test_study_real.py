"""What was measured of the real model: gathered from runs of eval, train and likelihood."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)
pytest.importorskip("scipy", exc_type=ImportError)

from tinylane.commands import cli
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.evaluate.measures import wilson
from tinylane.evaluate.runner import Cell, fork_join
from tinylane.evaluate.tasks import sums
from tinylane.evaluate.tasks.naming import ask
from tinylane.evaluate.tasks.sums import write
from tinylane.evaluate.tasks.task import Options, Problem
from tinylane.train.omega import TrainingPlan
from tinylane.view.figure_style import alt
from tutorials.study.__main__ import main
from tutorials.study.lanes_fork import main as fork
from tutorials.study.lanes_more import near_a_carry
from tutorials.study.lanes_prefer import gain
from tutorials.study.lanes_prefer import main as prefer
from tutorials.study.real import likelihood, looks, mistakes, of_others, of_task, own_shares

SWAPS = "cups ABCD, swap 1-2 2-3: where?"


def test_runs_are_gathered_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of every kind, of the model inside: the numbers are those of the runs' own files."""
    runs, out, texts = tmp_path / "runs", tmp_path / "real.json", tmp_path / "texts.jsonl"
    game = ["eval", "shell-game", "--count", "6", "--quiet", "--lanes", "4"]
    assert cli.main([*game, "--mode", "joint", "independent", "--out", str(runs / "game")]) == 0
    assert cli.main([*game, "--mode", "joint", "--out", str(runs / "tune.step-2")]) == 0
    lines = [{"prompt": SWAPS, "lane_prompts": ["1/1"], "lanes": ["BACD BCAD"]}] * 2
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tune = ["train", "sft", "--data", str(texts), "--steps", "3", "--every", "1", "--quiet"]
    assert cli.main([*tune, "--out", str(runs / "tune")]) == 0
    capsys.readouterr()
    words = ["likelihood", "--adapter-path", str(runs / "tune"), "--field", "prompt", "--json"]
    assert cli.main([*words, "--data", str(texts)]) == 0
    (runs / "prompts").mkdir()
    (runs / "prompts" / "likelihood.json").write_text(capsys.readouterr().out)

    assert main(["real", str(runs), "--publish", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [entry["step"] for entry in found["trainings"]["tune"]["curve"]] == [1, 2, 3]
    assert found["trainings"]["tune"]["settings"]["transcripts"] == 2
    rows = [json.loads(line) for line in (runs / "game" / "results.jsonl").read_text().splitlines()]
    for cell in found["evals"]["game"]["cells"]:
        mine = [row for row in rows if row["mode"] == cell["mode"]]
        each = [lane["correct"] for row in mine for lane in row["lane"]]
        assert len(mine) == cell["count"] == 6 and len(each) == 24
        expected = wilson(sum(each) / 4, 6)
        assert cell["one"]["value"] == sum(each) / 24
        assert cell["one"]["interval_95"] == [expected.low, expected.high]
    shown = of_task(found, "shell-game").splitlines()
    assert len(shown) == 4 and "100.0%" in shown[2] and "independent" in shown[3]
    found["evals"]["game"]["task"] = {"name": "sums", "numbers": [8]}
    assert of_task(found, "sums").splitlines()[2].startswith("| 8 | 4 | joint | 6 | 100.0%")
    document = json.loads((runs / "prompts" / "likelihood.json").read_text())
    assert f"{document['perplexity']['with the adapter']:.2f} | " in likelihood(found)
    assert looks(found) is None  # that run is not of sums
    other = found["evals"]["other.of-tune"] = dict(found["evals"]["game"])
    assert of_others(found, "sums").splitlines()[2].startswith("| tune | 8 | 4 | joint | 6 |")
    assert len(of_task(found, "sums").splitlines()) == 4  # without the other adapter's
    assert other in found["evals"].values() and of_others(found, "naming").count("tune") == 0
    run = found["evals"]["tune.step-2"]
    run["task"]["name"] = "sums"
    run["cells"][0]["shares"]["own sum right"] = run["cells"][0]["majority"]
    figure = looks(found)
    assert figure is not None and "By training step (2)" in alt(figure)


def test_mistakes_of_sums_are_counted_where_they_are() -> None:
    texts = write([33, 27, 10, 11] + [1, 2, 3, 4] * 3, 4)
    right = mistakes(texts)
    assert texts[0] == "33+27=060+10=070+11=081;081+010=091;091+020=111"
    assert (right["additions"], right["copies"]) == (20, 8)
    assert right["wrong"] == right["wrong near a carry"] == right["wrong copies"] == 0
    # 33+27=050 is wrong, at a carry. What lanes 1 and 2 copied of lane 0 is not what it says now.
    texts[0] = "33+27=050+10=060+11=071;071+010=081;081+020=101"
    found = mistakes(texts)
    assert (found["wrong"], found["wrong near a carry"], found["wrong copies"]) == (1, 1, 2)
    assert [near_a_carry(*pair) for pair in ((33, 27), (182, 217), (11, 12))] == [1, 2, 0]
    assert mistakes(["no sums", "33+27"])["additions"] == 0


def test_lanes_that_add_their_own_share_are_counted() -> None:
    """Wrong sums do not matter; a number that is missing, another's or too many does."""
    numbers = [33, 27, 10, 11, 5, 6, 7, 8]
    assert (
        own_shares(write(numbers, 2), numbers) == 2 and own_shares(write(numbers, 4), numbers) == 4
    )
    assert own_shares(["33+27=999+10=070+11=081;1", "05+06=011+07=018"], numbers) == 1
    assert own_shares(["05+06=011+07=018+08=026", "05+06=011+07=018+08=026+09"], numbers) == 0


def test_lanes_are_trained_with_the_mask_by_which_fork_join_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four games: the mask of every pass, and that the model then computes something else."""
    texts, told = tmp_path / "texts.jsonl", []
    lines = [
        {"prompt": SWAPS, "lane_prompts": ["1/2", "2/2"], "lanes": ["BACD BCAD", "ABCD BCAD"]}
    ] * 4
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan = TrainingPlan.__init__

    def init(self: Any, config: Any, mask: Any, i: Any, m: Any, *more: Any) -> None:
        told.append((mask, int(i[m == SHARED].max()) + 2))  # behind the tag
        plan(self, config, mask, i, m, *more)

    monkeypatch.setattr(TrainingPlan, "__init__", init)
    flags = ["--data", str(texts), "--steps", "1", "--lanes", "2", "--visibility", "joint"]
    losses = []
    for name, train in (("fork", partial(fork, 1)), ("joint", lambda x: cli.main(["train", *x]))):
        out = tmp_path / name
        assert train(["sft", *flags, "--quiet", "--out", str(out)]) == 0
        losses.append(json.loads((out / "log.jsonl").read_text())["loss"])
    assert losses[0] != losses[1]
    (mask, clock), (joint, _) = told[0], told[-1]
    cell, task, nothing = Cell("fork_join:1", 2, 9), sums.task(Options()), Problem("", "", "")
    expected = fork_join(task, nothing, cell, LaneMask.joint(2), clock)
    assert mask.same_as(expected) and not mask.same_as(joint)


def test_a_folder_without_runs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["real", str(tmp_path), "--publish", str(tmp_path / "x.json")]) == 2
    assert "no runs; expected folders of tinylane eval or train" in capsys.readouterr().err


def test_samples_of_naming_are_labelled_by_what_they_repeat(tmp_path: Path) -> None:
    """Of the samples of one kind: more different items less repeats than the median is good."""
    texts = [
        [" lion, cow", " wolf, eagle"],  # four different animals
        [" lion, cow", " cow, lion"],  # two, and two again
        [" lion, cow", " wolf, lion"],  # three, and one again: the median
    ]
    rows = [{"prompt": ask("animals"), "lanes": lanes, "finished": [True, True]} for lanes in texts]
    assert [gain(row) for row in rows] == [4, 0, 2]
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prefer(str(folder), str(tmp_path / "out.jsonl"))
    kept = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["lanes"], row["label"]) for row in kept] == [(texts[0], True), (texts[1], False)]
