"""Pictures of the study's tables: `python tutorials/study plot tutorials/study`.

Read from the JSON files alone. Needs matplotlib: `pip install "tinylane[plot]"`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.files.io import read_json, replacing

LIMIT = 16 << 20
NAMES = {
    "joint-none": "joint, Omega = 0",
    "joint-group_think": "joint, group_think",
    "joint-ntk": "joint, ntk",
    "joint-learned": "joint, learned",
    "independent": "independent",
    "fold": "independent, folded",
    "fold-long": "independent, folded, 3 x the steps",
}
STYLES = {  # colour-blind safe (Okabe and Ito), and a dash and a marker each
    "joint-none": ("#999999", ":", "s"),
    "joint-group_think": ("#0072B2", "--", "o"),
    "joint-ntk": ("#009E73", "-.", "^"),
    "joint-learned": ("#D55E00", "-", "D"),
    "independent": ("#000000", ":", "x"),
    "fold": ("#CC79A7", ":", "v"),
    "fold-long": ("#CC79A7", "--", "P"),
}


def draw(folder: Path) -> list[Path]:
    """Write an SVG for every table there is in a folder; their paths.

    Raises TinylaneError if there is none, or matplotlib is not installed.
    """
    jobs: tuple[tuple[str, str, Callable], ...] = (
        ("scratch", "accuracy", accuracy),
        ("scratch", "curves", curves),
        ("scratch", "omega", omega),
        ("finetune", "finetune", tuned),
        ("starts", "starts", before),
    )
    jobs = tuple(job for job in jobs if (folder / f"{job[0]}.json").is_file())
    if not jobs:
        raise TinylaneError(f"{folder}: no scratch.json, finetune.json or starts.json to draw")
    try:
        import matplotlib

        matplotlib.use("svg")
        matplotlib.rcParams["svg.hashsalt"] = "tinylane"  # the same file for the same table
        import matplotlib.pyplot as plt
    except ImportError:
        raise TinylaneError('matplotlib is not installed: pip install "tinylane[plot]"') from None
    written = []
    for table, name, picture in jobs:
        figure = picture(read_json(folder / f"{table}.json", LIMIT), plt)
        if figure is None:
            continue
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
        with replacing(folder / f"{name}.svg") as file:
            file.write(drawn.getvalue())
        written.append(folder / f"{name}.svg")
    return written


def pooled(parts: list[dict[str, Any]], n: str) -> tuple[float, float, float]:
    """Over the seeds of a cell: the mean accuracy, the worst and the best seed's."""
    each = [part["scores"][n]["accuracy"] for part in parts]
    return float(np.mean(each)), min(each), max(each)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def accuracy(table: dict[str, Any], plt: Any) -> Any:
    """Accuracy against decoding steps: a line a cell, a band from the worst to the best seed."""
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    lanes = [str(n) for n in table["lanes"]]
    steps = [table["steps"][n] for n in lanes]
    for name, cell in table["cells"].items():
        colour, dash, marker = STYLES[name]
        found = np.array([pooled(cell["seeds"], n) for n in lanes])
        axes.plot(steps, found[:, 0], dash, marker=marker, color=colour, label=NAMES[name])
        axes.fill_between(steps, found[:, 1], found[:, 2], color=colour, alpha=0.15, linewidth=0)
    axes.axhline(table["chance"], color="#000000", linewidth=0.6, alpha=0.5)
    axes.text(steps[0], table["chance"] - 0.05, "chance", fontsize=8, alpha=0.7)
    axes.set_xticks(steps, [f"{s}\nN = {n}" for s, n in zip(steps, lanes, strict=True)])
    axes.invert_xaxis()
    axes.set(xlabel="decoding steps", ylabel="problems right", ylim=(-0.03, 1.03))
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)
    return figure


def curves(table: dict[str, Any], plt: Any) -> Any:
    """The loss of every number of lanes by training step, a line a seed."""
    lanes = [str(n) for n in table["lanes"]]
    figure, every = plt.subplots(1, len(lanes), figsize=(10, 3), sharey=True, layout="constrained")
    for axes, n in zip(np.atleast_1d(every), lanes, strict=True):
        for name, cell in table["cells"].items():
            colour, dash, _ = STYLES[name]
            for k, part in enumerate(cell["seeds"]):
                points = [
                    (e["step"], max(e["loss"][n], 1e-4)) for e in part["curve"] if n in e["loss"]
                ]
                label = NAMES[name] if k == 0 else None
                axes.plot(*zip(*points, strict=True), dash, color=colour, label=label, linewidth=1)
        axes.set(title=f"N = {n}", xlabel="training step", yscale="log")
        _plain(axes)
    np.atleast_1d(every)[0].set_ylabel("loss (nats per token)")
    np.atleast_1d(every)[-1].legend(frameon=False, fontsize=7)
    return figure


