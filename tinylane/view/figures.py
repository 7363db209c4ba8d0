"""Pictures of lanes as matplotlib figures: masks, angles, scores, attention, lanes over time.

Every function returns a `matplotlib.figure.Figure` that carries its own alt text (`alt(figure)`).
Figures have a paper of their own, so that they read the same on a light and on a dark page; the
colours are those of Okabe and Ito, and a shape or a label always says the same as the colour.
pyplot is not used: no window opens, nothing is global. Needs `pip install 'tinylane[plot]'`.
What all of them share is in `tinylane.view.canvas`; the figures of a replay in `tinylane.view.replay_figure`.

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
from tinylane.view.canvas import (
    COLOURS,
    DASHES,
    INK,
    MARKERS,
    PAPER,
    QUIET,
    RULE,
    alt,
    blank,
    colour_bar,
    finish,
    frame,
    legend,
    legend_below,
    save,
    shades,
    show,
    stroke,
    word,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tinylane.core.decoding import Result
    from tinylane.view.replay_record import Record

__all__ = [
    "COLOURS",
    "DASHES",
    "INK",
    "KINDS",
    "MARKERS",
    "PAPER",
    "QUIET",
    "RULE",
    "alt",
    "angles",
    "attention",
    "lanes",
    "lines",
    "mask",
    "replay",
    "save",
    "scores",
    "shares",
    "show",
    "turns",
]

# Why a key is visible: name, marker, colour.
KINDS = (("shared", "s", QUIET), ("own", "o", COLOURS[0]), ("other lane", "^", COLOURS[1]))


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
    lane_rope, theta: a rotation of any kind and the model's frequencies: a number in every mark
    says how many positions before the query the key stands, in `plane` (of the same rows only).
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
    for kind, (name, marker, colour) in enumerate(KINDS):
        rows, columns = np.nonzero(seen & (kinds == kind))
        if len(rows):
            axes.scatter(columns, rows, s=size, marker=marker, color=colour, label=name)
    said = ""
    if lane_rope is not None:
        if key_positions is not None or theta is None:
            raise TinylaneError("distances need theta, and queries and keys that are the same rows")
        angles = relative_angles(lane_rope, theta, lane_mask, i, m)[..., plane]
        back = np.round(-angles / theta[plane], 1) + 0.0  # no -0
        small = max(3.0, min(6.5, side * 22))
        for t, s in zip(*np.nonzero(seen), strict=True):
            word = f"{back[t, s]:g}"
            low = t + 0.13 * (kinds[t, s] == 2)  # a triangle is widest at its foot
            place: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "fontsize": small * min(1, 2.4 / len(word)),
            }
            axes.text(s, low, word, color=PAPER, **place)
        said = (
            f" Keys stand from {back[seen].min():g} to {back[seen].max():g} positions before their"
            f" queries, in plane {plane}."
        )
    rows, columns = np.nonzero(~seen)
    axes.scatter(columns, rows, s=3, marker=".", color="#b9b7af", label="hidden")
    _name_rows(axes, i, m, j, n)
    axes.set_xlim(-0.6, len(j) - 0.4)
    axes.set_ylim(len(i) - 0.4, -0.6)
    axes.set_aspect("equal")
    legend_below(figure)
    return finish(
        figure,
        f"{title}: a grid of {len(i)} queries by {len(j)} keys. {int(seen.sum())} pairs are "
        f"visible: {int((seen & (kinds == 0)).sum())} to shared keys, "
        f"{int((seen & (kinds == 1)).sum())} within a lane, "
        f"{int((seen & (kinds == 2)).sum())} between lanes; lag {lane_mask.lag}.{said}",
    )


def angles(
    frequencies: Mapping[str, Any], title: str = "Rotation of each plane", per: str = "step"
) -> Figure:
    """Radians by which one step turns each plane, on a logarithmic scale.

    frequencies: by name, (D/2,) radians each, such as theta and an Omega; the size is drawn.
    """
    figure = blank(6.4, 3.8)
    axes = frame(figure, title, "plane d", f"radians per {per}")
    said = []
    for k, (name, values) in enumerate(frequencies.items()):
        values = np.abs(np.asarray(values, dtype=np.float64))
        if values.ndim != 1:
            raise TinylaneError(f"{name} has shape {values.shape}; expected (D/2,), one layer's")
        shown = np.where(values > 0, values, np.nan)
        axes.plot(shown, label=name, markersize=4, **stroke(k))
        said.append(f"{name} goes from {values[0]:.3g} in plane 0 to {values[-1]:.3g} in the last")
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
        fontsize=8,
    )
    legend(axes)
    return finish(figure, f"{title}, radians per {per}: {'; '.join(said)}.")


def turns(vectors: Mapping[str, Any], title: str = "Vectors, plane by plane") -> Figure:
    """The planes of some vectors (D,), each as an arrow in a circle of its own: plane d holds
    channels d and d + D/2. At most six vectors of at most 16 channels."""
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
    figure.suptitle(title, color=INK, fontsize=10)
    degrees = [
        f"{name}: "
        + ", ".join(f"{np.degrees(np.arctan2(x[d + planes], x[d])):.0f}" for d in range(planes))
        for name, x in named.items()
    ]
    return finish(figure, f"{title}. Direction in degrees, by plane: {'; '.join(degrees)}.")


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

    query, key: (D,); theta, omega: (D/2,); positions, lanes: the differences to draw.
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


def attention(
    weights: Any,
    queries: Sequence[str],
    keys: Sequence[str],
    title: str = "Attention",
    names: tuple[str, str, str] = ("query", "key", "weight"),
) -> Figure:
    """Attention weights (T, S) as a map, with the numbers written in where there are few.

    names: what rows, columns and values are, where they are something else.
    """
    w = np.asarray(weights, dtype=np.float64)
    queries, keys = [word(q) for q in queries], [word(k) for k in keys]
    if w.shape != (len(queries), len(keys)):
        raise TinylaneError(f"weights {w.shape} for {len(queries)} queries and {len(keys)} keys")
    side = min(0.5, 9.0 / w.shape[1])
    figure = blank(max(side * w.shape[1] + 2.2, 4.0), min(side, 0.4) * w.shape[0] + 1.9)
    axes = frame(figure, title, names[1], names[0])
    top = float(w.max())
    image = axes.imshow(w, cmap=shades(), vmin=0, vmax=top, aspect="auto")
    small = max(5.0, min(8.0, side * 72 * 0.55))  # what a row or column has room for
    wide = max(map(len, keys)) * small * 0.6 > side * 72
    plain: dict[str, Any] = {"fontsize": small, "parse_math": False}
    axes.set_xticks(range(len(keys)), keys, rotation=90 if wide else 0, **plain)
    axes.set_yticks(range(len(queries)), queries, **plain)
    if w.shape[1] <= 16:
        for (t, s), value in np.ndenumerate(w):
            if value >= 0.005:
                ink = INK if value < 0.5 * top else "white"
                text = f"{value:.2f}".removeprefix("0") if value < 0.995 else f"{value:.0f}"
                axes.text(s, t, text, ha="center", va="center", fontsize=7, color=ink)
    colour_bar(figure, axes, image, names[2])
    if w.size <= 16:
        said = [f"{queries[t]}, {keys[s]}: {value:.2g}" for (t, s), value in np.ndenumerate(w)]
    else:
        said = [f"{q} most to {keys[int(k)]}" for q, k in zip(queries, w.argmax(1), strict=True)]
        said = said if len(said) <= 8 else [*said[:8], f"and {len(said) - 8} more"]
    what = f"{names[2]} by {names[0]} and {names[1]}"
    return finish(figure, f"{title}: {what}; {', '.join(said)}.")


def lanes(result: Result, tokenizer: Any = None, title: str = "Lanes over time") -> Figure:
    """What every lane wrote, a column for each position; shade is the log-probability.

    tokenizer: to write tokens as text; None writes their ids. At most 64 positions are drawn.
    """
    first = min(lane.start - len(lane.prompt) for lane in result.lanes)
    last = max(lane.start + len(lane.tokens) for lane in result.lanes)
    shown = min(last - first, 64)
    name = str if tokenizer is None else lambda t: tokenizer.decode([t], skip_special=False)
    cells = [  # lane, column, text, log-probability (None: given, not drawn)
        (row, lane.start - len(lane.prompt) + k - first, word(name(token), 12), p)
        for row, lane in enumerate(result.lanes)
        for k, (token, p) in enumerate(
            [(t, None) for t in lane.prompt] + list(zip(lane.tokens, lane.logprobs, strict=True))
        )
    ]
    wide = max((len(text) for _, _, text, _ in cells), default=1)
    unit = min(max(0.085 * wide + 0.12, 0.35), 1.0)
    figure = blank(max(unit * shown + 1.9, 4.4), 0.36 * len(result.lanes) + 1.9)
    axes = frame(figure, title, "position", "lane")
    grid = np.full((len(result.lanes), shown), np.nan)
    for row, column, text, p in cells:
        if column >= shown:
            continue
        if p is not None:
            grid[row, column] = p
        dark = p is not None and np.exp(p) < 0.45
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else INK,
            style="italic" if p is None else "normal",
            parse_math=False,
        )
    image = axes.imshow(
        np.exp(grid),
        cmap=shades().reversed(),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_yticks(range(len(result.lanes)), [str(lane.index) for lane in result.lanes])
    ticks = range(0, shown, max(1, shown // 12))
    axes.set_xticks(list(ticks), [str(first + t) for t in ticks])
    colour_bar(figure, axes, image, "probability")
    said = [f"lane {lane.index}: {one_line(lane.text, 120)}" for lane in result.lanes[:8]]
    cut = f" (the first {shown} of {last - first})" if shown < last - first else ""
    return finish(figure, f"{title}, from position {first}{cut}. {'; '.join(said)}.")


def lines(series: Mapping[str, Any], x: Any, xlabel: str, ylabel: str, title: str) -> Figure:
    """Some curves over the same x, each with a colour, a dash and a marker of its own."""
    figure = blank(6.4, 3.8)
    axes = frame(figure, title, xlabel, ylabel)
    x, said = np.asarray(x), []
    for k, (name, y) in enumerate(series.items()):
        y = np.asarray(y, dtype=np.float64)
        axes.plot(x, y, label=name, markevery=max(1, len(x) // 12), markersize=4, **stroke(k))
        said.append(f"{name} from {y[0]:.3g} to {y[-1]:.3g}, at most {np.nanmax(y):.3g}")
    legend(axes)
    return finish(
        figure, f"{title}: {ylabel} over {xlabel} {x[0]:.3g} to {x[-1]:.3g}; {'; '.join(said)}."
    )


def replay(
    record: Record,
    shown: Callable[[int], str] = str,
    title: str = "Who listened to whom",
) -> Figure:
    """The main panel of a replayed run (`tinylane.view.replay_record.record`): what the lanes wrote, the
    share of attention to other lanes over time, who listened to whom. shown: a token as text."""
    from tinylane.view.replay_figure import panel

    return panel(record, shown, title)


def shares(
    record: Record, view: int = 0, title: str = "Share of attention to other lanes"
) -> Figure:
    """The share of each token's attention that went to other lanes, a band for each lane.

    view: which of the record's views; 0 is the mean of all layers and heads.
    """
    from tinylane.view.replay_figure import bands

    return bands(record, view, title)


# Within.


def _name_rows(axes: Axes, i: Any, m: Any, j: Any, n: Any) -> None:
    def names(positions: Any, lanes: Any) -> list[str]:
        pairs = zip(positions.tolist(), lanes.tolist(), strict=True)
        return [f"{a},{'S' if b == SHARED else b}" for a, b in pairs]

    small = 7 if max(len(i), len(j)) <= 24 else 5
    every = max(1, max(len(i), len(j)) // 48)
    axes.set_xticks(range(0, len(j), every), names(j, n)[::every], rotation=90, fontsize=small)
    axes.set_yticks(range(0, len(i), every), names(i, m)[::every], fontsize=small)
