"""Table 8: a lane that begins late, ends early, is dropped or missing, in a real decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import tinylane
from tinylane.view.figure_style import alt
from tutorials.study import beyond as module
from tutorials.study.__main__ import main
from tutorials.study.beyond import INSIDE, Trial, beyond, played
from tutorials.study.figures import example, explored, further
from tutorials.study.schedules import ScheduledGame
from tutorials.study.tables import beyond as shown
from tutorials.study.tables import example as written

GAME = ScheduledGame(4, 16, (1, 2, 4, 8))


@pytest.fixture(scope="module")
def inside() -> Any:
    return tinylane.load(INSIDE, dtype="float32")


def play(model: Any, trial: Trial, n: int, moves: np.ndarray) -> list[Any]:
    tags, own = GAME.lane_prompts(n), GAME.swaps // n
    return played(model, GAME.prompt(moves), tags, GAME.steps(n) + 1, trial, GAME.mask(n), own)


def test_who_is_there_and_where(inside: Any) -> None:
    moves = GAME.draw(1, np.random.default_rng(0))[0]
    first = len(inside.tokenizer.encode(GAME.prompt(moves))) + 1
    plain = play(inside, Trial("", (4,)), 4, moves)
    assert [lane.start for lane in plain] == [first] * 4
    late = play(inside, Trial("", (4,), late=2), 4, moves)
    assert [lane.start for lane in late] == [first] * 3 + [first + 2]
    unmoved = play(inside, Trial("", (4,), late=2, shifted=False), 4, moves)
    assert [lane.start for lane in unmoved] == [first] * 4
    assert unmoved[3].steps[0] == late[3].steps[0] == 2
    for trial in (Trial("", (4,), dropped=1), Trial("", (4,), ends=True)):
        assert [lane.index for lane in play(inside, trial, 4, moves)] == [0, 1, 2]
    assert len(play(inside, Trial("", (8,), missing=2), 8, moves)) == 6


def test_a_lane_that_ends_after_its_part_is_read_and_a_dropped_one_is_not(inside: Any) -> None:
    """Four words of a lane's own; the fifth is drawn when the lane that ends has just ended."""
    drawn = GAME.draw(8, np.random.default_rng(5))
    words = lambda trial, moves: [x.text.split() for x in play(inside, trial, 4, moves)[:2]]
    differ = 0
    for moves in drawn:
        plain = words(Trial("", (4,)), moves)
        assert [lane[-1] for lane in plain] == [GAME.answer(moves)] * 2
        ended = words(Trial("", (4,), ends=True), moves)
        assert [lane[:5] for lane in ended] == [lane[:5] for lane in plain]
        differ += words(Trial("", (4,), missing=1), moves) != plain
    assert differ > 4


def test_a_table_with_a_trained_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ["width=16", "layers=2", "heads=2", "kv_heads=1", "head_dim=8", "mlp_width=32"]
    sizes += ["steps=4", "warmup=2", "rows=256", "stage=1", "nodes=6", "edges=7"]
    out, file = tmp_path / "runs", tmp_path / "beyond.json"
    words = ["frontier", "--out", str(out), "--seeds", "0", "--count", "2"]
    assert main([*words, "--cells", "one-tag", "joint", "--set", *sizes]) == 0
    some = (Trial("as trained", (1, 4)), Trial("empty", (4,), missing=1, empty=True))
    monkeypatch.setattr(module, "INSIDE_TRIALS", some)
    graphs = (Trial("as trained", (2,)), Trial("more", (3, 8), longer=1), Trial("x", (2,), late=1))
    monkeypatch.setattr(module, "FRONTIER_TRIALS", graphs)
    runs = [str(out / "joint-0"), str(out / "one-tag-0")]
    assert main(["beyond", "--publish", str(file), "--count", "3", "--frontier", *runs]) == 0
    table = json.loads(file.read_text())
    trained = table["groups"]["inside"]["trials"][0]["scores"]
    assert [trained[n]["right"] for n in ("1", "4")] == [3, 3]
    assert (trained["4"]["steps"], trained["4"]["a_lane_right"]) == (6, 1.0)
    assert set(table["groups"]["one-tag"]["trials"][1]["scores"]) == {"3", "8"}
    tagged = [trial["says"] for trial in table["groups"]["joint"]["trials"]]
    assert tagged == ["as trained", "x"]  # there are no tags for 3 and 8 lanes
    text = shown(table)
    assert "| as trained | 100.0%" in text and "| the model inside | N = 1 | N = 4 |" in text
    assert "as trained, 4 lanes: 100%" in alt(further(table))
    assert "more, 8 lanes" in alt(explored(table))
    one = table["groups"]["joint"]["example"]
    assert written(table).splitlines()[1] == one["prompt"] and len(one["lanes"]) == 4
    start, goal = one["prompt"].split()[-4], one["prompt"].split()[-2]
    assert f"A search from {start} to {goal}" in alt(example(table))
    only = beyond([], 1)
    assert list(only["groups"]) == ["inside"] and explored(only) is example(only) is None
