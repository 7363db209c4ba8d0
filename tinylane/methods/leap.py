"""LeaP: from time to time every lane sums up what it has, and reads the summaries of some others.

Every `every` tokens a lane is given the words `ask`, writes `summary` tokens, and is given the
summaries of the next `peers` lanes as text. Nobody reads another lane's rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.methods.choices import Job, Method, Setup, alone

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


def prepare(job: Job) -> Setup:
    period, length, peers = (job.number(x, 1) for x in ("every", "summary", "peers"))
    ask, told, close = (job.ids(x) for x in ("ask", "told", "close"))
    at = dict.fromkeys(range(job.lanes), period)  # how many tokens a lane has at its next event

    def schedule(d: Decoding) -> None:
        live = [x for x in d.live if len(x.tokens) == at[x.index]]
        asking = [x for x in live if x.index not in busy]
        for lane in asking:
            d.give(lane.index, ask)
            at[lane.index] += len(ask) + length
            busy.add(lane.index)
        done = [x for x in live if x not in asking]
        summaries = {x.index: x.tokens[-length:] for x in done}
        for k, lane in enumerate(done):
            others = [done[(k + j) % len(done)] for j in range(1, min(peers, len(done) - 1) + 1)]
            read = [t for other in others for t in [*told, *summaries[other.index]]]
            d.give(lane.index, [*read, *close])
            at[lane.index] += len(read) + len(close) + period
            busy.discard(lane.index)

    busy: set[int] = set()  # lanes that are writing a summary
    return alone(job, schedule=schedule)


METHOD = Method(
    name="leap",
    title="LeaP",
    source="arXiv:2505.07787",
    what="Lanes that tell each other, in words, what they have found so far.",
    place="i",
    sees="the prompt and itself; others' summaries as text of its own",
    life="every so many tokens a summary is asked for, and others' are given",
    draws="each lane its own; questions and others' summaries are given",
    extra="none",
    equation="the plain model on each lane's text",
    law="5 (isolation) of the rows; 8 (steps)",
    uncertain="Who gets whose summary: here the next lanes; the paper compares several ways.",
    prepare=prepare,
    options={
        "every": 32, "summary": 16, "peers": 1, "ask": "\nIn short:", "told": "\nAnother found:",
        "close": "\n",
    },
)  # fmt: skip
