"""The program that compares answers in the worker process of `mathematics.Judge`.

math-verify parses model text with a grammar and hands it to sympy, which may compute 10^10^10 if it
is asked to. Its own timeouts are signals, which work in a main thread only and cannot interrupt
one long multiplication. Here the worker's limits stop it (`tinylane.files.worker`). Nothing of
tinylane may be imported.
"""

from __future__ import annotations

import logging
from typing import Any


def prepare() -> None:
    """Import math-verify, and have it make its grammars and tables, before any limit counts."""
    logging.disable(logging.CRITICAL)
    for text in ("1", "\\frac{1}{2}"):
        answer([text, text])


def answer(texts: list[str]) -> dict[str, Any]:
    """{"readable": [bool of every text], "same": bool} of one answer, or of an answer and a truth.

    A text is readable if it is mathematics and not only a string.
    """
    from math_verify import parse, verify

    parsed = []
    for text in texts:
        try:
            parsed.append(parse(f"\\boxed{{{text}}}", parsing_timeout=None, raise_on_error=True))
        except Exception:  # a parser over model text raises anything at all
            parsed.append([])
    readable = [any(not isinstance(x, str) for x in values) for values in parsed]
    same = False
    if len(parsed) == 2 and all(readable):
        try:
            given, truth = parsed
            same = bool(verify(truth, given, timeout_seconds=None, raise_on_error=True))
        except Exception:
            same = False
    return {"readable": readable, "same": same}
