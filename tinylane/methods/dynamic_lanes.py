"""Dynamic lanes: one begins where the text could go another way, one that repeats is dropped.

When a lane has drawn a token that it held for unlikely, a fork of it begins, as long as fewer than
`lanes` are live. A lane whose last `overlap` tokens another live lane has written, too, is dropped.
Not from a paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.methods.choices import Job, Method, Setup, alone

if TYPE_CHECKING:
    from tinylane.core.result import Lane
    from tinylane.methods.decoding import Decoding


def repeats(lane: Lane, other: Lane, n: int) -> bool:
    """Whether the last n tokens of a lane stand anywhere in another."""
    last = lane.tokens[-n:]
    return len(last) == n and any(other.tokens[k : k + n] == last for k in range(len(other.tokens)))


def prepare(job: Job) -> Setup:
    overlap, least = job.number("overlap", 1), job.number("apart", 1)
    unlikely = float(job.options["unlikely"])

    def schedule(d: Decoding) -> None:
        for lane in d.live[1:]:  # the first stays
            earlier = [x for x in d.live if x.index < lane.index]
            begun = lane.forked[1] if lane.forked else 0
            apart = sum(position >= begun for position in lane.positions)
            if apart >= least and any(repeats(lane, x, overlap) for x in earlier):
                d.drop(lane.index)
        for lane in d.live:
            if lane.logprobs and lane.logprobs[-1] < unlikely and len(d.live) < job.lanes:
                d.fork(lane.index)

    return alone(job, 1, schedule=schedule)


METHOD = Method(
    name="dynamic_lanes",
    title="Dynamic lanes",
    source="none: by log-probability and overlap",
    what="Lanes begin where the model was unsure and end where they repeat each other.",
    place="i",
    sees="the prompt and itself",
    life="fork at an unlikely token; drop a lane that repeats another",
    draws="each lane its own",
    extra="none",
    equation="fork where log p(token) < unlikely; drop where the last n tokens are another's",
    law="fork and drop (state machine)",
    prepare=prepare,
    options={"unlikely": -3.0, "overlap": 8, "apart": 8},
    alike=True,
    uncertain="There is no paper. That lanes disagree is read as: a lane drew a token that it held "
    "for unlikely, so another lane would probably have drawn another.",
)
