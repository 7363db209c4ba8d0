"""The shell game scored one problem at a time: greedy, one number of lanes, one visibility.

`tinylane eval` does this and more; both use `tinylane.evaluate.runner`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinylane.evaluate.measures import wilson
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.evaluate.tasks.shell_game_task import trained

if TYPE_CHECKING:
    from tinylane.core.model import Model


@dataclass(frozen=True)
class Score:
    """The score of one number of lanes with one visibility.

    right: problems of `count` for which the majority is right. per_lane: the same for each lane.
    tokens: how many each lane may write, the end token included. steps: of all problems together.
    """

    lanes: int
    visibility: str
    count: int
    right: int
    per_lane: tuple[int, ...]
    tokens: int
    steps: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """The share of problems for which the majority is right."""
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of `accuracy`."""
        estimate = wilson(self.right, self.count)
        return estimate.low, estimate.high


def evaluate(
    model: Model,
    game: ShellGame,
    lanes: int,
    visibility: str,
    *,
    count: int = 1000,
    seed: int = 0,
    on_problem: Callable[[int], None] = lambda done: None,
) -> Score:
    """Decode `count` new problems greedily and compare the answers with the truth.

    visibility: a label of `tinylane.evaluate.runner.parse_mode`. Lag and Omega are the model's.
    on_problem: called with the number of problems done. Raises TinylaneError for settings out of
    range.
    """
    from tinylane.core.sampling import Sampler
    from tinylane.evaluate.runner import Conditions, cells, solve

    task = trained(game)
    problems = task.problems(count, seed)
    label = visibility if lanes > 1 else "independent"
    (cell,) = cells(task, [label], [lanes], None)
    conditions = Conditions(seed=seed, sampler=Sampler(temperature=0.0))
    right, steps, seconds, per_lane = 0, 0, 0.0, [0] * lanes
    for index, problem in enumerate(problems):
        row = solve(model, task, problem, index, cell, conditions)
        right += row["correct"]
        steps += row["steps"]
        seconds += row["seconds"]
        for lane in row["lane"]:
            per_lane[lane["lane"]] += lane["correct"]
        on_problem(index + 1)
    return Score(lanes, visibility, count, right, tuple(per_lane), cell.max_tokens, steps, seconds)
