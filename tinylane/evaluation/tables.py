"""Results as text: the columns that `tinylane eval` prints, the Markdown of `tinylane report`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinylane.evaluation.measures import Estimate, Summary

if TYPE_CHECKING:
    from tinylane.evaluation.runner import Cell


def percent(e: Estimate, digits: int = 1) -> str:
    """`12.5% (4.0 to 30.1)`; without an interval the number alone, a dash for none."""
    if math.isnan(e.value):
        return "-"
    if math.isnan(e.low):
        return f"{e.value:.{digits}%}"
    return f"{e.value:.{digits}%} ({100 * e.low:.{digits}f} to {100 * e.high:.{digits}f})"


def points(e: Estimate) -> str:
    """A difference in percentage points, with its sign."""
    if math.isnan(e.value):
        return "-"
    if math.isnan(e.low):
        return f"{100 * e.value:+.1f}"
    return f"{100 * e.value:+.1f} ({100 * e.low:+.1f} to {100 * e.high:+.1f})"


def number(e: Estimate) -> str:
    """`2.31 (2.10 to 2.52)`."""
    if math.isnan(e.value):
        return "-"
    if math.isnan(e.low):
        return f"{e.value:.2f}"
    return f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})"


def plain_table(found: Sequence[tuple[Cell, Summary]]) -> str:
    """The cells as lines of text, one each; 95% Wilson intervals."""
    head = ["lanes", "mode", "majority right (95%)", "one lane", "any lane", "no answer"]
    lines = [[*head, "tokens/lane", "steps", "tokens", "seconds"]]
    for cell, s in found:
        lines.append(
            [
                str(s.lanes),
                s.mode,
                percent(s.majority),
                f"{s.one.value:.1%}",
                f"{s.any.value:.1%}",
                f"{s.missing} of {s.count * s.lanes}"
                + f" (+{s.unreadable} unread)" * (s.unreadable > 0),
                str(cell.max_tokens),
                f"{s.steps:.1f}",
                f"{s.tokens:.1f}",
                f"{s.seconds:.1f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = {1, 2}
    return "\n".join(
        "  ".join(
            word.ljust(width) if k in left else word.rjust(width)
            for k, (word, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
