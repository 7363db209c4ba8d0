"""ASPD: branches that do not see each other, at shared positions, found where a text is parallel.

As Multiverse, with no words between the branches and what follows: the text goes on.
"""

from tinylane.methods.blocks import OPTIONS, check, prepare
from tinylane.methods.choices import Method

METHOD = Method(
    name="aspd",
    title="ASPD",
    source="arXiv:2508.08895, equations 2 to 4 (Same-Seq)",
    what="Parallel branches at shared positions; afterwards one text goes on and sees all.",
    place="i, the same for all branches; the text goes on at 1 + the longest",
    sees="ancestors",
    life="branches begin by a tag; when all have ended the text goes on and reuses their cache",
    draws="each lane its own",
    extra="tags",
    equation="as Multiverse",
    law="16 (one flat pass), 17 (one path is no path)",
    uncertain="The words of its tags; a list stands in.",
    prepare=prepare,
    check=check,
    filled=("path",),
    options={"open": ":\n", "path": "{lane}. ", "close": "\n", "join": "\n", **OPTIONS},
    answer="last",
)
