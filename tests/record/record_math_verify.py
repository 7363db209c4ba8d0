"""Writes tests/data/math_verify_differs.json: where math-verify differs from answer_forms.py.

    python tests/record/record_math_verify.py     two to five minutes

Of each pair of spellings, whether `verify` calls them the same, in both orders.
"""

from __future__ import annotations

import json
import logging
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from answer_forms import pairs

TARGET = Path(__file__).parents[1] / "data" / "math_verify_differs.json"


@cache
def parsed(text: str) -> Any:
    from math_verify import parse

    return parse(rf"\boxed{{{text}}}", parsing_timeout=3)


def main() -> None:
    from math_verify import verify

    logging.disable(logging.CRITICAL)
    differs = []
    for form, a, b, same in pairs():
        both = [verify(parsed(x), parsed(y), timeout_seconds=3) for x, y in ((a, b), (b, a))]
        if both != [same, same]:
            differs.append([form, a, b, both])
    head = json.dumps({"version": version("math-verify"), "count": len(pairs())})[:-1]
    body = ",\n".join(map(json.dumps, differs))
    TARGET.write_text(f'{head}, "pairs": [\n{body}\n]}}\n', encoding="utf-8")
    print(f"{len(differs)} of {len(pairs())} pairs")


if __name__ == "__main__":
    main()
