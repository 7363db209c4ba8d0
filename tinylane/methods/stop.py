"""STOP: many beginnings, of which the best are kept, at one point.

After `prefix` tokens each lane gets a score (there: of a trained token; here: the mean
log-probability, or a callable); the best `keep` go on, the others are dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.methods.choices import Job, Method, Setup, alone
from tinylane.methods.schedules import rank_by

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


def prepare(job: Job) -> Setup:
    rank, keep, prefix = (
        rank_by(job.options["score"]),
        job.number("keep", 1),
        job.number("prefix", 1),
    )

    def schedule(d: Decoding) -> None:
        if d.steps == prefix:
            for lane in sorted(d.live, key=lambda x: (-rank(x), x.index))[keep:]:
                d.drop(lane.index)

    return alone(job, schedule=schedule)


METHOD = Method(
    name="stop",
    title="STOP",
    source="arXiv:2604.16029",
    what="Many beginnings; the best few are written to the end.",
    place="i",
    sees="the prompt and itself",
    life="at one point all but the best are dropped",
    draws="each lane its own",
    extra="a scorer: there a token, an adapter and a head; here the mean log-probability",
    equation="keep the `keep` lanes with the largest score after `prefix` tokens",
    law="drop (state machine), 5 (isolation)",
    prepare=prepare,
    options={"prefix": 16, "keep": 1, "score": None},
)
