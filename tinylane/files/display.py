"""Text of models and files, made safe to print.

A model can write any character, and a terminal obeys some of them: `printable` shows those instead.
"""

from __future__ import annotations

# Characters that are obeyed instead of shown: C0 except newline and tab, DEL, C1, separators that
# start a line, marks and overrides that reorder text (Trojan Source), and annotations.
_CONTROLS = [*range(9), *range(0x0B, 0x20), *range(0x7F, 0xA0)]
_MARKS = [0x061C, *range(0x200E, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
_MARKS += range(0xFFF9, 0xFFFC)
_VISIBLE = dict(zip(_CONTROLS, map(r"\x{:02x}".format, _CONTROLS), strict=True))
_VISIBLE |= zip(_MARKS, map(r"\u{:04x}".format, _MARKS), strict=True)


def printable(text: str) -> str:
    r"""`text` with every character that a terminal would obey in visible form.

    Newline and tab stay; so do the joiners that emoji are made of.

    >>> printable("red\x1b[31m")
    'red\\x1b[31m'
    """
    text = text.translate(_VISIBLE)
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(text: str, limit: int = 300) -> str:
    """`text` fit for an error line: no line breaks, no control characters, at most `limit` long."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def counted(n: int, what: str) -> str:
    """`1 lane`, `1,000 lanes`."""
    return f"{n:,} {what}{'s' * (n != 1)}"
