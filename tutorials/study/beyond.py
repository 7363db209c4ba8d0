"""Table 8: models in what they were not trained for. Nothing is trained here.

    python tutorials/study beyond --publish tutorials/study/beyond.json [--frontier RUN ...]

The model inside (`weights/shell-game`; 1, 2, 4 and 8 lanes, lists of 16): longer lists, a lane that
begins late, one that is dropped, one that is missing from the beginning, and schedules. Frontier
models in the folders RUN of their trainings, of the cell `joint`, or of `one-tag`, whose lanes all
begin with the same token: more lanes than trained, more edges, a lane that begins late, is dropped
or missing.

Every run is a real `Decoding` with the package's own operations.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

import tinylane
from tinylane.core.lanes import LaneMask
from tinylane.evaluate.answers import vote
from tinylane.evaluate.tasks.frontier import WAIT, Frontier
from tinylane.evaluate.tasks.frontier_task import score as frontier_score
from tinylane.evaluate.tasks.shell_game import last_word
from tinylane.evaluate.tasks.task import EVALUATION, Problem
from tinylane.files.io import read_json
from tinylane.methods.decoding import Decoding
from tinylane.train.from_scratch import Trainer
from tinylane.train.state import STATE
from tutorials.study import record
from tutorials.study.games import CellRecipe, CellTrainer
from tutorials.study.schedules import ScheduledGame
from tutorials.study.steps import SEED

INSIDE = Path(__file__).parents[2] / "weights" / "shell-game"
COUNT = 200


@dataclass(frozen=True)
class Trial:
    """What is done otherwise than in training.

    late: the last lane begins so many steps after the others, and its rows stand where the clock is
    (`shifted`), or else where they would have stood. dropped: before this step the last lane ends
    and is forgotten. ends: it ends when it has written its own part, which can still be read.
    missing: so many lanes, the last ones, were never there. empty: their part of the list is `--`.
    schedule: of `schedules.SCHEDULES`. longer: so many more swaps or edges than in training.
    """

    says: str
    lanes: tuple[int, ...]
    late: int = 0
    shifted: bool = True
    dropped: int | None = None
    ends: bool = False
    missing: int = 0
    empty: bool = False
    schedule: str = "joint"
    longer: int = 0


MORE, FEW = (2, 4, 8), (2, 4)
INSIDE_TRIALS = (
    Trial("as trained", (1, *MORE)),
    Trial("tree: after their own parts, in pairs", MORE, schedule="tree"),
    Trial("fork-join: after their own parts, everybody", MORE, schedule="late"),
    Trial("lists of 24 instead of 16", (1, *MORE), longer=8),
    Trial("lists of 32", (1, *MORE), longer=16),
    Trial("the last lane begins 1 step late", MORE, late=1),
    Trial("the same, its rows where they would have stood", MORE, late=1, shifted=False),
    Trial("the last lane begins 2 steps late", MORE, late=2),
    Trial("the last lane is dropped before the second word", MORE, dropped=1),
    Trial("the last lane ends after its own part, which stays", MORE, ends=True),
    Trial("the last lane was never there (1, 3, 7 lanes)", MORE, missing=1),
    Trial("the same, and its part of the list is empty", MORE, missing=1, empty=True),
    Trial(
        "two lanes were never there (2, 6 lanes), their part is empty",
        (4, 8),
        missing=2,
        empty=True,
    ),
)
FRONTIER_TRIALS = (
    Trial("as trained", (1, 2, 4)),
    Trial("numbers of lanes that were not trained", (3, 5, 6, 8)),
    Trial("2 edges more", (1, 2, 4), longer=2),
    Trial("4 edges more", (1, 2, 4), longer=4),
    Trial("the last lane begins 1 step late", FEW, late=1),
    Trial("the same, its rows where they would have stood", FEW, late=1, shifted=False),
    Trial("the last lane is dropped before the second word", FEW, dropped=1),
    Trial("the last lane was never there (1, 3 lanes)", FEW, missing=1),
)


def played(
    model: Any,
    prompt: str,
    tags: Sequence[str],
    limit: int,
    trial: Trial,
    mask: LaneMask | None = None,
    own: int = 0,
) -> list[Any]:
    """The lanes that are there at the end: a lane for each tag, less those that were dropped, are
    missing, or ended. own: how many words a lane writes before it needs another's."""
    n = len(tags)
    there = n - trial.missing - (trial.late > 0)
    d = Decoding(
        model, prompt, there, lane_prompts=tags[:there], max_tokens=limit,
        sampler=tinylane.Sampler(0.0), lane_mask=mask or LaneMask.joint(n),
    )  # fmt: skip
    begin = d.clock - 1
    while d.live:
        if trial.dropped and d.steps == trial.dropped and d.lanes[n - 1].finish_reason is None:
            d.drop(n - 1)
        if trial.ends and d.steps == own and d.lanes[n - 1].finish_reason is None:
            d.finish(n - 1)
        if trial.late and d.steps == trial.late:
            at: Any = "before" if trial.shifted else begin
            d.join(tags[n - 1], at=at, max_tokens=limit)
        d.step()
    return [x for x in d.lanes if x.dropped is None and x.finish_reason != "interrupted"]


