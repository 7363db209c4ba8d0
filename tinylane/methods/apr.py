"""APR: a parent spawns children that get a message only, and goes on with what they return.

A child sees nothing of its parent. The parent's next lane has the children's texts in its prompt.
All lanes share the first token of the prompt, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.methods.choices import Job, Method, Setup, alone, texts
from tinylane.methods.schedules import ended, shut, together

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


def prepare(job: Job) -> Setup:
    def schedule(d: Decoding) -> None:
        parent, children = d.lanes[0], d.lanes[1 : job.lanes + 1]
        if not children:
            shut(d, [parent], job.ids("spawn"))
            if parent.finish_reason:
                prompts = texts(job, "message", job.lanes)
                together(d, prompts, [], job.max_tokens, len(d.prompt))
        elif len(d.lanes) == job.lanes + 1:
            shut(d, children, job.ids("close"))
            if len(ended(children)) == job.lanes:
                returned = [*d.reread(x.index for x in children), *job.ids("join")]
                d.join(returned, sees=[0], at=d.end([0]), max_tokens=job.max_tokens)

    limit = job.number("spawn_after", 1) + len(job.ids("spawn"))
    setup = alone(job, 1, max_tokens=limit, schedule=schedule)
    return Setup(1, setup.settings, shared=1)


METHOD = Method(
    name="apr",
    title="APR",
    source="arXiv:2504.15466; Parallel-Reasoning/APR at 5577928",
    what="A parent sends messages to children; their answers come back as text.",
    place="every lane from the beginning: i of its own text",
    sees="a child: its message; the parent: itself and the returned texts",
    life="children begin at spawn; when all have ended the parent rereads what they return",
    draws="each lane its own",
    extra="tags",
    equation="the plain model on each text",
    law="18 (reread and reuse), 5 (isolation)",
    uncertain="Here all lanes share the prompt's first token, since a prompt is not empty.",
    prepare=prepare,
    options={
        "spawn": "spawn():", "message": "\nTask {lane} of {lanes}:", "close": "\n",
        "join": "\njoin:", "spawn_after": 16,
    },
    answer="last",
)  # fmt: skip
