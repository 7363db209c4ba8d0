"""Accuracy against steps, tokens or seconds: a panel a number of lanes, a line a mode.

Lines are told apart by colour, dash and marker; the band is the 95% interval of each point. Every
panel repeats the one-lane run. matplotlib is imported here and only here.

    G budgets of a grid
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.measures import Axis, curve, grid, most
from tinylane.evaluate.results import AnswerRow
from tinylane.view.figures import COLOURS, DASHES, INK, MARKERS, PAPER, QUIET, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS: dict[Axis, str] = {
    "steps": "decoding steps",
    "tokens": "tokens of all lanes together",
    "seconds": "seconds since the prompt was read",
}
NAMES = {"one": "one lane by itself", "majority": "majority of the lanes", "any": "any lane"}


def accuracy(
    cells: Mapping[str, Sequence[AnswerRow]], axis: Axis, title: str, measure: str = "majority"
) -> Figure:
    """The figure. cells: label -> its problems; labels of cells with equal modes share a line's
    look. Raises TinylaneError where matplotlib is not installed."""
    counts = sorted({rows[0].lanes for rows in cells.values()})
    panels = [n for n in counts if n > 1] or counts
    figure = _figure(len(panels))
    looks = {label: k for k, label in enumerate(dict.fromkeys(map(_name, cells)))}
    said: list[str] = []
    handles: dict[str, Any] = {}
    for place, n in enumerate(panels, 1):
        axes = _axes(figure, len(panels), place, f"{n} lane{'s' if n > 1 else ''}", axis, measure)
        for label, rows in cells.items():
            if rows[0].lanes not in (1, n):
                continue
            alone = rows[0].lanes == 1 < n
            name = "one lane" if alone else _name(label)
            line, words = _line(axes, rows, axis, measure, None if alone else looks[_name(label)])
            handles.setdefault(name, line)
            said.append(f"{label}: {words}")
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(left=0)
    figure.suptitle(title, color=INK, fontsize=10)
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": INK}
    columns = min(len(handles), 5)
    names = list(handles)
    figure.legend([*handles.values()], names, loc="outside lower center", ncols=columns, **style)
    text = (
        f"{title}. Share of problems right, {NAMES[measure]}, against {LABELS[axis]}, with 95% "
        f"intervals. {'; '.join(dict.fromkeys(said))}."
    )
    figure.tinylane_alt = text  # type: ignore[attr-defined]
    return figure


def _name(label: str) -> str:
    """The label of a cell without its number of lanes."""
    return label.rpartition(" x")[0] or label


def _line(
    axes: Axes, rows: Sequence[AnswerRow], axis: Axis, measure: str, look: int | None
) -> tuple[Any, str]:
    """Draw one cell; its handle, and what it shows in words."""
    x = grid(rows, axis)
    found = curve(rows, axis, x)[measure]
    y, low, high = (np.array([getattr(e, k) for e in found]) for k in ("value", "low", "high"))
    if look is None:
        style: dict[str, Any] = {"color": QUIET, "linestyle": (0, (1, 1)), "marker": "x"}
    else:
        k = look % len(COLOURS)
        style = {"color": COLOURS[k], "linestyle": DASHES[k], "marker": MARKERS[k]}
    axes.fill_between(x, low, high, step="post", color=style["color"], alpha=0.13, linewidth=0)
    every = max(1, len(x) // 8)
    offset = 0 if look is None else (look * every) // 4 % every  # equal curves show both markers
    (line,) = axes.plot(
        x,
        y,
        drawstyle="steps-post",
        markevery=(offset, every),
        markersize=4,
        linewidth=1.6,
        **style,
    )
    axes.plot(x[-1:], y[-1:], color=style["color"], marker=style["marker"], markersize=6)
    end = most(rows, axis)
    return line, f"{y[-1]:.1%} ({low[-1]:.1%} to {high[-1]:.1%}) at {end:.4g}"


def _figure(panels: int) -> Figure:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TinylaneError(
            "matplotlib is not installed; plots need it: pip install 'tinylane[plot]', or "
            "--no-plots"
        ) from error
    matplotlib.rcParams["svg.hashsalt"] = "tinylane"  # the same figure gives the same file
    columns = min(panels, 3)
    rows = -(-panels // columns)
    size = (max(3.4 * columns + 0.6, 5.2), 2.9 * rows + 1.0)
    return Figure(figsize=size, layout="constrained", facecolor=PAPER)


def _axes(figure: Figure, panels: int, place: int, title: str, axis: Axis, measure: str) -> Axes:
    from matplotlib.ticker import PercentFormatter

    columns = min(panels, 3)
    axes = figure.add_subplot(-(-panels // columns), columns, place, facecolor=PAPER)
    axes.set_title(title, color=INK, fontsize=9)
    axes.set_xlabel(LABELS[axis], color=INK, fontsize=8)
    if (place - 1) % columns == 0:
        axes.set_ylabel(f"right: {NAMES[measure]}", color=INK, fontsize=8)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(which="both", colors=INK, labelsize=7)
    axes.grid(color=RULE, linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_color(RULE)
    return axes
