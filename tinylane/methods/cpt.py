"""CPT (Share More, Search Less): short facts of all lanes in one pool, told to every lane as text.

At the end of a step (a line) the last line of a lane is a fact. A fact that the pool does not hold
yet is put into it, and given to every other lane at the end of its next line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.methods.choices import Job, Method, Setup, alone

if TYPE_CHECKING:
    from tinylane.core.result import Lane
    from tinylane.methods.decoding import Decoding


class Pool:
    """The schedule. facts: texts in the order in which they came, and who wrote each."""

    def __init__(self, job: Job) -> None:
        self.job, self.facts = job, dict[str, int]()
        self.told = dict.fromkeys(range(job.lanes), 0)  # how many facts a lane knows
        self.until = dict.fromkeys(range(job.lanes), 0)  # the tokens it has when it is free

    def __call__(self, d: Decoding) -> None:
        ready = [x for x in d.live if self.at_end(x)]
        for lane in ready:
            fact = lane.text.rstrip().rpartition("\n")[2].strip()
            if fact and not any(fact in known or known in fact for known in self.facts):
                self.facts[fact] = lane.index
        for lane in ready:
            news = [f for f, m in [*self.facts.items()][self.told[lane.index] :] if m != lane.index]
            self.told[lane.index] = len(self.facts)
            ids = [t for fact in news for t in self.job.ids("told", fact=fact)]
            if ids:
                d.give(lane.index, ids)
            self.until[lane.index] = len(lane.tokens) + len(ids) + 1

    def at_end(self, lane: Lane) -> bool:
        return lane.text.endswith("\n") and len(lane.tokens) >= self.until[lane.index]


def prepare(job: Job) -> Setup:
    return alone(job, schedule=Pool(job))


METHOD = Method(
    name="cpt",
    title="CPT",
    source="Share More, Search Less, arXiv:2605.27030",
    what="A pool of short facts, each told once to every lane: the text baseline of joint reading.",
    place="i",
    sees="the prompt and itself; facts of others as text of its own",
    life="at the end of a line: facts go into the pool, new ones are given",
    draws="each lane its own; facts are given",
    extra="none",
    equation="the plain model on each lane's text",
    law="5 (isolation) of the rows",
    uncertain="How facts are found: there a prompt finds them, here a line is a fact.",
    prepare=prepare,
    options={"told": "Another found: {fact}\n"},
)
