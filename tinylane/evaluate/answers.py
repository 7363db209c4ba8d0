"""From N lanes to one answer: extract each lane's answer, take the majority, or the best lane.

`vote` counts answers that say the same (`tinylane.evaluate.reading`); where one stands in a text is
`tinylane.evaluate.extraction`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from tinylane.core.errors import TinylaneError, of_kind, reals, show
from tinylane.evaluate import reading
from tinylane.evaluate.extraction import compiled, extract
from tinylane.evaluate.spelling import normalise as normalise


@dataclass(frozen=True)
class Answer:
    """The outcome of `vote`.

    text: the winning answer, None if no lane gave one. votes: lanes per answer, the winner first.
    lane: index of the best lane that gave it (see `vote`), None if there is none. margin: by how
    many votes it leads the runner-up; 0 means that log-probability, or the lane index, decided.
    """

    text: str | None
    votes: dict[str, int]
    lane: int | None
    margin: int


class _Entry(NamedTuple):
    """One lane of a `Result`, or one text of a plain list. rank: larger is better; by the mean
    log-probability of a token (-inf where unknown), then by the lower number."""

    lane: Any
    text: str
    number: int
    rank: tuple[float, int]


def _entries(result: Any) -> list[_Entry]:
    lanes = getattr(result, "lanes", result)
    lanes = list(lanes) if isinstance(lanes, (list, tuple)) else []
    lanes = [x for x in lanes if getattr(x, "dropped", None) is None] or lanes  # nobody sees those
    if not lanes or not all(isinstance(x, str) or hasattr(x, "logprobs") for x in lanes):
        raise TinylaneError(
            f"{show(result)}: expected a result, or a list of texts, with a lane or more"
        )
    return [
        _Entry(lane, lane, i, (-math.inf, -i))
        if isinstance(lane, str)
        else _Entry(lane, lane.text, lane.index, (_mean(lane.logprobs), -lane.index))
        for i, lane in enumerate(lanes)
    ]


def _mean(logprobs: Any) -> float:
    """-inf for a lane without tokens and for NaN, which would make every comparison false."""
    mean = math.fsum(logprobs) / len(logprobs) if len(logprobs) else -math.inf
    return mean if mean == mean else -math.inf


def vote(
    result: Any,
    pattern: str | re.Pattern[str] | None = None,
    extract: Callable[[str], str | None] | None = None,
    key: Callable[[str], Hashable] | None = None,
) -> Answer:
    """The answer that most lanes give.

    result: from `generate`, or a plain list of texts. pattern: as in `tinylane.extract`. extract:
    a function of the text to use instead, None for no answer. key: what makes two answers the
    same; by default `tinylane.evaluate.reading.key`, with algebra (`x + 1` is `1 + x`) where
    math-verify is installed and an answer needs it. A lane without an answer does not vote. Among
    answers with equally many votes, the one given by the lane with the highest mean log-probability
    wins, then the one given by the lowest lane (with texts, always the latter). An answer is shown
    as its best lane wrote it.

    Raises TinylaneError for no lanes, a bad pattern, or both `pattern` and `extract`.

    >>> vote(["It is 4.", "2 + 2 = 4.0", "5"])
    Answer(text='4', votes={'4': 2, '5': 1}, lane=0, margin=1)
    """
    if pattern is not None and extract is not None:
        raise TinylaneError("pattern and extract are both given: expected one of them")
    find = of_kind("extract", extract or _extractor(pattern), Callable, "a function")
    if key is not None:
        of_kind("key", key, Callable, "a function")
    given = [(entry, find(entry.text)) for entry in _entries(result)]
    answers = [(entry, answer) for entry, answer in given if answer is not None]
    for entry, answer in answers:
        of_kind(f"extract: the answer of lane {entry.number}", answer, str, "a text, or None")
    same = key or _key_of([answer for _, answer in answers])
    groups: dict[Hashable, list[tuple[_Entry, str]]] = {}
    for entry, answer in answers:
        try:
            groups.setdefault(same(answer), []).append((entry, answer))
        except TypeError as error:
            if "unhashable" not in str(error):
                raise
            raise TinylaneError(
                f"key of {show(answer, 40)} cannot be hashed; expected a text"
            ) from error
    # Of each group the best lane; then the groups by votes and, among equals, by their best lane.
    ranked = [(len(group), *max(group, key=lambda x: x[0].rank)) for group in groups.values()]
    ranked.sort(key=lambda x: (x[0], x[1].rank), reverse=True)
    if not ranked:
        return Answer(None, {}, None, 0)
    count, entry, answer = ranked[0]
    runner_up = ranked[1][0] if len(ranked) > 1 else 0
    votes = {answer: count for count, _, answer in ranked}
    return Answer(answer, votes, entry.number, count - runner_up)


def answering(method: str, result: Any) -> list[Any]:
    """The lanes whose texts are a method's answer, of those that were not dropped: all that wrote,
    the likeliest, or the one that came last, as the method says (`tinylane methods`)."""
    from tinylane.methods import method as find

    how, kept = find(method).answer, [x for x in result.lanes if x.dropped is None]
    if how in ("last", "best"):
        return [best_of(result) if how == "best" else (kept or result.lanes)[-1]]
    return [lane for lane in kept if lane.tokens] or kept or list(result.lanes)


def _key_of(answers: list[str]) -> Callable[[str], Hashable]:
    """What the answers are compared by: with math-verify if they differ and one is no number."""
    keys = {reading.key(answer) for answer in answers}
    if len(keys) < 2 or all(map(reading.readable, keys)) or (judge := _judge()) is None:
        return reading.key
    return judge.keys(answers).__getitem__


@cache
def _judge() -> Any:
    """One judge for all votes; None where math-verify is not installed."""
    from tinylane.evaluate.tasks.mathematics import Judge

    try:
        return Judge()
    except TinylaneError:
        return None


def _extractor(pattern: str | re.Pattern[str] | None) -> Callable[[str], str | None]:
    if pattern is not None:
        pattern = compiled(pattern)  # once, and a bad one is an error before any lane is read
    return lambda text: extract(text, pattern)


def _number(name: str, value: Any) -> float:
    number = float(reals(name, value, single=True))
    if number != number:
        raise TinylaneError(f"{name}: NaN, expected a number")
    return number


def best_of(result: Any, score: Callable[[Any], float] | None = None) -> Any:
    """The best lane: by mean log-probability per token, or by the largest `score(lane)`.

    result: from `generate`, or a plain list of texts, which needs a `score` (called with the
    text). Returns the lane (or text) itself; of equals, the lowest lane. A lane without tokens is
    last. Raises TinylaneError for no lanes, texts without a score, or a score that is NaN.
    """
    entries = _entries(result)
    if score is None:
        if any(isinstance(entry.lane, str) for entry in entries):
            raise TinylaneError("plain texts have no log-probabilities: expected a score function")
        return max(entries, key=lambda entry: entry.rank).lane
    of_kind("score", score, Callable, "a function")
    scored = [
        (_number(f"score of lane {entry.number}", score(entry.lane)), -entry.number, entry)
        for entry in entries
    ]
    return max(scored, key=lambda x: x[:2])[2].lane
