"""The study's trainer: `train.shell_game`'s, with numbers of lanes by stages, and Muon.

All numbers of lanes at once sit on a plateau for thousands of steps; one after another they are
learned in hundreds. Muon (https://kellerjordan.github.io/posts/muon/, `mlx.optimizers.Muon`)
orthogonalises the step of a matrix; it brings another factor of two to four here.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from tinylane.train.from_scratch import Trainer
from tutorials.study.cells import StudyRecipe


class Mixed:
    """Two optimizers as one: Muon for the matrices of the blocks, AdamW for everything else."""

    def __init__(self, muon: Any, rest: Any) -> None:
        self.parts = {"muon": muon, "rest": rest}

    @staticmethod
    def _split(tree: dict[str, mx.array]) -> dict[str, dict[str, mx.array]]:
        big = {k for k, v in tree.items() if v.ndim == 2 and ".layers." in k}
        return {
            "muon": {k: v for k, v in tree.items() if k in big},
            "rest": {k: v for k, v in tree.items() if k not in big},
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
        moved: dict[str, mx.array] = {}
        for (name, own), mine in zip(
            self._split(gradients).items(), self._split(weights).values(), strict=True
        ):
            moved |= self.parts[name].apply_gradients(own, mine)
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
        """How likely each number of lanes is at a step."""
        r = self.recipe
        newest = min(step // r.stage, len(r.lanes) - 1) if r.stage else len(r.lanes) - 1
        chances = np.array(r.shares) * (np.arange(len(r.lanes)) <= newest)
        if r.stage:
            chances[newest] *= r.newest
        return chances / chances.sum()

    def batch(self, step: int) -> tuple[int, np.ndarray, np.ndarray]:
        """As the trainer's, from (seed, step) alone: the same problems in every cell."""
        rng = np.random.default_rng([self.recipe.seed, step])
        n = int(rng.choice(self.recipe.lanes, p=self.chances(step)))
        width = len(self.game.coordinates(n)[0])
        stay = rng.random() if rng.random() < self.recipe.stay else 0.0
        moves = self.game.draw(max(self.recipe.rows // width, 1), rng, stay)
        return n, *self.game.rows(moves, n)
