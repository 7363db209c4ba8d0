"""Tree of thoughts: nodes are lanes that see their path to the root; the best of a level go on.

Each level's thoughts are scored by a function of the lane (default: the mean log-probability); the
best `keep` get children, the others are dropped. The best one of the last level answers. The paper
asks the model itself for scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinylane.methods.choices import Job, Method, Setup, alone, texts
from tinylane.methods.schedules import ended, rank_by, shut, together

if TYPE_CHECKING:
    from tinylane.methods.decoding import Decoding


def prepare(job: Job) -> Setup:
    rank = rank_by(job.options["score"])
    path: dict[int, list[int]] = {m: [] for m in range(job.lanes)}  # of a lane: its ancestors
    level = list(path)
    depth = 1

    def schedule(d: Decoding) -> None:
        nonlocal level, depth
        nodes = [d.lanes[m] for m in level]
        shut(d, nodes, job.ids("close"))
        if len(ended(nodes)) < len(nodes) or not level:
            return
        last = depth == job.number("depth", 1)
        keep = 1 if last else job.number("keep", 1)
        best = sorted(nodes, key=lambda x: (-rank(x), x.index))[:keep]
        for node in nodes:
            if node not in best:
                d.drop(node.index)
        level, depth = [], depth + 1
        for node in best if not last else ():
            read, prompts = [*path[node.index], node.index], texts(job, "open", job.lanes)
            for child in together(d, prompts, read, job.max_tokens, d.end(read)):
                path[child.index] = read
                level.append(child.index)

    return alone(job, lane_prompts=texts(job, "open", job.lanes), schedule=schedule)


METHOD = Method(
    name="tree_of_thoughts",
    title="Tree of thoughts",
    source="arXiv:2305.10601 (breadth-first)",
    what="Thoughts are nodes; the best of a level get children, the others are forgotten.",
    place="depth: the position on the path to the root",
    sees="the path to the root",
    life="a level begins when the one before has ended; the worst are dropped",
    draws="each lane its own",
    extra="a score",
    equation="keep the `keep` nodes of a level with the largest score",
    law="5 (isolation), 16 (one flat pass)",
    prepare=prepare,
    filled=("open",),
    options={"open": "\nThought {lane}:", "close": "\n", "depth": 3, "keep": 1, "score": None},
    answer="last",
)
