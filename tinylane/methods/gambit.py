"""Gambit: at times the worst lanes are dropped and the best are forked, up to a capacity.

After `warmup` tokens, every `every` tokens: lanes whose score is below `floor` are dropped; the
best are forked into free places; where none is free, the `swap` worst give theirs to the best.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.methods.choices import Job, Method, Setup, alone
from tinylane.methods.schedules import rank_by

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


def prepare(job: Job) -> Setup:
    rank, floor = rank_by(job.options["score"]), float(job.options["floor"])
    warmup, period, swap = (job.number(x, 1) for x in ("warmup", "every", "swap"))

    def schedule(d: Decoding) -> None:
        if d.steps < warmup or (d.steps - warmup) % period or not d.live:
            return
        best = sorted(d.live, key=lambda x: (-rank(x), x.index))
        weak = [x for x in best[1:] if rank(x) < floor]  # the best one stays
        room = job.lanes - len(best)
        weak = weak or (best[max(1, len(best) - swap) :] if room <= 0 else [])
        for lane in weak:
            d.drop(lane.index)
        kept = [x for x in best if x not in weak]
        for k in range(min(job.lanes - len(kept), swap)):
            d.fork(kept[k % len(kept)].index)

    return alone(job, schedule=schedule)


METHOD = Method(
    name="gambit",
    title="Gambit",
    source="arXiv:2608.08020; Dao-AILab/gambit-parallel-reasoning at 7d4d42f",
    what="A population of texts: the unlikely ones give their places to copies of the likely ones.",
    place="i",
    sees="the prompt and itself",
    life="drop and fork by score, every so many tokens",
    draws="each lane its own",
    extra="a scorer: there a small network on the hidden state; here the mean log-probability",
    equation="drop score < floor; fork the best; swap the K worst for the K best",
    law="fork and drop (state machine), 5 (isolation)",
    uncertain="Its answer is a vote weighted by the score; here lanes count alike.",
    prepare=prepare,
    options={"warmup": 16, "every": 16, "swap": 1, "floor": -1e9, "score": None},
)
