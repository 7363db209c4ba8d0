"""ThreadWeaver: threads by ordinary requests, joined by reading their text again.

Each thread sees the text before it alone. When all have ended their texts are put one after the
other and encoded again: from then on thread 2 has seen thread 1.
"""

from tinylane.methods.blocks import OPTIONS, check
from tinylane.methods.blocks import prepare as blocks
from tinylane.methods.choices import Job, Method, Setup


def prepare(job: Job) -> Setup:
    return blocks(job, outline="<Outline>")


METHOD = Method(
    name="threadweaver",
    title="ThreadWeaver",
    source="arXiv:2512.07843; facebookresearch/threadweaver at 2662232",
    what="Threads that are written apart, and joined as text for a plain engine.",
    place="depth: the position in the text that a row's own ancestors make",
    sees="ancestors; after the join all threads, in order",
    life="threads begin at </Outlines>; when all have ended their text is read again",
    draws="each lane its own",
    extra="tags",
    equation="the plain model on prompt + text + threads",
    law="18 (reread and reuse)",
    prepare=prepare,
    check=check,
    filled=("path",),
    options={
        "open": "</Outlines>", "path": "<Thread>{lane}", "close": "</Thread>",
        "join": "</Parallel>", **OPTIONS, "reread": True,
    },
    answer="last",
)  # fmt: skip
