"""Accuracy against steps, tokens or seconds: a panel a number of lanes, a line a mode.

Lines differ by colour, dash and marker; the band is the 95% interval of each point. Every panel
repeats the one-lane run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.files.display import counted
from tinylane.view.figure_style import blank, finish, frame, grid, legend_below, stroke
from tinylane.view.palette import QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {
    "steps": "decoding steps",
    "tokens": "tokens of all lanes together",
    "seconds": "seconds since the prompt was read",
}
NAMES = {"one": "one lane by itself", "majority": "majority of the lanes", "any": "any lane"}


def accuracy(
    curves: Mapping[str, Any],
    lanes: Mapping[str, int],
    axis: str,
    title: str,
    measure: str = "majority",
) -> Figure:
    """The figure. Raises TinylaneError where matplotlib is not installed.

    curves: label -> axis -> {"budgets": (G,), measure: (G, 3) value, low, high}, as
    `tinylane.evaluate.report.curves` gives them. lanes: label -> how many lanes. Labels that differ
    only in the number of lanes ("joint x2", "joint x4") share colour, dash and marker.
    """
    counts = sorted(set(lanes.values()))
    panels = [n for n in counts if n > 1] or counts
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = blank(max(3.4 * columns + 0.6, 5.2), 2.9 * rows + 1.0)
    from matplotlib.ticker import PercentFormatter

    looks = {mode: k for k, mode in enumerate(dict.fromkeys(map(_mode, curves)))}
    facts: list[str] = []
    handles: dict[str, Any] = {}
    for k, n in enumerate(panels):
        ylabel = f"right: {NAMES[measure]}" if k % columns == 0 else ""
        place = (rows, columns, k + 1)
        axes = frame(figure, counted(n, "lane"), LABELS[axis], ylabel, place)
        for label, curve in curves.items():
            if lanes[label] not in (1, n):
                continue
            alone = lanes[label] == 1 < n
            x = np.asarray(curve[axis]["budgets"])
            values = np.asarray(curve[axis][measure])
            line = _line(axes, x, values, None if alone else looks[_mode(label)])
            handles.setdefault("one lane" if alone else _mode(label), line)
            y, low, high = values[-1]
            facts.append(f"{label}: {y:.1%} ({low:.1%} to {high:.1%}) at {x[-1]:.4g}")
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        grid(axes)
    legend_below(figure, list(handles.values()), list(handles))
    text = (
        f"{title}. Share of problems right, {NAMES[measure]}, against {LABELS[axis]}, with 95% "
        f"intervals. {'; '.join(dict.fromkeys(facts))}."
    )
    return finish(figure, text, title)


def _mode(label: str) -> str:
    """A label without its number of lanes."""
    return label.rpartition(" x")[0] or label


def _line(axes: Axes, x: np.ndarray, values: np.ndarray, look: int | None) -> Any:
    """Draw one curve and its band; look: its colour, dash and marker, None for the one lane."""
    y, low, high = values.T
    style: dict[str, Any] = {"color": QUIET, "linestyle": (0, (1, 1)), "marker": "x"}
    if look is not None:
        style = stroke(look)
    axes.fill_between(x, low, high, step="post", color=style["color"], alpha=0.13, linewidth=0)
    every = max(1, len(x) // 8)
    offset = 0 if look is None else (look * every) // 4 % every  # equal curves show both markers
    style = {**style, "linewidth": 1.6, "markersize": 4, "markevery": (offset, every)}
    (line,) = axes.plot(x, y, drawstyle="steps-post", **style)
    axes.plot(x[-1:], y[-1:], color=style["color"], marker=style["marker"], markersize=6)
    return line
