"""AsyncReasoning: a thinker and a writer with prompts of their own; the writer may begin early.

Each sees [its prompt, the other's text, a heading, its own text]. The thinker begins. Every so many
tokens it is asked, in rows that are taken back, whether there is something to say: the writer
writes while the likelier answer is yes, and to its end when the thinker has ended.

Lanes: 0 the writer's prompt, 1 the thinker's, 2 and 3 the headings, 4 the thinker, 5 the writer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.core.hogwild import Hogwild
from tinylane.methods.choices import Job, Method, Setup, alone
from tinylane.methods.schedules import every, given, said

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding

THINKER, WRITER = 4, 5


def begin(d: Decoding, job: Job) -> None:
    """The four texts are given; behind them the thinker begins, and the writer waits."""
    given(d, range(THINKER))
    ids, at = job.ids("begin"), d.clock
    d.join(ids, sees=(1, 3), at="end", max_tokens=job.max_tokens)
    d.join(ids, sees=(0, 2, THINKER), at=at, max_tokens=job.max_tokens)
    d.read(THINKER, WRITER)
    d.arrange((0, 1, THINKER, WRITER, 2, 3))
    d.pause(WRITER)


def prepare(job: Job) -> Setup:
    yes, no, period = job.token("yes"), job.token("no"), job.number("ask_every", 1)

    def schedule(d: Decoding) -> None:
        if d.steps == 0:
            begin(d, job)
        thinker, writer = d.lanes[THINKER], d.lanes[WRITER]
        if said(thinker, job.options["until"]):
            d.finish(THINKER, "thought")
        writing = writer in d.live
        writes = writing or thinker.finish_reason is not None
        if thinker.finish_reason is None and every(thinker, period):
            logits = d.peek(THINKER, job.ids("question"))
            writes = bool(logits[yes] > logits[no])
        if writes != writing and writer.finish_reason is None:
            (d.resume if writes else d.pause)(WRITER)

    names = ("writer_prompt", "thinker_prompt", "writer_heading", "thinker_heading")
    begins = [job.ids(name) for name in names]
    return alone(job, 4, lane_rope=Hogwild(), lane_prompts=begins, schedule=schedule)


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
        "begin": " ", "ask_every": 20, "until": "</think>", "yes": " yes", "no": " no",
        "question": "\n\nIs there something new to write in the answer? (yes/no):",
    },
    answer="last",
)  # fmt: skip
