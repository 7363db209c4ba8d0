"""How many steps a search on a graph takes that makes no mistake: counted, not trained.

python tutorials/study steps --set nodes=24 edges=32
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylane.evaluate.tables import markdown
from tinylane.evaluate.tasks.frontier import Frontier, best_split
from tinylane.evaluate.tasks.task import EVALUATION

SEED = 1  # of the problems that a cell is scored on


def counted(game: Frontier, count: int) -> dict[str, Any]:
    """How many steps a search takes that makes no mistake: means over the problems of the scores.

    joint: lanes that read. fork: each lane alone from its fixed share of the start's neighbours.
    best split: from the best share-out of them, which nobody can know before.
    """
    drawn = game.draw(count, np.random.default_rng([SEED, EVALUATION]))
    fork = Frontier(game.nodes, game.edges, game.depth, game.lanes, "fork")
    longest = lambda texts: max(map(len, texts))
    table: dict[str, Any] = {}
    for n in game.lanes:
        table[str(n)] = {
            "joint": float(np.mean([longest(game.write(g, n)) for g in drawn])),
            "fork": float(np.mean([longest(fork.write(g, n)) for g in drawn])),
            "best split": float(np.mean([best_split(g, n, game.depth) for g in drawn])),
        }
    return table


def steps(game: Frontier, count: int) -> str:
    """`counted` as Markdown, a row for each number of lanes."""
    table = counted(game, count)
    names = list(next(iter(table.values())))
    rows = [[n, *(f"{row[name]:.2f}" for name in names)] for n, row in table.items()]
    return markdown(["lanes", *names], rows)