def omega(table: dict[str, Any], plt: Any) -> Any:
    """What Omega became: where it started and where each seed took it, by plane, in one turn."""
    cell = table["cells"].get("joint-learned")
    if cell is None:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    for part in cell["seeds"]:
        start, learned = (np.array(part["omega"][k]) for k in ("start", "learned"))
        planes = np.arange(len(start))
        moved = learned - start
        left.plot(planes, moved, marker=".", linewidth=0.8, label=f"seed {part['seed']}")
        if part is cell["seeds"][0]:
            right.plot(planes, wrap(start), "k_", markersize=9, label="start")
        right.plot(planes, wrap(learned), ".", label=f"seed {part['seed']}")
    left.set(xlabel="plane (fast to slow)", ylabel="learned - start (radians a lane)")
    right.set(xlabel="plane (fast to slow)", ylabel="angle a lane, within a turn")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
        _plain(axes)
    return figure


def wrap(angle: np.ndarray) -> np.ndarray:
    """Angles within (-pi, pi]: Omega + 2 pi k is the same (law 10)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def tuned(table: dict[str, Any], plt: Any) -> Any:
    """Accuracy of every way of tuning at the number of lanes it was tuned for; a dot a seed."""
    n = str(table["tuning"]["lanes"])
    figure, axes = plt.subplots(figsize=(6.4, 3), layout="constrained")
    for row, (_, cell) in enumerate(reversed(table["cells"].items())):
        each = [part["scores"][n]["accuracy"] for part in cell["seeds"]]
        axes.barh(row, float(np.mean(each)), color="#0072B2", alpha=0.35)
        for part in cell["seeds"]:
            found = part["scores"][n]
            low, high = found["interval"]
            share = found["accuracy"]
            axes.errorbar(
                share, row, xerr=[[share - low], [high - share]], fmt="o", color="#0072B2", ms=4
            )
    axes.set_yticks(range(len(table["cells"])), list(reversed(table["cells"])))
    axes.axvline(table["chance"], color="#000000", linewidth=0.6, alpha=0.5)
    axes.text(table["chance"] + 0.01, -0.45, "chance", fontsize=8, alpha=0.7)
    axes.set(xlabel=f"problems right, {n} lanes that read each other", xlim=(-0.02, 1.05))
    _plain(axes)
    return figure


def before(table: dict[str, Any], plt: Any) -> Any:
    """What is still exactly right beside other lanes, by start of Omega: a lane beside another's
    text (left), lanes that each do their own share (right). A mark a seed."""
    if not table["seeds"]:
        return None
    names = list(reversed(table["seeds"][0]["starts"]))
    size = {"figsize": (10, 3.6), "sharey": True, "layout": "constrained"}
    figure, (left, right) = plt.subplots(1, 2, **size)
    for part in table["seeds"]:
        labels = part is table["seeds"][0]
        for k, (colour, marker) in enumerate((("#0072B2", "o"), ("#D55E00", "x"))):
            shares = [part["starts"][name]["lanes"][k]["accuracy"] for name in names]
            label = f"lane {k}" if labels else None
            left.plot(shares, range(len(names)), marker, color=colour, label=label)
        many = list(part["starts"][names[0]]["shares"])
        styles = (("#009E73", "o"), ("#CC79A7", "x"), ("#000000", "+"))
        for n, (colour, marker) in zip(many, styles, strict=False):
            shares = [part["starts"][name]["shares"][n]["accuracy"] for name in names]
            label = f"{n} lanes" if labels else None
            right.plot(shares, range(len(names)), marker, color=colour, label=label)
    left.set_yticks(range(len(names)), names)
    left.set(xlabel="exactly right beside another problem's text", xlim=(-0.03, 1.03))
    right.set(xlabel="lanes with their own share exactly right", xlim=(-0.03, 1.03))
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8, loc="center left")
        _plain(axes)
    return figure
