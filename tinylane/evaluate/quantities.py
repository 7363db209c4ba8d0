r"""Answers that are numbers, read exactly: with money, percent, degrees, units and thousands around
them, as fractions and mixed numbers, as ratios; and times, and digits of a base.

    50% = 50    $1,800 = 1.8 thousand dollars    18 cm = 18    3 1/2 = 7/2    3:2 = 3/2
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from tinylane.evaluate.spelling import Key

DECIMAL = (
    r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[1-9][0-9]{0,2}(?:[ ][0-9]{3})+(?![0-9])|[0-9]+)"
    r"(?:\.(?![0-9]*[ ]?,[0-9])[0-9]*)?|\.[0-9]+"
)
SCIENTIFIC = rf"(?:{DECIMAL})(?:[eE][-+]?[0-9]{{1,2}}(?![0-9A-Za-z]))?"
QUANTITY = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?:
      (?P<mixed>[0-9]+)\s*(?P<tail>\\frac\s*\{{\s*[0-9]+\s*\}}\s*\{{\s*[0-9]+\s*\}}
                                 |(?<=[0-9])(?:[ ]|[ ]and[ ]|-)[0-9]+\s*/\s*[0-9]+(?![0-9.]))
    | \\frac\s*\{{\s*(?P<top>[-+]?(?:{SCIENTIFIC}))\s*\}}
           \s*\{{\s*(?P<below>[-+]?(?:{SCIENTIFIC}))\s*\}}
    | (?P<over>{SCIENTIFIC})\s*/\s*(?P<under>[-+]?(?:{SCIENTIFIC}))(?!\s*/)
    | (?:(?P<times>{SCIENTIFIC})\s*(?:\\times|\\cdot|\*|[xX])\s*)?
        10\s*\^\s*(?P<power>[-+]?[0-9]{{1,3}}|\{{\s*[-+]?[0-9]{{1,3}}\s*\}}|\([-+]?[0-9]{{1,3}}\))
    | (?P<only>{SCIENTIFIC})
    )""",
    re.VERBOSE,
)
BEFORE = re.compile(
    r"(?:about|approximately|approx\.?|roughly|\\approx|\\sim)?\s*(?P<sign>[-+]?)\s*"
    r"(?:(?:US|USD|EUR|GBP|AUD|CAD|Rs\.?|INR)\s*(?=[-+.0-9]))?"
    r"(?:[$£€¥₹₩₽₪]|\\(?:pounds|euro|textsterling)(?![A-Za-z]))?\s*"
)
PERCENT = re.compile(r"\s*(?:\\?%|(?:percent(?:age)?|per cent|pct)(?![A-Za-z]))\s*(?:points?)?")
DEGREES = re.compile(r"\s*\^\s*\\circ\s*[CFK]?(?![A-Za-z])")
UNITS = re.compile(
    r"(?P<space>\s*)(?P<word>[A-Za-z]+)(?P<more>[A-Za-z'.\-/()\s\u00b5]*"
    r"(?:\^\s*(?:[23]|\{\s*-?[23]\s*\}|-[12])[A-Za-z'.\-/()\s]*)*)"
)
SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "dozen": 12,
}  # fmt: skip
SHORT_UNITS = {
    "km", "cm", "mm", "dm", "nm", "kg", "mg", "ml", "mL", "cl", "dl", "dL", "ft", "in", "lb",
    "lbs", "oz", "yd", "mi", "hr", "hrs", "min", "mins", "sec", "secs", "mph", "kph", "kmh", "Hz",
    "kHz", "MHz", "kW", "kWh", "cc", "pt", "qt", "sq", "cu", "gal", "rpm", "GB", "MB", "KB", "TB",
    "yr", "yrs", "st", "nd", "rd", "th", "ha",
}  # fmt: skip
LETTER_UNITS = set("mgshlL")
NO_UNITS = {
    "or", "and", "to", "by", "over", "plus", "minus", "mod", "if", "for", "remainder", "divided",
    "squared", "cubed", "factorial", "sin", "cos", "tan", "cot", "csc", "log", "ln", "lim", "exp",
    "max", "gcd", "lcm", "det", "sqrt", "frac", "pi", "such", "where", "with", "when", "choose",
    "is", "are", "less", "than", "greater",
}  # fmt: skip
MONEY_AFTER = re.compile(r"\s*(?:[$£€¥₹¢₩]|\\(?:pounds|euro|textsterling|cents))")


def number(text: str) -> Fraction | None:
    """The value of a text that is a number, with money, percent, degrees or units around it."""
    leading = leading_number(text)
    if leading is None:
        return None
    value, end = leading
    scale = unit(text[end:])
    return None if scale is None else value * scale


def leading_number(text: str) -> tuple[Fraction, int] | None:
    """The number that a text begins with, and where it ends."""
    before = BEFORE.match(text)
    start = before.end() if before else 0
    match = QUANTITY.match(text, start)
    if match is None or not (value := _value(match)):
        return None
    if before and before["sign"]:
        if match["sign"]:
            return None
        value = [-value[0] if before["sign"] == "-" else value[0]]
    return value[0], match.end()