def shell_game(model: Any, game: ScheduledGame, trial: Trial, n: int, count: int) -> dict[str, Any]:
    """How often the vote of the lanes that are there is right, and a lane by itself."""
    right = lanes = each = 0
    steps, tags, mask = [], game.lane_prompts(n), game.mask(n)
    share = game.swaps // n
    for moves in game.draw(count, np.random.default_rng([SEED, EVALUATION])):
        if trial.empty:
            moves[len(moves) - share * trial.missing :] = len(game.moves) - 1
        ended = played(model, game.prompt(moves), tags, game.steps(n) + 1, trial, mask, share)
        texts, truth = [lane.text for lane in ended], game.answer(moves)
        right += int(vote(texts, extract=last_word).text == truth)
        each += sum(last_word(text) == truth for text in texts)
        lanes += len(texts)
        words = [len(x.text.split()) + trial.late * (x.index == n - 1) for x in ended]
        steps.append(max(words))  # a lane that began late took as many more
    return {
        **record.share(right, count),
        "a_lane_right": each / lanes,
        "steps": float(np.mean(steps)),
    }


def frontier(model: Any, game: Frontier, trial: Trial, n: int, count: int) -> dict[str, Any]:
    """How often the shortest of the answers is right, and how the lanes explored."""
    scores, tags = [], game.lane_prompts(n)
    for graph in game.draw(count, np.random.default_rng([SEED, EVALUATION])):
        problem = Problem("", game.prompt(graph), game.answer(graph))
        ended = played(model, str(problem.prompt), tags, game.steps(1) + 1, trial)
        waited = [trial.late * (x.index == n - 1) for x in ended]  # in steps, written as waits
        texts = [f"{WAIT} " * k + x.text for k, x in zip(waited, ended, strict=True)]
        scores.append(frontier_score(game, problem, texts, [True] * len(texts)))
    right = int(sum(s.shares["shortest right"] for s in scores))
    means = {k: float(np.mean([s.numbers[k] for s in scores])) for k in scores[0].numbers}
    return {**record.share(right, count), "steps": means.pop("words"), **means}


def beyond(runs: Sequence[Path], count: int = COUNT, say: record.Say = print) -> dict[str, Any]:
    """The table. runs: folders of trained cells of Frontier, called CELL-SEED."""
    inside = tinylane.load(INSIDE, dtype="float32")

    def longer(k: int, schedule: str) -> ScheduledGame:
        return ScheduledGame(4, 16 + k, (1, 2, 4, 8), schedule=schedule)

    groups = {"inside": _group(inside, INSIDE_TRIALS, longer, shell_game, count, say)}
    for run in runs:
        model, recipe = exported(run)

        def larger(k: int, schedule: str, recipe: CellRecipe = recipe) -> Frontier:
            return replace(recipe, edges=recipe.edges + k).game

        trials = [t for t in FRONTIER_TRIALS if recipe.one_tag or {*t.lanes} <= {*recipe.lanes}]
        group = _group(model, trials, larger, frontier, count, say)
        group |= {"recipe": recipe.settings, "example": example(model, recipe.game)}
        groups[run.name.rpartition("-")[0]] = group
    return {
        "table": "beyond",
        "scored_on": {"problems": count, "seed": SEED, "decoding": "greedy"},
        "groups": groups,
        **record.about("python tutorials/study beyond"),
    }


def example(model: Any, game: Frontier) -> dict[str, Any]:
    """What four lanes write for the first graph whose goal is 3 edges away or more."""
    for graph in game.draw(COUNT, np.random.default_rng([SEED, EVALUATION])):
        if graph.distances().get(graph.goal, 0) >= 3:
            break
    prompt, tags = game.prompt(graph), game.lane_prompts(4)
    lanes = played(model, prompt, tags, game.steps(1), Trial("", (4,)))
    sizes = {"nodes": game.nodes, "edges": game.edges, "depth": game.depth}
    texts = [lane.text for lane in lanes]
    return {"prompt": prompt, "lanes": texts, "truth": game.answer(graph), "sizes": sizes}


def _group(
    model: Any,
    trials: Sequence[Trial],
    game_of: Callable[[int, str], Any],
    play: Callable[..., dict[str, Any]],
    count: int,
    say: record.Say,
) -> dict[str, Any]:
    rows = []
    for trial in trials:
        game = game_of(trial.longer, trial.schedule)
        scores = {str(n): play(model, game, trial, n, count) for n in trial.lanes}
        shown = ", ".join(f"{n}: {s['accuracy']:.0%}" for n, s in scores.items())
        say(f"{trial.says}; {shown}")
        rows.append({"says": trial.says, "scores": scores})
    return {"trials": rows}


def exported(run: Path) -> tuple[Any, CellRecipe]:
    """The model of a cell, from the state that its training left, and its recipe."""
    names = {f.name for f in fields(CellRecipe)}
    said = {k: v for k, v in read_json(run / "recipe.json").items() if k in names}
    values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
    recipe = CellRecipe(**values)
    trainer = CellTrainer(recipe)
    trainer.load(run / STATE)
    with tempfile.TemporaryDirectory() as folder:
        Trainer.export(trainer, Path(folder))
        return tinylane.load(folder, dtype="float32"), recipe
