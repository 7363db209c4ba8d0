"""LaneRoPE: lanes read each other while they write, told apart by a second rotation.

Omega is the model's own where it was trained with one, else as `omega` says. See method, section 2.
"""

from tinylane.methods.choices import Job, Method, Setup
from tinylane.methods.modes import check_values, mode

OPTIONS = {
    "omega": None, "slot": None, "scale": None, "prompt_lane": None, "visibility": None, "lag": None
}  # fmt: skip


def prepare(job: Job) -> Setup:
    options = {**job.options, "slot": job.slot()}
    rotation, mask = mode("joint", job.model, job.lanes, **options)
    return Setup(job.lanes, {"lane_rope": rotation, "lane_mask": mask})


METHOD = Method(
    name="lanerope",
    title="LaneRoPE (joint)",
    source="arXiv:2605.27570, section 3",
    what="N lanes of one prompt; every lane reads what the others have written up to this step.",
    place="θi + Ωm",
    sees="all lanes, lag 0",
    life="N lanes from the prompt on",
    draws="each lane its own",
    extra="Omega; adapters",
    equation="q · R(θ(j−i) + Ω(n−m)) k",
    law="1 to 13",
    uncertain="The constants of the NTK-aware start are our reading of the paper.",
    prepare=prepare,
    check=lambda options: check_values("joint", **options),
    options=OPTIONS,
)
