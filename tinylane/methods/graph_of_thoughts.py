"""Graph of thoughts: isolated thoughts, then lanes that see several of them (aggregation).

Leaves are written apart; every two neighbours are read by a lane that puts them together; and so on
to one root. A lane reads the rows of its two children and of all below them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.methods.choices import Job, Method, Setup, alone, texts
from tinylane.methods.schedules import ended, shut

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


def prepare(job: Job) -> Setup:
    below: dict[int, list[int]] = {m: [m] for m in range(job.lanes)}  # a lane and all it reads
    level = list(below)

    def schedule(d: Decoding) -> None:
        nonlocal level
        shut(d, [d.lanes[m] for m in level], job.ids("close"))
        if len(level) == 1 or len(ended(d.lanes[m] for m in level)) < len(level):
            return
        pairs = [level[k : k + 2] for k in range(0, len(level), 2)]
        reads = [sorted({n for m in pair for n in below[m]}) for pair in pairs]
        at, level = d.end(), []
        for pair, read in zip(pairs, reads, strict=True):
            new = pair[0]
            if len(pair) == 2:  # one that is left over waits for the next level
                new = d.join(job.ids("join"), sees=read, at=at, max_tokens=job.max_tokens).index
                below[new] = [*read, new]
            level.append(new)

    return alone(job, lane_prompts=texts(job, "open", job.lanes), schedule=schedule)


METHOD = Method(
    name="graph_of_thoughts",
    title="Graph of thoughts",
    source="arXiv:2308.09687 (aggregation)",
    what="Thoughts written apart, put together in pairs until there is one.",
    place="depth: every level begins behind the level before",
    sees="the lanes that it puts together, and all below them",
    life="a level begins when the one before has ended",
    draws="each lane its own",
    extra="none",
    equation="sees(parent) = children and sees(children)",
    law="5 (isolation), 16 (one flat pass)",
    uncertain="The paper's graphs are written for each task; this one puts pairs together.",
    prepare=prepare,
    filled=("join",),
    options={"open": "\nThought {lane}:", "close": "\n", "join": "\nTogether:"},
    answer="last",
)
