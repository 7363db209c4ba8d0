"""Runs a task: every problem in every cell, one after another.

A cell is a mode and a number of lanes. The work goes problem by problem, so that a run that was
stopped has asked all cells the same problems. The result of a cell for a problem (`solve`) depends
only on the settings, the problem and the cell. So a run that was interrupted and goes on, in one
process or several, gives the results of a run that was not.

Fair by default: every cell gets the same prompts and, lane by lane, the same random numbers
(`problem_seed`), and may write the same number of tokens in all. `max_tokens` is the limit of each
lane in the cells with most lanes; with fewer lanes each may write more (`cells`). So cells can
be compared at equal steps, and at equal total tokens, from one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import NEVER, LaneMask
from tinylane.core.sampling import Sampler
from tinylane.evaluate import results
from tinylane.evaluate.collaboration import Collaboration, dictate, lane_prompts, with_system
from tinylane.evaluate.tasks.task import Problem, Scores, Task
from tinylane.methods.modes import MODES, STARTS
from tinylane.methods.modes import mode as mode_of
from tinylane.methods.prompt import encode_lane_prompt, encode_prompt

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.core.result import Result
    from tinylane.methods.decoding import Decoding

MAX_TOKENS = 256
FIELDS = ("problem", "mode", "lanes")  # that tell a result from the others of its run
PATTERNS = ("star", "neighbours")
ALONE = "logprob alone"  # a score of its own; see `Conditions.likelihood`
PLAIN_CONDITIONS = ("seed", "template", "slot", "scale", "prompt_lane", "lag")


@dataclass(frozen=True)
class Cell:
    """mode: a label of `parse_mode`. max_tokens: of each lane."""

    mode: str
    lanes: int
    max_tokens: int

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from other cells of its run."""
        return self.mode, self.lanes


@dataclass(frozen=True)
class Conditions:
    """What is the same for all cells. Fields: those of `Decoding` and of `tinylane.mode`.

    seed: of the run; a problem's own is `problem_seed`. together: collaboration prompts.
    likelihood: also take the mean log-probability of the lanes' tokens where each lane stands alone
    after its prompt, by the same weights and without a rotation of lanes.
    """

    seed: int = 0
    sampler: Sampler | None = None
    stop: tuple[str | int, ...] = ()
    template: dict[str, Any] | None = None
    omega: Any = None
    slot: float | None = None
    scale: float | None = None
    prompt_lane: Any = None
    lag: int | None = None
    together: Collaboration | None = None
    likelihood: bool = False


def parse_mode(label: str) -> dict[str, Any]:
    """`joint:ntk` -> the arguments of `tinylane.methods.modes.mode` that it stands for.

    A label is a mode (`independent`, `joint`, `group_think`, `hogwild`), joint with a start of
    Omega (`joint:none`, `joint:ntk`, ...), a pattern of who reads whom (`star`, `neighbours:2`), or
    `fork_join` (`fork_join:K`): joint, with a mask that `decode` delays.
    Raises TinylaneError for anything else.
    """
    name, colon, more = label.partition(":")
    digits = more.isascii() and more.isdigit() and len(more) < 10
    if name == "fork_join" and (digits or not colon):
        return {"name": "joint"}
    if name in PATTERNS:
        LaneMask.named(label, 1)
        return {"name": "joint", "visibility": label}
    if name not in MODES or (colon and (name != "joint" or more not in STARTS)):
        raise TinylaneError(
            f"mode {show(label, 40)}; expected {', '.join(MODES)}, joint:OMEGA "
            f"({', '.join(STARTS)}), star, neighbours:K, fork_join or fork_join:K"
        )
    return {"name": name, **({"omega": more} if colon else {})}


