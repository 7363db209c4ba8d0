"""LACE: lanes that read each other in a narrow attention of its own, through a gate.

The model's own attention reads nobody else. Beside it, in every second layer from the middle on, a
narrow attention (tensors `model.layers.L.lace.*`) starts from what the layer's attention has found,
and adds to it through a gate. What it may read is tinylane's choice, since the paper's notes do not
settle it: the prompt, the lane itself, and what other lanes have written up to this step, never a
later token (method, section 3). Its keys and values are cached like all others. Without these
tensors the lanes are independent.
"""

from tinylane.core.lanes import LaneMask
from tinylane.methods.choices import Job, Method, Setup
from tinylane.methods.modes import check_values, lane_rope

OPTIONS = {"omega": None, "slot": None, "scale": None}  # None: the model's own, else NTK-aware


def prepare(job: Job) -> Setup:
    omega = job.options["omega"]
    if omega is None and job.model.lane_rope is None:
        omega = "ntk"
    rotation = lane_rope(job.model, job.lanes, omega, job.slot(), job.options["scale"])
    mask = LaneMask.named("bridge", job.lanes, job.model.lag)  # they read across the side path only
    return Setup(job.lanes, {"lane_rope": rotation, "lane_mask": mask})


METHOD = Method(
    name="lace",
    title="LACE (with tinylane's time mask)",
    source="arXiv:2604.15529 (no code)",
    what="Lanes that read all of each other's text so far, but only in a narrow side path.",
    place="i; in the side path θi + Ωm",
    sees="the prompt and itself; in the side path what all lanes wrote so far",
    life="N lanes from the prompt on",
    draws="each lane its own",
    extra="a gated low-rank attention beside attention, zero at the start",
    equation="o ← o + σ(W_g o) · W_up attention(q, k, v of W_down o)",
    law="19 (untrained is the identity)",
    uncertain="The time mask is tinylane's; notes on the paper's equation 4 name none. The paper's "
    "rotation has channels for the token and others for the thread; here each is turned by both, "
    "as in LaneRoPE. Inferred: the form of the gate, one number for a token; the matrix that is "
    "zero at the start; that a lane reads the prompt and its own text there, too.",
    prepare=prepare,
    check=lambda options: check_values("joint", **options),
    options=OPTIONS,
    needs="lace",
)
