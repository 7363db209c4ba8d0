"""The curves of a training run: `python -m tinylane.view.training_figure weights/shell-game`.

Reads log.jsonl (see `tinylane.train.from_scratch`) and writes curves.svg beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tinylane.core.errors import TinylaneError
from tinylane.files.display import counted
from tinylane.view.figure_style import blank, finish, frame, grid, legend, save, stroke

LANES = (1, 2, 4, 8)  # a curve for each that the run trained


def draw(folder: Path) -> Path:
    """Loss and share of problems predicted right in every row, by step, a line per number of lanes.

    Raises TinylaneError if there is no log or matplotlib is not installed.
    """
    figure = blank(9, 3.2)
    log = folder / "log.jsonl"
    if not log.is_file():
        raise TinylaneError(f"{log} is missing; `tinylane train shell-game` writes it")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    left = frame(figure, "Loss", "step", "nats per token", (1, 2, 1))
    right = frame(figure, "Problems right in every row", "step", "share", (1, 2, 2))
    for k, n in enumerate(LANES):
        look = {**stroke(k), "marker": None, "label": counted(n, "lane")}
        for axes, name in ((left, "loss"), (right, "exact")):
            points = [(e["step"], e[name][str(n)]) for e in entries if str(n) in e.get(name, {})]
            axes.plot(*zip(*points, strict=True), **look)
    left.set_yscale("log")
    right.set_ylim(-0.03, 1.03)
    grid(left)
    legend(right)
    last = entries[-1]
    text = f"Training to step {last['step']}: loss, and the share of problems right in every row."
    return save(finish(figure, text), folder / "curves.svg")


if __name__ == "__main__":
    print(draw(Path(sys.argv[1] if len(sys.argv) > 1 else "weights/shell-game")))
