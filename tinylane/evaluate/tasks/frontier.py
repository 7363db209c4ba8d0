"""Frontier: lanes explore a graph together, each step each lane one node that no lane has explored.

    edges A-C A-F B-D C-E ... from A to K :
    lane 1/2:  C1 E2 B3 =4
    lane 2/2:  F1 -  D3 =4

`C1` says: I explore C, which is 1 edge from the start; its neighbours are now known to all. A step
takes nodes of one distance, in the order of their names: lane m takes the m-th that is left, or
waits (`-`). When a neighbour of an explored node is the goal, every lane writes its distance; when
nothing is left to explore, `no-way`. So which node is whose depends on what the others have just
found. This is breadth-first search, N nodes a step.

Without reading, the work must be split before anything is known (`schedule="fork"`): each lane gets
some of the start's neighbours and searches from them alone, until it finds the goal or has seen all
it can reach; the shortest of the lanes' answers is the answer.

    V nodes   E edges   N lanes   B problems   P prompt rows   L rows of a lane, the longest's
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED

LANES = (1, 2, 4)
WORDS = ("<unk>", "<end>", "edges", "from", "to", ":", "-", "no-way")
END, WAIT, NO_WAY = "<end>", "-", "no-way"
SCHEDULES = ("joint", "fork")
TRIES = 10_000


@dataclass(frozen=True)
class Graph:
    """A problem. edges: pairs of node numbers, the smaller first. start, goal: node numbers."""

    edges: tuple[tuple[int, int], ...]
    start: int
    goal: int

    @cached_property
    def neighbours(self) -> dict[int, set[int]]:
        """Of every node that has an edge, the nodes at the other ends."""
        beside: dict[int, set[int]] = {}
        for a, b in self.edges:
            beside.setdefault(a, set()).add(b)
            beside.setdefault(b, set()).add(a)
        return beside

    def beside(self, nodes: Iterable[int]) -> set[int]:
        """All neighbours of some nodes."""
        return set().union(*(self.neighbours.get(node, set()) for node in nodes))

    def distances(self) -> dict[int, int]:
        """How many edges each node that can be reached is from the start, by a plain queue."""
        steps, queue = {self.start: 0}, [self.start]
        for node in queue:  # it grows
            for other in sorted(self.neighbours.get(node, ())):
                if other not in steps:
                    steps[other] = steps[node] + 1
                    queue.append(other)
        return steps


@dataclass(frozen=True)
class Frontier:
    """nodes: V, from 4 to 100. edges: E of every graph. depth: the most edges from the start to a
    node that can be reached; graphs that go further are not drawn. lanes: the numbers of lanes.
    schedule: "joint", or "fork" for lanes that do not read each other.
    """

    nodes: int = 12
    edges: int = 14
    depth: int = 6
    lanes: tuple[int, ...] = field(default=LANES)
    schedule: str = "joint"

    def __post_init__(self) -> None:
        most = self.nodes * (self.nodes - 1) // 2
        if not 4 <= self.nodes <= 100 or not 3 <= self.edges <= most or self.depth < 2:
            raise TinylaneError(
                f"{self.nodes} nodes, {self.edges} edges, depth {self.depth}; expected 4 to 100 "
                f"nodes, 3 to {most} edges, a depth of 2 or more"
            )
        if self.schedule not in SCHEDULES or min(self.lanes) < 1:
            raise TinylaneError(
                f"schedule {self.schedule}, lanes {self.lanes}; expected {' or '.join(SCHEDULES)}"
            )

    # Words and token ids.

    @cached_property
    def names(self) -> list[str]:
        """A, B, .. Z; with more nodes AA, AB, ..."""
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        if self.nodes <= 26:
            return list(letters[: self.nodes])
        return ["".join(pair) for pair in itertools.islice(product(letters, repeat=2), self.nodes)]

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """All edges that there could be."""
        return list(itertools.combinations(range(self.nodes), 2))

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every token's word, by id."""
        tags = [f"{m + 1}/{n}" for n in self.lanes for m in range(n)]
        edges = [f"{self.names[a]}-{self.names[b]}" for a, b in self.pairs]
        depths = range(1, self.depth + 1)
        moves = [f"{name}{d}" for name in self.names for d in depths]
        return [*WORDS, *self.names, *edges, *tags, *moves, *(f"={d}" for d in depths)]

    @cached_property
    def ids(self) -> dict[str, int]:
        """word -> token id."""
        return {word: k for k, word in enumerate(self.vocabulary)}

    def tokenizer_json(self) -> str:
        """The word-level tokenizer, as the text of a tokenizer.json."""
        from tinylane.evaluate.tasks.words import word_level

        return word_level(self.ids, "[:]")

    @property
    def settings(self) -> dict[str, Any]:
        """What an adapter says of its task."""
        sizes = {"nodes": self.nodes, "edges": self.edges, "depth": self.depth}
        return {"name": "frontier", **sizes, "schedule": self.schedule}

    # Problems.

    def draw(self, count: int, rng: np.random.Generator, stay: float = 0.0) -> list[Graph]:
        """Random graphs. The goal's distance is drawn among those that there are from 2 on, and
        `no way` where there is none. stay: not used (the shell game's)."""
        return [self._one(rng) for _ in range(count)]

    def _one(self, rng: np.random.Generator) -> Graph:
        for _ in range(TRIES):
            chosen = np.sort(rng.choice(len(self.pairs), self.edges, replace=False))
            graph = Graph(tuple(self.pairs[k] for k in chosen), int(rng.integers(self.nodes)), -1)
            far = graph.distances()
            if max(far.values()) > self.depth:
                continue
            by_distance: dict[int, list[int]] = {}
            for node in range(self.nodes):
                by_distance.setdefault(far.get(node, -1), []).append(node)
            kinds = sorted(d for d in by_distance if d not in (0, 1))
            if kinds:
                goals = by_distance[kinds[rng.integers(len(kinds))]]
                return Graph(graph.edges, graph.start, goals[rng.integers(len(goals))])
        raise TinylaneError(
            f"no graph of {self.nodes} nodes and {self.edges} edges in {TRIES:,} tries has a goal "
            f"at a distance of 2 to {self.depth} or out of reach; change these numbers"
        )

    def prompt(self, graph: Graph) -> str:
        """The text of one problem."""
        edges = " ".join(f"{self.names[a]}-{self.names[b]}" for a, b in graph.edges)
        return f"edges {edges} from {self.names[graph.start]} to {self.names[graph.goal]} :"

    def parse(self, text: str) -> Graph:
        """The graph of a prompt. Raises TinylaneError for a text that is none, or names a node
        that this game does not have."""
        match = re.fullmatch(r"\s*edges((?:\s+\w+-\w+)+)\s+from\s+(\w+)\s+to\s+(\w+)\s*:\s*", text)
        number = {name: k for k, name in enumerate(self.names)}
        words = re.split(r"[\s-]+", " ".join(match.groups()).strip()) if match else []
        if not words or any(word not in number for word in words):
            raise TinylaneError(
                f"{text[:60]!r}; expected `edges A-C C-D from A to D :` with nodes "
                f"{self.names[0]} to {self.names[-1]}"
            )
        *ends, start, goal = (number[word] for word in words)
        edges = {(min(pair), max(pair)) for pair in zip(ends[::2], ends[1::2], strict=True)}
        return Graph(tuple(sorted(edges)), start, goal)

    def answer(self, graph: Graph) -> str:
        """The goal's distance, or `no-way`."""
        distance = graph.distances().get(graph.goal)
        return NO_WAY if distance is None else str(distance)

    # What the lanes are to write.

    def lane_prompts(self, n: int) -> list[str]:
        """The tag of each of n lanes."""
        if n not in self.lanes:
            raise TinylaneError(
                f"{n} lanes; this game is shared by {', '.join(map(str, self.lanes))} lanes"
            )
        return [f"{m + 1}/{n}" for m in range(n)]

    def steps(self, n: int) -> int:
        """The most words that a lane of n can need. By distance d, ceil(nodes / n) steps each."""
        nodes, n = self.nodes - 2, n if self.schedule == "joint" else 1
        return (nodes + min(self.depth, nodes) * (n - 1)) // n + 1

    def write(self, graph: Graph, n: int) -> list[list[str]]:
        """The words of each of n lanes."""
        if self.schedule == "joint":
            moves, end = explore(graph, sorted(graph.beside([graph.start])), n)
            waits = [[WAIT] * (n - len(batch)) for _, batch in moves]
            rows = [
                [*(f"{self.names[node]}{d}" for node in batch), *wait]
                for (d, batch), wait in zip(moves, waits, strict=True)
            ]
            return [[*lane, end] for lane in zip(*rows, strict=True)] or [[end]] * n
        lanes = []
        for m in range(n):
            roots = sorted(graph.beside([graph.start]))[m::n]
            moves, end = explore(graph, roots, 1, self.depth)
            lanes.append([*(f"{self.names[batch[0]]}{d}" for d, batch in moves), end])
        return lanes

    # Rows for training.

    @property
    def prompt_rows(self) -> int:
        """P."""
        return self.edges + 6

    def rows(self, graphs: Sequence[Graph], n: int) -> tuple[np.ndarray, np.ndarray]:
        """B graphs -> the tokens (B, P + n*L) of whole runs, and (B, n*L) what follows each lane
        row, -1 where nothing does: lanes that are done are filled up. Lane by lane."""
        ids, L = self.ids, 1 + self.steps(n)
        prompts = np.array([[ids[word] for word in self.prompt(g).split()] for g in graphs])
        fed = np.zeros((len(graphs), n, L), dtype=np.int64)
        follows = np.full((len(graphs), n, L), -1)
        fed[:, :, 0] = [ids[tag] for tag in self.lane_prompts(n)]
        for b, graph in enumerate(graphs):
            for m, words in enumerate(self.write(graph, n)):
                written = [ids[word] for word in words]
                fed[b, m, 1 : len(written) + 1] = written
                follows[b, m, : len(written) + 1] = [*written, ids[END]]
        B = len(graphs)
        return np.concatenate([prompts, fed.reshape(B, -1)], axis=1), follows.reshape(B, -1)

    def coordinates(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """positions and lanes of the tokens of `rows`: the prompt, then lane by lane."""
        P, L = self.prompt_rows, 1 + self.steps(n)
        positions = np.concatenate([np.arange(P), np.tile(np.arange(P, P + L), n)])
        return positions, np.concatenate([np.full(P, SHARED), np.repeat(np.arange(n), L)])


def explore(
    graph: Graph, roots: list[int], n: int, depth: int = 1 << 30
) -> tuple[list[tuple[int, list[int]]], str]:
    """Search from nodes beside the start, n nodes a step: (distance, nodes) of every step, and the
    last word. depth: what is further away is another's to find."""
    moves: list[tuple[int, list[int]]] = []
    seen, now, distance = {graph.start}, roots, 1
    if graph.goal in roots:
        return moves, "=1"
    while now and distance <= depth:
        seen.update(now)
        for k in range(0, len(now), n):
            moves.append((distance, now[k : k + n]))
            if graph.goal in graph.beside(now[k : k + n]) and distance < depth:
                return moves, f"={distance + 1}"
        now, distance = sorted(graph.beside(now) - seen), distance + 1
    return moves, NO_WAY
