r"""How an answer is spelled: `normalise`, and one spelling for LaTeX, Unicode and plain text.

Nothing here takes more than linear time in the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable
from decimal import Decimal
from fractions import Fraction

Key = tuple[Hashable, ...]  # what equal answers have in common
UNTOUCHED = 20_000  # characters from which on a text is only stripped

# A whole answer that is a number. The exponent is short so that writing it out stays short.
WHOLE_NUMBER = re.compile(
    r"[-+]?(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+|(?=\.[0-9]))(?:\.[0-9]*)?"
    r"(?:[eE][-+]?[0-9]{1,2})?"
)
# LaTeX that changes how an answer looks, not what it says. `\\` before a space ends a row.
DECORATION = re.compile(r"(\\\\)|\\[,;:!()\[\] ]|\\?\$|\\(?:left|right|displaystyle)(?![A-Za-z])")
WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
GROUPS = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|['’])(?=[0-9]{3}(?![0-9]))")  # 1'000 is Swiss
DASHES = str.maketrans(dict.fromkeys("−–‒‐‑﹣－", "-"))  # minus, en dash, hyphens; no em dash


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
    if len(answer) > UNTOUCHED:
        return answer.strip()
    before = None
    while answer != before:  # removing one thing can uncover another
        before = answer
        answer = GROUPS.sub("", answer.translate(DASHES)).replace("{,}", ",")
        answer = re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", answer)
        answer = DECORATION.sub(lambda match: match[1] or "", answer)
        answer = " ".join(answer.split()).rstrip(".% \\")
        if wrapped := WRAPPER.fullmatch(answer):
            answer = wrapped[1]
        if WHOLE_NUMBER.fullmatch(answer):
            answer = format(Decimal(answer.replace(",", "")), "f")
            answer = answer.rstrip("0").rstrip(".") if "." in answer else answer
            answer = "0" if answer == "-0" else answer
    return answer


SIGNS = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "π": r"\pi ", "√": "sqrt",
    "∞": r"\infty ", "∪": r"\cup ", "∈": r"\in ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "∅": r"\emptyset ", "≈": r"\approx ",
    "⟨": "(", "⟩": ")", "’": "'", "′": "'",
}  # fmt: skip
TEXT = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|mathsf|mbox)\s*\{([^{}]*)\}"
)
SPELLINGS: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), to)
    for pattern, to in [
        (r"\\(?:quad|qquad|thinspace|limits|displaystyle)(?![A-Za-z])|~", " "),
        (r"\\(?:[bB]igg?[lr]?)(?![A-Za-z])", ""),
        (r"\\(?:leq|leqslant)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:neq)(?![A-Za-z])|!=", r"\\ne "),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\(?:langle|lparen)(?![A-Za-z])", "("),
        (r"\\(?:rangle|rparen)(?![A-Za-z])", ")"),
        (r"\\(?:varnothing)(?![A-Za-z])", r"\\emptyset "),
        (r"\\cfrac(?![A-Za-z])", r"\\frac"),
        (r"\^\s*\{\s*\\circ\s*\}|\\degree(?![A-Za-z])", r"^\\circ "),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])", r"\\infty "),
        (r"\*\*", "^"),
        (r"\^\s*([-+]?[0-9]{2,})", r"^{\1}"),  # x^10 of plain text
        (r"(?<!\\)sqrt\s*\(((?:[^()]|\([^()]*\))*)\)", r"\\sqrt{\1}"),
        (r"\\?sqrt\s*([0-9]+|[A-Za-z](?![A-Za-z]))", r"\\sqrt{\1}"),
        (r"\\frac\s*(\\[A-Za-z]+|[A-Za-z0-9])", r"\\frac{\1}"),
        (r"(\\frac\{(?:[^{}]|\{[^{}]*\})*\})\s*(\\[A-Za-z]+|[A-Za-z0-9])", r"\1{\2}"),
    ]
]
RAISED = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+")
LOWERED = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")
RECURRING = re.compile(r"([0-9]*)\.([0-9]*)\\(?:overline|bar)\s*\{?([0-9]+)\}?")


def plain(text: str) -> str:
    """One spelling for what LaTeX, Unicode and plain text spell in several ways."""
    text = text.strip().strip("*`_\"' ")
    for sign, to in SIGNS.items():
        text = text.replace(sign, to)
    text = RAISED.sub(lambda match: f"^{{{match[0].translate(LOWERED)}}}", text)
    text = "".join(map(_vulgar, text))
    text = TEXT.sub(r" \1 ", text)
    for pattern, to in SPELLINGS:
        text = pattern.sub(to, text)
    return " ".join(RECURRING.sub(_recurring, text).split())


def _vulgar(sign: str) -> str:
    r"""½ as \frac{1}{2}."""
    if "VULGAR" not in unicodedata.name(sign, ""):
        return sign
    value = Fraction(unicodedata.numeric(sign)).limit_denominator(10)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _recurring(match: re.Match[str]) -> str:
    whole, fixed, again = match[1] or "0", match[2], match[3]
    nines = 10 ** len(fixed) * (10 ** len(again) - 1)
    top = int(whole + fixed + again) - int(whole + fixed)
    return rf"\frac{{{top}}}{{{nines}}}"


def compact(text: str) -> str:
    """A text without the spaces that mean nothing in LaTeX."""
    return re.sub(r"(?<![A-Za-z]) +| +(?![A-Za-z])", "", text)
