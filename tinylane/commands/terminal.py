"""Lanes side by side in a terminal, redrawn while they write; and as plain lines. Tables.

A lane is known by its label; its colour only helps the eye. Model text never reaches the terminal
unchanged: `printable` shows control characters as escapes, and no markup is read in it.

    N lanes
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from tinylane.files.display import printable
from tinylane.view.palette import TERMINAL

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

NARROWEST, WIDEST = 16, 72  # characters of a column
FRAME = 6  # lines of a column that are not text: two borders, two rules, label, foot
EVERY = 0.05  # s between redraws, where steps come faster than that


@dataclass
class LaneView:
    """What is shown of one lane: its name, what it has written, and a line below."""

    label: str
    text: str = ""
    foot: str = ""


class Columns:
    """N lanes side by side on a terminal; at the end the whole text stays on the screen.

    While it runs, each lane shows the end of its text, as much as fits. The caller changes `views`
    and calls `draw`. pace: seconds that every drawing stays at least.
    """

    def __init__(
        self, views: list[LaneView], console: Console | None = None, pace: float = 0.0
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        self.views, self.pace = views, pace
        self.console = console or Console(highlight=False, markup=False, emoji=False)
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._drawn = -math.inf

    def __enter__(self) -> Columns:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *more: Any) -> None:
        self._live.stop()
        if kind is None or kind is KeyboardInterrupt:
            self.console.print(side_by_side(self.views, self.console))

    def draw(self) -> None:
        """Show the views as they are now; skipped if the last drawing is less than EVERY old."""
        wait = max(self.pace, EVERY) - (time.monotonic() - self._drawn)
        if wait > 0:
            if not self.pace:
                return
            time.sleep(wait)
        height = self.console.height - 1
        self._live.update(side_by_side(self.views, self.console, height), refresh=True)
        self._drawn = time.monotonic()


def side_by_side(
    views: Sequence[LaneView], console: Console, height: int | None = None
) -> RenderableType:
    """The lanes as columns with all their text, in as many bands as the width needs.

    With a `height` only the end of each text, so that no more than `height` lines are taken.
    """
    from rich.console import Group

    per_band = min(len(views), max(1, (console.width - 1) // (NARROWEST + 3)))
    bands = math.ceil(len(views) / per_band)
    per_band = math.ceil(len(views) / bands)
    width = min(WIDEST, (console.width - 1) // per_band - 3)
    if width < 4 or (height is not None and height // bands <= FRAME):
        return _one_line_each(views, console, height)
    rows = None if height is None else height // bands - FRAME
    return Group(
        *(
            _band(views, start, min(start + per_band, len(views)), console, width, rows)
            for start in range(0, len(views), per_band)
        )
    )


def _band(
    views: Sequence[LaneView],
    start: int,
    stop: int,
    console: Console,
    width: int,
    rows: int | None,
) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ROUNDED, show_footer=True, safe_box=True)
    for m in range(start, stop):
        colour, view = TERMINAL[m % len(TERMINAL)], views[m]
        table.add_column(
            Text(printable(view.label), style=f"bold {colour}"),
            Text(printable(view.foot) or " ", style=colour, overflow="ellipsis", no_wrap=True),
            width=width,
        )
    table.add_row(*(_tail(views[m].text, console, width, rows) for m in range(start, stop)))
    return table


def _tail(text: str, console: Console, width: int, rows: int | None) -> Text:
    """`text` wrapped to `width`, its last `rows` lines (all, if None)."""
    from rich.text import Text

    if rows is None:
        return Text(printable(text))
    page = rows * width
    # Only the end is wrapped, or long texts would slow the steps; the cut moves page by page, so
    # that lines do not flow at every token.
    text = text[max(0, (len(text) - 2 * page) // page * page) :]
    lines = Text(printable(text)).wrap(console, width, tab_size=4)
    return Text("\n").join(lines[-rows:])


def _one_line_each(
    views: Sequence[LaneView], console: Console, height: int | None
) -> RenderableType:
    """Where columns do not fit: a line for each lane, with the end of its text."""
    from rich.text import Text

    shown = len(views) if height is None or len(views) <= height else max(height - 1, 0)
    lines = []
    for m, view in enumerate(views[:shown]):
        line = Text(printable(view.label), style=f"bold {TERMINAL[m % len(TERMINAL)]}")
        text = " ".join(printable(view.text).split()) or "..."
        if height is not None:
            text = text[-max(console.width - line.cell_len - 2, 4) :]
        elif view.foot:
            text += f"  [{printable(view.foot)}]"
        line.append(f": {text}", style="not bold default")
        if height is not None:
            line.truncate(console.width)
        lines.append(line)
    if shown < len(views):
        lines.append(Text(f"and {len(views) - shown} more lanes"))
        lines[-1].truncate(console.width)
    return Text("\n").join(lines)


class Lines:
    """The same without a terminal: one lane's text as it comes; of several lanes every whole line,
    behind the lane's label."""

    def __init__(self, labels: list[str], out: TextIO | None = None, several: bool = False) -> None:
        self.labels, self.out = labels, out or sys.stdout
        self.one = len(labels) == 1 and not several
        self._open = [""] * len(labels)

    def add(self, texts: Sequence[str], finished: Any = ()) -> None:
        """What every lane wrote in a step, and which lanes that ended."""
        if self.one:
            if texts[0]:
                self._put(printable(texts[0]))
            return
        self._open += [""] * (len(texts) - len(self._open))  # lanes that have joined
        for m, text in enumerate(texts):
            *whole, self._open[m] = (self._open[m] + text).split("\n")
            for line in whole:
                self._put(f"{self.labels[m]} | {printable(line)}\n")
            if m in finished:
                self._close(m)

    def close(self) -> None:
        """What is left of every lane."""
        if self.one:
            self._put("\n")
            return
        for m in range(len(self._open)):
            self._close(m)

    def _close(self, m: int) -> None:
        if self._open[m]:
            self._put(f"{self.labels[m]} | {printable(self._open[m])}\n")
            self._open[m] = ""

    def _put(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


def print_table(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[int],
    plain: bool,
    bad: Sequence[int] = (),
) -> None:
    """Print a table: plain columns, or with rules for a terminal. Nothing where it has no rows.

    left: which columns are aligned to the left. bad: which rows are red, on a terminal.
    """
    if not rows:
        return
    if plain:
        if title:
            print(printable(title))
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            cells = [
                cell.ljust(width) if k in left else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            print("  ".join(cells).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(printable(title)) if title else None, title_justify="left")
    for k, name in enumerate(head):
        shown.add_column(name, justify="left" if k in left else "right")
    for k, row in enumerate(rows):
        shown.add_row(*map(Text, row), style="bold red" if k in bad else None)
    Console(highlight=False, markup=False, emoji=False).print(shown)
