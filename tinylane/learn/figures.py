"""Pictures that only the tutorials need: one block of a decoder, and one vector turned twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.view.figure_style import blank, finish, frame, label
from tinylane.view.palette import COLOURS, INK, PAPER, QUIET, RULE

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
