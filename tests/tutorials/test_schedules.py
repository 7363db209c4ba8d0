"""Table 7: schedules as rows and masks, against `Decoding` with the package's own operations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import tinylane
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.methods.decoding import Decoding
from tinylane.methods.schedules import go_on
from tinylane.train.from_scratch import Trainer
from tutorials.study.games import TIMED, CellRecipe, CellTrainer
from tutorials.study.games_score import scored
from tutorials.study.schedules import ALL, JOINING, SCHEDULES, ScheduledGame, answers

SIZES: dict[str, Any] = {
    "width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp_width": 32,
    "steps": 4, "warmup": 2, "rows": 256, "stage": 1, "swaps": 8, "lanes": (1, 2, 4),
    "shares": (0.3, 0.3, 0.4), "omega": "ntk", "slot": 5.0, "learn_omega": False,
}  # fmt: skip


def loud(schedule: str, factor: float = 20.0) -> CellTrainer:
    """Weights so large that the model writes all sorts of things."""
    trainer = CellTrainer(CellRecipe(**SIZES, schedule=schedule))
    for k, w in trainer.state["weights"].items():
        trainer.state["weights"][k] = w * factor if w.ndim == 2 else w
    return trainer


def decoded(model: Any, game: ScheduledGame, moves: np.ndarray, n: int, rope: LaneRoPE) -> Any:
    """The lanes that have the answer, by `Decoding`: isolated lanes, then the schedule."""
    S, levels = game.swaps // n, n.bit_length() - 1

    def join(d: Decoding) -> None:
        if game.joins(n) and d.steps == S:
            ids = [game.ids[ALL]]
            reread = game.schedule.startswith("reread")
            go_on(d, d.lanes[:n], ids, max_tokens=game.composed(n), reread=reread)
        elif not game.joins(n):
            for a in range(n):
                for b in range(n):
                    meet = 1 if game.schedule == "late" else int(a ^ b).bit_length()
                    if a != b and d.steps == S + meet - 1:
                        d.read(a, b)

    d = Decoding(
        model, game.prompt(moves), n, lane_prompts=game.lane_prompts(n), lane_rope=rope,
        max_tokens=S if game.joins(n) else S + levels, sampler=tinylane.Sampler(0.0), stop=(),
        lane_mask=LaneMask.independent(n), schedule=join,
    )  # fmt: skip
    while d.live or d.steps <= S:
        join(d)
        if not d.live:
            break
        d.step()
    return d.lanes[n:] if game.joins(n) else d.lanes


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if s != "joint"])
def test_a_schedule_writes_what_decoding_writes(schedule: str, tmp_path: Path) -> None:
    trainer = loud(schedule)
    Trainer.export(trainer, tmp_path)
    model = tinylane.load(tmp_path, backend="mlx", dtype="float32")
    game, rope = trainer.game, LaneRoPE(np.asarray(trainer.state["omega"]))
    drawn = game.draw(12, np.random.default_rng(3))
    compared, words = 0, set()
    for n in (2, 4):
        for one, mine in zip(drawn, answers(trainer, drawn, n), strict=True):
            lanes = decoded(model, game, one, n, rope)
            for word, lane in zip(mine, lanes, strict=True):
                if lane.finish_reason == "length":  # no end came too early
                    assert word == game.vocabulary[lane.tokens[-1]]
                    words.add(word)
                    compared += 1
    assert compared >= 12 and len(words) > 2


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_truth_is_right_and_steps_and_tokens_are_counted(schedule: str) -> None:
    game = ScheduledGame(3, 16, (1, 2, 4, 8), schedule=schedule)
    moves = game.draw(5, np.random.default_rng(0))
    for n in game.lanes:
        tokens, follows = game.rows(moves, n)
        positions, lanes = game.coordinates(n)
        P, mask = game.prompt_rows, game.mask(n)
        assert tokens.shape[1] == len(positions) == len(lanes) == P + follows.shape[1]
        assert mask.n == lanes.max() + 1
        drawn, copied = game.sources(n)
        rows = tokens[:, P:]
        at = np.flatnonzero(drawn >= 0)
        assert np.array_equal(rows[:, at], follows[:, drawn[at]])
        again = np.flatnonzero(copied >= 0)
        assert np.array_equal(rows[:, again], rows[:, copied[again]])
        reread = schedule.startswith("reread") and n > 1
        assert len(again) == (n * (1 + 16 // n) if reread else 0)
        truths = [game.answer(m) for m in moves]
        last = [game.vocabulary[t] for t in rows[:, -1]]  # the last lane's last word
        assert last == truths
    written = {"joint": (6, 24), "reuse": (7, 19)}
    copies = schedule.endswith("-copy")
    steps, words = (k + copies for k in written["reuse" if schedule in JOINING else "joint"])
    assert (game.steps(4), game.tokens(4)) == (steps, words)
    assert (game.steps(1), game.tokens(1)) == (16, 16)


def test_who_reads_whom_by_schedule() -> None:
    """Four lanes with two swaps each: own words from the rows 0 and 1, then compositions."""
    for schedule, expected in (("late", [False, False, True]), ("tree", [False, False, False])):
        game = ScheduledGame(3, 8, (4,), schedule=schedule)
        i = game.prompt_rows + np.arange(4)
        one, four = np.zeros(4, int), np.full(4, 3)
        seen = game.mask(4).visible(i, one, i, four)
        assert seen.diagonal()[:3].tolist() == expected and seen[3, 3]
        near = game.mask(4).visible(i, one, i, one + 1)
        assert near.diagonal().tolist() == [False, False, True, True]


def test_every_schedule_can_take_a_step_and_is_scored() -> None:
    base = CellRecipe(**{**SIZES, "swaps": 4, "lanes": (1, 2), "shares": (0.5, 0.5)})
    for cell in TIMED:
        trainer = CellTrainer(cell.recipe(base, 3))
        assert np.isfinite([trainer.advance()[1] for _ in range(2)]).all()
        n = trainer.game.lanes[-1]
        assert 0 <= trainer.exact(n, 4) <= 1
        found = scored(trainer, n, 6)
        assert found["count"] == 6
        if trainer.game.schedule != "joint":
            assert found["steps"] == trainer.game.steps(n)
    assert {dataclasses.replace(base, **cell.changes).schedule for cell in TIMED} == set(SCHEDULES)