def _value(match: re.Match[str]) -> list[Fraction]:
    """One value; none for a division by zero."""
    sign = -1 if match["sign"] == "-" else 1
    if match["mixed"]:
        top, below = map(int, re.findall("[0-9]+", match["tail"]))
        return [sign * (int(match["mixed"]) + Fraction(top, below))] if below else []
    for a, b in (("top", "below"), ("over", "under")):
        if match[a]:
            divisor = _decimal(match[b])
            return [sign * _decimal(match[a]) / divisor] if divisor else []
    if match["power"]:
        power = int(match["power"].strip("{}() "))
        factor = _decimal(match["times"]) if match["times"] else Fraction(1)
        return [sign * factor * Fraction(10) ** power] if abs(power) <= 300 else []
    return [sign * _decimal(match["only"])]


def _decimal(text: str) -> Fraction:
    return Fraction(Decimal(text.replace(",", "").replace(" ", "")))


def unit(rest: str) -> int | None:
    """What a number is multiplied by for what follows it: 1 for units; None for anything else."""
    for pattern in (PERCENT, DEGREES, MONEY_AFTER):
        if match := pattern.match(rest):
            rest = rest[match.end() :]
            break
    if not rest.strip(" .,;:!?)" if rest[:1] in " " else " .,"):
        return 1
    match = UNITS.fullmatch(rest.rstrip(" .,;:!?"))
    if match is None:
        return None
    word, more = match["word"], match["more"]
    if word in SCALES:
        inner = unit(more)
        return None if inner is None else SCALES[word] * inner
    words = set(re.findall("[A-Za-z]+", more))
    if word.lower() in NO_UNITS or words & (NO_UNITS - {"and", "to", "for", "by", "is", "are"}):
        return None
    if word in SHORT_UNITS or (match["space"] and word in LETTER_UNITS):
        return 1
    vowel = any(letter in "aeiouyAEIOUY" for letter in word)
    return 1 if match["space"] and len(word) >= 3 and vowel else None


# Powers, ratios, times, bases.

POWER_BITS = 2800
POWER = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<root>[0-9]{1,30})\s*\^\s*"
    r"(?P<power>[-+]?[0-9]{1,4}|\{\s*[-+]?[0-9]{1,4}\s*\}|\([-+]?[0-9]{1,4}\))"
)

TIME = re.compile(
    r"([0-9]{1,2})(?::([0-9]{2}))?(?::([0-9]{2}))?\s*([ap])\s?\.?\s?m\.?", re.IGNORECASE
)
CLOCK = re.compile(r"([0-9]{1,2}):([0-5][0-9])")
RATIO = re.compile(r"[0-9.,]+(?:\s*(?::|\\colon(?![A-Za-z])|(?<=\s)to(?=\s))\s*[0-9.,]+)+")
BASE = re.compile(r"\(?([0-9A-Fa-f]+)\)?\s*_\s*\{?\s*([0-9]{1,2}|[a-z]+)\s*\}?")
BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
         "ten": 10, "twelve": 12, "sixteen": 16}  # fmt: skip


def time(text: str) -> Key | None:
    """Minutes after midnight; a time that may be of the morning or not stays apart."""
    if match := TIME.fullmatch(text):
        hour, minute, second = int(match[1]), int(match[2] or 0), int(match[3] or 0)
        if hour > 12 or minute > 59 or second > 59:
            return None
        hour = hour % 12 + 12 * (match[4].lower() == "p")
        return "time", hour * 3600 + minute * 60 + second
    if match := CLOCK.fullmatch(text):
        hour, minute = int(match[1]), int(match[2])
        if hour < 24:
            return "time" if hour > 12 else "clock", hour * 3600 + minute * 60
    return None


def numeric(text: str) -> Key | None:
    """A number of any spelling that `number` reads; or a power of whole numbers, 2^{10}."""
    if match := POWER.fullmatch(text):
        power, root = int(match["power"].strip("{}() ")), int(match["root"])
        if (root or power > 0) and abs(power) * root.bit_length() <= POWER_BITS:
            return "number", Fraction(root) ** power * (-1 if match["sign"] == "-" else 1)
    value = number(text)
    return None if value is None else ("number", value)


def ratio(text: str) -> Key | None:
    """3:2 as 3/2; three terms and more without their common factor."""
    if not RATIO.fullmatch(text):
        return None
    terms = [number(part.strip()) for part in re.split(r":|\\colon|to", text)]
    if any(term is None for term in terms) or not all(terms[1:]):
        return None
    values = [Fraction(term) for term in terms if term is not None]
    if len(values) == 2:
        return "number", values[0] / values[1]
    last = values[-1]
    return "ratio", tuple(value / last for value in values)


def base(text: str) -> Key | None:
    """1011_2: digits and base, because the question asks for both."""
    if not (match := BASE.fullmatch(text)):
        return None
    to = int(match[2]) if match[2].isdigit() else BASES.get(match[2], 0)
    if not 2 <= to <= 16 or any(int(digit, 16) >= to for digit in match[1]):
        return None
    if to == 10:
        return "number", Fraction(int(match[1]))
    return "base", match[1].upper().lstrip("0") or "0", to
