"""The curves of a training run as an SVG: `python -m tinylane.view.curves weights/shell-game`.

Reads log.jsonl (see `tinylane.train.from_scratch.run`) and writes curves.svg beside it. Needs
matplotlib: `pip install "tinylane[plot]"`.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from tinylane.core.errors import TinylaneError
from tinylane.files.io import replacing

STYLES = {1: ("#0072B2", ":"), 2: ("#D55E00", "-."), 4: ("#009E73", "--"), 8: ("#CC79A7", "-")}


def draw(folder: Path) -> Path:
    """Loss and share of problems predicted right in every row, by step, a line per number of lanes.

    Raises TinylaneError if there is no log or matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("svg")
        matplotlib.rcParams["svg.hashsalt"] = "tinylane"  # the same file for the same log
        import matplotlib.pyplot as plt
    except ImportError:
        raise TinylaneError('matplotlib is not installed: pip install "tinylane[plot]"') from None
    log = folder / "log.jsonl"
    if not log.is_file():
        raise TinylaneError(f"{log} is missing; `tinylane train shell-game` writes it")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for n, (colour, dash) in STYLES.items():
        name, label = str(n), f"{n} lane{'s' if n > 1 else ''}"
        loss = [(e["step"], e["loss"][name]) for e in entries if name in e["loss"]]
        exact = [(e["step"], e["exact"][name]) for e in entries if name in e.get("exact", {})]
        for axes, points in ((left, loss), (right, exact)):
            axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, label=label)
    left.set(xlabel="step", ylabel="loss (nats per token)", yscale="log")
    right.set(xlabel="step", ylabel="problems right in every row", ylim=(-0.03, 1.03))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    target, drawn = folder / "curves.svg", io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    with replacing(target) as file:
        file.write(drawn.getvalue())
    plt.close(figure)
    return target


if __name__ == "__main__":
    print(draw(Path(sys.argv[1] if len(sys.argv) > 1 else "weights/shell-game")))
