"""The main panel of a replay as a matplotlib figure, for a document or where there is no browser.

Rows are lanes, columns positions: what was written (or, of a long run, how likely it was), the
share of attention that went to other lanes, and beside them who listened to whom.

    Q drawn tokens   N lanes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.view import canvas
from tinylane.view.replay_record import Record
from tinylane.view.replay_words import sentences

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORDS = 48  # positions up to which tokens are written out


def panel(
    record: Record, shown: Callable[[int], str] = str, title: str = "Who listened to whom"
) -> Figure:
    """The figure of a whole run. shown: a token as text."""
    N, first = record.n, _first(record)
    last = max(lane.start + len(lane.tokens) for lane in record.lanes)
    columns, silent = last - first, bool(record.silences) and N > 1
    cells = _cells(record, first, shown)
    wide = max((len(text) for _, _, text, _ in cells), default=1)
    unit = min(max(0.075 * wide + 0.12, 0.3), 0.9)
    width = min(max(unit * columns, 5.0), 15.0) if columns <= WORDS else 9.0
    tables = 1 + silent
    side = 0.42 * N + 1.6
    height = max(0.62 * N + 3.2, 2.9 * tables)
    figure = canvas.blank(width + side + 1.6, height)
    grid = figure.add_gridspec(2 * tables, 2, width_ratios=(width, side))
    figure.suptitle(title, color=canvas.INK, fontsize=11)
    top = canvas.frame(figure, "Probability of what was written", "", "", (grid[:tables, 0],))
    _written(figure, top, record, cells, columns)
    below = canvas.frame(
        figure, "Share of attention to other lanes", "position", "", (grid[tables:, 0],)
    )
    _shares(below, record, first, columns)
    for axes in (top, below):
        ticks = range(0, columns, max(1, columns // 10))
        axes.set_xticks(list(ticks), [str(first + t) for t in ticks])
        axes.set_yticks(range(N), [f"lane {m}" for m in range(N)])
        axes.set_xlim(-0.5, columns - 0.5)
    whom = canvas.frame(figure, "Attention, whole run", "to", "", (grid[:2, 1],))
    _table(whom, record.lane_shares(), ["prompt", *map(str, range(N))], "{:.0%}")
    if silent:
        changed = canvas.frame(figure, "Next tokens changed", "without lane", "", (grid[2:, 1],))
        _table(changed, _changed(record), [str(s.lane) for s in record.silences], "{:.0%}")
    return canvas.finish(figure, f"{title}. {' '.join(sentences(record, shown))}")


def bands(record: Record, view: int, title: str) -> Figure:
    """As `tinylane.plot.shares`."""
    first = min(lane.start for lane in record.lanes)
    columns = max(lane.start + len(lane.tokens) for lane in record.lanes) - first
    figure = canvas.blank(7.0, 0.55 * record.n + 1.4)
    axes = canvas.frame(figure, title, "position", "")
    _shares(axes, record, first, columns, view)
    ticks = range(0, columns, max(1, columns // 10))
    axes.set_xticks(list(ticks), [str(first + t) for t in ticks])
    axes.set_yticks(range(record.n), [f"lane {m}" for m in range(record.n)])
    others = record.to_others(view)
    said = [
        f"lane {m} {others[record.of == m].mean():.0%} on average, at most "
        f"{others[record.of == m].max():.0%}"
        for m in range(record.n)
        if (record.of == m).any()
    ]
    return canvas.finish(figure, f"{title}, by position: {'; '.join(said)}.")


def _first(record: Record) -> int:
    """The position of the first column: that of the first row that is a lane's."""
    return min(lane.start - len(lane.prompt) for lane in record.lanes)


def _cells(
    record: Record, first: int, shown: Callable[[int], str]
) -> list[tuple[int, int, str, float | None]]:
    """Lane, column, text, log-probability (None: given, not drawn) of all that lanes hold."""
    found = []
    for m, lane in enumerate(record.lanes):
        logprobs: list[float | None] = [None] * len(lane.prompt)
        logprobs += record.logprobs[record.of == m].tolist()
        begin = lane.start - len(lane.prompt) - first
        for k, (token, p) in enumerate(zip([*lane.prompt, *lane.tokens], logprobs, strict=True)):
            found.append((m, begin + k, canvas.word(shown(token), 12), p))
    return found


def _written(
    figure: Figure,
    axes: Axes,
    record: Record,
    cells: list[tuple[int, int, str, float | None]],
    columns: int,
) -> None:
    grid = np.full((record.n, columns), np.nan)
    for m, column, text, p in cells:
        if p is not None:
            grid[m, column] = np.exp(p)
        if columns <= WORDS:
            axes.text(
                column,
                m,
                text,
                ha="center",
                va="center",
                fontsize=8,
                color="white" if p is not None and np.exp(p) < 0.45 else canvas.INK,
                style="italic" if p is None else "normal",
                parse_math=False,
            )
    image = axes.imshow(
        grid,
        cmap=canvas.shades().reversed(),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    canvas.colour_bar(figure, axes, image, "probability")


def _shares(axes: Axes, record: Record, first: int, columns: int, view: int = 0) -> None:
    others = record.to_others(view)
    for m, lane in enumerate(record.lanes):
        axes.axhline(m + 0.45, color=canvas.RULE, linewidth=0.8)
        mine = others[record.of == m]
        if not len(mine):
            continue
        x = np.repeat(lane.start - first + np.arange(len(mine) + 1) - 0.5, 2)[1:-1]
        colour = canvas.COLOURS[m % len(canvas.COLOURS)]
        y = m + 0.45 - 0.9 * np.repeat(mine, 2)
        axes.fill_between(x, m + 0.45, y, color=colour, alpha=0.35, linewidth=0)
        axes.plot(x, y, color=colour, linewidth=1.0)
        axes.text(
            1.005,
            m,
            f"mean {mine.mean():.0%}",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=canvas.INK,
        )
    axes.set_ylim(record.n - 0.5, -0.5)
    axes.set_xlim(-0.5, columns - 0.5)


def _table(axes: Axes, values: np.ndarray, names: list[str], form: str) -> None:
    """Lanes by what they listened to, with the numbers written in."""
    axes.imshow(values, cmap=canvas.shades(), vmin=0, vmax=1, aspect="auto")
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8 - (len(names) > 6)}
    for (m, k), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else form.format(value)
        axes.text(k, m, text, color="white" if value > 0.5 else canvas.INK, **style)
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 9 else 0)
    axes.set_yticks(range(len(values)), [f"lane {m}" for m in range(len(values))])
    axes.tick_params(labelsize=8 - (len(names) > 6))


def _changed(record: Record) -> np.ndarray:
    """(N, N): the share of lane m's tokens that would be others, had lane n been silent."""
    tokens = np.concatenate([np.array(lane.tokens, dtype=np.int64) for lane in record.lanes])
    found = np.full((record.n, len(record.silences)), np.nan)
    for k, silence in enumerate(record.silences):
        for m in range(record.n):
            mine = (record.of == m) & ~record.copied
            if mine.any() and m != silence.lane:
                found[m, k] = float((silence.drawn[mine] != tokens[mine]).mean())
    return found
