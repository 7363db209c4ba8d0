"""Parallel-R1: paths between <Parallel> tags, then a summary; "Unseen" reuses, "Seen" rereads.

Unseen: isolated paths from one position, `</Parallel>` at 1 + the longest. Seen: the plain model on
the text of all paths, one after the other (`reread`).
"""

from tinylane.methods.blocks import OPTIONS, check, prepare
from tinylane.methods.choices import Method

METHOD = Method(
    name="parallel_r1",
    title="Parallel-R1",
    source="arXiv:2509.07980; zhengkid/Parallel-R1 at 7c3a8f3",
    what="Paths that the text opens by a tag, and a summary behind them.",
    place="i; all paths from one position; </Parallel> at 1 + the longest (Unseen)",
    sees="ancestors; with reread all paths, in order (Seen)",
    life="paths begin at <Parallel>; when all have ended the summary reuses their rows, or rereads",
    draws="each lane its own",
    extra="tags",
    equation="as Multiverse (Unseen); as the plain model (Seen)",
    law="16 (one flat pass), 18 (reread and reuse), 24 (rollout is training)",
    uncertain="Its released rollout sends the paths one after the other to a plain engine, while "
    "its training masks them: law 24 does not hold for that pair (read in the code, not run).",
    prepare=prepare,
    check=check,
    filled=("path",),
    options={
        "open": "<Parallel>", "path": "<Path>", "close": "</Path>",
        "join": "</Parallel>\n<Summary>", **OPTIONS,
    },
    answer="last",
    alike=True,
)  # fmt: skip
