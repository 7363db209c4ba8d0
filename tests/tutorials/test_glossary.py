"""The glossary: every word stands there once, and is explained in at least a sentence."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "tutorials" / "site" / "glossary.md"


def test_every_word_is_explained() -> None:
    text = PAGE.read_text(encoding="utf-8")
    entries = re.findall(r"^(\S.*)\n:   (.+(?:\n    .+)*)$", text, re.MULTILINE)
    assert text.count("\n:") == len(entries) > 30
    assert len({term for term, _ in entries}) == len(entries)
    short = {term: said for term, said in entries if len(said.split()) < 6 or said[-1] != "."}
    assert short == {}
