"""Figures of lanes: masks, angles, scores, attention, what the lanes wrote.

Every function returns a `matplotlib.figure.Figure` that carries its own alt text (`alt(figure)`).
Figures have a background of their own, so that they look the same on a light and on a dark page. A
shape or a label always says the same as a colour. Needs `pip install 'tinylane[plot]'`.
`tinylane.plot` is the public name of these functions.

    T query rows      S key rows      N lanes      D channels of one head
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask, Rotation
from tinylane.files.display import one_line
from tinylane.view.attention import difference_scores, relative_angles
from tinylane.view.figure_style import (
    SMALL,
    blank,
    colour_bar,
    drawn,
    finish,
    frame,
    heat_map,
    label,
    lanes_by_position,
    legend,
    legend_below,
    stroke,
    word,
)
from tinylane.view.palette import COLOURS, FAINT, PAPER, QUIET, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tinylane.core.result import Lane, Result

# Why a key is visible: name, marker, colour.
KINDS = (("shared", "s", QUIET), ("own", "o", COLOURS[0]), ("other lane", "^", COLOURS[1]))


@drawn
def mask(
    lane_mask: LaneMask,
    positions: Any,
    lanes: Any,
    key_positions: Any = None,
    key_lanes: Any = None,
    title: str = "Who sees whom",
    lane_rope: Rotation | None = None,
    theta: Any = None,
    plane: int = 0,
) -> Figure:
    """Which keys each query sees, and why: shared, its own lane, another lane.

    positions, lanes: (T,) of the queries; key_positions, key_lanes: (S,), default the same rows.
    lane_rope, theta: with a rotation and the model's frequencies (D/2,), a number in every mark
    says how many positions before the query the key stands, in `plane`. Raises TinylaneError if
    one of the two is missing, or if the keys are not the same rows.
    """
    i, m = np.asarray(positions), np.asarray(lanes)
    j = i if key_positions is None else np.asarray(key_positions)
    n = m if key_lanes is None else np.asarray(key_lanes)
    seen = lane_mask.visible(i, m, j, n)
    kinds = np.where(n == SHARED, 0, np.where(m[:, None] == n, 1, 2))
    side = 0.3 if max(seen.shape) <= 24 else 7.2 / max(seen.shape)
    figure = blank(max(side * len(j) + 1.6, 4.2), side * len(i) + 1.9)
    axes = frame(figure, title, "key (position, lane; S is shared)", "query (position, lane)")
    size = (side * 72 * (0.6 if lane_rope is None else 0.85)) ** 2
    counts = []
    for kind, (name, marker, colour) in enumerate(KINDS):
        rows, columns = np.nonzero(seen & (kinds == kind))
        counts.append(len(rows))
        if len(rows):
            axes.scatter(columns, rows, s=size, marker=marker, color=colour, label=name)
    facts = ""
    if lane_rope is not None:
        if key_positions is not None or theta is None:
            raise TinylaneError("distances need theta, and queries and keys that are the same rows")
        angles = relative_angles(lane_rope, theta, lane_mask, i, m)[..., plane]
        back = np.round(-angles / theta[plane], 1) + 0.0  # no -0
        small = max(3.0, min(6.5, side * 22))
        for t, s in zip(*np.nonzero(seen), strict=True):
            text = f"{back[t, s]:g}"
            low = t + 0.13 * (kinds[t, s] == 2)  # a triangle is widest at its foot
            label(axes, s, low, text, small * min(1, 2.4 / len(text)), color=PAPER)
        facts = (
            f" Keys stand from {back[seen].min():g} to {back[seen].max():g} positions before their"
            f" queries, in plane {plane}."
        )
    rows, columns = np.nonzero(~seen)
    axes.scatter(columns, rows, s=3, marker=".", color=FAINT, label="hidden")
    _name_rows(axes, i, m, j, n)
    axes.set_xlim(-0.6, len(j) - 0.4)
    axes.set_ylim(len(i) - 0.4, -0.6)
    axes.set_aspect("equal")
    legend_below(figure)
    return finish(
        figure,
        f"{title}: a grid of {len(i)} queries by {len(j)} keys. {sum(counts)} pairs are visible: "
        f"{counts[0]} to shared keys, {counts[1]} within a lane, {counts[2]} between lanes; "
        f"lag {lane_mask.lag}.{facts}",
    )


@drawn
def angles(
    frequencies: Mapping[str, Any], title: str = "Rotation of each plane", per: str = "step"
) -> Figure:
    """Radians by which one step turns each plane, on a logarithmic scale.

    frequencies: by name, (D/2,) radians each, such as theta and an Omega; absolute values are
    drawn. Raises TinylaneError for another shape.
    """
    figure = blank(6.4, 3.8)
    axes = frame(figure, title, "plane d", f"radians per {per}")
    facts = []
    for k, (name, values) in enumerate(frequencies.items()):
        values = np.abs(np.asarray(values, dtype=np.float64))
        if values.ndim != 1:
            raise TinylaneError(f"{name} has shape {values.shape}; expected (D/2,), one layer's")
        shown = np.where(values > 0, values, np.nan)
        axes.plot(shown, label=name, markersize=4, **stroke(k))
        facts.append(f"{name} goes from {values[0]:.3g} in plane 0 to {values[-1]:.3g} in the last")
    axes.set_yscale("log")
    axes.axhline(2 * np.pi, color=QUIET, linewidth=0.8)
    axes.annotate(
        "a full turn",
        (1, 2 * np.pi),
        (-3, 3),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        color=QUIET,
        fontsize=SMALL,
    )
    legend(axes)
    return finish(figure, f"{title}, radians per {per}: {'; '.join(facts)}.")


@drawn
def turns(vectors: Mapping[str, Any], title: str = "Vectors, plane by plane") -> Figure:
    """Vectors (D,) as lines from the origin, plane by plane: plane d holds channels d and d + D/2.

    Readable for at most six vectors of at most 16 channels.
    """
    named = {name: np.asarray(x, dtype=np.float64) for name, x in vectors.items()}
    planes = len(next(iter(named.values()))) // 2
    figure = blank(2.1 * planes + 0.4, 3.0)
    reach = max(float(np.hypot(x[:planes], x[planes:]).max()) for x in named.values()) * 1.1
    for d in range(planes):
        axes = frame(figure, f"plane {d}", "", "", (1, planes, d + 1))
        axes.set_aspect("equal")
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
        axes.axhline(0, color=RULE, linewidth=0.8)
        axes.axvline(0, color=RULE, linewidth=0.8)
        for k, (name, x) in enumerate(named.items()):
            axes.plot([0, x[d]], [0, x[d + planes]], label=name, markevery=[1], **stroke(k))
    legend_below(figure)
    degrees = [
        f"{name}: "
        + ", ".join(f"{np.degrees(np.arctan2(x[d + planes], x[d])):.0f}" for d in range(planes))
        for name, x in named.items()
    ]
    facts = f"{title}. Direction in degrees, by plane: {'; '.join(degrees)}."
    return finish(figure, facts, title)


@drawn
def scores(
    query: Any,
    key: Any,
    theta: Any,
    omega: Any,
    positions: Sequence[int],
    lanes: Sequence[int],
    title: str = "Score by difference of position and lane",
) -> Figure:
    """q . R(theta * (j - i) + Omega * (n - m)) k, as a map over (j - i, n - m).

    query, key: (D,); theta, omega: (D/2,) radians; positions, lanes: the differences to draw.
    Raises TinylaneError for other shapes.
    """
    values = difference_scores(query, key, theta, omega, positions, lanes)
    figure = blank(7.0, 0.35 * len(lanes) + 1.9)
    axes = frame(figure, title, "key position - query position", "key lane - query lane")
    top = float(np.abs(values).max()) or 1.0
    image = axes.imshow(
        values,
        aspect="auto",
        cmap="PuOr",
        vmin=-top,
        vmax=top,
        interpolation="nearest",
        extent=(positions[0] - 0.5, positions[-1] + 0.5, len(lanes) - 0.5, -0.5),
    )
    axes.set_yticks(range(len(lanes)), [f"{x:+d}" if x else "0 (own)" for x in lanes])
    colour_bar(figure, axes, image, "score")
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return finish(
        figure,
        f"{title}: a map of {len(positions)} differences of position by {len(lanes)} of lane. "
        f"Scores go from {values.min():.3g} to {values.max():.3g}; the highest is at position "
        f"{positions[int(column)]:+d}, lane {lanes[int(row)]:+d}.",
    )


@drawn
def attention(
    weights: Any,
    queries: Sequence[str],
    keys: Sequence[str],
    title: str = "Attention",
    names: tuple[str, str, str] = ("query", "key", "weight"),
) -> Figure:
    """Attention weights (T, S) as a map, with the numbers written in if there are few columns.

    queries, keys: the texts of the rows and of the columns. names: what rows, columns and values
    are, if not these. Raises TinylaneError if weights and texts do not fit together.
    """
    w = np.asarray(weights, dtype=np.float64)
    queries, keys = [word(q) for q in queries], [word(k) for k in keys]
    if w.shape != (len(queries), len(keys)):
        raise TinylaneError(f"weights {w.shape} for {len(queries)} queries and {len(keys)} keys")
    side = min(0.5, (6.4 if w.shape[1] <= 16 else 9.0) / w.shape[1])
    figure = blank(max(side * w.shape[1] + 2.2, 4.0), min(side, 0.4) * w.shape[0] + 1.9)
    axes = frame(figure, title, names[1], names[0])
    top = float(w.max())
    image = heat_map(axes, w, top)
    small = max(6.0, min(SMALL, side * 72 * 0.55))  # what a row or column has room for
    wide = max(map(len, keys)) * small * 0.6 > side * 72
    plain: dict[str, Any] = {"fontsize": small, "parse_math": False}
    axes.set_xticks(range(len(keys)), keys, rotation=90 if wide else 0, **plain)
    axes.set_yticks(range(len(queries)), queries, **plain)
    if w.shape[1] <= 16:
        for (t, s), value in np.ndenumerate(w):
            if value >= 0.005:
                text = f"{value:.2f}".removeprefix("0") if value < 0.995 else f"{value:.0f}"
                label(axes, s, t, text, 8.5, dark=value >= 0.5 * top)
    colour_bar(figure, axes, image, names[2])
    if w.size <= 16:
        facts = [f"{queries[t]}, {keys[s]}: {value:.2g}" for (t, s), value in np.ndenumerate(w)]
    else:
        facts = [f"{q} most to {keys[int(k)]}" for q, k in zip(queries, w.argmax(1), strict=True)]
        facts = facts if len(facts) <= 8 else [*facts[:8], f"and {len(facts) - 8} more"]
    what = f"{names[2]} by {names[0]} and {names[1]}"
    return finish(figure, f"{title}: {what}; {', '.join(facts)}.")


@drawn
def lanes(result: Result, tokenizer: Any = None, title: str = "Lanes over time") -> Figure:
    """What every lane wrote, a column for each position; the shade is its probability.

    tokenizer: to show tokens as text; None shows their ids. At most 64 positions are drawn.
    """
    first, last = extent(result.lanes)
    shown = min(last - first, 64)
    token = str if tokenizer is None else lambda t: tokenizer.decode([t], skip_special=False)
    logprobs = [lane.logprobs for lane in result.lanes]
    cells, longest = written_cells(result.lanes, logprobs, token, first, shown)
    unit = min(max(0.095 * longest + 0.14, 0.4), 1.1)
    figure = blank(max(unit * shown + 1.9, 4.4), 0.36 * len(result.lanes) + 1.9)
    axes = frame(figure, title, "position", "")
    draw_written(figure, axes, cells, (len(result.lanes), shown))
    lanes_by_position(axes, [f"lane {lane.index + 1}" for lane in result.lanes], first, shown)
    facts = [f"lane {lane.index + 1}: {one_line(lane.text, 120)}" for lane in result.lanes[:8]]
    cut = f" (the first {shown} of {last - first})" if shown < last - first else ""
    return finish(figure, f"{title}, from position {first}{cut}. {'; '.join(facts)}.")


@drawn
def lines(series: Mapping[str, Any], x: Any, xlabel: str, ylabel: str, title: str) -> Figure:
    """Curves over the same x, each with its own colour, dash and marker.

    series: by name, as many numbers as x has.
    """
    figure = blank(6.4, 3.8)
    axes = frame(figure, title, xlabel, ylabel)
    x, facts = np.asarray(x), []
    for k, (name, y) in enumerate(series.items()):
        y = np.asarray(y, dtype=np.float64)
        axes.plot(x, y, label=name, markevery=max(1, len(x) // 12), markersize=4, **stroke(k))
        facts.append(f"{name} from {y[0]:.4g} to {y[-1]:.4g}, at most {np.nanmax(y):.4g}")
    legend(axes)
    return finish(
        figure, f"{title}: {ylabel} over {xlabel} {x[0]:.6g} to {x[-1]:.6g}; {'; '.join(facts)}."
    )


# What lanes wrote.


def extent(lanes: Sequence[Lane], given: bool = True) -> tuple[int, int]:
    """The first position of some lanes and the one after their last; given: with their prompts."""
    first = min(lane.start - len(lane.prompt) * given for lane in lanes)
    return first, max(i + 1 for lane in lanes for i in (lane.start - 1, *lane.positions[-1:]))


WrittenToken = tuple[int, int, str, float | None]  # lane, column, text, log-probability


def written_cells(
    lanes: Sequence[Lane],
    logprobs: Sequence[Sequence[float]],
    token: Callable[[int], str],
    first: int,
    columns: int,
) -> tuple[list[WrittenToken], int]:
    """All tokens of the lanes in `columns` positions from `first`, and how many characters the
    longest has; a given token has no log-probability. logprobs: of each lane's drawn tokens.
    token: an id as text."""
    cells: list[WrittenToken] = []
    for m, lane in enumerate(lanes):
        chances = [None] * len(lane.prompt) + list(logprobs[m])
        places = [*range(lane.start - len(lane.prompt), lane.start), *lane.positions]
        for place, t, p in zip(places, [*lane.prompt, *lane.tokens], chances, strict=True):
            cells.append((m, place - first, word(token(t), 12), p))
    cells = [cell for cell in cells if cell[1] < columns]
    return cells, max((len(text) for _, _, text, _ in cells), default=1)


def draw_written(
    figure: Figure,
    axes: Axes,
    cells: Sequence[WrittenToken],
    size: tuple[int, int],
    words: bool = True,
) -> None:
    """Probabilities as a map, (lanes, columns), with the texts written in."""
    grid = np.full(size, np.nan)
    for m, column, text, p in cells:
        chance = 1.0 if p is None else float(np.exp(p))
        if p is not None:
            grid[m, column] = chance
        if words:
            slant = "italic" if p is None else "normal"
            label(axes, column, m, text, dark=chance < 0.45, style=slant)
    colour_bar(figure, axes, heat_map(axes, grid, reverse=True), "probability")


def _name_rows(axes: Axes, i: Any, m: Any, j: Any, n: Any) -> None:
    def names(positions: Any, lanes: Any) -> list[str]:
        pairs = zip(positions.tolist(), lanes.tolist(), strict=True)
        return [f"{a},{'S' if b == SHARED else b + 1}" for a, b in pairs]

    small = 9 if max(len(i), len(j)) <= 24 else 6
    every = max(1, max(len(i), len(j)) // 48)
    axes.set_xticks(range(0, len(j), every), names(j, n)[::every], rotation=90, fontsize=small)
    axes.set_yticks(range(0, len(i), every), names(i, m)[::every], fontsize=small)
