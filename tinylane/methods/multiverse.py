"""Multiverse: the text itself says where it parts (map), what is done apart, and where it joins.

`<Goal>` lists outlines; at `</Goal>` as many paths begin, at one position, isolated; when all are
closed the text goes on behind the longest, reading the rows of all (`tinylane.methods.blocks`).
"""

from tinylane.methods.blocks import OPTIONS, check
from tinylane.methods.blocks import prepare as blocks
from tinylane.methods.choices import Job, Method, Setup


def prepare(job: Job) -> Setup:
    return blocks(job, outline="<Outline>")


METHOD = Method(
    name="multiverse",
    title="Multiverse",
    source="arXiv:2506.09991, section 5.2",
    what="A text that opens isolated paths and joins them, by tags that it writes itself.",
    place="i; all paths from one position; the conclusion at 1 + the longest",
    sees="ancestors: a path the text before it, the conclusion all paths",
    life="paths begin at </Goal>, the text goes on when all have ended, and reuses their cache",
    draws="each lane its own",
    extra="tags",
    equation="a_ij = softmax(R(θi) q · R(θj) k + M_ij), M_ij = −∞ between paths of a block",
    law="16 (one flat pass), 17 (one path is no path), 15 (permuted paths)",
    prepare=prepare,
    check=check,
    filled=("path",),
    options={
        "open": "</Goal>", "path": "<Path> {lane}", "close": "</Path>", "join": "<Conclusion>",
        **OPTIONS,
    },
    answer="last",
)  # fmt: skip
