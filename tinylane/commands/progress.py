"""How far a long command is, on stderr: a bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """Shows how much of `total` is done; nothing if `quiet`.

    total: None where it is not known: on a terminal only the name of what is being done is shown,
    and removed at the end. before: how much an earlier run has done.
    """

    def __init__(
        self, total: int | None, before: int = 0, quiet: bool = False, name: str = ""
    ) -> None:
        self.total, self.before, self.quiet = total, before, quiet
        self.finished, self.began = before, time.monotonic()
        self._bar: Any = None
        if quiet or not sys.stderr.isatty() or before == total:
            return
        from rich import progress as rich
        from rich.console import Console

        columns: list[Any] = [rich.TextColumn("{task.description}", markup=False)]
        if total is not None:
            columns += [
                rich.BarColumn(),
                rich.MofNCompleteColumn(),
                rich.TimeElapsedColumn(),
                rich.TextColumn("left"),
                rich.TimeRemainingColumn(),
            ]
        self._bar = rich.Progress(
            *columns,
            console=Console(stderr=True, highlight=False),
            transient=total is None,
            speed_estimate_period=600,
        )
        self._task = self._bar.add_task(name, total=total, completed=before)

    def __enter__(self) -> Progress:
        if self.before:
            rest = "nothing left to do" if self.before == self.total else "going on"
            self.line(f"{self.before} of {self.total} done before; {rest}")
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def line(self, text: str) -> None:
        """Print a line; the bar stays below it."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def at(self, finished: int | None = None, name: str | None = None) -> None:
        """Move the bar to `finished`, or change the name beside it; without a bar nothing."""
        if self._bar is not None:
            self._bar.update(
                self._task, completed=finished, description=name, refresh=self.total is None
            )

    def done(self) -> None:
        """One more is finished. Without a bar every tenth is a line, with the time left."""
        assert self.total is not None
        self.finished += 1
        self.at(self.finished)
        if self._bar is not None or self.quiet:
            return
        if self.finished % max(self.total // 10, 1) == 0 or self.finished == self.total:
            spent = time.monotonic() - self.began
            left = spent / (self.finished - self.before) * (self.total - self.finished)
            more = f", {duration(left)} left" if self.finished < self.total else ""
            self.line(f"{self.finished} of {self.total}, {duration(spent)}{more}")


def duration(seconds: float) -> str:
    """75 -> "1:15"; 4000 -> "1:06:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
