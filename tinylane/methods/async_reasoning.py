"""AsyncReasoning: a thinker and a writer with prompts of their own; the writer may begin early.

The writer sees [its prompt, the thinker's text, a heading, its own text]; the thinker sees [its
prompt, the writer's text, a heading, its own text]. The thinker begins. Every so many tokens it is
asked, in rows that are taken back, whether there is something to say: the writer writes while the
likelier answer is yes, and to its end when the thinker has ended.

Lanes: 0 the writer's prompt, 1 the thinker's, 2 and 3 the headings, 4 the thinker, 5 the writer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.core.hogwild import Hogwild
from tinylane.methods.method import Job, Method, Setup, alone
from tinylane.methods.schedules import every, said

if TYPE_CHECKING:
    from tinylane.core.decoding import Decoding

THINKER, WRITER = 4, 5


class Speak:
    """The schedule."""

    def __init__(self, job: Job) -> None:
        self.job, self.yes, self.no = job, job.token("yes"), job.token("no")

    def __call__(self, d: Decoding) -> None:
        job = self.job
        if d.steps == 0:
            for lane in range(4):
                d.finish(lane, "given")
            begin, limit, at = job.ids("begin"), job.max_tokens, d.clock
            d.join(begin, sees=(1, 3), at="end", max_tokens=limit)
            d.join(begin, sees=(0, 2, THINKER), at=at, max_tokens=limit)
            d.read(THINKER, WRITER)
            d.arrange((0, 1, THINKER, WRITER, 2, 3))
            d.pause(WRITER)
        thinker, writer = d.lanes[THINKER], d.lanes[WRITER]
        if said(thinker, job.options["until"]) and thinker.finish_reason is None:
            d.finish(THINKER, "thought")
        if writer.finish_reason is not None:
            return
        writing = WRITER in [lane.index for lane in d.live]
        writes = writing or thinker.finish_reason is not None
        if thinker.finish_reason is None and every(thinker, job.number("ask_every", 1)):
            logits = d.peek(THINKER, job.ids("question"))
            writes = bool(logits[self.yes] > logits[self.no])
        if writes != writing:
            (d.resume if writes else d.pause)(WRITER)


def prepare(job: Job) -> Setup:
    names = ("writer_prompt", "thinker_prompt", "writer_heading", "thinker_heading")
    begins = [job.ids(name) for name in names]
    return alone(job, 4, lane_rope=Hogwild(), lane_prompts=begins, schedule=Speak(job))


METHOD = Method(
    name="async_reasoning",
    title="AsyncReasoning",
    source="arXiv:2512.10931; yandex-research/AsyncReasoning at 1286ba2, cache.py and solver.py",
    what="A thinker and a writer with two views of the same rows; the answer begins early.",
    place="index in the reader's view: [own prompt, the other, heading, own]",
    sees="its own prompt and heading, and what the other has written",
    life="the writer is paused and resumed by a question whose rows are taken back",
    draws="each lane its own, greedily in the paper",
    extra="none",
    equation="writes while p(yes | thinker, question) > p(no | thinker, question)",
    law="the plain model on every lane's view; peek changes nothing (state machine)",
    uncertain="Their private prompts stand alone; here every row sees the shared prompt first.",
    prepare=prepare,
    filled=("begin", "yes", "no"),
    options={
        "writer_prompt": "\n\nWrite the answer, going by the thoughts.\n",
        "thinker_prompt": "\n\nThink step by step before the answer is written.\n",
        "writer_heading": "\n\nAnswer:", "thinker_heading": "\n\nThoughts:",
        "begin": " ", "ask_every": 20, "until": "</think>",
        "question": "\n\nIs there something new to write in the answer? (yes/no):",
        "yes": " yes", "no": " no",
    },
    answer="last",
)  # fmt: skip
