"""NPR (Native Parallel Reasoner): the attention of Multiverse, learned by self-distilled RL.

What runs here is Multiverse's schedule. NPR's own tags are not in the sources we have.
"""

from dataclasses import replace

from tinylane.methods.multiverse import METHOD as MULTIVERSE

METHOD = replace(
    MULTIVERSE,
    name="npr",
    title="NPR",
    source="arXiv:2512.07461",
    what="Multiverse's attention and positions; the model taught itself to part and join.",
    uncertain="Its tags; those of Multiverse stand in.",
)
