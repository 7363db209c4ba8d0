"""The oracle of `decoding`: no cache, no batch, a fresh pass over all rows for each token.

Slow, and short enough to check by eye. The fast path is tested against it. Not handled: stop
strings, budgets, lanes that join or leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinylane.core.lanes import SHARED, LaneMask, Rotation, Row
from tinylane.core.result import Lane
from tinylane.core.sampling import Sampler, uniform

if TYPE_CHECKING:
    from tinylane.core.model import Model


def naive(
    model: Model,
    prompt: Sequence[int],
    lane_prompts: Sequence[Sequence[int]],
    max_tokens: int,
    sampler: Sampler,
    lane_rope: Rotation,
    lane_mask: LaneMask,
    seed: int = 0,
) -> list[Lane]:
    """The lanes that `Loop` with the same settings must give, one at a time.

    prompt, lane_prompts: token ids. Raises what `Model.__call__` raises.
    """
    clock = len(prompt) + max(map(len, lane_prompts))
    rows: list[Row] = [(token, i, SHARED) for i, token in enumerate(prompt)]
    lanes = [Lane(m, list(ids), clock, max_tokens) for m, ids in enumerate(lane_prompts)]
    for lane in lanes:
        begin = clock - len(lane.prompt)
        rows += [(token, begin + k, lane.index) for k, token in enumerate(lane.prompt)]
    for i in range(clock, clock + max_tokens):
        fed = list(rows)
        for lane in (x for x in lanes if x.finish_reason is None):
            mine = [k for k, row in enumerate(fed) if row[2] == lane.index]
            last = mine[-1] if mine else len(prompt) - 1
            tokens, positions, places = (np.array(column) for column in zip(*fed, strict=True))
            logits = model(tokens, positions, places, lane_rope, lane_mask, rows=np.array([last]))
            draw = np.array([uniform(seed, lane.index, len(lane.tokens))])
            history = [[*prompt, *lane.prompt, *lane.tokens]]
            drawn, logprob = sampler(logits, draw, history)
            lane.tokens.append(int(drawn[0]))
            lane.logprobs.append(float(logprob[0]))
            if lane.tokens[-1] in model.end_ids:
                lane.finish_reason = "stop"
            else:
                rows.append((lane.tokens[-1], i, lane.index))
    for lane in lanes:
        lane.finish_reason = lane.finish_reason or "length"
    return lanes
