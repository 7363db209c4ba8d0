"""What a trained cell writes, greedily, for many problems at once, by the trainer's own pass; and
the runs of tables 4, 5 and 7.

All tokens are guessed at once, and every pass corrects at least one more step (Jacobi's iteration,
as in `score`); by causality what a pass returns unchanged is the text of greedy decoding. Rows
after a lane's end are empty, as they were in training.

    B problems   n lanes   P prompt rows   L rows of a lane   V vocab
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from tinylane.commands.train import describe
from tinylane.core.errors import TinylaneError
from tinylane.evaluate.answers import vote
from tinylane.evaluate.tasks.frontier import Frontier
from tinylane.evaluate.tasks.frontier_task import score as frontier_score
from tinylane.evaluate.tasks.shell_game import last_word
from tinylane.evaluate.tasks.task import EVALUATION, Problem
from tinylane.files.writing import write_json
from tinylane.train.from_scratch import train
from tutorials.study import record
from tutorials.study.games import TABLES, CellRecipe, CellTrainer, GameCell
from tutorials.study.schedules import answers
from tutorials.study.steps import SEED, counted

BATCH = 64  # problems of a pass
CHUNK = 100  # steps between looks at the clock


def written(trainer: CellTrainer, drawn: Any, n: int) -> list[list[str]]:
    """What each of n lanes writes for each of B problems."""
    game = trainer.game
    texts: list[list[str]] = []
    for at in range(0, len(drawn), BATCH):
        tokens, _ = game.rows(drawn[at : at + BATCH], n)  # the true texts: a guess like any other
        texts += _batch(trainer, tokens, n)
    return texts


def _batch(trainer: CellTrainer, tokens: np.ndarray, n: int) -> list[list[str]]:
    game, words = trainer.game, trainer.game.vocabulary
    end, P = game.ids["<end>"], game.prompt_rows
    lanes = tokens[:, P:].reshape(len(tokens), n, -1)  # a view
    weights, omega = trainer.state["weights"], trainer.state["omega"]
    for _ in range(lanes.shape[-1] + 1):
        logits = trainer.logits(weights, omega, mx.array(tokens), n)
        out = np.array(mx.argmax(logits, axis=-1)).reshape(lanes.shape)
        ended = np.cumsum(out == end, axis=-1) > 0
        follows = np.where(ended, 0, out)[:, :, :-1]
        same = np.array_equal(lanes[:, :, 1:], follows)
        lanes[:, :, 1:] = follows
        if same:
            break
    assert same, "every pass corrects one more step, so these passes are enough"
    cut = lambda lane: lane[: int(np.argmax(lane == end)) if (lane == end).any() else len(lane)]
    return [[" ".join(words[t] for t in cut(lane)) for lane in problem] for problem in out]


def scored(trainer: CellTrainer, n: int, count: int) -> dict[str, Any]:
    """How often n lanes are right on new problems, and in how many steps.

    The shell game: the answer of most lanes. Frontier: the shortest of the lanes' answers; how many
    problems were right after 1, 2, ... steps (`by_step`: the answer is there when the last lane has
    written its own); how many of how many with each answer (`by_answer`); and what they explored,
    as means over the problems.
    """
    game = trainer.game
    drawn = game.draw(count, np.random.default_rng([SEED, EVALUATION]))
    if not isinstance(game, Frontier) and game.schedule != "joint":
        parts = [drawn[at : at + BATCH] for at in range(0, count, BATCH)]
        texts = [lanes for part in parts for lanes in answers(trainer, part, n)]
    else:
        texts = written(trainer, drawn, n)
    longest = [max(len(text.split()) for text in lanes) for lanes in texts]
    if not isinstance(game, Frontier):
        truths = [game.answer(moves) for moves in drawn]
        said = [vote(lanes, extract=last_word).text for lanes in texts]
        right = sum(a == b for a, b in zip(said, truths, strict=True))
        if game.schedule != "joint":
            longest = [game.steps(n)]
        return {**record.share(right, count), "steps": float(np.mean(longest))}
    problems = [Problem(str(k), game.prompt(g), game.answer(g)) for k, g in enumerate(drawn)]
    each = [
        frontier_score(game, problem, lanes, [True] * n)
        for problem, lanes in zip(problems, texts, strict=True)
    ]
    good = np.array([s.shares["shortest right"] == 1 for s in each])
    asked = np.array([problem.truth for problem in problems])
    by_answer = {
        str(a): [int(good[asked == a].sum()), int((asked == a).sum())] for a in np.unique(asked)
    }
    took = np.array(longest)[good]
    by_step = [int((took <= k).sum()) for k in range(1, max(longest) + 1)]
    means = {name: float(np.mean([s.numbers[name] for s in each])) for name in each[0].numbers}
    found = {**record.share(len(took), count), "steps": float(np.mean(longest)), **means}
    return {**found, "by_step": by_step, "by_answer": by_answer}


def games(
    table: str,
    out: Path,
    cells: Sequence[GameCell],
    seeds: Sequence[int],
    base: CellRecipe,
    *,
    count: int = 500,
    stop_at: int | None = None,
    minutes: float | None = None,
    publish: Sequence[Path] = (),
    say: record.Say = print,
) -> dict[str, Any]:
    """Train and score what is missing, seed by seed; returns and publishes what is done.

    minutes: stop after so many, with the state saved; the same command goes on. stop_at: end every
    training at this step, without a score. Raises TinylaneError for a folder of another
    configuration.
    """
    record.claim(out, {"table": table, "recipe": base.settings, "count": count})
    until = None if minutes is None else time.monotonic() + 60 * minutes
    for seed in seeds:
        for cell in cells:
            folder = out / f"{cell.name}-{seed}"
            with record.part(folder, say) as mine:
                if mine:
                    _make_part(
                        table, folder, cell, cell.recipe(base, seed), count, stop_at, until, say
                    )
                    record.publish(
                        collect(table, out, base, count), [out / f"{table}.json", *publish]
                    )
            if until is not None and time.monotonic() > until:
                say("the time is over; the same command goes on")
                return collect(table, out, base, count)
    return collect(table, out, base, count)


def _make_part(
    table: str,
    folder: Path,
    cell: GameCell,
    recipe: CellRecipe,
    count: int,
    stop_at: int | None,
    until: float | None,
    say: record.Say,
) -> None:
    """One run: train to the end, score, write result.json."""
    trainer = CellTrainer(recipe)
    end = min(stop_at or recipe.steps, recipe.steps)
    while True:
        upto = end if until is None else min(trainer.step // CHUNK * CHUNK + CHUNK, end)
        trainer = train(  # type: ignore[assignment]
            recipe,
            folder,
            check_every=200,
            save_every=CHUNK,
            stop_at=upto,
            say=lambda entry: say(f"{folder.name}: {describe(entry, recipe.steps)}"),
            trainer_of=CellTrainer,
        )
        if trainer.step >= end or (until is not None and time.monotonic() > until):
            break
    if trainer.step < recipe.steps:
        return
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    scores = {}
    for n in recipe.lanes:
        scores[str(n)] = scored(trainer, n, count)
        say(f"{folder.name}: {n} lanes {scores[str(n)]['accuracy']:.1%}")
    result = {
        "cell": cell.name,
        "seed": recipe.seed,
        "parameters": sum(w.size for w in trainer.state["weights"].values())
        + (trainer.state["omega"].size if recipe.learn_omega else 0),
        "scores": scores,
        "curve": [{k: e[k] for k in ("step", "loss", "exact") if k in e} for e in log],
        "train_seconds": log[-1]["seconds"],
        **record.about(f"python tutorials/study {table} (cell {cell.name}, seed {recipe.seed})"),
    }
    write_json(folder / record.RESULT, result)


def collect(table: str, out: Path, base: CellRecipe, count: int) -> dict[str, Any]:
    """The table of all parts that are done in a folder."""
    cells: dict[str, Any] = {}
    for cell in TABLES[table][0]:
        if parts := record.parts(out, cell.name):
            cells[cell.name] = {"says": cell.says, "changes": cell.changes, "seeds": parts}
    found = {
        "table": table,
        "recipe": base.settings,
        "scored_on": {"problems": count, "seed": SEED, "decoding": "greedy"},
        "lanes": list(base.lanes),
        "cells": cells,
    }
    if table == "schedules":
        for cell in TABLES[table][0]:
            if cell.name in cells:
                game = cell.recipe(base, 0).game
                cells[cell.name]["tokens"] = {str(n): game.tokens(n) for n in game.lanes}
    if isinstance(base.game, Frontier):
        found["steps_without_mistakes"] = counted(base.game, count)
    return found


def check(base: CellRecipe) -> None:
    """Raise TinylaneError for a recipe that no cell can have."""
    if len(base.shares) != len(base.lanes):
        raise TinylaneError(f"shares {base.shares} for lanes {base.lanes}; expected one each")
