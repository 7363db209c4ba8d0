"""SSA: N independent texts, and an aggregator that reads all of them as one text.

In the paper the aggregator is another, small, trained model; here it is the same model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.methods.choices import Job, Method, Setup, alone, texts
from tinylane.methods.schedules import ended, go_on, shut

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


def prepare(job: Job) -> Setup:
    def schedule(d: Decoding) -> None:
        drafts = d.lanes[: job.lanes]
        if len(d.lanes) == job.lanes:
            shut(d, drafts, job.ids("close"))
            if len(ended(drafts)) == job.lanes:
                go_on(d, drafts, job.ids("join"), job.max_tokens, reread=True)

    return alone(job, lane_prompts=texts(job, "open", job.lanes), schedule=schedule)


METHOD = Method(
    name="ssa",
    title="SSA",
    source="arXiv:2506.09014",
    what="N independent texts; an aggregator reads them, one after the other, and answers.",
    place="i; the aggregator's text from the prompt on",
    sees="a text: the prompt and itself; the aggregator: all texts, in order",
    life="when all have ended, their texts are read again",
    draws="each lane its own",
    extra="a trained aggregator (in the paper)",
    equation="the plain model on prompt + texts",
    law="18 (reread and reuse)",
    prepare=prepare,
    options={
        "open": "\nSolution {lane}:", "close": "\n", "join": "\nGoing by these, the answer is"
    },
    answer="last",
)  # fmt: skip
