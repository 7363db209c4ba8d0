"""Plain Lanes: N stretches of one document, written in lockstep at their true positions.

Lane j writes tokens j * slot .. of the text, at those positions, and sees what all lanes have
written up to this step. Lane 0 draws the first token; then the others begin, with a start token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.methods.choices import Job, Method, Setup

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


def prepare(job: Job) -> Setup:
    start = job.ids("start")[:1] or [0]
    slot = job.slot()

    def schedule(d: Decoding) -> None:
        if d.steps == 1:
            for _ in range(1, job.lanes):
                d.join(start, max_tokens=job.max_tokens)

    rotation = LaneRoPE.group_think(job.model.theta, slot, prompt_lane=0)
    mask = LaneMask.joint(job.lanes)
    return Setup(1, {"lane_rope": rotation, "lane_mask": mask, "schedule": schedule})


METHOD = Method(
    name="plain_lanes",
    title="Plain Lanes",
    source="Seqaeon/nanochat, nanochat/lanes.py, October 2026 (not peer reviewed)",
    what="One document in N stretches that are written at the same time.",
    place="i + m·slot: the token's place in the document",
    sees="all lanes, lag 0",
    life="lane 1 draws one token, then the others join",
    draws="each lane its own",
    extra="a start token",
    equation="p(x) = Π_s Π_j p(x[j·S + s] | all x of earlier steps)",
    law="14 (chain rule), 11 (Group Think)",
    prepare=prepare,
    options={"start": "\n", "slot": None},
    answer="text",
)
