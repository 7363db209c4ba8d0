"""Beam search: lanes that are forked and dropped at every token, by the score of the whole text.

The search itself is `tinylane.methods.beam_search`, which works on a cache without a `Decoding`: a
beam is a lane of the cache, and its first continuation stays in it. `--method beam` runs it, and
`--save` keeps the beams that it ends with, as lanes that read nobody.
"""

from tinylane.core.errors import TinylaneError
from tinylane.methods.choices import Job, Method, Setup


def prepare(job: Job) -> Setup:
    raise TinylaneError("beam search has no steps of lanes; call tinylane.methods.beam_search")


METHOD = Method(
    name="beam",
    title="Beam search",
    source="transformers, generate(num_beams=N), version 5",
    what="N texts at a time; at every token the N best continuations of all of them are kept.",
    place="i",
    sees="the prompt and itself",
    life="fork the best, drop the rest, at every token",
    draws="the N likeliest continuations of all lanes together",
    extra="none",
    equation="keep the N largest sums of log p(token) / length ^ penalty",
    law="3 (storage order); equal to transformers",
    prepare=prepare,
    answer="best",
)
