"""Best of N: independent lanes, of which the one with the best score answers.

The score here needs no other model: the mean log-probability of what a lane wrote
(`tinylane.best_of`). With a verifier's score it is arXiv:2110.14168, section 4.2.
"""

from tinylane.methods.choices import Job, Method, Setup, alone


def prepare(job: Job) -> Setup:
    return alone(job)


METHOD = Method(
    name="best_of_n",
    title="Best of N",
    source="arXiv:2110.14168, section 4.2 (with a verifier); here the mean log-probability",
    what="N separate texts of one prompt; the likeliest one answers.",
    place="i",
    sees="the prompt and itself",
    life="N lanes from the prompt on",
    draws="each lane its own",
    extra="a score",
    equation="argmax over lanes of the mean of log p(token)",
    law="7 (independent)",
    prepare=prepare,
    answer="best",
)
