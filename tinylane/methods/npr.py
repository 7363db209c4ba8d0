"""NPR (Native Parallel Reasoner): the attention of Multiverse, which the model taught itself.

Where keys stand, who reads whom, when paths begin and join, who draws: as Multiverse, whose
schedule runs here. What differs is how a model is trained: by reinforcement learning on what it
has distilled from itself. Its own tags are not in the sources we have.
"""

from dataclasses import replace

from tinylane.methods.multiverse import METHOD as MULTIVERSE

METHOD = replace(
    MULTIVERSE,
    name="npr",
    title="NPR",
    source="arXiv:2512.07461",
    what="Multiverse's attention and positions; the model taught itself to part and join.",
    extra="tags; the training differs: self-distilled reinforcement learning",
    uncertain="Its tags; those of Multiverse stand in. Only the training is another: what runs "
    "here is Multiverse.",
)
