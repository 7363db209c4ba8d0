"""How often the lanes are right: greedy decoding of unseen problems, one at a time.

"Unseen": drawn from a stream of random numbers that training does not use; with 4 cups and 16 swaps
there are 6**16 (2.8e12) lists, of which a training run sees some 1e5. Every way of reading (joint,
independent...) gets the same problems and the same number of tokens per lane.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.errors import TinylaneError
from tinylane.lanes import LaneMask
from tinylane.sampling import Sampler
from tinylane.select import vote
from tinylane.tasks.shell_game import ShellGame
from tinylane.tasks.shell_game_task import EVALUATION, game_of, last_word

if TYPE_CHECKING:
    from tinylane.model import Model

__all__ = ["Score", "evaluate", "game_of", "last_word", "table"]


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
        """Wilson's 95% interval of `accuracy` (doi:10.1080/01621459.1927.10502953)."""
        n, p, z = self.count, self.accuracy, 1.959964
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "lanes": self.lanes,
            "visibility": self.visibility,
            "count": self.count,
            "right": self.right,
            "accuracy": self.accuracy,
            "interval_95": list(self.interval),
            "accuracy_per_lane": [right / self.count for right in self.per_lane],
            "tokens_per_lane": self.tokens,
            "steps_per_problem": self.steps / self.count,
            "seconds": self.seconds,
        }


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

    visibility: as `LaneMask.named` spells it; the model's lag and Omega. on_problem is called with
    the number of problems done. Raises TinylaneError for settings out of range.
    """
    from tinylane.decoding import generate

    if count < 1 or seed < 0:
        raise TinylaneError(f"count {count}, seed {seed}; expected at least 1 and 0")
    mask = LaneMask.named(visibility, lanes, model.lag)
    problems = game.draw(count, np.random.default_rng([seed, EVALUATION]))
    tags, tokens = game.lane_prompts(lanes), game.steps(lanes) + 1
    right, steps, per_lane = 0, 0, [0] * lanes
    began = time.perf_counter()
    for done, moves in enumerate(problems, 1):
        result = generate(
            model,
            game.prompt(moves),
            lanes=lanes,
            lane_prompts=tags,
            lane_mask=mask,
            max_tokens=tokens,
            sampler=Sampler(temperature=0.0),
        )
        truth = game.answer(moves)
        right += vote(result, extract=last_word).text == truth
        for lane in result.lanes:
            per_lane[lane.index] += last_word(lane.text) == truth
        steps += result.steps
        on_problem(done)
    seconds = time.perf_counter() - began
    return Score(lanes, visibility, count, right, tuple(per_lane), tokens, steps, seconds)


def table(scores: Sequence[Score]) -> str:
    """The scores as lines of text, one each."""
    head = f"{'lanes':>5}  {'visibility':<12} {'majority right':<38} {'best lane':>9}  tokens/lane"
    rows = [head + "  steps  seconds"]
    for s in scores:
        low, high = s.interval
        share = f"{s.accuracy:6.1%} of {s.count} (95%: {low:.1%} to {high:.1%})"
        rows.append(
            f"{s.lanes:>5}  {s.visibility:<12} {share:<38} {max(s.per_lane) / s.count:>9.1%}  "
            f"{s.tokens:>11}  {s.steps / s.count:>5.1f}  {s.seconds:>7.1f}"
        )
    return "\n".join(rows)
