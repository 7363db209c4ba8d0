"""From N lanes to one answer: extract each lane's answer, take the majority, or the best lane.

`extract` looks where models are taught to write their answer: the last `\\boxed{...}` (MATH), a
`#### answer` line (GSM8K), else the last number. `vote` counts answers that `normalise` makes
equal. It compares text and does no algebra: `1/2` and `0.5` are two answers, unless a `key` says
otherwise. Every search takes linear time in the text, except with a user's own pattern.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple

from tinylane.core.errors import TinylaneError, of_kind, show

BRACES = re.compile(r"(\\{1,2}(?:boxed|fbox)\s*\{)|\\\\|\\[{}]|[{}]")
HASHES = re.compile(r"^[ \t]*####(?!#)(.*)$", re.MULTILINE)
# In running text. ASCII digits only; not inside a word (x2, H2O) or a version (1.2.3); a sign only
# where it cannot be a subtraction or a range (10-3); commas only before groups of three.
NUMBER = re.compile(
    r"(?:(?<![A-Za-z0-9_.)\]}])[-+−])?\\?\$?"
    r"(?:(?<![A-Za-z0-9_])(?<![0-9]\.)(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
    r"|(?<![A-Za-z0-9_.])\.[0-9]+)(?:[eE][-+]?[0-9]{1,2}(?![0-9]))?"
)
# A whole answer that is a number. The exponent is short so that writing it out stays short.
WHOLE_NUMBER = re.compile(
    r"[-+]?(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+|(?=\.[0-9]))(?:\.[0-9]*)?"
    r"(?:[eE][-+]?[0-9]{1,2})?"
)
# LaTeX that changes how an answer looks, not what it says.
DECORATION = re.compile(r"\\[,;:!()\[\] ]|\\?\$|\\(?:left|right|displaystyle)(?![A-Za-z])")
WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")


def normalise(answer: str) -> str:
    """The spelling under which answers are compared. `normalise(normalise(a)) == normalise(a)`.

    White space is stripped and collapsed; `$`, `\\(`, `\\)`, LaTeX spacing, `\\left` and `\\right`
    go; `\\dfrac` and `\\tfrac` become `\\frac`; a `\\text{...}` around the whole goes, and so do
    periods and percent signs at the end. A number loses its commas, plus sign, leading zeros and
    trailing zeros after the point: `$1,000.50.` is `1000.5`, `1.0` is `1`, `-0` is `0`, `1e3` is
    `1000`. Upper and lower case stay apart: `A` may be an option and `a` a variable.

    >>> normalise(" $1,000.50. ")
    '1000.5'
    """
    before = None
    while answer != before:  # removing one thing can uncover another
        before = answer
        answer = answer.replace("−", "-").replace("{,}", ",")
        answer = re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", answer)
        answer = " ".join(DECORATION.sub("", answer).split()).rstrip(".% \\")
        if wrapped := WRAPPER.fullmatch(answer):
            answer = wrapped[1]
        if WHOLE_NUMBER.fullmatch(answer):
            answer = format(Decimal(answer.replace(",", "")), "f")
            answer = answer.rstrip("0").rstrip(".") if "." in answer else answer
            answer = "0" if answer == "-0" else answer
    return answer


def extract(
    text: str, pattern: str | re.Pattern[str] | None = None, *, marked: bool = False
) -> str | None:
    """The answer in one lane's text, normalised, or None where there is none.

    With a `pattern`, a regular expression: the first group of its last match (the whole match if
    it has no group), and nothing else counts. Without: the last `\\boxed{...}` with balanced
    braces that is not empty; else the last `#### answer` line that is a number, or any answer if
    the line is the last (elsewhere it is a Markdown heading); else the last number, unless only
    what is `marked` counts.

    Raises TinylaneError for a pattern that is not a regular expression. A pattern is the user's
    own: one that backtracks without end is not stopped.

    >>> extract("so x = 7, and 2x is \\\\boxed{14}. Check: 14 / 2 = 7.")
    '14'
    """
    of_kind("text", text, str, "a text")
    if pattern is not None:
        candidates = _matches(text, _compiled(pattern))
    else:
        rest = iter(()) if marked else _matches(text, NUMBER)
        candidates = chain(_boxes(text), _hashes(text), rest)
    return next((answer for candidate in candidates if (answer := normalise(candidate))), None)


def _compiled(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise TinylaneError(f"pattern {pattern!r}: not a regular expression: {error}") from None
    if not isinstance(compiled.pattern, str):
        raise TinylaneError(f"pattern {pattern!r}: expected text, not bytes")
    return compiled


def _matches(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """First groups, from the last match to the first."""
    for match in reversed([*pattern.finditer(text)]):
        answer = match[1] if pattern.groups else match[0]
        if answer is not None:  # the group took no part in the match
            yield answer


def _boxes(text: str) -> Iterator[str]:
    """Contents of the balanced boxes, from the one that opens last; one pass with a stack."""
    boxes: list[tuple[int, int]] = []
    opened: list[int | None] = []  # where the contents of a box begin; None for another brace
    for match in BRACES.finditer(text):
        if match[1]:
            opened.append(match.end())
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened and (start := opened.pop()) is not None:
            boxes.append((start, match.start()))
    for start, end in sorted(boxes, reverse=True):
        yield text[start:end]


def _hashes(text: str) -> Iterator[str]:
    """Answers after `####`, from the last."""
    end = len(text.rstrip())
    for match in reversed([*HASHES.finditer(text)]):
        if match.end() >= end or WHOLE_NUMBER.fullmatch(normalise(match[1])):
            yield match[1]


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
    same; by default `normalise`. A lane without an answer does not vote. Among answers with
    equally many votes, the one given by the lane with the highest mean log-probability wins, then
    the one given by the lowest lane (with texts, always the latter). An answer is shown as its
    best lane wrote it.

    Raises TinylaneError for no lanes, a bad pattern, or both `pattern` and `extract`.

    >>> vote(["It is 4.", "2 + 2 = 4.0", "5"])
    Answer(text='4', votes={'4': 2, '5': 1}, lane=0, margin=1)
    """
    if pattern is not None and extract is not None:
        raise TinylaneError("pattern and extract are both given: expected one of them")
    find = of_kind("extract", extract or _extractor(pattern), Callable, "a function")
    key = of_kind("key", key or normalise, Callable, "a function")
    groups: dict[Hashable, list[tuple[_Entry, str]]] = {}
    for entry in _entries(result):
        answer = find(entry.text)
        if answer is not None:
            groups.setdefault(key(answer), []).append((entry, answer))
    # Of each group the best lane; then the groups by votes and, among equals, by their best lane.
    ranked = [(len(group), *max(group, key=lambda x: x[0].rank)) for group in groups.values()]
    ranked.sort(key=lambda x: (x[0], x[1].rank), reverse=True)
    if not ranked:
        return Answer(None, {}, None, 0)
    count, entry, answer = ranked[0]
    runner_up = ranked[1][0] if len(ranked) > 1 else 0
    votes = {answer: count for count, _, answer in ranked}
    return Answer(answer, votes, entry.number, count - runner_up)


def _extractor(pattern: str | re.Pattern[str] | None) -> Callable[[str], str | None]:
    if pattern is not None:
        pattern = _compiled(pattern)  # once, and a bad one is an error before any lane is read
    return lambda text: extract(text, pattern)


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
    scored = [(float(score(entry.lane)), -entry.number, entry) for entry in entries]
    for value, _, entry in scored:
        if value != value:
            raise TinylaneError(f"score of lane {entry.number}: NaN, expected a number")
    return max(scored, key=lambda x: x[:2])[2].lane
