"""Independent lanes and a majority vote: self-consistency (arXiv:2203.11171)."""

from tinylane.methods.choices import Job, Method, Setup, alone


def prepare(job: Job) -> Setup:
    return alone(job)


METHOD = Method(
    name="independent",
    title="Independent lanes, majority vote",
    source="Self-consistency, arXiv:2203.11171",
    what="N separate texts of one prompt; their answers are counted.",
    place="i",
    sees="the prompt and itself",
    life="N lanes from the prompt on",
    draws="each lane its own",
    extra="none",
    equation="R(θi) q · R(θj) k",
    law="7 (independent), 8 (steps)",
    prepare=prepare,
)
