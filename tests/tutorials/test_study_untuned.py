"""What an untuned model writes beside other lanes: measured from a run of eval, and shown."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import helpers_eval
import numpy as np
import pytest
from helpers_eval import flags

pytest.importorskip("mlx.core", exc_type=ImportError)
pytest.importorskip("scipy", exc_type=ImportError)

from tinylane.commands import cli
from tinylane.evaluate.measures import wilson
from tinylane.view.figure_style import alt
from tutorials.study.__main__ import main
from tutorials.study.untuned import said_before, table, texts, writing

model, data = helpers_eval.model, helpers_eval.data  # fixtures
MODES = ("independent", "joint:ntk", "hogwild")


def repeats(lanes: list[list[int]], n: int = 4) -> tuple[float, float]:
    """By pairs of places: the share of n-grams in another lane, and of those said before."""
    places = [(m, k) for m, lane in enumerate(lanes) for k in range(len(lane) - n + 1)]
    gram = {(m, k): lanes[m][k : k + n] for m, k in places}
    other = [any(gram[p] == gram[q] for q in places if q[0] != p[0]) for p in places]
    before = [any(gram[p] == gram[p[0], k] for k in range(p[1])) for p in places]
    return float(np.mean(other)), float(np.mean(before))


def test_what_was_written_is_measured_and_shown(model: str, data: str, tmp_path: Path) -> None:
    """Four lanes of a random model, three modes: shares, means and differences are those of the
    rows, counted another way; a problem that one mode has not done does not count."""
    runs, out = tmp_path / "runs", tmp_path / "real.json"
    words = flags(
        model, data, "--lanes", 4, "--likelihood", "--count", 5, "-m", 40, "--mode", *MODES
    )
    assert cli.main([*words, "--quiet", "--out", str(runs / "gsm8k")]) == 0
    results = runs / "gsm8k" / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    results.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))  # stopped
    out.write_text('{"trainings": {"old": 1}, "evals": {}, "likelihood": {}}')
    assert main(["real", str(runs), "--publish", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["trainings"] == {"old": 1}  # what was there stays
    run = found["evals"]["gsm8k"]["untuned"]
    assert run["problems"] == 4 and tuple(run["modes"]) == MODES
    mine: dict[str, list[list[float]]] = {}
    for mode, one in run["modes"].items():
        done = [row for row in rows if row["mode"] == mode][:4]
        lanes = [lane for row in done for lane in row["lane"]]
        counts = {
            "right vote": sum(row["correct"] for row in done),
            "right lane": sum(lane["correct"] for lane in lanes) / 4,
            "answer": sum(lane["answer"] is not None for lane in lanes) / 4,
            "ended": sum(lane["finish_reason"] == "stop" for lane in lanes) / 4,
        }
        for name, count in counts.items():
            e = wilson(count, 4)
            assert one["shares"][name] == {"value": e.value, "interval_95": [e.low, e.high]}
        assert counts["answer"] > 0 and counts["ended"] < 4  # the run has both
        mine[mode] = [
            [
                row["scores"]["numbers"]["logprob alone"],
                *repeats([x["tokens"] for x in row["lane"]]),
            ]
            for row in done
        ]
        for k, name in enumerate(("log-probability", "in another lane", "said before")):
            values = np.array(mine[mode])[:, k]
            assert one["writing"][name]["value"] == pytest.approx(values.mean())
            if mode != "independent":
                less = values - np.array(mine["independent"])[:, k]
                assert one["difference"][name]["value"] == pytest.approx(less.mean())
                low, high = one["difference"][name]["interval_95"]
                assert less.min() <= low <= less.mean() <= high <= less.max()
    assert np.mean([m[2] for m in mine["hogwild"]]) > 0  # something is said twice
    shown = table(found).splitlines()
    assert len(shown) == 2 + 3 + 1 + 2 + 2 and "4 problems" in shown[0]
    figure = writing(found)
    assert figure is not None and "joint:ntk" in alt(figure)
    begun = texts(found).splitlines()
    assert len(begun) == 2 + 3 and begun[2].startswith("| independent | `")


def test_said_before_counts_what_a_lane_wrote_itself() -> None:
    lanes: list[list[int]] = [[1, 2, 1, 2, 1, 2, 1], [1, 2, 1, 2]]  # 1212 2121 1212 2121; 1212
    assert said_before(lanes) == 2 / 5 == repeats(lanes)[1]
    assert math.isnan(said_before([[1, 2, 3], []]))


def test_without_such_a_run_nothing_is_drawn() -> None:
    nothing: dict[str, Any] = {"evals": {"sums": {}}}
    assert writing(nothing) is None and "not measured" in table(nothing)
    assert len(texts(nothing).splitlines()) == 2
