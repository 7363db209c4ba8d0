"""Table 1: the mask and the encoding apart, trained from scratch on the shell game.

Every cell and seed is a run of `train.shell_game.run` in a folder of its own, then scored on unseen
problems. The same command goes on where it was stopped; a second process takes the next free run.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tinylane
from tinylane.files.io import write_json
from tutorials.study import record
from tutorials.study.cells import CELLS, LAW7, Cell, StudyRecipe
from tutorials.study.score import score

Say = Callable[[str], None]
COUNT, SEED = 500, 1  # problems that a cell is scored on, and the seed of their draw


def scratch(
    out: Path,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    base: StudyRecipe,
    *,
    count: int = COUNT,
    law7: int = 300,
    stop_at: int | None = None,
    publish: Sequence[Path] = (),
    say: Say = print,
) -> dict[str, Any]:
    """Train and score what is missing, seed by seed; the table of what is done, also published.

    law7: steps for which the four independent cells are compared (0: not). stop_at: end every
    training at this step, unscored. Raises TinylaneError for a folder of another configuration.
    """
    record.claim(out, {"table": "scratch", "recipe": dataclasses.asdict(base), "count": count})
    publish = [out / "scratch.json", *publish]
    for seed in seeds:
        for cell in cells:
            folder = out / f"{cell.name}-{seed}"
            if record.done(folder):
                continue
            with record.locked(folder) as mine:
                if not mine:
                    say(f"{folder.name}: another process is at it")
                elif not record.done(folder):
                    _part(folder, cell, cell.recipe(base, seed), count, stop_at, say)
            record.publish(collect(out, base, count), publish)
        if law7 and seed == seeds[0] and not stop_at:
            with record.locked(out / "law7") as mine:
                if mine and not record.done(out / "law7"):
                    found = compare(base, seed, law7, say)
                    write_json(out / "law7" / record.RESULT, found)
    table = collect(out, base, count)
    record.publish(table, publish)
    return table


def _part(
    folder: Path, cell: Cell, recipe: StudyRecipe, count: int, stop_at: int | None, say: Say
) -> None:
    """One run: train to the end, score, write result.json."""
    from tinylane.commands.train import describe
    from tinylane.train.from_scratch import train
    from tutorials.study.trainer import StudyTrainer

    trainer = train(
        recipe,
        folder,
        check_every=200,
        save_every=100,
        stop_at=stop_at,
        say=lambda entry: say(f"{folder.name}: {describe(entry, recipe.steps)}"),
        trainer_of=StudyTrainer,  # type: ignore[arg-type]
    )
    if trainer.step < recipe.steps:
        return
    began = time.monotonic()
    model = tinylane.load(folder, backend="mlx", dtype="float32")
    scores = {}
    for n in recipe.lanes:
        scores[n] = score(model, recipe.game, n, cell.visibility, count=count, seed=SEED)
        low, high = scores[n].interval
        say(f"{folder.name}: {n} lanes {scores[n].accuracy:.1%} ({low:.1%} to {high:.1%})")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    start = np.array(recipe.start().omega)
    ended = np.asarray(trainer.state["omega"], dtype=np.float64)
    result = {
        "cell": cell.name,
        "seed": recipe.seed,
        "scores": {n: record.scored(s) for n, s in scores.items()},
        "curve": [
            {
                "step": entry["step"],
                "loss": {n: round(x, 4) for n, x in entry["loss"].items()},
                **({"exact": entry["exact"]} if "exact" in entry else {}),
            }
            for entry in log
        ],
        "omega": {
            "start": [round(x, 5) for x in start.tolist()],
            **({"learned": [round(x, 5) for x in ended.tolist()]} if recipe.learn_omega else {}),
        },
        "train_seconds": log[-1]["seconds"],
        "score_seconds": round(time.monotonic() - began, 1),
        **record.about(f"python tutorials/study scratch (cell {cell.name}, seed {recipe.seed})"),
    }
    write_json(folder / record.RESULT, result)


def compare(base: StudyRecipe, seed: int, steps: int, say: Say) -> dict[str, Any]:
    """Law 7 in training: the four independent cells side by side, all numbers of lanes from step 0.

    For each, how far its losses and weights are from those of the cell without Omega after so many
    steps of rounding, and what its Omega changes where rounding has had no time to grow: the
    logits of most lanes, with the other cell's weights.
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
        own = trainer.state["weights"]
        moved = [np.abs(np.array(own[k]) - np.array(weights[k])).max() for k in own]
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
        made = [record.done(folder) for folder in sorted(out.glob(f"{cell.name}-[0-9]*"))]
        parts = sorted((part for part in made if part), key=lambda part: part["seed"])
        if parts:
            cells[cell.name] = {**dataclasses.asdict(cell), "seeds": parts}
    table = {
        "table": "scratch",
        "asked": "Does reading each other help at the same number of tokens per lane, and is it "
        "the mask or the encoding that does it?",
        "recipe": dataclasses.asdict(base),
        "scored_on": {"problems": count, "seed": SEED, "decoding": "greedy, majority of the lanes"},
        "lanes": list(base.lanes),
        "steps": {str(n): base.game.steps(n) for n in base.lanes},
        # every swap is odd, so after a given number of them half of the arrangements are left
        "chance": 2 / math.factorial(base.cups),
        "cells": cells,
    }
    if (found := record.done(out / "law7")) is not None:
        table["law7"] = found
    return table
