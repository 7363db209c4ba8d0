"""Step time against lanes and context, as an SVG.

Needs matplotlib: `pip install "tinylane[plot]"`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from tinylane.core.errors import TinylaneError
from tinylane.files.io import replacing

COLOURS = {
    "tinylane numpy": "#0072B2",
    "tinylane mlx": "#D55E00",
    "transformers": "#009E73",
    "mlx-lm": "#CC79A7",
    "llama3.np": "#999999",
}


def check() -> None:
    """Raises TinylaneError unless matplotlib is installed."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise TinylaneError('--plot: matplotlib is not installed: pip install "tinylane[plot]"')


def draw(report: dict[str, Any], path: Path) -> None:
    """Left: median step against lanes, a line for each contestant and mode, at the first prompt
    length. Right: every step of a run against the rows in its cache, at each number of lanes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "tinylane"  # the same file for the same figures
    import matplotlib.pyplot as plt

    results = report["results"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in results:
        lines.setdefault((r["engine"], r["mode"]), []).append(r)
    for (engine, mode), group in lines.items():
        style = {"color": COLOURS[engine], "linestyle": "--" if mode == "joint" else "-"}
        label = engine if mode == "independent" else f"{engine}, joint"
        first = [r for r in group if r["prompt_tokens"] == results[0]["prompt_tokens"]]
        first.sort(key=lambda r: r["lanes"])
        x = [r["lanes"] for r in first]
        middle = [1000 * r["step_seconds"]["median"] for r in first]
        low = [1000 * r["step_seconds"]["p10"] for r in first]
        high = [1000 * r["step_seconds"]["p90"] for r in first]
        left.plot(x, middle, marker="o", markersize=3, label=label, **style)
        left.fill_between(x, low, high, color=COLOURS[engine], alpha=0.12, linewidth=0)
        if not engine.startswith("tinylane"):
            continue  # its batch has a cache for every row: another axis
        for r in group:
            rows = [r["prompt_tokens"] + r["lanes"] * (k + 1) for k in range(r["max_tokens"] - 1)]
            times = [1000 * s for s in r["steps_by_index"]]
            right.plot(rows, times, linewidth=0.8, alpha=0.8, **style)
    left.set(xlabel="lanes", ylabel="ms a step (median, 10-90%)", ylim=(0, None))
    left.set_xticks(sorted({r["lanes"] for r in results}))
    right.set(xlabel="rows in the cache", ylabel="ms a step", ylim=(0, None))
    left.legend(frameon=False, fontsize=7)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(f"{report['model']['name']}, {report['dtype']}", fontsize=10)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    plt.close(figure)
    with replacing(path) as file:
        file.write(drawn.getvalue())
