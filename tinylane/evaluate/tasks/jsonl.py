"""Any JSON Lines file with a question and an answer: MATH500, AIME, AMC and the like.

    {"problem": "What is 1 + 1?", "answer": "2"}

The fields are `question` or `problem`, and `answer`, unless `--question-field` and `--answer-field`
say otherwise. Answers are compared as mathematics (`--compare math`, by math-verify) or as text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinylane.core.errors import TinylaneError, show
from tinylane.evaluate.extraction import extract as find_answer
from tinylane.evaluate.tasks.mathematics import Judge
from tinylane.evaluate.tasks.task import Options, Problem, Task, answer_of
from tinylane.files import jsonl
from tinylane.files.io import Fields

QUESTIONS = ("question", "problem", "prompt")
TEMPLATE = "{question}\n\nReason step by step, and put the final answer in \\boxed{}."
COMPARE = ("math", "exact")
MAX_PROBLEMS = 1_000_000


def task(options: Options, model: Any = None) -> Task:
    """The problems of `options.data`. Raises TinylaneError where it is not given."""
    return of_file("jsonl", options, truth=lambda text, where: text)


def of_file(name: str, options: Options, truth: Callable[[str, str], str]) -> Task:
    """A task whose problems are the lines of a file.

    truth(text, where): the answer in the text of the answer field; where is file and line. Raises
    TinylaneError for options that cannot be right and a file that cannot be read.
    """
    if options.data is None:
        raise TinylaneError(f"{name} needs --data FILE, a JSON Lines file with its problems")
    data = options.data
    template = TEMPLATE if options.template is None else options.template
    if "{question}" not in template:
        raise TinylaneError(f"--template {show(template, 60)}: expected {{question}} in it")
    compare = options.compare or "math"
    if compare not in COMPARE:
        raise TinylaneError(f"--compare {show(compare, 40)}; expected {' or '.join(COMPARE)}")
    pattern = options.answer_pattern

    def problems(count: int | None, seed: int) -> list[Problem]:
        listed = []
        for number, row in jsonl.read(data, rows=MAX_PROBLEMS):
            where = f"{data}, line {number}"
            fields = Fields(row, where)
            usual = next((name for name in QUESTIONS if name in row), QUESTIONS[0])
            asked = fields.spelled(options.question_field or usual)
            said = fields.spelled(options.answer_field or "answer")
            prompt = template.replace("{question}", asked)
            listed.append(Problem(str(number), prompt, truth(said, where)))
        if not listed:
            raise TinylaneError(f"{data}: no problems in it")
        if count is not None and count > len(listed):
            raise TinylaneError(
                f"--count {count}: {data} has {len(listed)} problems; give at most that, or no "
                "--count for all"
            )
        return listed[:count]

    settings = {
        "data": file_digest(data),
        "template": template,
        "compare": compare,
        "question": options.question_field,
        "answer": options.answer_field,
        "pattern": pattern,
    }
    find_answer("", pattern)  # a bad pattern is an error before anything else is done
    extract = lambda text, finished: answer_of(text, finished, pattern)
    if compare == "exact":
        return Task(name, problems, settings, extract)
    judge = Judge()
    return Task(name, problems, settings, extract, right=judge, readable=judge.readable)


def file_digest(path: str) -> str:
    """SHA-256 of a data file, in hexadecimal.

    Raises TinylaneError where it cannot be read, and for lines that are too long or too many.
    """
    import hashlib

    digest = hashlib.sha256()
    for _, line in jsonl.lines(path, rows=MAX_PROBLEMS):
        digest.update(line)
    return digest.hexdigest()
