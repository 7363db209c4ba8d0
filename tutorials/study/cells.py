"""The cells of table 1 as data: which mask, which encoding, and the one recipe that all share.

Law 7 makes four of them one: where no lane reads another and every lane sees the prompt as its own,
Omega changes nothing. `scratch.law7` measures that once; the cell is trained without Omega.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tinylane.core.errors import TinylaneError, show
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.train.from_scratch import Recipe
from tutorials.study.fold import FoldedGame


@dataclass(frozen=True)
class StudyRecipe(Recipe):
    """The shell game's recipe, made cheap enough to train it eighteen times.

    muon: peak learning rate of Muon, which takes the blocks' matrices (lr is AdamW's, which takes
    the rest). stage: a larger number of lanes joins the batches every so many steps. newest: how
    much likelier the newest is than each of the others. fold: the lanes are to write `FoldedGame`.
    """

    cups: int = 3
    shares: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    base: float = 100.0  # 46 positions: of 10,000's planes most would hardly turn
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
class Cell:
    """One cell. omega: where Omega starts. learn: whether it is trained. fold: see StudyRecipe.

    longer, slower: factors of the recipe's steps, and of the steps before the next stage.
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
        Cell("joint-none", "joint"),
        Cell("joint-group_think", "joint", "group_think"),
        Cell("joint-ntk", "joint", "ntk"),
        Cell("joint-learned", "joint", "group_think", learn=True),
        Cell("independent", "independent"),
        Cell("fold", "independent", fold=True),
        Cell("fold-long", "independent", fold=True, longer=3, slower=5),
    )
}
LAW7 = (  # the four cells that are one
    Cell("independent-none", "independent"),
    Cell("independent-group_think", "independent", "group_think"),
    Cell("independent-ntk", "independent", "ntk"),
    Cell("independent-learned", "independent", "group_think", learn=True),
)


def chosen(names: list[str] | None) -> list[Cell]:
    """The cells of these names, in the order of CELLS; None: all. Raises TinylaneError."""
    for name in names or ():
        if name not in CELLS:
            raise TinylaneError(f"cell {show(name)}; expected some of {', '.join(CELLS)}")
    return [cell for cell in CELLS.values() if names is None or cell.name in names]
