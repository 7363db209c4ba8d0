"""The checkpoint that tables 2 and 3 begin from: it has never met another lane.

Trained on single-lane transcripts only: the whole list with the tag 1/1, and single shares with the
tags m/N (a lane that does its part and stops). So it knows what its tag asks for, and neither that
anybody else writes nor what to do with it.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tinylane
from tinylane.core.lanes import LaneMask
from tinylane.core.model import Model
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.files.io import write_json
from tutorials.study import record
from tutorials.study.cells import StudyRecipe
from tutorials.study.fold import SharesGame
from tutorials.study.score import batched
from tutorials.study.score_one import EVALUATION

Say = Callable[[str], None]


@dataclass(frozen=True)
class BaseRecipe(StudyRecipe):
    """Single lanes: no visibility, no Omega."""

    lanes: tuple[int, ...] = (1, 2, 4)
    shares: tuple[float, ...] = (0.2, 0.3, 0.5)
    newest: float = 2.0
    visibility: str = "independent"
    omega: str = "none"
    learn_omega: bool = False
    steps: int = 1200

    @property
    def game(self) -> SharesGame:
        """What each lane writes by itself."""
        return SharesGame(self.cups, self.swaps, self.lanes)

    @property
    def shared_game(self) -> ShellGame:
        """What the lanes are to write together, in tables 2 and 3."""
        return ShellGame(self.cups, self.swaps, self.lanes)


def train_base(
    out: Path, recipe: BaseRecipe, stop_at: int | None = None, say: Say = print
) -> Path | None:
    """The folder of the checkpoint of this recipe under `out`, trained if it is not there yet.

    None if it was stopped early or another process is at it.
    """
    from tinylane.commands.train import describe
    from tinylane.train.from_scratch import train
    from tutorials.study.trainer import StudyTrainer

    folder = out / f"base-{recipe.seed}"
    if record.done(folder):
        return folder
    with record.locked(folder) as mine:
        if not mine:
            say(f"{folder.name}: another process is at it")
            return None
        if record.done(folder):
            return folder
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
            return None
        shutil.rmtree(folder / "adapter")  # a plain checkpoint: nothing about lanes is known yet
        model = tinylane.load(folder, backend="mlx", dtype="float32", adapter=False)
        alone_right = {n: alone(model, recipe.game, n) for n in recipe.lanes}
        write_json(
            folder / record.RESULT,
            {
                "seed": recipe.seed,
                "recipe": dataclasses.asdict(recipe),
                "alone": {str(n): found for n, found in alone_right.items()},
                **record.about("python tutorials/study (base)"),
            },
        )
        return folder


def alone(
    model: Model, game: ShellGame, n: int, count: int = 500, seed: int = 1, rope: Any = None
) -> dict[str, int]:
    """How many of `count` unseen problems a single lane with the tags of n lanes does right.

    Every written token, and the end, has to be right.
    """
    moves = game.draw(count, np.random.default_rng([seed, EVALUATION]))
    tokens, follows = game.rows(moves, n)
    mask, single = LaneMask.independent(1), _Single(game, n)
    logits = batched(model, single, 1, mask, rope)  # type: ignore[arg-type]
    right = sum(
        int((logits(part).argmax(axis=-1) == wanted).all(axis=-1).sum())
        for part, wanted in zip(_parts(tokens), _parts(follows), strict=True)
    )
    return {"count": count, "right": right}


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[at : at + 64] for at in range(0, len(rows), 64)]


class _Single:
    """A game seen as one lane, of the length that a lane of n has (for `lane_rows`)."""

    def __init__(self, game: ShellGame, n: int) -> None:
        self.swaps, self._steps = game.swaps, game.steps(n)

    def steps(self, _: int) -> int:
        return self._steps
