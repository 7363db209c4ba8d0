"""A decoding of a method on a small model: begun, stepped, and told what to write."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers_methods import PROMPT, WARM, small

from tinylane.methods import decode
from tinylane.methods.decoding import Decoding
from tinylane.methods.prompt import encode_lane_prompt

MODEL = small()
END = next(iter(MODEL.tokenizer.eos_ids))


def ids(text: str) -> list[int]:
    return encode_lane_prompt(MODEL, text)


def begin(name: str, lanes: int = 3, **options: Any) -> Decoding:
    limit = options.pop("max_tokens", 12)
    how = {"max_tokens": limit, "sampler": WARM, "seed": 1, "options": options}
    return decode(MODEL, PROMPT, name, lanes, **how)


def go(d: Decoding, steps: int = 400) -> Decoding:
    """That many steps, each after its schedule, or to the end."""
    for _ in range(steps):
        if d.schedule is not None:
            d.schedule(d)
        if not d.live:
            break
        d.step()
    return d


def write(d: Decoding, lane: int, text: str) -> Decoding:
    """Let a lane write this."""
    d.give(lane, text)
    return go(d, len(ids(text)))


def texts(d: Decoding) -> list[str]:
    return [lane.text for lane in d.lanes]


def reads(d: Decoding, lane: int, at: int | None = None) -> set[int]:
    """Whom a lane reads at a position."""
    i, n = np.array([d.position(lane) if at is None else at]), np.arange(len(d.lanes))
    seen = d.mask.visible(i, np.array([lane]), np.zeros_like(n), n)[0]
    return set(n[seen].tolist()) - {lane}
