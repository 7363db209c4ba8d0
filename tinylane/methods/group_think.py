"""Group Think: lane m stands `slot` positions behind lane m - 1, and all read each other.

Virtual position i + m * slot, the prompt at lane 0: LaneRoPE with Omega = slot * theta (law 11).
"""

from tinylane.methods.choices import Job, Method, Setup
from tinylane.methods.modes import check_values, mode


def prepare(job: Job) -> Setup:
    options = {**job.options, "slot": job.slot()}
    rotation, mask = mode("group_think", job.model, job.lanes, **options)
    return Setup(job.lanes, {"lane_rope": rotation, "lane_mask": mask})


METHOD = Method(
    name="group_think",
    title="Group Think",
    source="arXiv:2505.11107 (no code)",
    what="N thinkers of one text, each with a stretch of positions of its own.",
    place="i + m·slot",
    sees="all lanes, lag 0",
    life="N lanes from the prompt on",
    draws="each lane its own",
    extra="none; the paper adds a system prompt (`--collaborate`)",
    equation="q · R(θ((j + n·slot) − (i + m·slot))) k",
    law="11 (Group Think)",
    prepare=prepare,
    check=lambda options: check_values("group_think", **options),
    options={"slot": None, "visibility": None, "lag": None},
)
