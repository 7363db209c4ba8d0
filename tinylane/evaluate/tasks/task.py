"""What a task is: problems, how an answer is found in a lane's text, and when it is right.

A `Task` is data and a few plain functions; the runner and the collector of transcripts use nothing
else. Everything that decides the problems and their scoring is in `settings`, which settings.json
of a run holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinylane.evaluate.answers import extract as find_answer
from tinylane.evaluate.answers import normalise


@dataclass(frozen=True)
class Problem:
    """One question. id: unique in its task. prompt: text, or chat messages. truth: the answer."""

    id: str
    prompt: str | list[dict[str, str]]
    truth: str


@dataclass(frozen=True)
class Options:
    """What the command line may say about a task. A task refuses the options that it does not use.

    Every field is named like its flag. data: a JSON Lines file. question_field, answer_field: names
    of its fields (None: the usual ones). template: a text with `{question}` in it. compare: "math",
    "exact" or None for the task's default. answer_pattern: a regular expression. cups, swaps: the
    size of the shell game.
    """

    data: str | None = None
    question_field: str | None = None
    answer_field: str | None = None
    template: str | None = None
    compare: str | None = None
    answer_pattern: str | None = None
    cups: int | None = None
    swaps: int | None = None


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
    problems and scoring, plain JSON values.
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

    def describe(self) -> dict[str, Any]:
        """Name and settings, for a run directory."""
        return {"name": self.name, **self.settings}
