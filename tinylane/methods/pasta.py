"""PASTA: the text promises how long a branch will be, and goes on behind that place meanwhile.

At a promise the main lane goes on `promised` positions further on, while the branch is written in
the room before it. Only behind `<sync/>` does the main lane read its branches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.methods.choices import Job, Method, Setup, alone
from tinylane.methods.schedules import said, shut, wrote

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


class Promises:
    """The schedule. main: the lane that is written on; branches: those it does not yet read."""

    def __init__(self, job: Job) -> None:
        self.job, self.main, self.branches, self.left = job, 0, list[int](), job.lanes
        self.chain: list[int] = []  # main lanes before this one

    def __call__(self, d: Decoding) -> None:
        job, main, length = self.job, d.lanes[self.main], self.job.number("promised", 1)
        for branch in self.branches:
            shut(d, [d.lanes[branch]], job.ids("close"))
        sync = self.branches and (said(main, job.options["sync"]) or main.finish_reason)
        if sync and all(d.lanes[m].finish_reason for m in self.branches):
            self.go_on(d, job.ids("join"), d.end([self.main]), more=self.branches)
            self.branches = []
        elif self.left and not wrote(main, job.ids("promise")):
            shut(d, [main], job.ids("promise"))
        elif self.left:
            d.finish(self.main, "promised")
            ids = job.ids("branch", lane=job.lanes - self.left + 1)
            at, room, read = d.end([self.main]), max(1, length - len(ids)), [*self.chain, self.main]
            self.branches.append(d.join(ids, sees=read, at=at, max_tokens=room).index)
            self.left -= 1
            self.go_on(d, job.ids("next"), at + length)

    def go_on(self, d: Decoding, ids: list[int], at: int, more: list[int] | None = None) -> None:
        """The main lane, further on; behind a sync it reads `more`."""
        self.chain = [*self.chain, self.main, *(more or [])]
        limit = stretch(self.job) if self.left else self.job.max_tokens
        self.main = d.join(ids, sees=self.chain, at=at, max_tokens=limit).index


def stretch(job: Job) -> int:
    """The most tokens of the main lane up to a promise, which is one of them."""
    return job.number("stretch", 1) + len(job.ids("promise"))


def prepare(job: Job) -> Setup:
    return alone(job, 1, max_tokens=stretch(job), schedule=Promises(job))


METHOD = Method(
    name="pasta",
    title="PASTA",
    source="arXiv:2502.11517",
    what="The text goes on while the branches that it promised are written in the room it left.",
    place="i; the main text at start + the promised length",
    sees="a branch: the text before it; the main text: its branches behind <sync/> only",
    life="a branch begins at its promise, the main text runs on",
    draws="each lane its own",
    extra="tags",
    equation="place of the text behind a promise of K tokens = place of the promise + K",
    law="4 (causality), 5 (isolation) with times",
    uncertain="Here a branch is cut at the promised length; the digest that we have does not say.",
    prepare=prepare,
    filled=("branch", "next", "join"),
    options={
        "promise": "<promise/>", "branch": "<async>{lane}. ", "close": "</async>", "next": "\n",
        "sync": "<sync/>", "join": "\n", "promised": 32, "stretch": 16,
    },
    answer="last",
)  # fmt: skip
