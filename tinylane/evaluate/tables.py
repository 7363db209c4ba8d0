"""Results as text: the columns that `tinylane eval` prints, the Markdown of `tinylane report`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tinylane.evaluate.measures import Comparison, Estimate, Summary

if TYPE_CHECKING:
    from tinylane.evaluate.runner import Cell


def _with_interval(e: Estimate, value: str, form: str, scale: float = 1.0, none: str = "") -> str:
    """`value (low to high)`; without an interval the value and `none`, a dash for no value."""
    if math.isnan(e.value):
        return "-"
    if math.isnan(e.low):
        return value + none
    return f"{value} ({scale * e.low:{form}} to {scale * e.high:{form}})"


def percent(e: Estimate) -> str:
    """`12.5% (4.0 to 30.1)`."""
    return _with_interval(e, f"{e.value:.1%}", ".1f", 100)


def points(e: Estimate) -> str:
    """A difference in percentage points, with its sign: `+3.0 (-1.0 to +7.0)`."""
    return _with_interval(e, f"{100 * e.value:+.1f}", "+.1f", 100, " (all alike)")


def number(e: Estimate, digits: int = 2) -> str:
    """`2.31 (2.10 to 2.52)`."""
    return _with_interval(e, f"{e.value:.{digits}f}", f".{digits}f")


def end_columns(cell: Cell, s: Summary, answers: bool = True) -> dict[str, str]:
    """A cell's row of the table that `tinylane eval` prints, by column; 95% intervals.

    answers: whether the lanes of this task have answers.
    """
    unread = f" (+{s.unreadable} unread)" * (s.unreadable > 0)
    answered = {
        "majority right (95%)": percent(s.majority),
        "one lane": percent(s.one) if s.shares else f"{s.one.value:.1%}",
        "any lane": f"{s.any.value:.1%}",
        "no answer": f"{s.missing} of {s.count * s.lanes}{unread}",
    }
    return {
        "lanes": str(s.lanes),
        "mode": s.mode,
        **(answered if answers else {}),
        **score_columns(s),
        "tokens/lane": str(cell.max_tokens),
        "steps": f"{s.steps:.1f}",
        "tokens": f"{s.tokens:.1f}",
        "seconds": f"{s.seconds:.1f}",
    }


def score_columns(s: Summary) -> dict[str, str]:
    """What the task counted beside answers, by name."""
    shares = {name: percent(e) for name, e in s.shares.items()}
    return shares | {name: number(e) for name, e in s.numbers.items()}


# Markdown.


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell(word) for word in line)} |" for line in lines)


def cell(text: str) -> str:
    """Text that stays inside its cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def split(label: str) -> tuple[str, str]:
    """`joint x4` -> ("joint", "4")."""
    mode, _, n = label.rpartition(" x")
    return mode, n


def end_table(summaries: Mapping[str, Summary], limits: Mapping[str, int]) -> str:
    """How often each cell is right at its end, and what the task counted beside."""
    head = ["mode", "lanes", "tokens a lane", "steps", "tokens", "s each"]
    head += ["one lane", "majority", "any lane"]
    counted = list(dict.fromkeys(name for s in summaries.values() for name in score_columns(s)))
    rows = [
        [
            *split(label),
            str(limits[label]),
            f"{s.steps:.1f}",
            f"{s.tokens:.1f}",
            f"{s.seconds / s.count:.3g}",
            percent(s.one),
            percent(s.majority),
            percent(s.any),
            *(score_columns(s).get(name, "-") for name in counted),
        ]
        for label, s in summaries.items()
    ]
    return markdown([*head, *counted], rows)


def writing_table(summaries: Mapping[str, Summary]) -> str:
    """What the lanes wrote."""
    head = ["mode", "lanes", "distinct answers", "vote margin", "repeated", "identical"]
    rows = []
    for label, s in summaries.items():
        lanes = s.count * s.lanes
        unread = f", {s.unreadable} unreadable" if s.unreadable else ""
        rows.append(
            [
                *split(label),
                number(s.distinct),
                number(s.margin),
                percent(s.copied) if s.lanes > 1 else "-",
                f"{s.twins} of {s.count}" if s.lanes > 1 else "-",
                f"{s.missing} of {lanes}{unread}",
                f"{s.cut} of {s.count}",
            ]
        )
    return markdown([*head, "no answer", "cut"], rows)


def group_table(of_k: Mapping[str, Mapping[int, Mapping[str, Estimate]]]) -> str:
    """The majority of k lanes and any of k."""
    rows = [
        [*split(label), str(k), percent(by_name["majority"]), percent(by_name["any"])]
        for label, by_k in of_k.items()
        for k, by_name in by_k.items()
    ]
    return markdown(["mode", "lanes", "k", "majority of k", "any of k"], rows)


def comparisons_table(comparisons: Sequence[Comparison]) -> str:
    """Cell against cell."""
    head = ["cell", "against", "at equal", "majority", "majority +/-", "one lane +/-", "any +/-"]
    rows = []
    for c in comparisons:
        mine, theirs = c.values["majority"]
        rows.append(
            [
                c.cell,
                c.against,
                f"{c.at_equal}: {c.budget:g}",
                f"{mine:.1%} / {theirs:.1%}",
                *(points(c.differences[m]) for m in ("majority", "one", "any")),
            ]
        )
    return markdown(head, rows)
