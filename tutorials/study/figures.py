"""Figures of the study's tables: `python tutorials/study plot tutorials/study`.

Read from the JSON files alone. Needs matplotlib: `pip install "tinylane[plot]"`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.tasks.frontier import Frontier
from tinylane.files.io import read_json
from tinylane.view.figure_style import blank, finish, frame, grid, legend, legend_below, save
from tinylane.view.palette import COLOURS, INK, MARKERS, QUIET
from tutorials.study.real import looks
from tutorials.study.untuned import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
STYLES = {  # colour, dash, marker
    "joint-none": (QUIET, ":", "s"),
    "joint-group_think": (COLOURS[0], "--", "o"),
    "joint-ntk": (COLOURS[2], "-.", "^"),
    "joint-learned": (COLOURS[1], "-", "D"),
    "independent": (INK, ":", "x"),
    "fold": (COLOURS[3], ":", "v"),
    "fold-long": (COLOURS[3], "--", "P"),
}
TITLES = {
    "inside": "the model inside",
    "joint": "frontier, joint",
    "one-tag": "frontier, one first token for all",
}
RIGHT = (-0.03, 1.03)  # limits of an axis of shares


def draw(folder: Path) -> list[Path]:
    """Write an SVG for every table there is in a folder; their paths.

    Raises TinylaneError if there is none, or matplotlib is not installed.
    """
    jobs: tuple[tuple[str, str, Callable[[dict[str, Any]], Figure | None]], ...] = (
        ("scratch", "accuracy", accuracy),
        ("scratch", "curves", losses),
        ("scratch", "omega", omega),
        ("finetune", "finetune", tuned),
        ("starts", "starts", before),
        ("apart", "apart", cells),
        ("frontier", "frontier", cells),
        ("frontier", "frontier-steps", live),
        ("schedules", "schedules", cells),
        ("beyond", "beyond", further),
        ("beyond", "beyond-frontier", explored),
        ("beyond", "frontier-example", example),
        ("real", "real", looks),
        ("real", "untuned", writing),
    )
    jobs = tuple(job for job in jobs if (folder / f"{job[0]}.json").is_file())
    if not jobs:
        raise TinylaneError(f"{folder}: none of the study's tables is there to draw")
    written = []
    for table, name, figure_of in jobs:
        figure = figure_of(read_json(folder / f"{table}.json", LIMIT))
        if figure is not None:
            written.append(save(figure, folder / f"{name}.svg"))
    return written


def pooled(parts: list[dict[str, Any]], n: str) -> tuple[float, float, float]:
    """Over the seeds of a cell: the mean accuracy, the worst and the best seed's."""
    each = [part["scores"][n]["accuracy"] for part in parts]
    return float(np.mean(each)), min(each), max(each)


def accuracy(table: dict[str, Any]) -> Figure:
    """Accuracy against decoding steps: a line a cell, a band from the worst to the best seed."""
    figure = blank(6.4, 4.4)
    axes = frame(figure, "", "decoding steps", "problems right")
    lanes = [str(n) for n in table["lanes"]]
    steps = [table["steps"][n] for n in lanes]
    facts = []
    for name, cell in table["cells"].items():
        colour, dash, marker = STYLES[name]
        shares = np.array([pooled(cell["seeds"], n) for n in lanes])
        axes.plot(steps, shares[:, 0], dash, marker=marker, color=colour, label=NAMES[name])
        axes.fill_between(steps, shares[:, 1], shares[:, 2], color=colour, alpha=0.15, linewidth=0)
        facts.append(f"{NAMES[name]} {shares[-1, 0]:.0%}")
    axes.axhline(table["chance"], color=QUIET, linewidth=0.6)
    axes.text(steps[0], table["chance"] - 0.05, "chance", fontsize=8, color=QUIET)
    axes.set_xticks(steps, [f"{s}\nN = {n}" for s, n in zip(steps, lanes, strict=True)])
    axes.invert_xaxis()
    axes.set_ylim(RIGHT)
    grid(axes)
    legend_below(figure, columns=3)
    text = (
        f"Share of problems right against decoding steps; at N = {lanes[-1]}: {', '.join(facts)}."
    )
    return finish(figure, text)


