"""Budget forcing (s1): no thought ends too early, and none too late.

A lane that ends before `least` tokens takes back its end token and is given "Wait", up to `waits`
times. When its budget leaves room for no more than the answer, it is given `answer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.methods.choices import Job, Method, Setup, alone

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


def prepare(job: Job) -> Setup:
    wait, answer = job.ids("wait"), job.ids("answer")
    least, waits = job.number("least"), dict.fromkeys(range(job.lanes), job.number("waits"))
    last = job.max_tokens - len(answer) - job.number("answer_tokens", 1)

    def schedule(d: Decoding) -> None:
        for lane in d.lanes:
            n = len(lane.tokens)
            now = n > 0 and lane.steps[-1] == d.steps - 1
            early = lane.finish_reason == "stop" and now and n < least
            if early and waits[lane.index] and n + len(wait) < last:
                waits[lane.index] -= 1
                d.resume(lane.index)
                d.give(lane.index, wait)
            elif lane.finish_reason is None and n == last:
                d.give(lane.index, answer)

    return alone(job, schedule=schedule)


METHOD = Method(
    name="budget_forcing",
    title="Budget forcing (s1)",
    source="arXiv:2501.19393, section 3.1",
    what="A thought that ends too early is told to wait; one that is too long is asked to answer.",
    place="i",
    sees="the prompt and itself",
    life="N lanes from the prompt on; an early end is taken back",
    draws='each lane its own; "Wait" and the question for the answer are given',
    extra="none",
    equation="the plain model on each lane's text",
    law="7 (independent), 8 (steps)",
    prepare=prepare,
    options={
        "wait": " Wait", "waits": 2, "least": 64, "answer": "\nFinal Answer:", "answer_tokens": 16
    },
)  # fmt: skip
