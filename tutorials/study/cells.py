"""The cells of table 1 as data: which mask, which encoding, and the recipe that all share.

By law 7 four of them are the same: where no lane reads another and every lane sees the prompt as
its own, Omega changes nothing. `scratch.compare` measures that once, and the cell is trained
without Omega.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tinylane.core.errors import TinylaneError, show
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.train.recipe import Recipe
from tutorials.study.fold import FoldedGame


@dataclass(frozen=True)
class StudyRecipe(Recipe):
    """The shell game's recipe, cheap enough to be trained eighteen times.

    muon: peak learning rate of Muon, which trains the blocks' matrices (lr is AdamW's, for the
    rest). stage: steps until the next larger number of lanes joins the batches. newest: a factor of
    the probability of the number of lanes that joined last. fold: the lanes write `FoldedGame`.
    """

    cups: int = 3
    shares: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    base: float = 100.0  # there are 46 positions: with 10,000 most planes would hardly turn
    rows: int = 512
    lr: float = 3e-3
    muon: float = 0.02
    stage: int = 200
    newest: float = 2.0
    steps: int = 2000
    fold: bool = False

    @property
    def game(self) -> ShellGame:
        """The task."""
        kind = FoldedGame if self.fold else ShellGame
        return kind(self.cups, self.swaps, self.lanes)


@dataclass(frozen=True)
class StudyCell:
    """One cell of table 1.

    omega: where Omega starts. learn: whether it is trained. fold: as in StudyRecipe. longer,
    slower: factors of the recipe's steps, and of the steps of a stage.
    """

    name: str
    visibility: str
    omega: str = "none"
    learn: bool = False
    fold: bool = False
    longer: int = 1
    slower: int = 1

    def recipe(self, base: StudyRecipe, seed: int) -> StudyRecipe:
        """The recipe of one run of this cell."""
        changes: dict[str, Any] = {
            "seed": seed,
            "steps": base.steps * self.longer,
            "stage": base.stage * self.slower,
            "visibility": self.visibility,
            "omega": self.omega,
            "learn_omega": self.learn,
            "fold": self.fold,
        }
        return replace(base, **changes)


CELLS = {
    cell.name: cell
    for cell in (
        StudyCell("joint-none", "joint"),
        StudyCell("joint-group_think", "joint", "group_think"),
        StudyCell("joint-ntk", "joint", "ntk"),
        StudyCell("joint-learned", "joint", "group_think", learn=True),
        StudyCell("independent", "independent"),
        StudyCell("fold", "independent", fold=True),
        StudyCell("fold-long", "independent", fold=True, longer=3, slower=5),
    )
}
LAW7 = (  # the four cells that are the same
    StudyCell("independent-none", "independent"),
    StudyCell("independent-group_think", "independent", "group_think"),
    StudyCell("independent-ntk", "independent", "ntk"),
    StudyCell("independent-learned", "independent", "group_think", learn=True),
)


def chosen(names: list[str] | None) -> list[StudyCell]:
    """The cells of these names, in the order of CELLS; None: all. Raises TinylaneError."""
    for name in names or ():
        if name not in CELLS:
            raise TinylaneError(f"cell {show(name)}; expected some of {', '.join(CELLS)}")
    return [cell for cell in CELLS.values() if names is None or cell.name in names]
