"""A figure of a search on a graph: which lane explored which node at which step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tinylane.view.figure_style import blank, finish, legend_below
from tinylane.view.palette import COLOURS, INK, MARKERS, PAPER, QUIET, RULE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def frontier(
    names: Sequence[str],
    edges: Sequence[tuple[int, int]],
    distances: Mapping[int, int],
    ends: tuple[int, int],
    explored: Mapping[int, Sequence[tuple[int, int]]],
    title: str = "Who explored which node when",
) -> Figure:
    """Nodes in columns by their distance from the start, those out of reach last.

    names: of the nodes. edges: pairs of nodes. distances: of the nodes that can be reached. ends:
    start and goal, which have a ring. explored: node -> (step, lane) of everyone who explored it;
    a node has the colour and the marker of its first lane, and the steps (from 1) below its name.
    """
    most = max(distances.values(), default=0) + 1
    columns: dict[int, list[int]] = {}
    for node in range(len(names)):
        if any(node in edge for edge in edges) or node in ends:
            columns.setdefault(distances.get(node, most), []).append(node)
    place = {
        node: (float(x), (len(nodes) - 1) / 2 - k + 0.15 * (x % 2))
        for x, nodes in columns.items()
        for k, node in enumerate(nodes)
    }
    tallest = max(map(len, columns.values()))
    figure = blank(1.2 * (max(columns) + 1) + 1, 0.8 * tallest + 1.2)
    axes = figure.add_subplot()
    axes.set_axis_off()
    for a, b in edges:
        (x, y), (u, v) = place[a], place[b]
        bend = 0.25 if x == u and abs(y - v) > 1 else 0.0  # past the nodes between them
        axes.plot([x, (x + u) / 2 + bend, u], [y, (y + v) / 2, v], color=RULE, zorder=1)
    lanes: set[int] = set()
    for node, (x, y) in place.items():
        who = sorted(explored.get(node, ()))
        face, marker = PAPER, "o"
        if who:
            lane = who[0][1]
            lanes.add(lane)
            face, marker = COLOURS[lane % len(COLOURS)], MARKERS[lane % len(MARKERS)]
        ring = INK if node in ends else QUIET
        width = 2.5 if node in ends else 0.8
        style = {"edgecolors": ring, "linewidths": width, "marker": marker}
        axes.scatter([x], [y], s=420, color=[face], zorder=2, **style)  # type: ignore[arg-type]
        colour = PAPER if who else INK
        axes.text(x, y, names[node], ha="center", va="center", color=colour, fontsize=9, zorder=3)
        steps = " ".join(str(step + 1) for step, _ in who)
        axes.text(x, y - 0.42, steps, ha="center", va="center", color=INK, fontsize=8, zorder=3)
    for lane in sorted(lanes):
        axes.scatter(
            [], [], color=COLOURS[lane % len(COLOURS)], marker=MARKERS[lane % len(MARKERS)],
            label=f"lane {lane + 1}",
        )  # fmt: skip
    axes.margins(0.12)
    if lanes:
        legend_below(figure)
    start, goal = (names[node] for node in ends)
    said = "; ".join(
        f"step {step + 1}: lane {lane + 1} {names[node]}"
        for step, lane, node in sorted((s, m, k) for k, who in explored.items() for s, m in who)
    )
    return finish(figure, f"A search from {start} to {goal}. {said or 'nothing explored'}.", title)
