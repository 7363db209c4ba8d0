"""Bridge: lanes exchange what they hold in the same step, in layers of their own.

Nobody reads another lane's cached rows. Behind every feed-forward the rows of one step attend to
each other (`tinylane.core`'s seam; tensors `model.layers.L.bridge.*`). Without these tensors the
lanes are independent.
"""

from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.methods.choices import Job, Method, Setup


def prepare(job: Job) -> Setup:
    rotation, mask = LaneRoPE.none(job.model.theta), LaneMask.bridge(job.lanes)
    return Setup(job.lanes, {"lane_rope": rotation, "lane_mask": mask})


METHOD = Method(
    name="bridge",
    title="Bridge",
    source="arXiv:2510.01143 (no code)",
    what="Lanes that exchange hidden states in every step, and read nothing older of each other.",
    place="i; none in the side path",
    sees="the prompt and itself; in the side path the rows of this step of all live lanes",
    life="N lanes from the prompt on; one that ends leaves the exchange",
    draws="each lane its own",
    extra="cross-lane attention behind the feed-forward, zero at the start",
    equation="x ← x + W_O softmax(Q K / √d) V over the rows of one step",
    law="19 (untrained is the identity), 20 (Bridge)",
    uncertain="Heads, width, and which matrix is zero at the start are inferred.",
    prepare=prepare,
    needs="bridge",
)
