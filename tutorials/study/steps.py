"""How many steps a search on a graph takes that makes no mistake: counted, not trained.

python tutorials/study steps --set nodes=24 edges=32
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinylane.evaluate.tables import markdown
from tinylane.evaluate.tasks.frontier import Frontier, Graph, explore
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


def best_split(graph: Graph, n: int, depth: int) -> int:
    """How many steps n lanes that do not read need, with the best share-out of the start's
    neighbours: found by trying all, so that no fixed split can do better.

    Lanes are done when the last of them has found the goal or seen all that it can reach; then one
    more step reads the answers. Where several lanes reach the same nodes, each explores them. No
    lane looks further than `depth`.
    """
    roots = sorted(graph.beside([graph.start]))
    if graph.goal in roots:
        return 1
    lengths: dict[tuple[int, ...], int] = {(): 0}
    for size in range(1, len(roots) + 1):
        for some in itertools.combinations(roots, size):
            lengths[some] = len(explore(graph, list(some), 1, depth)[0])
    return 1 + min(max(lengths[part] for part in parts) for parts in _partitions(roots, n))


def _partitions(roots: Sequence[int], n: int) -> Iterator[list[tuple[int, ...]]]:
    """All ways to put some nodes into at most n parts, each in the order of the nodes."""
    if not roots:
        yield [()]
        return
    *others, last = roots
    for parts in _partitions(others, n):
        whole = [part for part in parts if part]
        for k in range(len(whole)):
            yield [*whole[:k], (*whole[k], last), *whole[k + 1 :]]
        if len(whole) < n:
            yield [*whole, (last,)]