def cells(
    task: Task,
    modes: Sequence[str],
    lanes: Sequence[int],
    max_tokens: int | None,
    equal: str = "tokens",
) -> list[Cell]:
    """The cells of a run; for one lane, in which all modes are the same, only `independent`.

    max_tokens: of each lane where there are most lanes; None takes what the task says it needs, or
    MAX_TOKENS. equal: "tokens" lets fewer lanes write more each, so that all cells may write the
    same in all; "steps" gives every lane max_tokens.
    """
    most = MAX_TOKENS if max_tokens is None else max_tokens
    chosen: list[Cell] = []
    for n in lanes:
        task.lane_prompts(n)  # refuses other numbers before any work is done
        limit = most * max(lanes) // n if equal == "tokens" else most
        if max_tokens is None:
            limit = task.max_tokens(n) or limit
        for label in modes if n > 1 else ["independent"]:
            cell = Cell(label, n, limit)
            if cell not in chosen:
                chosen.append(cell)
    return chosen


def problem_seed(seed: int, index: int) -> int:
    """The seed of one problem's decoding: the same in every cell, another for every problem."""
    return (seed << 40) + index


def solve(
    model: Model, task: Task, problem: Problem, index: int, cell: Cell, conditions: Conditions
) -> dict[str, Any]:
    """Decode one problem in one cell and return its result (see `tinylane.evaluate.results`).

    Raises TinylaneError, naming the problem, for a prompt that leaves no room in the context.
    """
    return decode(model, task, problem, index, cell, conditions)[0]


def decode(
    model: Model, task: Task, problem: Problem, index: int, cell: Cell, conditions: Conditions
) -> tuple[dict[str, Any], Decoding]:
    """`solve`, with the decoding that it ended with."""
    from tinylane.methods.decoding import Decoding

    c, n = conditions, cell.lanes
    rotation, mask = reading(model, cell, c)
    begins = prompts_of_lanes(model, task, c, n)
    prompt: Any = problem.prompt
    template = c.template
    try:
        if c.together is not None:
            prompt, template = with_system(c.together, model, prompt, n, template)
        if cell.mode.startswith("fork_join"):
            prompt = encode_prompt(model, prompt, template)
            clock = len(prompt) + max(len(encode_lane_prompt(model, text)) for text in begins)
            mask = fork_join(task, problem, cell, mask, clock)
        decoding = Decoding(
            model,
            prompt,
            n,
            max_tokens=cell.max_tokens,
            sampler=c.sampler,
            lane_rope=rotation,
            lane_mask=mask,
            lane_prompts=begins,
            seed=problem_seed(c.seed, index),
            stop=c.stop,
            template=template,
        )
        dictation = None if c.together is None else dictate(c.together, decoding)
    except TinylaneError as error:
        raise TinylaneError(f"problem {problem.id}: {error}") from error
    watch = results.Watch(results.Groups(task, problem.truth), n)
    for step in decoding:
        watch.step(step, decoding.prefill_seconds + decoding.seconds)
    ended = decoding.result()
    result = results.make(problem, index, cell.mode, c.seed, ended, watch)
    if task.score is not None:
        finished = [lane.finish_reason == "stop" for lane in ended.lanes]
        result["scores"] = asdict(task.score(problem, watch.texts, finished))
    if c.likelihood:
        numbers = result.setdefault("scores", asdict(Scores()))["numbers"]
        numbers[ALONE] = alone(model, ended)
    if dictation is not None:  # which tokens the model did not choose
        result["given"] = dictation.record()
    return result, decoding


def fork_join(task: Task, problem: Problem, cell: Cell, mask: LaneMask, clock: int) -> LaneMask:
    """The mask of a `fork_join` cell. clock: the position of the first token that lanes draw.

    A lane's first K tokens are drawn without reading. K: the label's, else the task's, else half of
    the lane's tokens. A row at a position draws the token of the next one.
    """
    told = cell.mode.partition(":")[2]
    k = int(told) if told else task.alone(problem, cell.lanes)
    k = cell.max_tokens // 2 if k is None else k
    since = np.full_like(mask.visibility, clock + k - 1, dtype=np.int64)
    return replace(mask, since=since, until=np.full_like(since, NEVER))