def losses(table: dict[str, Any]) -> Figure:
    """The loss of every number of lanes by training step, a line a seed."""
    lanes = [str(n) for n in table["lanes"]]
    figure = blank(10, 3.6)
    panels = _panels(figure, len(lanes))
    for axes, n in zip(panels, lanes, strict=True):
        for name, cell in table["cells"].items():
            colour, dash, _ = STYLES[name]
            for k, part in enumerate(cell["seeds"]):
                points = [
                    (e["step"], max(e["loss"][n], 1e-4)) for e in part["curve"] if n in e["loss"]
                ]
                label = NAMES[name] if k == 0 else None
                axes.plot(*zip(*points, strict=True), dash, color=colour, label=label, linewidth=1)
        axes.set(title=f"N = {n}", xlabel="training step", yscale="log")
        grid(axes)
    panels[0].set_ylabel("loss (nats per token)")
    legend_below(figure, columns=4)
    return finish(figure, "Loss by training step, a panel for each number of lanes, a line a seed.")


def omega(table: dict[str, Any]) -> Figure | None:
    """What Omega became: where it started and where each seed took it, by plane, in one turn."""
    cell = table["cells"].get("joint-learned")
    if cell is None:
        return None
    figure, across = blank(10, 3.2), "plane (fast to slow)"
    left = frame(figure, "", across, "learned - start (radians a lane)", (1, 2, 1))
    right = frame(figure, "", across, "angle a lane, within a turn", (1, 2, 2))
    for k, part in enumerate(cell["seeds"]):
        start, learned = (np.array(part["omega"][name]) for name in ("start", "learned"))
        planes = np.arange(len(start))
        look: dict[str, Any] = {"label": f"seed {part['seed']}", "color": COLOURS[k % len(COLOURS)]}
        left.plot(planes, learned - start, marker=".", linewidth=0.8, **look)
        if k == 0:
            right.plot(planes, wrap(start), "_", color=INK, markersize=9, label="start")
        right.plot(planes, wrap(learned), ".", **look)
    for axes in (left, right):
        legend(axes)
    text = "Omega by plane: how far training moved each angle (left), and the angles (right)."
    return finish(figure, text)


def cells(table: dict[str, Any]) -> Figure:
    """Tables 4, 5 and 7: a panel for each number of lanes, a row a cell, a dot a seed, with
    Wilson's interval of its share of problems right."""
    every = list(reversed(table["cells"].values()))
    lanes = [str(n) for n in table["lanes"]]
    figure = blank(10, 1.2 + 0.36 * len(every))
    panels, facts = _panels(figure, len(lanes)), []
    for axes, n in zip(panels, lanes, strict=True):
        for row, cell in enumerate(every):
            scores = [part["scores"][n] for part in cell["seeds"] if n in part["scores"]]
            for k, score in enumerate(scores):
                share, (low, high) = score["accuracy"], score["interval"]
                at = row + 0.5 * ((k + 1) / (len(scores) + 1) - 0.5)
                bounds = [[share - low], [high - share]]
                axes.errorbar(share, at, xerr=bounds, fmt="o", color=COLOURS[0], ms=4, lw=1)
            each = ", ".join(f"{score['accuracy']:.0%}" for score in scores)
            facts.append(f"{cell['says']}, {n} lanes: {each}")
        label = "problems right" if len(lanes) < 5 else "right"
        axes.set(title=f"N = {n}", xlabel=label, xlim=RIGHT)
        grid(axes)
    panels[0].set_yticks(range(len(every)), [cell["says"] for cell in every])
    return finish(figure, f"Share of problems right, a dot a seed. {'; '.join(facts)}.")


