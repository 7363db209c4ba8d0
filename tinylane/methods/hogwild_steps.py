"""Hogwild!, as in its released evaluation: a common history, to which finished steps are moved.

A worker's view is [prompt, finished steps of all in the order in which they were finished, a
heading, the others' current steps, a heading, its own current step]. A step ends with an empty line
behind the end of a sentence. It is sealed: its author goes on in a new lane, whose beginning it is
given. When a worker has written `until`, or the budget is over, the text of all is read once more
behind the words `finish`, and a last lane writes the answer.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask
from tinylane.core.prompt import encode_lane_prompt
from tinylane.core.sampling import Sampler
from tinylane.methods.method import Job, Method, Setup
from tinylane.methods.schedules import go_on

if TYPE_CHECKING:
    from tinylane.core.decoding import Decoding
    from tinylane.core.result import Lane


class Steps:
    """The schedule. Lanes 0 and 1 are the headings; the workers follow."""

    def __init__(self, job: Job) -> None:
        self.job, self.sealed = job, list[int]()
        self.workers: dict[int, int] = {}  # the lane in which a worker writes -> which worker
        self.written = [0] * job.lanes  # tokens of each worker's finished steps
        self.checked = [0] * job.lanes  # how many it had when it was last asked whether it repeats
        self.steps = [1] * job.lanes

    def __call__(self, d: Decoding) -> None:
        job, most = self.job, self.job.max_tokens
        if d.steps == 0:
            for heading in (0, 1):
                d.finish(heading, "given")
            for m in range(job.lanes):
                self.workers[d.join(self.begin(m), sees="all", max_tokens=most).index] = m
        elif self.workers and self.answered(d):
            for m in self.workers:
                d.finish(m, "answered")
            history = [d.lanes[m] for m in [*self.sealed, *self.workers]]
            self.workers = {}
            go_on(d, history, job.ids("finish"), job.number("answer_tokens", 1), reread=True)
            return
        for lane in [m for m in self.workers if self.over(d.lanes[m])]:
            self.seal(d, lane)
        if self.workers:
            d.arrange([*self.sealed, 0, *sorted(self.workers), 1])

    def begin(self, m: int) -> list[int]:
        names = self.job.options["names"]
        words = {"name": names[m % len(names)], "step": self.steps[m]}
        return self.job.ids("first" if self.steps[m] == 1 else "next", **words)

    def seal(self, d: Decoding, lane: int) -> None:
        m, old = self.workers.pop(lane), d.lanes[lane]
        self.sealed.append(lane)
        self.written[m] += len(old.tokens)
        new = d.seal(lane).index
        self.workers[new], self.steps[m] = m, self.steps[m] + 1
        ids = self.begin(m)
        if self.written[m] - self.checked[m] >= self.job.number("check_every", 1):
            self.checked[m] = self.written[m]
            ids = [*ids, *self.job.ids("check")]
        d.give(new, ids)

    def over(self, lane: Lane) -> bool:
        sentence, line, rest = lane.text.rpartition("\n\n")
        ends = bool(line) and not rest.strip() and sentence.rstrip().endswith((".", "?", "!", "…"))
        return ends and lane.finish_reason is None

    def answered(self, d: Decoding) -> bool:
        lanes = [d.lanes[m] for m in self.workers]
        until = self.job.options["until"]
        return all(x.finish_reason for x in lanes) or any(until in x.text for x in lanes)


def prepare(job: Job) -> Setup:
    banned = {t for text in job.options["forbidden"] for t in encode_lane_prompt(job.model, text)}

    def without(sampler: Sampler) -> Sampler:
        bias = {**(sampler.logit_bias or {}), **dict.fromkeys(banned, -math.inf)}
        return replace(sampler, logit_bias=bias or None)

    mask, begins = LaneMask.independent(2), [job.ids("others"), job.ids("own")]
    settings = {"lane_rope": Hogwild(), "lane_mask": mask, "lane_prompts": begins}
    return Setup(2, {**settings, "schedule": Steps(job)}, sampler=without)


METHOD = Method(
    name="hogwild_steps",
    title="Hogwild! (as evaluated)",
    source="arXiv:2504.06261; eqimp/hogwild_llm at 1a87a99, generation.py and shared_cache",
    what="As Hogwild!, but a worker's finished step moves to a history that all have in common.",
    place="index in the view: [prompt, finished steps, heading, others' steps, heading, own]",
    sees="all lanes, lag 0",
    life="a step that ends is sealed, its author goes on in a new lane",
    draws="each lane its own; the beginning of a step is given",
    extra="none",
    equation="R(θ(place(q) − begin(block))) q · R(θ·index(k)) k",
    law="22 (seal)",
    uncertain="There the headings are encoded without the prompt; here every row sees it.",
    prepare=prepare,
    options={
        "names": ["Alice", "Bob", "Carol", "Dave"],
        "first": "**{name} [{step}]:** Hi, I'm {name}.",
        "next": "**{name} [{step}]:** ",
        "check": "Quick check: am I doing redundant work? (yes/no): ",
        "check_every": 256,
        "others": "\n\n### Work in progress (others)\n\n",
        "own": "<...>\n\n### Work in progress (own)\n\n",
        "forbidden": ["#"],
        "until": "\\boxed{",
        "finish": "\n\nWait, given the limited time, I have to give an answer right now. "
        "Considering all my previous attempts, I have to conclude that the final answer is "
        "\\boxed{",
        "answer_tokens": 16,
    },
    answer="last",
)