def alone(model: Model, ended: Result) -> float:
    """The mean log-probability of a token that the lanes drew, each lane alone after its prompt."""
    from tinylane.evaluate.likelihood import logprobs

    lanes = [lane for lane in ended.lanes if lane.tokens]
    texts = [[*lane.prompt, *lane.tokens] for lane in lanes]
    each = logprobs(model, ended.prompt, texts)
    drawn = [x[len(lane.prompt) :] for x, lane in zip(each, lanes, strict=True)]
    return float(np.concatenate(drawn).mean()) if drawn else 0.0


def prompts_of_lanes(model: Model, task: Task, conditions: Conditions, n: int) -> list[str]:
    """What each of n lanes is told apart from the prompt: the task's, the collaboration's, or what
    the model's lanes begin with."""
    together = conditions.together
    said = None if together is None else lane_prompts(together, n)
    return task.lane_prompts(n) or said or model.lane_prompts(n)


def reading(model: Model, cell: Cell, c: Conditions) -> tuple[Any, LaneMask]:
    """The rotation and the mask of a cell: its label, and the conditions that this mode takes.

    The conditions' Omega is for joint cells whose label names none. The slot is the cell's
    max_tokens unless the conditions give one.
    """
    given = parse_mode(cell.mode)
    if given["name"] != "independent":
        given["lag"] = c.lag
    if given["name"] == "joint":
        given = {"omega": c.omega, "scale": c.scale, "prompt_lane": c.prompt_lane, **given}
    slot = cell.max_tokens if c.slot is None else c.slot
    return mode_of(model=model, lanes=cell.lanes, slot=slot, **given)


def settings(
    task: Task,
    model: Model,
    problems: Sequence[Problem],
    cells: Sequence[Cell],
    conditions: Conditions,
    **more: Any,
) -> dict[str, Any]:
    """Everything that decides the results of a run, as plain JSON values, for settings.json.

    more: further values.
    """
    c = conditions
    if c.likelihood:
        more["likelihood"] = True
    if c.together is not None:
        more["collaborate"] = asdict(c.together)
    sampler = c.sampler or Sampler.from_config(model.sampling)
    return {
        "task": task.describe(),
        "count": len(problems),
        "model": model.identity,
        "trained": _trained(model),
        "backend": model.backend,
        "dtype": model.dtype,
        "cells": [asdict(cell) for cell in cells],
        "sampler": asdict(sampler),
        "stop": list(c.stop),
        "omega": c.omega.tolist() if hasattr(c.omega, "tolist") else c.omega,
        **{name: getattr(c, name) for name in PLAIN_CONDITIONS},
        **more,
    }


def _trained(model: Model) -> dict[str, Any] | None:
    """How the model's lanes read each other by default, which its identity does not cover."""
    import hashlib

    rope = model.lane_rope
    said: dict[str, Any] = {}
    if rope is not None:
        omega = hashlib.sha256(rope.omega.tobytes()).hexdigest()
        said = {"omega": omega, "prompt_lane": rope.prompt_lane, "lag": model.lag}
    if model.tokenizer is not None and model.tokenizer.raw:
        said["raw"] = True
    if any(begins := model.lane_prompts(2)):
        said["lane_prompts"] = begins
    return said or None


def check_prompts(model: Model, problems: Sequence[Problem]) -> None:
    """Raise TinylaneError for a question that is longer than the context, before any work is done.

    The chat template is not counted: it is rendered when the problem is decoded.
    """
    if model.tokenizer is None:
        raise TinylaneError("this checkpoint has no tokenizer.json; tasks are text")
    for problem in problems:
        if isinstance(problem.prompt, str):
            length = len(model.tokenizer.encode(problem.prompt))
            if length >= model.config.context:
                raise TinylaneError(
                    f"problem {problem.id} has {length} tokens; this model's context is "
                    f"{model.config.context}, question and answer together"
                )