def trials(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The groups of table 8 in the form of tables 4, 5 and 7: a trial is a cell with one seed."""
    found = {}
    for name, group in table["groups"].items():
        lanes = sorted({int(n) for trial in group["trials"] for n in trial["scores"]})
        cells = {
            trial["says"]: {"says": trial["says"], "seeds": [{"scores": trial["scores"]}]}
            for trial in group["trials"]
        }
        found[name] = {"title": TITLES[name], "lanes": lanes, "cells": cells}
    return found


def live(table: dict[str, Any]) -> Figure:
    """Table 5: how many problems are right after so many steps; a panel for each number of lanes, a
    line a cell and seed."""
    figure, lanes = blank(10, 4.2), [str(n) for n in table["lanes"]]
    panels, facts = _panels(figure, len(lanes)), []
    for axes, n in zip(panels, lanes, strict=True):
        for k, cell in enumerate(table["cells"].values()):
            scores = [part["scores"][n] for part in cell["seeds"] if n in part["scores"]]
            for first, score in enumerate(scores):
                shares = np.array([0, *score["by_step"]]) / score["count"]
                look: dict[str, Any] = {"color": COLOURS[k], "marker": MARKERS[k], "ms": 3, "lw": 1}
                label = None if first or axes is not panels[0] else cell["says"]
                axes.step(range(len(shares)), shares, where="post", label=label, **look)
                facts.append(f"{cell['says']}, {n} lanes: {score['accuracy']:.0%}")
        axes.set(title=f"N = {n}", xlabel="steps", ylim=RIGHT)
        grid(axes)
    panels[0].set_ylabel("problems right by then")
    legend_below(figure, columns=2)
    return finish(figure, f"Problems right after so many steps; in the end {'; '.join(facts)}.")


def further(table: dict[str, Any]) -> Figure:
    """Table 8: as `cells`, of the model inside."""
    return cells(trials(table)["inside"])


def explored(table: dict[str, Any]) -> Figure | None:
    """Table 8: as `cells`, of the last frontier model, if there is one."""
    *_, (name, group) = trials(table).items()
    return cells(group) if name != "inside" else None


def example(table: dict[str, Any]) -> Figure | None:
    """The search of table 8's example: who explored which node when."""
    if (group := table["groups"].get("joint")) is None:
        return None
    from tinylane.evaluate.tasks.frontier_task import draw as search
    from tinylane.evaluate.tasks.task import Problem

    one = group["example"]
    game = Frontier(**one["sizes"])
    figure: Figure = search(game, Problem("", one["prompt"], one["truth"]), one["lanes"])
    return figure


def wrap(angle: np.ndarray) -> np.ndarray:
    """Angles within (-pi, pi]: Omega + 2 pi k is the same (law 10)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def tuned(table: dict[str, Any]) -> Figure:
    """Accuracy of every way of tuning at the number of lanes it was tuned for; a dot a seed."""
    n = str(table["tuning"]["lanes"])
    figure = blank(6.4, 3)
    axes = frame(figure, "", f"problems right, {n} lanes that read each other", "")
    names, facts = list(reversed(table["cells"])), []
    for row, name in enumerate(names):
        scores = [part["scores"][n] for part in table["cells"][name]["seeds"]]
        mean = float(np.mean([score["accuracy"] for score in scores]))
        axes.barh(row, mean, color=COLOURS[0], alpha=0.35)
        for score in scores:
            share, (low, high) = score["accuracy"], score["interval"]
            bounds = [[share - low], [high - share]]
            axes.errorbar(share, row, xerr=bounds, fmt="o", color=COLOURS[0], ms=4)
        facts.append(f"{name} {mean:.0%}")
    axes.set_yticks(range(len(names)), names)
    axes.axvline(table["chance"], color=QUIET, linewidth=0.6)
    axes.text(table["chance"] + 0.01, -0.45, "chance", fontsize=8, color=QUIET)
    axes.set_xlim(-0.02, 1.05)
    grid(axes)
    return finish(figure, f"Share of problems right of {n} lanes: {', '.join(reversed(facts))}.")


def before(table: dict[str, Any]) -> Figure | None:
    """What is still exactly right beside other lanes, by start of Omega: a lane beside another's
    text (left), lanes that each do their own share (right). A mark a seed."""
    if not table["seeds"]:
        return None
    names = list(reversed(table["seeds"][0]["starts"]))
    figure = blank(10, 3.6)
    left, right = _panels(figure, 2)
    marks = ((COLOURS[0], "o"), (COLOURS[1], "x"), (COLOURS[2], "+"))
    for part in table["seeds"]:
        starts, first = [part["starts"][name] for name in names], part is table["seeds"][0]
        columns = [
            (left, f"lane {k}", [s["lanes"][k]["accuracy"] for s in starts], marks[k])
            for k in range(2)
        ]
        columns += [
            (right, f"{n} lanes", [s["shares"][n]["accuracy"] for s in starts], mark)
            for n, mark in zip(starts[0]["shares"], marks, strict=False)
        ]
        for axes, label, shares, (colour, marker) in columns:
            look: dict[str, Any] = {"color": colour, "label": label if first else None}
            axes.plot(shares, range(len(names)), marker, **look)
    left.set_yticks(range(len(names)), names)
    left.set(xlabel="exactly right beside another problem's text", xlim=RIGHT)
    right.set(xlabel="lanes with their own share exactly right", xlim=RIGHT)
    for axes in (left, right):
        legend(axes, loc="center left")
    text = (
        "Share exactly right, by start of Omega, before any tuning: beside another problem's text "
        "(left), and of lanes that each do their own share (right)."
    )
    return finish(figure, text)


def _panels(figure: Figure, count: int) -> list[Axes]:
    """Panels side by side with one vertical axis."""
    panels = [frame(figure, "", "", "", (1, count, k + 1)) for k in range(count)]
    for axes in panels[1:]:
        axes.sharey(panels[0])
        axes.tick_params(labelleft=False)
    return panels
