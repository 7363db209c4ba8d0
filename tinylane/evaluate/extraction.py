"""The answer in one lane's text, where models are taught to write it.

The last `\\boxed{...}` (MATH), a `#### answer` line (GSM8K), `The answer is ...`, else the last
number or fraction. Every search takes linear time in the text, except with a user's own pattern.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from itertools import chain

from tinylane.core.errors import TinylaneError, of_kind
from tinylane.evaluate import reading
from tinylane.evaluate.quantities import leading_number, number
from tinylane.evaluate.reading import LONGEST
from tinylane.evaluate.spelling import DASHES, GROUPS, WHOLE_NUMBER, normalise

BRACES = re.compile(r"(\\{1,2}(?:boxed|fbox)\s*\{)|\\\\|\\[{}]|[{}]")
BETWEEN = re.compile(r"(?:\$|\\[)(\]]|\s)*(?:,|;|and|or|, ?and)(?:\$|\\[(\[]|\s)*")  # two boxes
HASHES = re.compile(r"^[ \t]*####(?!#)(.*)$", re.MULTILINE)
SAID = re.compile(
    r"\banswer(?:\*\*)?(?:[ \t]+is(?:\*\*)?:?|:|[ \t]*=)[ \t*]*([^\n]{1,300})", re.IGNORECASE
)
LEAD = re.compile(r"(?:(?:so|thus|hence|therefore|final|the|my)\s+)*answer\s*(?:is|:|=)\s*:?", re.I)
SENTENCE = re.compile(r"[.!?](?=[\s*]|$)")
PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,} +[A-Za-z]{2,}")
IN_DOLLARS = re.compile(
    r"(?:\$\$?(?![^$]*(?:[.,;] | [A-Za-z]{2,} ))([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\])"
)
AFTER_NUMBER = re.compile(r"\s*(?:$|[.,;:!?)*]+(?:\s|$)|\s(?=[A-Za-z(]))")
THOUSANDS = r"(?:,(?:\\!)?|\{,\}|\\[, ]|[~\u00a0\u2009\u202f'’])"  # LaTeX's spaces, narrow ones
RAISED = (  # an exponent
    r"(?: ?\^ ?(?:\{ ?[-+−]?[0-9]{1,4} ?\}|\([-+−]?[0-9]{1,4}\)|[-+−]?[0-9]{1,4})"
    r"|[⁺⁻]?[⁰¹²³⁴-⁹]{1,4})"
)
ENTRY = r"[-+−–±]?[0-9]{1,20}(?:\.[0-9]{1,20}|/[0-9]{1,20})?"
COMMA = r"(?:, | ?; ?|,(?![0-9]{3}(?![0-9])))"  # (1,000) is a number
TUPLE = (
    rf"(?<![A-Za-z0-9_}}])(?:\\left ?)?[(\[] ?{ENTRY}(?:{COMMA}{ENTRY}){{1,9}}"
    r" ?(?:\\right ?)?[)\]]"
)
TIME = (
    r"(?<![A-Za-z0-9_.:])[0-9]{1,4}(?::[0-9]{1,4}){1,3}(?![0-9:])"
    r"(?: ?[AaPp](?:[Mm](?![A-Za-z])|\. ?[Mm]\.))?"
)
# In running text. ASCII digits only; not inside a word (x2, H2O) or a version (1.2.3); a sign only
# where it cannot be a subtraction or a range (10-3); separators only before groups of three.
# A fraction is one number, a date is not.
NUMBER = re.compile(
    rf"{TUPLE}|{TIME}|"
    r"(?:(?<![A-Za-z0-9_.)\]}])[-+−–‒‐‑±])?\\?\$?"
    r"(?:(?:(?<![A-Za-z0-9_.])[0-9]{1,6} ?)?\\[dt]?frac(?:\{[-+]?[0-9.]{1,20}\}| ?[0-9])"
    r"(?:\{[0-9.]{1,20}\}| ?[0-9])"
    r"|(?:(?<![A-Za-z0-9_.,])[0-9]{1,6} ?|(?<![A-Za-z0-9_.]))[¼-¾⅐-⅞]"
    r"|(?<![A-Za-z0-9_./])(?:[0-9]{1,6} )?[0-9]{1,20}/[1-9][0-9]{0,19}(?![0-9/]|\.[0-9])"
    r"|(?:(?<![A-Za-z0-9_])(?<![0-9]\.)(?:[1-9][0-9]{0,2}(?:" + THOUSANDS + r"[0-9]{3})+"
    r"(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
    r"|(?<![A-Za-z0-9_.])\.[0-9]+)(?:[eE][-+]?[0-9]{1,2}(?![0-9]))?"
    rf"(?: ?(?:\\times|\\cdot|[×·⋅*x]) ?10(?={RAISED}))?{RAISED}?)"
)
AT_END = re.compile(  # a formula that a text ends with
    r"(?:\$\$?([^$]+)\$\$?|\\\(((?:(?!\\\().)+)\\\)|\\\[((?:(?!\\\[).)+)\\\])[\s.*]*\Z",
    re.DOTALL,
)
NOUN = re.compile(
    r"(?:the |an? )?(?:ordered )?(?:pair|point|triple|interval|vector|ratio) +(?=[(\[$\\0-9])", re.I
)
KEPT = 1000  # places that are looked at, from the last


def extract(
    text: str, pattern: str | re.Pattern[str] | None = None, *, marked: bool = False
) -> str | None:
    """The answer in one lane's text, normalised, or None where there is none.

    With a `pattern`, a regular expression: the first group of its last match (the whole match if
    it has no group), and nothing else counts. Without: the last `\\boxed{...}` with balanced
    braces that is not empty, with those that only a comma or "and" parts from it; else the last
    `#### answer` line that is a number, or any answer if the line is the last (elsewhere it is a
    Markdown heading); else, unless only what is `marked` counts, what the last "answer is" or
    "answer:" says, if it is a number, an option or in dollars; else the last number or fraction.

    Raises TinylaneError for a pattern that is not a regular expression. A pattern is the user's
    own: one that backtracks without end is not stopped.

    >>> extract("so x = 7, and 2x is \\\\boxed{14}. Check: 14 / 2 = 7.")
    '14'
    """
    of_kind("text", text, str, "a text")
    if pattern is not None:
        candidates = _matches(text, compiled(pattern))
    else:
        rest = () if marked else chain(_said(text), _formula(text), _matches(text, NUMBER))
        candidates = chain(_boxes(text), _hashes(text), rest)
    return next((answer for candidate in candidates if (answer := normalise(candidate))), None)


def compiled(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    """A user's pattern. Raises TinylaneError for what is no regular expression of text."""
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise TinylaneError(f"pattern {pattern!r}: not a regular expression: {error}") from None
    if not isinstance(compiled.pattern, str):
        raise TinylaneError(f"pattern {pattern!r}: expected text, not bytes")
    return compiled


