"""Parallel blocks inside one text: a main lane opens paths, they end, and it goes on behind them.

The schedule of Multiverse, NPR, Parallel-R1, ASPD and ThreadWeaver, which differ in their tags and
in how the paths are joined: by their cached rows (reuse), or by their text (reread).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError
from tinylane.methods.choices import Job, Setup, alone
from tinylane.methods.schedules import ended, go_on, said, shut, together

if TYPE_CHECKING:
    from tinylane.core.result import Lane
    from tinylane.methods.decoding import Decoding

# Options of every method of this kind; texts of tags are the method's own.
OPTIONS: dict[str, Any] = {
    "outline_tokens": 32,  # of the main lane, if it opens no block by itself
    "blocks": 8,  # the most that are opened
    "reread": False,
}


def check(options: dict[str, Any]) -> None:
    """Raise TinylaneError for a lane that reads the paths and begins with nothing."""
    if not options["join"] and not options["reread"]:
        raise TinylaneError("join is empty; expected a text or token ids, or reread")


class Blocks:
    """The schedule. Options: `open`, what the main lane ends with before paths begin (given to it
    if it does not write it in time); `path` and `close`; `join`, how the main lane goes on."""

    def __init__(self, job: Job, outline: str = "") -> None:
        self.job, self.outline = job, outline
        self.before: list[int] = []  # lanes that are joined already: the path to the root
        self.main, self.opened = 0, 0
        self.paths: list[Lane] = []

    def __call__(self, d: Decoding) -> None:
        job, main = self.job, d.lanes[self.main]
        if self.paths:
            for k, path in enumerate(self.paths):
                shut(d, [path], job.ids("close", lane=k + 1))
            if len(ended(self.paths)) == len(self.paths):
                reread, behind = bool(job.options["reread"]), [main, *self.paths]
                lane = go_on(d, behind, job.ids("join"), job.max_tokens, reread, self.before)
                self.before = [] if reread else [*self.before, *(x.index for x in behind)]
                self.main, self.paths = lane.index, []
            return
        if self.opened == 0:
            shut(d, [main], job.ids("open"))
        opens = main.finish_reason in ("closed", "length") if self.opened == 0 else self.again(d)
        if opens and self.opened < job.number("blocks", 1):
            d.finish(self.main, "closed")
            n, limit, self.opened = self.width(main), job.max_tokens, self.opened + 1
            prompts = [job.ids("path", lane=k + 1) for k in range(n)]
            at = d.end([*self.before, self.main])
            self.paths = together(d, prompts, [*self.before, self.main], limit, at)

    def again(self, d: Decoding) -> bool:
        """Whether the main lane has opened one more block by itself."""
        tag, main = self.job.options["open"], d.lanes[self.main]
        return isinstance(tag, str) and said(main, tag)

    def width(self, main: Lane) -> int:
        """How many paths: as many as the outline has, if it has any; else as many as lanes."""
        said = main.text.count(self.outline) if self.outline else 0
        return min(said, 64) or self.job.lanes


def prepare(job: Job, outline: str = "") -> Setup:
    """A main lane alone; its paths join when it has opened them."""
    limit = job.number("outline_tokens", 1) + len(job.ids("open"))
    return alone(job, 1, max_tokens=limit, schedule=Blocks(job, outline))
