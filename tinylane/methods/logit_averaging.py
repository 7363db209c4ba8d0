"""Logit averaging: N lanes with prompts of their own write the same tokens, drawn from their mean.

The token is drawn once, from the mean of the lanes' logits, with lane 0's random number, and every
lane writes it. With learned prefixes in place of prompts it is ParScale (arXiv:2505.10475) without
its learned weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylane.core.sampling import Sampler, as_lists
from tinylane.methods.choices import Job, Method, Setup, alone, changed, texts


class Tied(Sampler):
    """Draws one token for all rows, from their mean, with the sampler `own`; log-probabilities are
    each row's own."""

    own: Sampler  # no field: a run file holds those of Sampler

    def __call__(self, logits: Any, uniforms: Any, history: Any) -> tuple[Any, Any]:
        """(N, V) logits -> (N,) equal tokens, and their log-probabilities."""
        rows = np.asarray(logits, dtype=np.float64)
        told = self.own(rows.mean(axis=0, keepdims=True), uniforms[:1], history[:1])
        (token,), _ = as_lists(told, 1, rows.shape[1])
        own = rows[:, token] - np.logaddexp.reduce(rows, axis=-1)
        return np.full(len(rows), token), own


def prepare(job: Job) -> Setup:
    given = job.options["prompts"]
    begins = texts(job, "prompt", job.lanes) if given is None else list(given)

    def tied(sampler: Sampler) -> Sampler:
        fields = {name: getattr(sampler, name) for name in Sampler.__dataclass_fields__}
        return changed(Tied(**fields), own=sampler)

    setup = alone(job, lane_prompts=begins)
    return Setup(setup.lanes, setup.settings, sampler=tied)


METHOD = Method(
    name="logit_averaging",
    title="Logit averaging",
    source="arXiv:2512.02874; ParScale, QwenLM/ParScale at cd6acb4, is the trained kind",
    what="N readings of one question agree on every token of one answer.",
    place="i",
    sees="the prompt and itself",
    life="N lanes from the prompt on, each with a prompt of its own",
    draws="tied: one token, from the mean of the lanes' logits, for all",
    extra="none (ParScale: learned prefixes and weights)",
    equation="x ~ softmax(mean over lanes of the logits)",
    law="7 (independent)",
    prepare=prepare,
    options={"prompt": "\nAnswer {lane}:", "prompts": None},
    answer="best",
)
