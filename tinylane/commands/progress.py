"""How far a long command is, on stderr: a bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tinylane.commands.common import SILENT
from tinylane.files import jsonl
from tinylane.files.run_dir import Journal


class Progress:
    """Shows how much of `total` is done; nothing if `quiet`.

    total: None where it is not known: on a terminal only the name of what is being done is shown,
    and removed at the end. before: how much an earlier run has done. after: seconds in which
    nothing is shown yet: what is done by then needs no progress.
    """

    def __init__(
        self,
        total: int | None,
        before: int = 0,
        quiet: bool = False,
        name: str = "",
        after: float = 0.0,
    ) -> None:
        self.total, self.before, self.quiet = total, before, quiet
        self.name, self.after, self._shown = name, after, False
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
            transient=total is None or after > 0,
            speed_estimate_period=600,
        )
        self._task = self._bar.add_task(name, total=total, completed=before)

    def __enter__(self) -> Progress:
        if self.before:
            rest = "nothing left to do" if self.before == self.total else "going on"
            self.line(f"{self.before} of {self.total} done before; {rest}")
        if not self.after:
            self._show()
        return self

    def _show(self) -> None:
        self._shown = True
        if self._bar is not None:
            self._bar.start()

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
        if not self._shown:
            if time.monotonic() - self.began < self.after:
                return
            self._show()
        self.at(self.finished)
        if self._bar is not None or self.quiet:
            return
        if self.finished % max(self.total // 10, 1) == 0 or self.finished == self.total:
            spent = time.monotonic() - self.began
            left = spent / (self.finished - self.before) * (self.total - self.finished)
            more = f", {duration(left)} left" if self.finished < self.total else ""
            what = f"{self.name}: " if self.name else ""
            self.line(f"{what}{self.finished} of {self.total}, {duration(spent)}{more}")


@contextmanager
def reading(
    path: str | os.PathLike[str], limit: int, quiet: bool, name: str
) -> Iterator[Callable[[], None]]:
    """Progress of reading JSON Lines, shown if it takes long; call what it gives once a line.

    limit: bytes of a line. Raises TinylaneError as `tinylane.files.jsonl.lines` does.
    """
    total = sum(1 for _, line in jsonl.lines(path, limit=limit) if line.strip())
    with Progress(total, quiet=quiet, name=name, after=SILENT) as progress:
        yield progress.done


class Pulse:
    """Says now and then how far a command is that goes over its rows many times: a line on stderr,
    the first after SILENT seconds, then every EVERY. Nothing if `quiet`."""

    EVERY = 10.0  # s

    def __init__(self, quiet: bool = False) -> None:
        self._next = math.inf if quiet else time.monotonic() + SILENT

    def stop(self) -> None:
        """Say no more."""
        self._next = math.inf

    def __call__(self, what: str, k: int, count: int) -> None:
        """what: is being done. k: of `count` are done."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + self.EVERY
            print(f"{what}: {k:,} of {count:,}", file=sys.stderr, flush=True)


def earlier(journal: Journal, quiet: bool) -> Iterator[dict[str, Any]]:
    """The rows that a run has, with progress if reading them takes long."""
    name = f"reading the {journal.what} so far"
    with Progress(journal.count, quiet=quiet, name=name, after=SILENT) as progress:
        for row in journal.rows():
            yield row
            progress.done()


def duration(seconds: float) -> str:
    """75 -> "1:15"; 4000 -> "1:06:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
