"""A small model for the state machines, and decodings that follow a random script."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from tinylane.core.config import ModelConfig
from tinylane.core.lanes import LaneMask, Rotation
from tinylane.core.model import Model
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding
from tinylane.testing.machine import CacheMachine, check_machine
from tinylane.testing.samples import random_weights
from tinylane.testing.shadow import Shadow
from tinylane.testing.strategies import lane_ropes, masks, scripts

VOCAB = 11
CONFIG = ModelConfig(
    family="qwen2",
    vocab=VOCAB,
    width=16,
    layers=1,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp_width=16,
    qkv_bias=True,
    eos_ids=(0,),
)
THETA = np.array([1.0, 0.3, 0.1, 0.03])


def small(backend: str, dtype: str, layers: int = 1) -> Model:
    config = replace(CONFIG, layers=layers)
    params: dict[str, Any] = random_weights(config, 7)
    if backend == "mlx":
        mx = pytest.importorskip("mlx.core")
        params = {name: mx.array(w) for name, w in params.items()}
    else:
        params = {name: w.astype(dtype) for name, w in params.items()}
    return Model(config, params, backend, dtype, identity="small")


def run_machine(backend: str, kind: Any = CacheMachine, **options: Any) -> None:
    check_machine(kind, small(*backend.split()), **options)


SCRIPT = {
    "script": scripts(VOCAB, 10),
    "mask": masks(6),
    "rope": lane_ropes(THETA, n=6),
    "prompt": st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3),
    "own": st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=2), min_size=1, max_size=3),
    "seed": st.integers(0, 99),
    "chunk": st.integers(1, 4),
    "penalty": st.sampled_from((1.0, 1.4)),
}


def follow(
    script: list[Any],
    mask: LaneMask,
    rope: Rotation,
    prompt: list[int],
    own: list[list[int]],
    seed: int,
    chunk: int,
    penalty: float,
) -> None:
    """Decode as the script says; every token must be the one that a pass over all rows gives."""
    d = Decoding(
        small("numpy", "float64"),
        prompt,
        len(own),
        max_tokens=50,
        sampler=Sampler(repetition_penalty=penalty),
        lane_rope=rope,
        lane_mask=mask,
        lane_prompts=own,
        seed=seed,
        chunk=chunk,
    )
    shadow = Shadow(d)
    for name, *rest in script:
        if name == "join":
            if len(d.lanes) < mask.n:
                shadow.join(rest[0])
        elif not d.live:
            continue
        elif name == "step":
            shadow.step()
        else:
            lane = d.live[rest[0] % len(d.live)].index
            if name == "finish":
                d.finish(lane)
            elif name == "drop":
                shadow.drop(lane)
            elif len(d.lanes) < mask.n:
                shadow.fork(lane)
    if d.live:
        shadow.step()
