"""Table 1: the effects of the mask and of the encoding, trained from scratch on the shell game.

Every cell and seed is a run of `tinylane.train.from_scratch` in its own folder, then scored on new
problems. The same command goes on where it was stopped; a second process takes the next run that
nobody works on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tinylane
from tinylane.files.writing import write_json
from tutorials.study import record
from tutorials.study.cells import CELLS, LAW7, StudyCell, StudyRecipe
from tutorials.study.score import score

COUNT, SEED = 500, 1  # problems that a cell is scored on, and the seed of their draw


def scratch(
    out: Path,
    cells: Sequence[StudyCell],
    seeds: Sequence[int],
    base: StudyRecipe,
    *,
    count: int = COUNT,
    law7: int = 300,
    stop_at: int | None = None,
    publish: Sequence[Path] = (),
    say: record.Say = print,
) -> dict[str, Any]:
    """Train and score what is missing, seed by seed; returns and publishes the table of what is
    done.

    law7: for how many steps the four independent cells are compared (0: not at all). stop_at: end
    every training at this step, without a score. Raises TinylaneError for a folder of another
    configuration.
    """
    record.claim(out, {"table": "scratch", "recipe": base.settings, "count": count})
    publish = [out / "scratch.json", *publish]
    for seed in seeds:
        for cell in cells:
            with record.part(out / f"{cell.name}-{seed}", say) as mine:
                if mine:
                    folder = out / f"{cell.name}-{seed}"
                    _make_part(folder, cell, cell.recipe(base, seed), count, stop_at, say)
                    record.publish(collect(out, base, count), publish)
        if law7 and seed == seeds[0] and not stop_at:
            with record.part(out / "law7", lambda line: None) as mine:
                if mine:
                    result = compare(base, seed, law7, say)
                    write_json(out / "law7" / record.RESULT, result)
    table = collect(out, base, count)
    record.publish(table, publish)
    return table


def _make_part(
    folder: Path,
    cell: StudyCell,
    recipe: StudyRecipe,
    count: int,
    stop_at: int | None,
    say: record.Say,
) -> None:
    """One run: train to the end, score, write result.json."""
    from tutorials.study.trainer import train_part

    trainer = train_part(recipe, folder, stop_at, say)
    if trainer is None:
        return
    began = time.monotonic()
    model = tinylane.load(folder, backend="mlx", dtype="float32")
    scores = {}
    for n in recipe.lanes:
        scores[n] = score(model, recipe.game, n, cell.visibility, count=count, seed=SEED)
        low, high = scores[n].interval
        say(f"{folder.name}: {n} lanes {scores[n].accuracy:.1%} ({low:.1%} to {high:.1%})")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    curve = [
        {
            "step": entry["step"],
            "loss": {n: round(x, 4) for n, x in entry["loss"].items()},
            **({"exact": entry["exact"]} if "exact" in entry else {}),
        }
        for entry in log
    ]
    omega = {"start": [round(x, 5) for x in recipe.start().omega.tolist()]}
    if recipe.learn_omega:
        learned = np.asarray(trainer.state["omega"], dtype=np.float64)
        omega["learned"] = [round(x, 5) for x in learned.tolist()]
    result = {
        "cell": cell.name,
        "seed": recipe.seed,
        "scores": {n: record.scored(s) for n, s in scores.items()},
        "curve": curve,
        "omega": omega,
        "train_seconds": log[-1]["seconds"],
        "score_seconds": round(time.monotonic() - began, 1),
        **record.about(f"python tutorials/study scratch (cell {cell.name}, seed {recipe.seed})"),
    }
    write_json(folder / record.RESULT, result)


def compare(base: StudyRecipe, seed: int, steps: int, say: record.Say) -> dict[str, Any]:
    """Law 7 in training: the four independent cells, with all numbers of lanes from step 0.

    Measures how far the losses and weights of each cell get from those of the cell without Omega.
    That is rounding, which grows with the steps. Where it cannot grow, measures what Omega changes:
    the logits of the most lanes, with the weights of the cell without Omega.
    """
    import mlx.core as mx

    from tutorials.study.trainer import StudyTrainer

    base = dataclasses.replace(base, stage=0)
    trainers = [StudyTrainer(cell.recipe(base, seed)) for cell in LAW7]
    losses: list[list[float]] = [[] for _ in trainers]
    for step in range(steps):
        for k, trainer in enumerate(trainers):
            losses[k].append(trainer.advance()[1])
        if (step + 1) % 100 == 0:
            say(f"law 7: step {step + 1} of {steps}")
    first, game, n = trainers[0], base.game, base.lanes[-1]
    rows, _ = game.rows(game.draw(16, np.random.default_rng(seed)), n)
    tokens, weights = mx.array(rows), first.state["weights"]
    bare = np.array(first.logits(weights, first.state["omega"], tokens, n))
    cells = []
    for cell, trainer, loss in zip(LAW7, trainers, losses, strict=True):
        gap = np.abs(np.array(loss) - np.array(losses[0]))
        start, omega = np.array(trainer.recipe.start().omega), np.array(trainer.state["omega"])
        trained = trainer.state["weights"]
        moved = [np.abs(np.array(trained[k]) - np.array(weights[k])).max() for k in trained]
        mine = np.array(trainer.logits(weights, trainer.state["omega"], tokens, n))
        cells.append(
            {
                "cell": cell.name,
                "loss_gap_first_step": float(gap[0]),
                "loss_gap_largest": float(gap.max()),
                "logits_gap_same_weights": float(np.abs(mine - bare).max()),
                "logits_scale": float(np.abs(bare).max()),
                "weights_gap_largest": float(max(moved)),
                "omega_moved": float(np.abs(omega - start).max()),
                "last_loss": loss[-1],
            }
        )
    return {"seed": seed, "steps": steps, "lanes": n, "cells": cells}


def collect(out: Path, base: StudyRecipe, count: int) -> dict[str, Any]:
    """The table of all parts that are done in a folder."""
    cells: dict[str, Any] = {}
    for cell in CELLS.values():
        if parts := record.parts(out, cell.name):
            cells[cell.name] = {**dataclasses.asdict(cell), "seeds": parts}
    table = {
        "table": "scratch",
        "asked": "Does reading each other help at the same number of tokens per lane, and is it "
        "the mask or the encoding that does it?",
        "recipe": base.settings,
        "scored_on": {"problems": count, "seed": SEED, "decoding": "greedy, majority of the lanes"},
        "lanes": list(base.lanes),
        "steps": {str(n): base.game.steps(n) for n in base.lanes},
        # a swap changes the parity: after a known number of swaps half of the arrangements remain
        "chance": 2 / math.factorial(base.cups),
        "cells": cells,
    }
    if (law7 := record.done(out / "law7")) is not None:
        table["law7"] = law7
    return table
