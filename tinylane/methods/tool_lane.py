"""A tool lane: a Python function reads the lanes, and what it returns is a lane that they read.

The lane waits until the function has something to say, is given it, and waits again. The default
tool is a calculator: for a sum such as `12+34=` at the end of a lane it writes the result. Not from
a paper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import NoneType
from typing import TYPE_CHECKING

from tinylane.core.errors import of_kind
from tinylane.methods.choices import Job, Method, Setup
from tinylane.methods.modes import mode
from tinylane.methods.prompt import encode_lane_prompt

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding

SUM = re.compile(r"(\d{1,15})\s*([-+*])\s*(\d{1,15})\s*=\s*$")
WORK = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def calculator(texts: Sequence[str]) -> str:
    """What stands at the end of the texts, worked out: `12+34=` gives ` 12+34=46;`."""
    asked = [match for text in texts if (match := SUM.search(text))]
    return "".join(
        f" {a}{sign}{b}={WORK[sign](int(a), int(b))};" for a, sign, b in (m.groups() for m in asked)
    )


def prepare(job: Job) -> Setup:
    tool, n = job.options["tool"] or calculator, job.lanes
    rotation, mask = mode("joint", job.model, n + 1)
    said: set[str] = set()

    def schedule(d: Decoding) -> None:
        lane = d.lanes[n]
        if d.steps == 0:
            lane.max_tokens = d.model.config.context
        if all(x.finish_reason for x in d.lanes[:n]):
            d.finish(n, "no one reads it")
        if d.giving(n) or lane.finish_reason:
            return
        text = tool([x.text for x in d.lanes[:n]])
        of_kind("the tool's answer", text, (str, NoneType), "a text, or None")
        if text and text not in said:
            said.add(text)
            d.give(n, encode_lane_prompt(job.model, text))
            if d.steps and lane not in d.live:
                d.resume(n)
        elif lane in d.live:
            d.pause(n)

    return Setup(n + 1, {"lane_rope": rotation, "lane_mask": mask, "schedule": schedule})


METHOD = Method(
    name="tool_lane",
    title="A tool lane",
    source="none",
    what="A function that reads the lanes while they write, and answers into a lane of its own.",
    place="θi + Ωm",
    sees="all lanes, lag 0",
    life="the tool's lane waits until it has something to say",
    draws="each lane its own; the tool's lane is given",
    extra="a Python function",
    equation="as LaneRoPE",
    law="1 to 13; pause and give (state machine)",
    prepare=prepare,
    options={"tool": None},
    answer="vote",
)