def _last(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The last matches, from the last: a text in a loop may have millions."""
    return [*deque(pattern.finditer(text), maxlen=KEPT)][::-1]


def _matches(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """First groups, from the last match."""
    for match in _last(pattern, text):
        answer = match[1] if pattern.groups else match[0]
        if answer is not None:  # the group took no part in the match
            yield answer


def _boxes(text: str) -> Iterator[str]:
    """Contents of the balanced boxes, from the one that opens last; one pass with a stack."""
    boxes: deque[tuple[int, int, int]] = deque(maxlen=KEPT)
    opened: list[tuple[int, int] | None] = []  # a box: where it and its contents begin
    for match in BRACES.finditer(text):
        if match[1]:
            opened.append((match.start(), match.end()))
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened and (box := opened.pop()) is not None:
            boxes.append((*box, match.start()))
    listed, joined = sorted(boxes, reverse=True), ""
    for k, (begin, start, end) in enumerate(listed):
        content = text[start:end]
        before = listed[k + 1][2] + 1 if k + 1 < len(listed) else begin
        if content.strip() and BETWEEN.fullmatch(text[before:begin][:40]):
            joined = f"{content}, {joined}" if joined else content
            continue
        yield f"{content}, {joined}" if joined and content.strip() else joined or content
        joined = ""


def _hashes(text: str) -> Iterator[str]:
    """Answers after `####`, from the last."""
    end = len(text.rstrip())
    for match in _last(HASHES, text):
        line = match[1].strip()
        answer = _first(line)
        heading = len(line.split()) > 2 or line.endswith(":")  # 2 ways to go on
        if match.end() >= end or (not heading and WHOLE_NUMBER.fullmatch(normalise(answer))):
            yield answer


def _said(text: str) -> Iterator[str]:
    """What the last "answer is" says: what is in dollars, a number, an option or a formula; words
    if no number follows."""
    for match in _last(SAID, text)[:1]:
        phrase = match[1]
        while lead := LEAD.match(phrase):
            phrase = phrase[lead.end() :].strip("*_` ")
        if inside := IN_DOLLARS.match(phrase):
            yield next(filter(None, inside.groups()))
            return
        sentence = SENTENCE.search(phrase)
        answer = _first(phrase[: sentence.start()] if sentence else phrase)
        rest = text[match.end(1) - len(phrase) + len(answer) :]
        words = reading.key(answer)[0] == "words" or PROSE.search(answer)
        if not words or (len(answer.split()) <= 4 and not NUMBER.search(rest)):
            yield answer


def _formula(text: str) -> Iterator[str]:
    """What a text ends with, if that is in dollars: what its last equals sign is followed by."""
    if match := AT_END.search(text[-LONGEST:]):
        formula = next(filter(None, match.groups()))
        last = formula.rpartition("=")[2]
        if re.search("[0-9]", last) and not re.search(r"[.,;] |(?<![\\A-Za-z])[A-Za-z]{2,} ", last):
            yield last


def _first(phrase: str) -> str:
    """The answer that a phrase begins with: the number without what is said about it.

    >>> _first(" **18**, since 9*2=18"), _first("18!"), _first("$18 million"), _first("x + 1")
    ('18', '18', '$18 million', 'x + 1')
    """
    phrase = phrase[:LONGEST].strip().strip("*_` ")
    while lead := LEAD.match(phrase):
        phrase = phrase[lead.end() :].strip("*_` ")
    phrase = NOUN.sub("", phrase, count=1) if NOUN.match(phrase) else phrase
    if "=" in phrase and number(last := phrase.rpartition("=")[2].strip(" *")) is not None:
        phrase = last  # 9 * 2 = 18
    plain = GROUPS.sub("", phrase.translate(DASHES)).replace("\\$", "$")
    if (leading := leading_number(plain)) is None:
        return phrase
    value, end = leading
    rest = plain[end:]
    if number(plain) not in (None, value) or not AFTER_NUMBER.match(rest):
        return phrase  # 18 million; 18x
    if number(plain) is None and re.match(
        r"\s+(?:[A-Za-z](?![A-Za-z])|or\b|and\b|to\b)|[,;]\s*[-+$]*[0-9]", rest
    ):
        return phrase  # 18 x; 3 or 4; 3, 4
    return plain[:end].strip() if value.denominator == 1 or number(plain) is None else phrase
