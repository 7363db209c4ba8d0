"""Workers whose finished steps move to a common history: the schedule of `hogwild_steps`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tinylane.methods.choices import Job
from tinylane.methods.schedules import given, go_on

if TYPE_CHECKING:
    from tinylane.core.result import Lane
    from tinylane.methods.decoding import Decoding


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
            given(d, (0, 1))  # the headings
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
        until = re.compile(self.job.options["until"])
        return all(x.finish_reason for x in lanes) or any(until.search(x.text) for x in lanes)
