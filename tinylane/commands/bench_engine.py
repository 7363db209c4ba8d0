"""tinylane as `tinylane bench` times it: what is decoded, and what the decoding took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding


@dataclass(frozen=True)
class BenchCase:
    """What is decoded: `lanes` generations of one prompt of token ids, `count` tokens each.

    Without an end token. prompt_lane: of joint lanes, "own" or 0 (method, section 2). sampling:
    temperature (0: greedy), top-p and top-k; seed: of the draws.
    """

    prompt: list[int]
    lanes: int
    count: int
    mode: str = "independent"
    prompt_lane: Any = "own"
    sampling: Sequence[float] = (0.0, 1.0, 0)
    seed: int = 0


@dataclass
class Timing:
    """What decoding a case took: seconds to the first token, and of every later step; and the
    tokens of lane 0."""

    first: float
    steps: list[float]
    tokens: list[int]

    @classmethod
    def of(cls, began: float, marks: list[float], tokens: list[int]) -> Timing:
        """began, marks: the clock at the beginning and after every token."""
        steps = [b - a for a, b in pairwise(marks)]
        return cls(marks[0] - began, steps, [int(token) for token in tokens])


class Tinylane:
    """tinylane, timed on one of its backends; the model's tokenizer and end tokens are not used."""

    def __init__(self, model: Model) -> None:
        self.model = replace(
            model, tokenizer=None, config=replace(model.config, eos_ids=()), sampling=None
        )
        self.backend = model.backend
        self.versions = {model.backend: version(model.backend)}

    def decoding(self, case: BenchCase) -> Decoding:
        """The case after its prefill. Joint lanes of a model without Omega get `LaneRoPE.ntk`."""
        rope, joint = self.model.lane_rope, case.mode == "joint"
        if joint and rope is None:
            lanes = max(case.lanes, 2)
            rope = LaneRoPE.ntk(self.model.theta, case.count, lanes, case.prompt_lane)
        named = LaneMask.joint if joint else LaneMask.independent
        return Decoding(
            self.model,
            case.prompt,
            case.lanes,
            max_tokens=case.count,
            sampler=Sampler(*case.sampling),  # type: ignore[arg-type]
            seed=case.seed,
            lane_rope=rope,
            lane_mask=named(case.lanes),
        )

    def run(self, case: BenchCase) -> Timing:
        """Decode a case."""
        began = time.perf_counter()
        decoding = self.decoding(case)
        marks = []
        for _ in decoding:
            marks.append(time.perf_counter())
        return Timing.of(began, marks, decoding.lanes[0].tokens)

    def step_bytes(self, case: BenchCase) -> int:
        """Bytes a decoding step reads in the middle of a case: all weights once, and the cache.

        Of an embedding that is not also the head only the tokens' rows are read: not counted.
        """
        params, c = self.model.params, self.model.config
        skip = "model.embed_tokens."
        weights = sum(w.nbytes for name, w in params.items() if not name.startswith(skip))
        item = params["model.norm.weight"].itemsize
        row = 2 * c.layers * c.kv_heads * c.head_dim * item
        return weights + row * int(len(case.prompt) + case.lanes * case.count / 2)


def load_engine(
    name: str, folder: str | Path, dtype: str, adapter: Any = None, ops: str = "auto"
) -> Tinylane:
    """The engine of that name ("tinylane numpy" or "tinylane mlx") with its checkpoint loaded.

    Other arguments as of `tinylane.load`.
    """
    from tinylane.checkpoints.load import load

    return Tinylane(load(folder, backend=name.split()[1], dtype=dtype, adapter=adapter, ops=ops))


def random_prompt(vocab: int, length: int, seed: int) -> list[int]:
    """Token ids drawn from the vocabulary."""
    return np.random.default_rng(seed).integers(vocab, size=length).tolist()
