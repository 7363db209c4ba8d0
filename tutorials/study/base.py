"""The checkpoint that tables 2 and 3 begin from: it has never read another lane.

It is trained only on transcripts of single lanes: the whole list with the tag 1/1, and single
shares with the tags m/N (a lane that does its part and stops). So it knows what its tag asks for.
It does not know that other lanes write, nor what to do with their text.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tinylane
from tinylane.core.lanes import LaneMask
from tinylane.core.model import Model
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.evaluate.tasks.task import EVALUATION
from tinylane.files.writing import write_json
from tutorials.study import record
from tutorials.study.cells import StudyRecipe
from tutorials.study.fold import SharesGame
from tutorials.study.score import BATCH, batched


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
        """What the lanes should write together, in tables 2 and 3."""
        return ShellGame(self.cups, self.swaps, self.lanes)


def train_base(
    out: Path, recipe: BaseRecipe, stop_at: int | None = None, say: record.Say = print
) -> Path | None:
    """The folder of this recipe's checkpoint under `out`, trained if it is not there yet.

    None if the training was stopped early, or another process works on it.
    """
    from tutorials.study.trainer import train_part

    folder = out / f"base-{recipe.seed}"
    with record.part(folder, say) as mine:
        if mine and train_part(recipe, folder, stop_at, say):
            shutil.rmtree(folder / "adapter")  # a plain checkpoint, which knows nothing of lanes
            model = tinylane.load(folder, backend="mlx", dtype="float32", adapter=False)
            write_json(
                folder / record.RESULT,
                {
                    "seed": recipe.seed,
                    "recipe": recipe.settings,
                    "alone": {str(n): alone(model, recipe.game, n) for n in recipe.lanes},
                    **record.about("python tutorials/study (base)"),
                },
            )
    return folder if record.done(folder) else None


def alone(
    model: Model, game: ShellGame, n: int, count: int = 500, seed: int = 1, rope: Any = None
) -> dict[str, int]:
    """For how many of `count` new problems a single lane with the tags of n lanes is right.

    Every token that it writes, and its end, must be right.
    """
    moves = game.draw(count, np.random.default_rng([seed, EVALUATION]))
    tokens, follows = game.rows(moves, n)
    logits = batched(model, game, 1, LaneMask.independent(1), rope, steps=game.steps(n))
    right = 0
    for at in range(0, count, BATCH):
        best = logits(tokens[at : at + BATCH]).argmax(axis=-1)
        right += int((best == follows[at : at + BATCH]).all(axis=-1).sum())
    return {"count": count, "right": right}
