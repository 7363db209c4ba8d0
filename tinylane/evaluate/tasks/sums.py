"""Sums: two-digit numbers to add. Each lane adds its share; then the lanes combine in pairs.

    Add these numbers: 09 37 49 05 ...
    1/4: 09+37=046+49=095+05=100;100+106=206;206+182=388

A lane begins with its tag `m/N:` and writes the running sums of its share. Then, log2 N times, it
adds its partner's sum to its own: that of the next lane, then of the next pair. The partner's sum
was finished some steps before, so a lane that reads the others can copy it. All numbers have two
digits and all sums three, so the lanes stay in step wherever a digit is a token. Numbers are at
most 99, and small enough that every total has three digits (62 for 16 numbers, 31 for 32).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.tasks.task import (
    EVALUATION,
    TRAINING,
    Options,
    Problem,
    Scores,
    Task,
    check_draw,
    tags,
)

LANES = (1, 2, 4)
SIZES = (16,)
MOST = 64  # numbers: then they are at most 15
COUNT = 100
SUM = re.compile(r"=([0-9]{3})(?![0-9])")


def task(options: Options, model: Any = None) -> Task:
    """Sums of the sizes that `options.numbers` says. Raises TinylaneError for impossible ones."""
    sizes = tuple(options.numbers or SIZES)
    if any(not 2 <= size <= MOST for size in sizes):
        raise TinylaneError(f"--numbers {' '.join(map(str, sizes))}; expected 2 to {MOST}")

    def lane_prompts(n: int) -> list[str]:
        for size in sizes:
            share(size, n)
        return tags(n)

    def problems(count: int | None, seed: int) -> list[Problem]:
        count = check_draw(count, seed, COUNT)
        rng = np.random.default_rng([seed, EVALUATION])
        drawn = [draw(sizes[k % len(sizes)], rng) for k in range(count)]
        return [Problem(str(k), ask(x), f"{sum(x):03}") for k, x in enumerate(drawn)]

    def transcripts(count: int, seed: int, lanes: Sequence[int]) -> Iterator[dict[str, Any]]:
        for k in range(check_draw(count, seed)):
            n, size = lanes[k % len(lanes)], sizes[k // len(lanes) % len(sizes)]
            numbers = draw(size, np.random.default_rng([seed, TRAINING, k]))
            yield {"prompt": ask(numbers), "lane_prompts": tags(n), "lanes": write(numbers, n)}

    return Task(
        "sums",
        problems,
        {"numbers": list(sizes)},
        extract=lambda text, finished: last_sum(text),
        right=lambda answer, truth: int(answer) == int(truth),
        score=score,
        lane_prompts=lane_prompts,
        max_tokens=lambda n: max(len(write([0] * size, n)[0]) for size in sizes) + 1,
        sampling={"temperature": 0.0},
        lanes=LANES,
        alone=lambda problem, n: len(write(numbers_of(problem), n)[0].partition(";")[0]),
        title=f"sums of {', '.join(map(str, sizes))} numbers",
        transcripts=transcripts,
    )


def draw(size: int, rng: np.random.Generator) -> list[int]:
    """Numbers from 0 to 99, or to the most that keeps every total below 1000."""
    return rng.integers(0, min(99, 999 // size) + 1, size).tolist()


def share(size: int, n: int) -> int:
    """How many of `size` numbers each of n lanes adds. Raises TinylaneError where that is uneven,
    less than 2, or n is no power of two."""
    if n < 1 or n & (n - 1) or size % n or size < 2 * n:
        raise TinylaneError(
            f"{size} numbers and {n} lanes; expected 1, 2, 4, 8 ... lanes, each with an equal "
            "share of 2 numbers or more"
        )
    return size // n


def ask(numbers: Sequence[int]) -> str:
    """The prompt."""
    return f"Add these numbers: {' '.join(f'{x:02}' for x in numbers)}"


def write(numbers: Sequence[int], n: int) -> list[str]:
    """What each of n lanes should write."""
    each = share(len(numbers), n)
    texts, sums = [], []
    for m in range(n):
        mine = numbers[m * each : (m + 1) * each]
        running = list(accumulate(mine))
        more = [f"+{x:02}={s:03}" for x, s in zip(mine[1:], running[1:], strict=True)]
        texts.append(f"{mine[0]:02}{''.join(more)}")
        sums.append(running[-1])
    width = 1
    while width < n:  # lane m's partner is the lane, or the group of lanes, beside its own
        partners = [sums[m ^ width] for m in range(n)]
        texts = [
            f"{text};{mine:03}+{other:03}={mine + other:03}"
            for text, mine, other in zip(texts, sums, partners, strict=True)
        ]
        sums = [mine + other for mine, other in zip(sums, partners, strict=True)]
        width *= 2
    return texts


def last_sum(text: str) -> str | None:
    """The last sum in a lane's text, None if it has none."""
    sums = SUM.findall(text)
    return sums[-1] if sums else None


def numbers_of(problem: Problem) -> list[int]:
    """The numbers of a problem."""
    return [int(x) for x in re.findall(r"[0-9]+", str(problem.prompt))]


def score(problem: Problem, texts: Sequence[str], finished: Sequence[bool]) -> Scores:
    """The share of the lanes whose own sum, that of their share of the numbers, is right."""
    numbers = numbers_of(problem)
    each = share(len(numbers), len(texts))
    expected = [sum(numbers[m * each : (m + 1) * each]) for m in range(len(texts))]
    said = [last_sum(text.partition(";")[0]) for text in texts]
    right = [s is not None and int(s) == x for s, x in zip(said, expected, strict=True)]
    return Scores(shares={"own sum right": sum(right) / len(right)})
