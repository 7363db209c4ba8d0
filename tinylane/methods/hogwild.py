"""Hogwild!, as in the paper: every lane reads one text, its own part last.

The layout that the paper calls contiguous. The released evaluation has another: `hogwild_steps`.
"""

from tinylane.methods.choices import Job, Method, Setup
from tinylane.methods.modes import check_values, mode


def prepare(job: Job) -> Setup:
    rotation, mask = mode("hogwild", job.model, job.lanes, **job.options)
    return Setup(job.lanes, {"lane_rope": rotation, "lane_mask": mask})


METHOD = Method(
    name="hogwild",
    title="Hogwild! (contiguous)",
    source="arXiv:2504.06261, section 3",
    what="N workers; each sees the prompt, then what the others wrote, then its own text.",
    place="index in the reader's view: [prompt, others, own]",
    sees="all lanes, lag 0",
    life="N lanes from the prompt on",
    draws="each lane its own",
    extra="none; the paper adds prompts (`--collaborate`)",
    equation="R(θ(place(q) − begin(block))) q · R(θ·index(k)) k",
    law="the plain model on every lane's view (tests of Hogwild)",
    prepare=prepare,
    check=lambda options: check_values("hogwild", **options),
    options={"visibility": None, "lag": None},
)
