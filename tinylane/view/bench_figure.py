"""Step time against lanes and context, of a report of `tinylane bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinylane.view.figure_style import blank, finish, frame, grid, legend
from tinylane.view.palette import COLOURS, QUIET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENGINES = ("tinylane numpy", "tinylane mlx", "transformers", "mlx-lm")  # by colour; others are grey


def step_times(report: dict[str, Any]) -> Figure:
    """Left: median step against lanes, a line for each engine and mode, at the first prompt length.
    Right: every step of a run against the rows in its cache, at each number of lanes."""
    results = report["results"]
    figure = blank(9, 3.6)
    left = frame(figure, "", "lanes", "ms a step (median, 10-90%)", (1, 2, 1))
    right = frame(figure, "", "rows in the cache", "ms a step", (1, 2, 2))
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in results:
        lines.setdefault((r["engine"], r["mode"]), []).append(r)
    facts = []
    for (engine, mode), group in lines.items():
        colour = COLOURS[ENGINES.index(engine)] if engine in ENGINES else QUIET
        style: dict[str, Any] = {"color": colour, "linestyle": "--" if mode == "joint" else "-"}
        label = engine if mode == "independent" else f"{engine}, joint"
        first = [r for r in group if r["prompt_tokens"] == results[0]["prompt_tokens"]]
        first.sort(key=lambda r: r["lanes"])
        x = [r["lanes"] for r in first]
        low, middle, high = (
            [1000 * r["step_seconds"][name] for r in first] for name in ("p10", "median", "p90")
        )
        left.plot(x, middle, marker="o", markersize=3, label=label, **style)
        left.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        facts.append(f"{label} {middle[-1]:.4g} ms at {x[-1]} lanes")
        if not engine.startswith("tinylane"):
            continue  # its batch has a cache for every row: another axis
        for r in group:
            rows = [r["prompt_tokens"] + r["lanes"] * (k + 1) for k in range(r["max_tokens"] - 1)]
            times = [1000 * s for s in r["steps_by_index"]]
            right.plot(rows, times, linewidth=0.8, alpha=0.8, **style)
    left.set_xticks(sorted({r["lanes"] for r in results}))
    for axes in (left, right):
        axes.set_ylim(0, None)
    grid(right)
    legend(left)
    title = f"{report['model']['name']}, {report['dtype']}"
    return finish(figure, f"{title}. Median time of a step: {'; '.join(facts)}.", title)
