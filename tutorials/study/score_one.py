"""The shell game scored from Python: greedy, one number of lanes and one way of reading at a time.

`tinylane eval` does this and more; both run what `tinylane.evaluate.runner` runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.evaluate.tasks.shell_game_task import EVALUATION, game_of, last_word, trained

if TYPE_CHECKING:
    from tinylane.core.model import Model

__all__ = ["EVALUATION", "Score", "evaluate", "game_of", "last_word"]


@dataclass(frozen=True)
class Score:
    """The outcome for one number of lanes and one way of reading.

    right: problems that the majority got right, of `count`. per_lane: the same for each lane by
    itself. tokens: that each lane may write, the end token included. steps: of all problems.
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
        """Share of problems that the majority got right."""
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of `accuracy`."""
        from tinylane.evaluate.measures import wilson

        found = wilson(self.right, self.count)
        return found.low, found.high


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
    """Decode `count` unseen problems greedily and compare with the truth.

    visibility: a label of `tinylane.evaluate.runner.parse_mode`; the model's lag and Omega.
    on_problem is called with the number of problems done. Raises TinylaneError for settings out of
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
