"""Well-known decoders by shape, as checkpoints with random weights.

Sizes from the config.json files of the models named. A step's time depends on the shape and the
lengths only, so random weights time like the real ones.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from tinylane.checkpoints.config_json import config_to_dict
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError
from tinylane.core.rope import RopeConfig
from tinylane.files.io import write_json
from tinylane.files.safetensors import write_tensors

SHAPES: dict[str, ModelConfig] = {
    "SmolLM2-135M": ModelConfig(
        family="llama",
        vocab=49152,
        width=576,
        layers=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        mlp_width=1536,
        context=8192,
        norm_eps=1e-5,
        rope=RopeConfig(base=100000.0),
        tied=True,
    ),
    "Qwen2.5-0.5B": ModelConfig(
        family="qwen2",
        vocab=151936,
        width=896,
        layers=24,
        heads=14,
        kv_heads=2,
        head_dim=64,
        mlp_width=4864,
        context=32768,
        rope=RopeConfig(base=1e6),
        tied=True,
        qkv_bias=True,
    ),
    "Qwen3-0.6B": ModelConfig(
        family="qwen3",
        vocab=151936,
        width=1024,
        layers=28,
        heads=16,
        kv_heads=8,
        head_dim=128,
        mlp_width=3072,
        context=40960,
        rope=RopeConfig(base=1e6),
        tied=True,
        qk_norm=True,
    ),
    "Llama-3.2-1B": ModelConfig(
        family="llama",
        vocab=128256,
        width=2048,
        layers=16,
        heads=32,
        kv_heads=8,
        head_dim=64,
        mlp_width=8192,
        context=131072,
        norm_eps=1e-5,
        rope=RopeConfig("llama3", 500000.0, 32.0, 8192),
        tied=True,
    ),
    "tiny": ModelConfig(  # to try the bench itself
        family="llama",
        vocab=512,
        width=64,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=16,
        mlp_width=128,
        context=4096,
        rope=RopeConfig("default", 50000.0),  # nobody's default: a peer must have read it
        tied=True,
    ),
}


def shape(name: str) -> ModelConfig:
    """The shape of that name, in any case. Raises TinylaneError listing those there are."""
    for known, config in SHAPES.items():
        if known.lower() == name.lower():
            return config
    raise TinylaneError(f"shape {name!r}; expected one of {', '.join(SHAPES)}")


def write_random(config: ModelConfig, folder: Path, seed: int = 0) -> None:
    """Write a checkpoint of random bfloat16 weights, deviation 0.02 and norms 1, without end token.

    Every tensor is a piece of one long row of random numbers as large as the largest tensor: quick
    to draw, and no two rows of an embedding are alike, so that no logits tie.
    """
    shapes = config.tensors()
    longest = max(math.prod(shape) for shape in shapes.values())
    pool = np.empty(longest + 4096, dtype=np.uint16)
    rng = np.random.default_rng(seed)
    for start in range(0, len(pool), 1 << 22):
        piece = pool[start : start + (1 << 22)]
        drawn = rng.standard_normal(len(piece), dtype=np.float32) * np.float32(0.02)
        piece[:] = drawn.view(np.uint32) >> 16
    ones = np.full(max(config.width, config.head_dim), 0x3F80, dtype=np.uint16)  # bfloat16 1.0
    tensors = {}
    for name, shape in shapes.items():
        size = math.prod(shape)
        at = int(rng.integers(len(pool) - size + 1))
        bits = ones[:size] if name.endswith("norm.weight") else pool[at : at + size]
        tensors[name] = (bits.reshape(shape), "BF16")
    write_json(folder / "config.json", {**config_to_dict(config), "dtype": "bfloat16"})
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
