"""Frontier as a task: for a model that was trained on it, or in words for any other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError, show
from tinylane.evaluate.tasks.frontier import LANES, NO_WAY, Frontier, Graph
from tinylane.evaluate.tasks.task import Options, Problem, Scores, Task, answer_of, drawn

if TYPE_CHECKING:
    from tinylane.core.model import Model

COUNT = 500
SIZES = ("nodes", "edges", "depth")


def task(options: Options, model: Model | None) -> Task:
    """Frontier for `model`. Raises TinylaneError where options and the model's training differ."""
    asked = {name: getattr(options, name) for name in SIZES}
    given = {name: value for name, value in asked.items() if value is not None}
    trained = None if model is None else frontier_of(model)
    if trained is None:
        return _task(Frontier(**given), False)
    for name, value in given.items():
        if value != getattr(trained, name):
            raise TinylaneError(
                f"--{name} {value}: this model was trained on {getattr(trained, name)} {name}"
            )
    return _task(trained, True)


def frontier_of(model: Model) -> Frontier | None:
    """The game that a model was trained on, None if it was another.

    Raises TinylaneError where the adapter's `task` does not say what it should.
    """
    said = getattr(model, "task", None)
    if not isinstance(said, dict) or said.get("name") != "frontier":
        return None
    lanes = said.get("lanes", LANES)
    numbers = [said.get(name) for name in SIZES]
    numbers += lanes if isinstance(lanes, (list, tuple)) else [None]
    if any(type(k) is not int or not 1 <= k <= 5000 for k in numbers):
        raise TinylaneError(
            f"the adapter's task is {show(said)}; expected whole numbers for nodes, edges, depth "
            "and lanes"
        )
    sizes = {name: said[name] for name in SIZES}
    return Frontier(**sizes, lanes=tuple(lanes), schedule=str(said.get("schedule", "joint")))


def _task(game: Frontier, trained: bool) -> Task:
    ask = game.prompt if trained else partial(question, game)
    form = "notation" if trained else "words"
    more: dict[str, Any] = {"extract": lambda text, finished: in_words(text, finished)}
    if trained:
        more = {
            "extract": lambda text, finished: last_answer(text),
            "score": partial(score, game),
            "lane_prompts": game.lane_prompts,
            "max_tokens": lambda n: game.steps(n) + 1,  # and the end token
            "sampling": {"temperature": 0.0},
            "lanes": game.lanes,
            "draw": partial(draw, game),
        }
    return Task(
        "frontier",
        drawn(game, ask, COUNT),
        {**game.settings, "form": form},
        right=lambda answer, truth: answer == truth,
        title=f"frontier, {game.nodes} nodes, {game.edges} edges",
        **more,
    )


def last_answer(text: str) -> str | None:
    """The answer of a lane: what stands after `=`, or `no-way`, if that is its last word."""
    word = (text.split() or [""])[-1]
    return word[1:] if word.startswith("=") else word if word == NO_WAY else None


def in_words(text: str, finished: bool) -> str | None:
    """The answer in the text of a model that was asked in words."""
    answer = answer_of(text, finished)
    plain = re.sub(r"[^a-z0-9]+", "-", (answer or "").lower()).strip("-")
    return plain or None


def question(game: Frontier, graph: Graph) -> str:
    """The problem in plain English."""
    edges = ", ".join(f"{game.names[a]}-{game.names[b]}" for a, b in graph.edges)
    start, goal = game.names[graph.start], game.names[graph.goal]
    return (
        f"A graph has these edges: {edges}. How many edges has the shortest way from {start} to "
        f"{goal}? Write the number like \\boxed{{3}}, or \\boxed{{no way}} if there is none."
    )


def moves_of(game: Frontier, texts: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """(step, lane, node, distance) of every node that the lanes say they explore, in order."""
    number = {name: k for k, name in enumerate(game.names)}
    moves = []
    for m, text in enumerate(texts):
        for step, word in enumerate(text.split()):
            match = re.fullmatch(r"([A-Z]+)([0-9]+)", word)
            if match and match[1] in number:
                moves.append((step, m, number[match[1]], int(match[2])))
    return sorted(moves)


def score(
    game: Frontier, problem: Problem, texts: Sequence[str], finished: Sequence[bool]
) -> Scores:
    """How the lanes explored, and whether the shortest of their answers is right.

    A move is wrong unless some lane had explored a neighbour of its node before this step, and said
    a distance of one less.
    """
    graph = game.parse(str(problem.prompt))
    explored = {graph.start: [(-1, 0)]}  # node -> every step at which it was said, and the distance
    twice = wrong = 0
    for step, _, node, distance in moves_of(game, texts):
        nearer = lambda said: any(k < step and d + 1 == distance for k, d in said)  # noqa: B023
        before = {other for other, said in explored.items() if nearer(said)}
        if node in explored:
            twice += 1
        else:
            wrong += node not in graph.beside(before)
        explored.setdefault(node, []).append((step, distance))
    said = [answer for text in texts if (answer := last_answer(text)) is not None]
    shortest = min((int(a) for a in said if a.isdigit()), default=None)
    least = NO_WAY if shortest is None and said else str(shortest)
    numbers: dict[str, float] = {
        "explored": len(explored) - 1,
        "again": twice,
        "wrong moves": wrong,
        "words": max(len(text.split()) for text in texts),
    }
    return Scores({"shortest right": float(least == problem.truth)}, numbers)


def draw(game: Frontier, problem: Problem, texts: Sequence[str]) -> Any:
    """A figure: who explored which node when (`tinylane.view.frontier_figure`)."""
    from tinylane.view.frontier_figure import frontier

    graph = game.parse(str(problem.prompt))
    by_node: dict[int, list[tuple[int, int]]] = {}
    for step, lane, node, _ in moves_of(game, texts):
        by_node.setdefault(node, []).append((step, lane))
    answers = ", ".join(str(last_answer(text)) for text in texts)
    return frontier(
        game.names,
        graph.edges,
        graph.distances(),
        (graph.start, graph.goal),
        by_node,
        f"answers: {answers}; the truth: {problem.truth}",
    )
