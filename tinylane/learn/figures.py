"""Pictures that only the tutorials need: a block of a decoder, a vector turned twice,
what lanes wrote, seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.view.figure_style import blank, finish, frame, grid, label, legend_below
from tinylane.view.palette import COLOURS, INK, MARKERS, PAPER, QUIET, RULE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Name, height, what it does; from the bottom up, as rows flow.
_PARTS = (
    ("norm", 1.0, "every row gets a common size"),
    ("attention", 2.0, "the only place where a row reads other rows"),
    ("+", 3.0, "what was read is added to the row"),
    ("norm", 4.0, "a common size again"),
    ("gated network", 5.0, "every row is worked on alone"),
    ("+", 6.0, "the result is added to the row"),
)


def block(layers: int) -> Figure:
    """A decoder as boxes: embedding, one block (drawn once, used `layers` times), logits."""
    figure = blank(7.2, 6.0)
    axes = figure.add_subplot(1, 1, 1)
    axes.set(xlim=(-2.1, 5.8), ylim=(-0.9, 8.6))
    axes.set_axis_off()
    line: dict[str, Any] = {"color": INK, "linewidth": 1.6, "zorder": 1}
    axes.plot([0, 0], [0.2, 7.6], **line)  # the rows themselves go straight through
    for low, high in ((0.5, 3.0), (3.5, 6.0)):  # a copy turns off, is worked on, comes back
        axes.plot([0, 1.1, 1.1, 0.28], [low, low, high, high], **line)
    axes.annotate("", (0, 7.7), (0, 7.2), arrowprops={"arrowstyle": "-|>", "color": INK})
    axes.add_patch(_box(-0.9, 0.25, 3.1, 6.2, "none", RULE, 0.2, "--"))
    _text(axes, -1.05, 3.3, f"one block,\n{layers} times", ha="right", color=QUIET)
    for name, y, says in _PARTS:
        x, wide, colour = (0.0, 0.5, PAPER) if name == "+" else (1.1, 1.7, "#dcebf5")
        colour = "#fbe3d3" if name == "attention" else colour
        axes.add_patch(_box(x - wide / 2, y - 0.27, wide, 0.54, colour, INK, 0.12))
        _text(axes, x, y, name, ha="center")
        _text(axes, 2.4, y, says, color=QUIET)
    for y, name, says in (
        (-0.1, "embedding", "a word's number picks a row of a table"),
        (7.0, "norm", "before the scores"),
        (7.95, "logits", "a score for every word of the vocabulary"),
    ):
        axes.add_patch(_box(-0.8, y - 0.27, 1.6, 0.54, "#dcebf5", INK, 0.12))
        _text(axes, 0, y, name, ha="center")
        _text(axes, 2.4, y, says, color=QUIET)
    words = "; ".join(f"{name}: {says}" for name, _, says in _PARTS)
    return finish(
        figure,
        "A decoder from the bottom up: the embedding; a block, used "
        f"{layers} times, in which a copy of the rows goes through a part and is added back "
        f"({words}); a norm; the logits.",
    )


def turned_vector(
    theta: float, omega: float, positions: Sequence[int] = range(6), lanes: int = 4
) -> Figure:
    """One vector in one plane, at every (position, lane): its angle is theta * i + Omega * m.

    theta, omega: radians per position and per lane, of this plane. Lanes are named from 1.
    """
    figure = blank(1.15 * len(positions) + 1.4, 1.15 * lanes + 1.1)
    title = f"One plane: {theta:g} radians per position, {omega:g} per lane"
    axes = frame(figure, title, "position", "")
    axes.set_aspect("equal")
    ring = np.linspace(0, 2 * np.pi, 90)
    for m in range(lanes):
        for k, i in enumerate(positions):
            angle = theta * i + omega * m
            axes.plot(k + 0.38 * np.cos(ring), m + 0.38 * np.sin(ring), color=RULE, linewidth=1)
            axes.annotate(
                "",
                (k + 0.4 * np.cos(angle), m + 0.4 * np.sin(angle)),
                (k, m),
                arrowprops={"arrowstyle": "-|>", "color": COLOURS[m % len(COLOURS)], "lw": 2},
            )
    axes.set_xticks(range(len(positions)), [str(i) for i in positions])
    axes.set_yticks(range(lanes), [f"lane {m + 1}" for m in range(lanes)])
    axes.set(xlim=(-0.55, len(positions) - 0.45), ylim=(lanes - 0.45, -0.55))
    axes.tick_params(length=0)
    axes.invert_yaxis()  # counter-clockwise stays counter-clockwise, so lane 1 is at the bottom
    last = np.degrees(theta * positions[-1] + omega * (lanes - 1))
    return finish(
        figure,
        f"{title}. Arrows in a grid of {len(positions)} positions by {lanes} lanes. Each step to "
        f"the right turns the arrow by {np.degrees(theta):.0f} degrees, each lane further up by "
        f"{np.degrees(omega):.0f}; the last one stands at {last:.0f} degrees.",
    )


def written(words: Sequence[Sequence[str]], rounds: int, title: str) -> Figure:
    """What the lanes of a shell game wrote, a column for each step, coloured by what it is.

    words: of each lane, its tag first; rounds: how many of the last words combine other lanes'.
    """
    from matplotlib.patches import Patch

    columns = len(words[0])
    figure = blank(0.95 * columns + 1.5, 0.55 * len(words) + 1.7)
    axes = frame(figure, title, "step", "")
    kinds = [("tag", PAPER)] + [("own swaps", "#cfe3f2")] * (columns - 1 - rounds)
    kinds += [("with the partner", "#fbe3d3")] * (rounds - 1) + [("all lanes", "#f2a777")]
    for m, lane in enumerate(words):
        for k, text in enumerate(lane):
            axes.add_patch(_box(k - 0.45, m - 0.36, 0.9, 0.72, kinds[k][1], RULE, 0.08))
            _text(axes, k, m, text, ha="center")
    shown = {name: Patch(facecolor=colour, edgecolor=INK) for name, colour in kinds}
    legend_below(figure, list(shown.values()), list(shown))
    axes.set(xlim=(-0.6, columns - 0.4), ylim=(len(words) - 0.4, -0.6))
    axes.set_xticks(range(columns), ["tag", *(str(k) for k in range(1, columns))])
    axes.set_yticks(range(len(words)), [f"lane {m + 1}" for m in range(len(words))])
    facts = "; ".join(f"lane {m + 1}: {' '.join(lane)}" for m, lane in enumerate(words))
    return finish(figure, f"{title}, the last {rounds} combined from what others wrote. {facts}.")


def seeds(shares: Mapping[str, Mapping[str, Sequence[float]]], chance: float, title: str) -> Figure:
    """Every training as a point: a row for each kind of training, a panel for each condition.

    shares: kind -> condition -> the share of each seed, in the order of the seeds. chance: drawn as
    a line.
    """
    kinds, panels = list(shares), list(next(iter(shares.values())))
    figure = blank(2.3 * len(panels) + 1.8, 0.5 * len(kinds) + 1.5)
    for k, panel in enumerate(panels):
        axes = frame(figure, panel, "right", "", (1, len(panels), k + 1))
        axes.axvline(chance, color=QUIET, linewidth=1, linestyle=":")
        for row, kind in enumerate(kinds):
            values = shares[kind][panel]
            for seed, value in enumerate(values):
                y = row + 0.22 * (seed - (len(values) - 1) / 2)  # points that are equal stay apart
                axes.plot(value, y, marker=MARKERS[seed], color=COLOURS[seed], markersize=7)
        axes.set(xlim=(-0.06, 1.06), ylim=(len(kinds) - 0.5, -0.5))
        axes.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
        axes.set_yticks(range(len(kinds)), kinds if k == 0 else [""] * len(kinds))
        grid(axes)
    facts = [
        f"{kind}, {panel}: {', '.join(f'{value:.0%}' for value in values)}"
        for kind, by_panel in shares.items()
        for panel, values in by_panel.items()
    ]
    return finish(
        figure, f"{title}, seed by seed; chance is {chance:.0%}. {'; '.join(facts)}.", title
    )


def _box(
    x: float,
    y: float,
    wide: float,
    high: float,
    face: str,
    edge: str,
    round_: float,
    dash: str = "-",
) -> Any:
    from matplotlib.patches import FancyBboxPatch

    style = f"round,pad=0,rounding_size={round_}"
    return FancyBboxPatch(
        (x, y),
        wide,
        high,
        boxstyle=style,
        facecolor=face,
        edgecolor=edge,
        linestyle=dash,
        zorder=2 if face != "none" else 0,
    )


def _text(axes: Any, x: float, y: float, text: str, **style: Any) -> None:
    label(axes, x, y, text, 11, **{"ha": "left", "zorder": 3, **style})
