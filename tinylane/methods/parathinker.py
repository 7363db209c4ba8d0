"""ParaThinker: isolated paths of thought, then a summary that reads all of them.

Every path begins at the same position. They end when all have ended, or when the first has
(`first_finish`). The summary stands one behind the longest path and reads the paths' cached rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.methods.choices import Job, Method, Setup, alone, texts
from tinylane.methods.schedules import ended, go_on, shut

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


def prepare(job: Job) -> Setup:
    n, closes = job.lanes, texts(job, "close", job.lanes)

    def schedule(d: Decoding) -> None:
        paths = d.lanes[:n]
        if len(d.lanes) > n:
            return shut(d, d.lanes[n:], job.ids("end"))
        for path, close in zip(paths, closes, strict=True):
            shut(d, [path], close)
        done = ended(paths)
        if len(done) == n or (job.options["first_finish"] and done):
            for path in paths:
                d.finish(path.index, "joined")
            go_on(d, paths, job.ids("summary"), job.max_tokens)

    return alone(job, lane_prompts=texts(job, "open", n), schedule=schedule)


METHOD = Method(
    name="parathinker",
    title="ParaThinker",
    source="arXiv:2509.04475, section 3; MobileLLM/ParaThinker at 6d98fae",
    what="N isolated paths of thought; a summary reads all of them and answers.",
    place="i; the summary at 1 + the last position of the longest path",
    sees="a path: the prompt and itself; the summary: all",
    life="N paths; when all have ended, or the first, the summary joins and reuses their cache",
    draws="each lane its own",
    extra="lane_kv: an embedding of the path, added to k before the rotation, and to v",
    equation="q · R(j−i) (k + T_path),  v + T_path",
    law="15 (permuted paths), 16 (one flat pass), 17 (one path is no path)",
    uncertain="The paper also describes places laid end to end; it rejects them.",
    prepare=prepare,
    filled=("summary",),
    options={
        "open": "<think {lane}>", "close": "</think {lane}>", "summary": "<summary>",
        "end": "</summary>", "first_finish": True,
    },
    answer="last",
    needs="lane_kv",
)  # fmt: skip
