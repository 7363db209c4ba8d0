"""A replayed run as a figure, for a document or where there is no browser.

Rows are lanes, columns positions: what was written (or, of a long run, how likely it was), the
share of attention that went to other lanes, and beside them who listened to whom.

    Q drawn tokens   N lanes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinylane.view.events import Event, events_of, happened
from tinylane.view.figure_style import (
    blank,
    drawn,
    finish,
    frame,
    heat_map,
    label,
    lanes_by_position,
)
from tinylane.view.figures import draw_written, extent, written_cells
from tinylane.view.palette import COLOURS, INK, PAPER, RULE
from tinylane.view.replay_record import Record
from tinylane.view.replay_words import sentences

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORDS = 48  # positions up to which tokens are written out


@drawn
def replay(
    record: Record, shown: Callable[[int], str] = str, title: str = "Who listened to whom"
) -> Figure:
    """The main panel of a replayed run (`tinylane.view.replay_record.record`): what the lanes
    wrote, the share of attention to other lanes over time, who listened to whom.

    shown: a token as text.
    """
    N, names = record.n, _names(record)
    first, last = extent(record.lanes)
    columns = last - first
    logprobs = [record.logprobs[record.of == m].tolist() for m in range(N)]
    cells, longest = written_cells(record.lanes, logprobs, shown, first, columns)
    unit = min(max(0.075 * longest + 0.12, 0.3), 0.9)
    width = min(max(unit * columns, 5.0), 15.0) if columns <= WORDS else 9.0
    silent = bool(record.silences) and N > 1
    tables = 1 + silent
    side = 0.42 * N + 1.6
    figure = blank(width + side + 1.6, max(0.62 * N + 3.2, 2.9 * tables))
    grid = figure.add_gridspec(2 * tables, 2, width_ratios=(width, side))
    top = frame(figure, "Probability of what was written", "", "", (grid[:tables, 0],))
    draw_written(figure, top, cells, (N, columns), words=columns <= WORDS)
    lanes_by_position(top, names, first, columns)
    events = events_of(record.run.result)
    if events:
        _marks(top, record, events, first)
    below = "Share of attention to other lanes"
    _bands(frame(figure, below, "position", "", (grid[tables:, 0],)), record, first, columns)
    whom = frame(figure, "Attention, whole run", "to", "", (grid[:2, 1],))
    _table(whom, record.lane_shares(), ["prompt", *map(str, range(1, N + 1))], names)
    if silent:
        changed = frame(figure, "Next tokens changed", "without lane", "", (grid[2:, 1],))
        _table(
            changed,
            record.changed(),
            [str(s.lane + 1) for s in record.silences if s.lane is not None],
            names,
        )
    told = f"{'; '.join(happened(events))}. " if events else ""
    return finish(figure, f"{title}. {told}{' '.join(sentences(record, shown))}", title)


@drawn
def shares(
    record: Record, view: int = 0, title: str = "Share of attention to other lanes"
) -> Figure:
    """The share of each token's attention that went to other lanes, a band for each lane.

    view: which of the record's views; 0 is the mean of all layers and heads.
    """
    first, last = extent(record.lanes, given=False)
    columns = last - first
    figure = blank(7.0, 0.55 * record.n + 1.4)
    _bands(frame(figure, title, "position", ""), record, first, columns, view)
    others = record.to_others(view)
    by_lane = [others[record.of == m] for m in range(record.n)]
    facts = [
        f"lane {m + 1} {mine.mean():.0%} on average, at most {mine.max():.0%}"
        for m, mine in enumerate(by_lane)
        if len(mine)
    ]
    return finish(figure, f"{title}, by position: {'; '.join(facts)}.")


def _names(record: Record) -> list[str]:
    return [f"lane {m + 1}" for m in range(record.n)]


def _marks(axes: Axes, record: Record, events: Sequence[Event], first: int) -> None:
    """A mark above a lane's row for every event: where its next token stands."""
    at = []
    for event in events:
        lane = record.lanes[event["lane"]]
        later = [
            i for i, step in zip(lane.positions, lane.steps, strict=True) if step >= event["step"]
        ]
        at.append((later or [lane.positions[-1] + 1 if lane.tokens else lane.start])[0] - first)
    x, rows = np.array(at) - 0.5, np.array([event["lane"] for event in events]) - 0.42
    axes.scatter(
        x,
        rows,
        s=14,
        marker="v",
        color=INK,
        edgecolors=PAPER,
        linewidths=0.7,
        clip_on=False,
        zorder=3,
    )


def _bands(axes: Axes, record: Record, first: int, columns: int, view: int = 0) -> None:
    others = record.to_others(view)
    for m, lane in enumerate(record.lanes):
        axes.axhline(m + 0.45, color=RULE, linewidth=0.8)
        mine = others[record.of == m]
        if not len(mine):
            continue
        places = np.array(lane.positions)
        x = np.repeat(places - first, 2) + np.tile([-0.5, 0.5], len(places))
        colour = COLOURS[m % len(COLOURS)]
        y = m + 0.45 - 0.9 * np.repeat(mine, 2)
        gaps = 2 * np.flatnonzero(np.diff(places) > 1) + 2
        x, y = (np.insert(values, gaps, np.nan) for values in (x, y))
        axes.fill_between(x, m + 0.45, y, color=colour, alpha=0.35, linewidth=0)
        axes.plot(x, y, color=colour, linewidth=1.0)
        beside = axes.get_yaxis_transform()
        label(axes, 1.005, m, f"mean {mine.mean():.0%}", ha="left", transform=beside)
    axes.set_ylim(record.n - 0.5, -0.5)
    lanes_by_position(axes, _names(record), first, columns)


def _table(axes: Axes, values: np.ndarray, columns: list[str], rows: list[str]) -> None:
    """Shares as a map, with the numbers written in."""
    heat_map(axes, values)
    size = 8 - (len(columns) > 6)
    for (m, k), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.0%}"
        label(axes, k, m, text, size, dark=value > 0.5)
    axes.set_xticks(range(len(columns)), columns, rotation=90 if len(columns) > 9 else 0)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(labelsize=size)
