"""Hogwild!, as in its released evaluation: a common history, to which finished steps are moved.

A worker's view is [prompt, finished steps of all in the order in which they were finished, a
heading, the others' current steps, a heading, its own current step]. A step ends with an empty line
behind the end of a sentence. It is sealed: its author goes on in a new lane, whose beginning it is
given. When a worker has written `until` (a pattern), or the budget is over, the text of all is read
once more behind the words `finish`, and a last lane writes the answer.
"""

import math
import re
from typing import Any

from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask
from tinylane.core.sampling import Sampler
from tinylane.methods.choices import Job, Method, Setup, changed
from tinylane.methods.prompt import encode_lane_prompt
from tinylane.methods.workers import Steps


def prepare(job: Job) -> Setup:
    banned = {t for text in job.options["forbidden"] for t in encode_lane_prompt(job.model, text)}

    def without(sampler: Sampler) -> Sampler:
        bias = {**(sampler.logit_bias or {}), **dict.fromkeys(banned, -math.inf)}
        return changed(sampler, logit_bias=bias)

    mask, begins = LaneMask.independent(2), [job.ids("others"), job.ids("own")]
    settings = {"lane_rope": Hogwild(), "lane_mask": mask, "lane_prompts": begins}
    return Setup(2, {**settings, "schedule": Steps(job)}, sampler=without)


def check(options: dict[str, Any]) -> None:
    """Raise TinylaneError for a pattern that is none."""
    try:
        re.compile(options["until"])
    except (re.error, OverflowError, RecursionError) as error:
        raise TinylaneError(f"until is no regular expression: {error}") from None


METHOD = Method(
    name="hogwild_steps",
    title="Hogwild! (as evaluated)",
    source="arXiv:2504.06261; eqimp/hogwild_llm at 1a87a99, generation.py and shared_cache",
    what="As Hogwild!, but a worker's finished step moves to a history that all have in common.",
    place="index in the view: [prompt, finished steps, heading, others' steps, heading, own]",
    sees="all lanes, lag 0",
    life="a step that ends is sealed, its author goes on in a new lane",
    draws="each lane its own; the beginning of a step is given",
    extra="none",
    equation="R(θ(place(q) − begin(block))) q · R(θ·index(k)) k",
    law="22 (seal)",
    uncertain="There the headings are encoded without the prompt; here every row sees it.",
    prepare=prepare,
    options={
        "names": ["Alice", "Bob", "Carol", "Dave"],
        "first": "**{name} [{step}]:** Hi, I'm {name}.",
        "next": "**{name} [{step}]:** ",
        "check": "Quick check: am I doing redundant work? (yes/no): ",
        "check_every": 256,
        "others": "\n\n### Work in progress (others)\n\n",
        "own": "<...>\n\n### Work in progress (own)\n\n",
        "forbidden": ["#"],
        "until": r"\\boxed\{[^{}]+\}",
        "finish": "\n\nWait, given the limited time, I have to give an answer right now. "
        "Considering all my previous attempts, I have to conclude that the final answer is "
        "\\boxed{",
        "answer_tokens": 16,
    },
    answer="last",
    check=check,
    filled=("names", "first"),
)
