"""The study's trainer: as `tinylane.train.from_scratch`, with lanes added in stages, and Muon.

With all numbers of lanes from the start, the loss stays on a plateau for thousands of steps. Added
one after another, they are learned in hundreds of steps. Muon
(https://kellerjordan.github.io/posts/muon/, `mlx.optimizers.Muon`) orthogonalises the step of each
matrix; here it needs a half to a quarter of the steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from tinylane.commands.train import describe
from tinylane.train.from_scratch import Trainer, train
from tutorials.study.cells import StudyRecipe
from tutorials.study.record import Say


class Mixed:
    """Two optimizers as one: Muon for the matrices of the blocks, AdamW for everything else."""

    def __init__(self, muon: Any, rest: Any) -> None:
        self.parts = {"muon": muon, "rest": rest}

    @staticmethod
    def _split(tree: dict[str, mx.array]) -> dict[str, dict[str, mx.array]]:
        matrices = {k for k, v in tree.items() if v.ndim == 2 and ".layers." in k}
        matrices = {k for k in matrices if "lane_kv" not in k}  # a table: a row is used or not
        return {
            "muon": {k: v for k, v in tree.items() if k in matrices},
            "rest": {k: v for k, v in tree.items() if k not in matrices},
        }

    def init(self, weights: dict[str, mx.array]) -> None:
        """Zero moments for these weights."""
        for name, tree in self._split(weights).items():
            self.parts[name].init(tree)

    @property
    def state(self) -> dict[str, Any]:
        """Both states, as arrays by name."""
        return {name: part.state for name, part in self.parts.items()}

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.state = value[name]

    def apply_gradients(
        self, gradients: dict[str, mx.array], weights: dict[str, mx.array]
    ) -> dict[str, mx.array]:
        """The weights after one step."""
        gradients_of, weights_of = self._split(gradients), self._split(weights)
        moved: dict[str, mx.array] = {}
        for name, part in self.parts.items():
            moved |= part.apply_gradients(gradients_of[name], weights_of[name])
        return {name: moved[name] for name in weights}


class StudyTrainer(Trainer):
    """The state and the training step of one cell."""

    recipe: StudyRecipe

    def __init__(self, recipe: StudyRecipe) -> None:
        super().__init__(recipe)
        if recipe.muon:
            mixed = Mixed(
                optim.Muon(self._rate(recipe.muon), weight_decay=0.0),
                optim.AdamW(self._rate(recipe.lr), weight_decay=recipe.weight_decay),
            )
            mixed.init(self.state["weights"])
            self.optimizers["weights"] = mixed  # type: ignore[assignment]

    def chances(self, step: int) -> np.ndarray:
        """The probability of each number of lanes at a step."""
        r = self.recipe
        newest = min(step // r.stage, len(r.lanes) - 1) if r.stage else len(r.lanes) - 1
        chances = np.array(r.shares) * (np.arange(len(r.lanes)) <= newest)
        if r.stage:
            chances[newest] *= r.newest
        return chances / chances.sum()


def train_part(
    recipe: StudyRecipe, folder: Path, stop_at: int | None, say: Say
) -> StudyTrainer | None:
    """Train in a folder, going on where it was stopped; None if it is stopped before the end."""
    trainer = train(
        recipe,
        folder,
        check_every=200,
        save_every=100,
        stop_at=stop_at,
        say=lambda entry: say(f"{folder.name}: {describe(entry, recipe.steps)}"),
        trainer_of=StudyTrainer,
    )
    assert isinstance(trainer, StudyTrainer)
    return trainer if trainer.step >= recipe.steps else None
