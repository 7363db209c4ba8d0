"""What a task is: problems, how an answer is found in a lane's text, and when it is right.

A `Task` is data and a few plain functions; the runner and the collector of transcripts use nothing
else. Everything that decides the problems and their scoring is in `settings`, which settings.json
of a run holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.extraction import extract as find_answer
from tinylane.evaluate.spelling import normalise


@dataclass(frozen=True)
class Problem:
    """One question. id: unique in its task. prompt: text, or chat messages. truth: the answer."""

    id: str
    prompt: str | list[dict[str, str]]
    truth: str


# Streams of random numbers, [seed, stream, ..]: problems that are asked are never trained on. The
# shell game's trainer draws from [seed, step] and [seed, 1 << 40, ..].
EVALUATION, TRAINING = 1 << 41, 1 << 42
MAX_COUNT = 1_000_000


def check_draw(count: int | None, seed: int, usual: int = 0) -> int:
    """The count, or the usual one where none is asked for. Raises TinylaneError for a count or a
    seed that a generated task cannot have."""
    count = usual if count is None else count
    if not 1 <= count <= MAX_COUNT or seed < 0:
        raise TinylaneError(
            f"--count {count}, --seed {seed}; expected 1 to {MAX_COUNT:,} problems and a seed of 0 "
            "or more"
        )
    return count


def tags(n: int) -> list[str]:
    """The lane prompts `1/N:`, `2/N:`, ... of n lanes."""
    return [f"{m + 1}/{n}:" for m in range(n)]


def drawn(
    game: Any, ask: Callable[[Any], str], usual: int
) -> Callable[[int | None, int], list[Problem]]:
    """`Task.problems` of a game that draws its problems and knows their answers (`draw`, `answer`).

    ask: a problem -> its prompt. usual: how many where no count is asked for.
    """

    def problems(count: int | None, seed: int) -> list[Problem]:
        rng = np.random.default_rng([seed, EVALUATION])
        each = game.draw(check_draw(count, seed, usual), rng)
        return [Problem(str(k), ask(one), game.answer(one)) for k, one in enumerate(each)]

    return problems


@dataclass(frozen=True)
class Scores:
    """What a task counts in the texts of all lanes, beside their answers, by name.

    shares: from 0 to 1. numbers: any.
    """

    shares: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What the command line may say about a task. A task refuses the options that it does not use.

    Every field is named like its flag. data: a JSON Lines file. question_field, answer_field: names
    of its fields (None: the usual ones). template: a text with `{question}` in it. compare: "math",
    "exact" or None for the task's default. answer_pattern: a regular expression. cups, swaps: the
    size of the shell game. numbers: how many numbers a sum has, one size or more. kinds: of things
    to name. order: of the items in transcripts of naming. share: how lane prompts split its work.
    nodes, edges, depth: the size of frontier's graphs.
    """

    data: str | None = None
    question_field: str | None = None
    answer_field: str | None = None
    template: str | None = None
    compare: str | None = None
    answer_pattern: str | None = None
    cups: int | None = None
    swaps: int | None = None
    numbers: list[int] | None = None
    kinds: list[str] | None = None
    order: str | None = None
    share: str | None = None
    nodes: int | None = None
    edges: int | None = None
    depth: int | None = None


def answer_of(text: str, finished: bool, pattern: str | None = None) -> str | None:
    """The answer in a lane's text so far, normalised; None where there is none (yet).

    A lane that ended by itself is read as `tinylane.extract` reads it, down to the last number. In
    the text of a lane that was cut off, only a marked answer counts (a complete `\\boxed{}`, a
    `####` line, a match of `pattern`): the last number of half a calculation is no answer. The same
    holds for a lane that still writes, so that its answer after s tokens is the answer of a run
    that ends there.
    """
    return find_answer(text, pattern, marked=not finished)


def exactly(answer: str, truth: str) -> bool:
    """Whether both are the same text after `tinylane.evaluate.answers.normalise`."""
    return normalise(answer) == normalise(truth)


@dataclass(frozen=True)
class Task:
    """A task as its functions.

    problems(count, seed): the first `count` problems, None for all there are; raises TinylaneError
    for none and for more than there are. extract(text, finished): the answer in a lane's text,
    None for none; finished says whether the lane ended by itself. right(answer, truth): whether
    they agree; also decides which lanes vote for the same. readable(answer): whether `right` could
    read it (what it could not read is compared as text, and counted). lane_prompts(n): what each of
    n lanes is told apart from the prompt, or None. max_tokens(n): tokens that a lane needs, or
    None. sampling: default fields of `Sampler`; None leaves them to the checkpoint. lanes: the
    default numbers of lanes. title: its name above a table. settings: everything that decides
    problems and scoring, plain JSON values. answers: whether lanes have answers that can be right.
    score(problem, texts, finished): what it counts beside answers, or None; finished says which
    lanes ended by themselves. alone(problem, n): how many tokens a lane writes before it needs the
    others, for fork-join; None is half of its tokens. transcripts(count, seed, lanes): what lanes
    should write, of problems that are not asked, as lines that `tinylane.train.data` reads; the
    numbers of lanes take turns. None where a task has no such texts. draw(problem, texts): a figure
    of what the lanes did, or None.
    """

    name: str
    problems: Callable[[int | None, int], list[Problem]]
    settings: dict[str, Any]
    extract: Callable[[str, bool], str | None] = answer_of
    right: Callable[[str, str], bool] = exactly
    readable: Callable[[str], bool] = lambda answer: True
    lane_prompts: Callable[[int], list[str] | None] = lambda n: None
    max_tokens: Callable[[int], int | None] = lambda n: None
    sampling: dict[str, Any] | None = None
    lanes: tuple[int, ...] = (1, 4)
    title: str = ""
    answers: bool = True
    score: Callable[[Problem, Sequence[str], Sequence[bool]], Scores] | None = None
    alone: Callable[[Problem, int], int | None] = lambda problem, n: None
    transcripts: Callable[[int, int, Sequence[int]], Iterator[dict[str, Any]]] | None = None
    draw: Callable[[Problem, Sequence[str]], Any] | None = None

    def describe(self) -> dict[str, Any]:
        """Name and settings, for a run directory."""
        return {"name": self.name, **self.settings}
