"""Multi-Stream: every stream reads the earlier rows of all streams, its own too; some are given.

All tokens of one step stand at one position; nothing but an embedding at the input tells streams
apart. A given stream (a user's text) writes one given token a step, then silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError, of_kind, show
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.methods.choices import Job, Method, Setup
from tinylane.methods.prompt import encode_lane_prompt

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


class Streams:
    """The schedule: what is given is given at the first step; then silence; it ends with it."""

    def __init__(self, job: Job, given: dict[int, list[int]]) -> None:
        self.given, self.silence = given, job.ids("silence")[:1]
        self.quiet, self.limit = min(job.number("quiet_steps"), 1 << 31), job.max_tokens

    def __call__(self, d: Decoding) -> None:
        if d.steps == 0:
            for m, ids in self.given.items():
                d.give(m, [*ids, *self.silence * max(0, self.limit - len(ids))][: self.limit])
        last = [lane.tokens[-self.quiet :] for lane in d.lanes]
        if self.quiet and self.silence and all(t == self.silence * self.quiet for t in last):
            for lane in d.live:
                d.finish(lane.index, "silence")


def prepare(job: Job) -> Setup:
    given = {}
    for lane, text in job.options["given"].items():
        if int(lane) >= job.lanes:
            raise TinylaneError(f"given has stream {lane}; there are 0 .. {job.lanes - 1}")
        given[int(lane)] = encode_lane_prompt(job.model, text)
    rotation, mask = LaneRoPE.none(job.model.theta), LaneMask.joint(job.lanes, lag=1)
    schedule = Streams(job, given)
    return Setup(job.lanes, {"lane_rope": rotation, "lane_mask": mask, "schedule": schedule})


def check(options: dict[str, Any]) -> None:
    """Raise TinylaneError for a stream that has no number, or no text."""
    for lane, text in options["given"].items():
        of_kind(f"given {lane}", text, (str, list, tuple), "a text or token ids")
        if not (str(lane).isascii() and str(lane).isdecimal()):
            raise TinylaneError(f"given has stream {show(lane, 40)}; expected numbers from 0 on")


METHOD = Method(
    name="multi_stream",
    title="Multi-Stream",
    source="arXiv:2605.12460; seal-rg/streaming at 349e9ca",
    what="Streams with fixed roles, some given from outside; all read all, one step late.",
    place="i, the row of the step",
    sees="all lanes, lag 1",
    life="N streams from the prompt on; it may end when all are silent",
    draws="each lane its own; given streams are given",
    extra="lane_embed: an embedding of the stream, added to the token's",
    equation="x = E[token] + E_in[stream];  q · R(θ(j−i)) k,  j < i or the same row",
    law="21 (Multi-Stream is lag 1)",
    prepare=prepare,
    check=check,
    options={"given": {}, "silence": " -", "quiet_steps": 0},
    answer="text",
    needs="lane_embed",
)
