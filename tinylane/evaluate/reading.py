r"""What an answer says: `normalise` is its spelling, `key` its value.

Two answers are the same where their keys are equal. So judging is symmetric and transitive, and a
vote does not depend on the order of the lanes. Numbers are read here, exactly: with thousands,
fractions, mixed numbers, money, percent, degrees and units. So are times, ratios, tuples,
intervals, unions, sets, matrices and `x = 5`, down to their entries. An entry that is no number
goes to `algebra`, if there is one (`tinylane.evaluate.tasks.mathematics`).

    50% = 50    18 cm = 18    x = 5 is 5    1, 2 is {2, 1}    3:2 = 3/2    (1, 2) is not [1, 2]

Nothing here takes more than linear time in the text, and longer texts than LONGEST are compared as
text. Not handled: numbers in words, units that differ (1 m is 1 cm), European decimal commas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from tinylane.evaluate import quantities
from tinylane.evaluate.spelling import Key, compact, normalise, plain

LONGEST = 400  # characters of an answer that is read as more than text
DEEPEST = 12  # brackets in brackets

Algebra = Callable[[str, bool], Key | None]


def key(answer: str, algebra: Algebra | None = None) -> Key:
    """What answers that say the same have in common; hashable.

    algebra(text, equation): the key of an expression, or of the equation `text` = 0; None if it
    cannot be read. Without it such entries are compared as text.

    >>> key("$1,000") == key("1000 dollars") == key(r"10^{3}")
    True
    >>> key("1/2") == key("0.5"), key("(1, 2)") == key("(2, 1)")
    (True, False)
    """
    text = normalise(answer)
    if len(text) > LONGEST:
        return "text", text
    return _Reader(algebra).read(plain(text))


def readable(key: Hashable) -> bool:
    """Whether nothing in a key was compared as mere text."""
    if isinstance(key, tuple):
        return key[:1] != ("text",) and all(map(readable, key))
    return True


# Everything else.

TOKEN = re.compile(
    r"\\begin\{[a-zA-Z]+\*?\}|\\end\{[a-zA-Z]+\*?\}|\\\\|\\[{}]|\\[A-Za-z]+|[(\[{)\]}]"
    r"|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|[,;&=<>|]|."
)
OPEN, CLOSE = ("(", "[", "{", "\\{"), (")", "]", "}", "\\}")
PARTS = (",", ";", "and", "or")
ORDER = {"<": "<", ">": ">", "\\le": "<=", "\\ge": ">="}
CHOICE = re.compile(
    r"\(([A-Za-z])\)|(?:option|choice|answer)\s+\(?([A-Z])\)?|\(([A-Z])\)\s+\S.*|([A-E])[.)](?:\s.*)?"
    r"|([A-Za-z])",
    re.IGNORECASE,
)
NAME = re.compile(
    r"\\?[A-Za-z]+'*(?:_\{?\w+\}?)?(?:\([A-Za-z0-9]+(?:\s*,\s*[A-Za-z0-9]+)*\))?'*"
    r"|[a-z]\^\{?-1\}?\([a-z]\)|\\frac\{d[a-z]\}\{d[a-z]\}"
    r"|(?:[A-Za-z]{2,} )*[A-Za-z]{2,}|\([A-Za-z](?:\s*,\s*[A-Za-z])+\)"
    r"|m?\\(?:angle|overline|vec|hat|mathbf|triangle)\s*\{?[A-Za-z ]+\}?|\|[A-Za-z]+\|"
)
WORDS = re.compile(r"[A-Za-z][A-Za-z']*(?:[ .-]+[A-Za-z0-9']+)*")
SMALL_WORDS = {"yes", "no", "odd", "one", "two", "six", "ten", "red", "all", "sum"}
FUNCTIONS = {"sinh", "cosh", "tanh", "sqrt", "frac", "arcsin", "arccos", "arctan"}
MATRIX = re.compile(
    r"\\begin\{([pbB]?matrix|smallmatrix|array)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\{\1\}"
    r"(\^\s*\{?\s*(?:T|\\top)\s*\}?)?"
)
ROW_SPACE = re.compile(r"\\hline(?![A-Za-z])|(?<=\\\\)\s*\[-?[0-9.]+\s*[a-z]{2}\]")


def tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """Each token, where it begins, and in how many brackets it stands."""
    depth = 0
    for match in TOKEN.finditer(text):
        token = match[0]
        closes = token in CLOSE or token.startswith("\\end{")
        depth -= closes
        yield token, match.start(), depth
        depth += token in OPEN or token.startswith("\\begin{")


def split(text: str, at: tuple[str, ...]) -> list[tuple[str, str]]:
    """The parts of a text between tokens outside of brackets: (the token before it, the part)."""
    parts, start, before = [], 0, ""
    for token, where, depth in tokens(text):
        if depth == 0 and token in at:
            parts.append((before, text[start:where].strip()))
            before, start = token, where + len(token)
    return [*parts, (before, text[start:].strip())]


def enclosed(text: str) -> tuple[str, str, str] | None:
    """(bracket, what it holds, bracket) of a text that is one pair of brackets."""
    listed = list(tokens(text))
    if len(listed) < 2 or listed[0][0] not in OPEN or listed[-1][0] not in CLOSE:
        return None
    if any(depth <= 0 for _, _, depth in listed[1:-1]) or listed[-1][2] != 0:
        return None
    first, last = listed[0][0], listed[-1]
    return first, text[len(first) : last[1]].strip(), last[0]


class _Reader:
    def __init__(self, algebra: Algebra | None) -> None:
        self.algebra = algebra

    def read(self, text: str, depth: int = 0) -> Key:
        """The key of a text that `plain` gave."""
        text = text.strip().rstrip(".,;: ")
        if depth > DEEPEST:
            return "text", compact(text)
        for simple in (
            letter,
            quantities.time,
            quantities.numeric,
            quantities.ratio,
            quantities.base,
        ):
            if (answer_key := simple(text)) is not None:
                return answer_key
        for parted in (
            self._union,
            self._list,
            self._relation,
            self._plus_minus,
            self._matrix,
            self._sequence,
        ):
            if (answer_key := parted(text, depth)) is not None:
                return answer_key
        return words(text) or self._expression(text)

    def _expression(self, text: str, equation: bool = False) -> Key:
        if re.fullmatch(r"[-+]?\s*\\infty", text):
            return "inf", -1 if text[0] == "-" else 1
        if text == "\\emptyset":
            return "list", ()
        algebraic = self.algebra(expression(text), equation) if self.algebra else None
        return algebraic or ("text", compact(text) + "=0" * equation)

    def _union(self, text: str, depth: int) -> Key | None:
        parts = split(text, ("\\cup", "U")) if "\\cup" in text or " U " in text else []
        if len(parts) < 2:
            return None
        return "union", frozenset(self.read(part, depth + 1) for _, part in parts)

    def _list(self, text: str, depth: int) -> Key | None:
        parts = [(mark, part) for mark, part in split(text, PARTS) if part]
        if len(parts) < 2:
            return None
        names = [split(part, ("=",)) for _, part in parts]
        if all(len(n) == 2 and NAME.fullmatch(n[0][1]) for n in names):
            named = {n[0][1]: n[1][1] for n in names}
            if len(named) == len(names):  # x = 3, y = 4 is the pair (3, 4)
                return "()", tuple(self.read(named[name], depth + 1) for name in sorted(named))
        read = [self.read(part, depth + 1) for _, part in parts]
        if any(mark in ORDER for _, part in parts for mark, _, _ in tokens(part)):
            if {mark for mark, _ in parts[1:]} != {"or"}:
                return "text", compact(text)  # 1 < x and x < 3
            return "union", frozenset(read)
        return multiset(read)

    def _relation(self, text: str, depth: int) -> Key | None:
        marks = ("=", "\\approx", "\\in", "\\ne", *ORDER)
        parts = split(text, marks)
        if len(parts) < 2:
            return None
        kinds = [mark for mark, _ in parts[1:]]
        sides = [side for _, side in parts]
        first = sides[0]
        if kinds == ["\\in"] and NAME.fullmatch(first):
            return self.read(sides[1], depth + 1)
        if kinds[-1] == "\\approx" and set(kinds[:-1]) <= {"="}:  # x = \sqrt{2} \approx 1.4
            named = NAME.fullmatch(first or "x") and len(sides) == 2
            return self.read(sides[-1] if named else "=".join(sides[:-1]), depth + 1)
        if set(kinds) == {"="}:
            if NAME.fullmatch(first) and not occurs(first, sides[-1]):
                return self.read(sides[-1], depth + 1)
            if len(sides) == 2 and NAME.fullmatch(sides[1]) and not occurs(sides[1], first):
                return self.read(first, depth + 1)
            if not re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", first + sides[-1])):
                return self.read(sides[-1], depth + 1)  # 9 * 2 = 18
            if len(sides) == 2:
                return self._expression(f"{first}-({sides[1]})", equation=True)
            return None
        return self._inequality(sides, [ORDER.get(kind, kind) for kind in kinds], depth)

    def _inequality(self, sides: list[str], kinds: list[str], depth: int) -> Key | None:
        """x > 5 as an interval."""
        if {kind[0] for kind in kinds} == {">"}:
            sides, kinds = sides[::-1], ["<" + kind[1:] for kind in kinds[::-1]]
        if {kind[0] for kind in kinds} != {"<"} or len(sides) > 3:
            return None
        named = [bool(NAME.fullmatch(side)) for side in sides]
        if named.count(True) != 1 or (len(sides) == 3 and not named[1]):
            return None
        at = named.index(True)
        low = self.read(sides[at - 1], depth + 1) if at else ("inf", -1)
        high = self.read(sides[at + 1], depth + 1) if at + 1 < len(sides) else ("inf", 1)
        opens = "[" if at and kinds[at - 1] == "<=" else "("
        return interval(opens, (low, high), "]" if at < len(kinds) and kinds[at] == "<=" else ")")

    def _plus_minus(self, text: str, depth: int) -> Key | None:
        if "\\pm" not in text and "\\mp" not in text and not re.match(r"\+\s*(?:/\s*)?-", text):
            return None
        text = re.sub(r"^\+\s*(?:/\s*)?-", r"\\pm ", text)
        upper = text.replace("\\pm", "+").replace("\\mp", "-")
        lower = text.replace("\\pm", "-").replace("\\mp", "+")
        return multiset([self.read(signed, depth + 1) for signed in (upper, lower)])

    def _matrix(self, text: str, depth: int) -> Key | None:
        if not (match := MATRIX.fullmatch(text)):
            return None
        body = ROW_SPACE.sub("", match[2])
        rows = [part for _, part in split(body, ("\\\\", "\\cr")) if part]
        cells = [
            tuple(self.read(cell, depth + 1) for _, cell in split(row, ("&",))) for row in rows
        ]
        if len({len(row) for row in cells}) != 1:
            return "text", compact(text)
        return "matrix", tuple(zip(*cells, strict=True)) if match[3] else tuple(cells)

    def _sequence(self, text: str, depth: int) -> Key | None:
        if reversed_brackets := re.fullmatch(r"\](.*)\[", text):  # ]1, 2[
            text = f"({reversed_brackets[1]})"
        column = re.fullmatch(r"(\(.*\)|\[.*\])\s*\^\s*\{?\s*(?:T|\\top)\s*\}?", text)
        if (inside := enclosed(column[1] if column else text)) is None:
            return None
        opens, body, closes = inside
        if opens == "\\{" and (built := re.fullmatch(r"([A-Za-z])\s*(?:\\mid|\||:)\s*(.*)", body)):
            return self.read(built[2], depth + 1)  # {x : x > 5}
        parts = [part for _, part in split(body, (",", ";")) if part]
        if len(parts) < 2 or opens == "{":
            if opens == "\\{" and not parts:
                return "list", ()
            return self.read(body, depth + 1) if parts else None
        items = [self.read(part, depth + 1) for part in parts]
        if opens == "\\{":
            return multiset(dict.fromkeys(items))
        if column:
            return "matrix", tuple((item,) for item in items)
        if opens == "[" and all(part[0] in "[" for part in parts):  # [[1, 2], [3, 4]]
            rows = [item[1] for item in items]
            if all(isinstance(row, tuple) for row in rows) and len({len(r) for r in rows}) == 1:  # type: ignore[arg-type]
                return "matrix", tuple(rows)
        if len(items) == 2:
            return interval(opens, (items[0], items[1]), closes)
        return "()", tuple(items)


def interval(opens: str, ends: tuple[Key, Key], closes: str) -> Key:
    """An interval, or the pair that is spelled like an open one."""
    opens = "(" if ends[0][0] == "inf" else opens
    closes = ")" if ends[1][0] == "inf" else closes
    return opens + closes, ends


def multiset(items: Any) -> Key:
    """Items in any order; the item itself where there is one; a list in it is taken apart."""
    flat: list[Key] = []
    for item in items:
        flat.extend(item[1] if item[0] == "list" else [item])
    return flat[0] if len(flat) == 1 else ("list", tuple(sorted(flat, key=repr)))


def letter(text: str) -> Key | None:
    """A choice, or a variable by itself; e and i are numbers unless in brackets."""
    match = CHOICE.fullmatch(text)
    if not match or text in ("e", "i"):
        return None
    at = match.lastindex or 1
    if at in (2, 3, 4) and not match[at].isupper():
        return None
    return "letter", match[at]


def words(text: str) -> Key | None:
    """A name or words, whatever their case."""
    if not WORDS.fullmatch(text):
        return None
    listed = re.findall("[a-z0-9']+", text.lower())
    if FUNCTIONS & set(listed):
        return None
    if text.isupper() and len(text) > 2:  # CAB, and C A B: an order, no product
        return "words", text
    if any(len(word) >= 4 and word.isalpha() for word in listed) or set(listed) <= SMALL_WORDS:
        return "words", " ".join(listed)
    return None


def occurs(name: str, text: str) -> bool:
    """Whether a variable stands in a text too: x = x + 1 is an equation."""
    return len(name) == 1 and name in re.sub(r"\\[A-Za-z]+", "", text)


MIXED = re.compile(r"(?<![0-9.^_{])([0-9]+)\s*\\frac\{([0-9]+)\}\{([0-9]+)\}")
TRIGONOMETRY = re.compile(r"sin|cos|tan|cot|sec|csc")
ANGLE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*\^\s*\\circ")


def expression(text: str) -> str:
    """What math-verify's grammar would read in another way, spelled so that it does not."""
    for space in re.finditer(" (?=[A-Za-z]{2})", text):  # 9\\pi square inches
        if quantities.unit(text[space.start() :]) == 1:
            text = text[: space.start()]
            break
    angle = r"(\\frac{\1\\pi}{180})" if TRIGONOMETRY.search(text) else r"\1"
    text = ANGLE.sub(angle, text).replace("^\\circ", "")
    text = MIXED.sub(lambda m: rf"\frac{{{int(m[1]) * int(m[3]) + int(m[2])}}}{{{m[3]}}}", text)
    return text.lstrip("+ ")
