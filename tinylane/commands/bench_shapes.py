"""Well-known decoders by shape, as checkpoints with random weights.

Sizes from the config.json files of the models named. A step's time depends on the shape and the
lengths only, so random weights time like the real ones.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from tinylane.checkpoints.export import config_to_dict
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError
from tinylane.core.rope import RopeConfig
from tinylane.files.safetensors import write_tensors
from tinylane.files.writing import write_json


def _config(family: str, sizes: str, context: int, rope: RopeConfig, **more: Any) -> ModelConfig:
    """sizes: vocabulary, width, layers, heads, key and value heads, head dimension, MLP width."""
    names = ("vocab", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width")
    numbers: dict[str, Any] = dict(zip(names, map(int, sizes.split()), strict=True))
    return ModelConfig(family=family, context=context, rope=rope, tied=True, **numbers, **more)


LLAMA = {"norm_eps": 1e-5}
SHAPES: dict[str, ModelConfig] = {
    "SmolLM2-135M": _config(
        "llama", "49152 576 30 9 3 64 1536", 8192, RopeConfig(base=1e5), **LLAMA
    ),
    "Qwen2.5-0.5B": _config(
        "qwen2", "151936 896 24 14 2 64 4864", 32768, RopeConfig(base=1e6), qkv_bias=True
    ),
    "Qwen3-0.6B": _config(
        "qwen3", "151936 1024 28 16 8 128 3072", 40960, RopeConfig(base=1e6), qk_norm=True
    ),
    "Llama-3.2-1B": _config(
        "llama", "128256 2048 16 32 8 64 8192", 131072, RopeConfig("llama3", 5e5, 32, 8192), **LLAMA
    ),
    # To try the bench itself; no model's default base, so that a peer must have read it.
    "tiny": _config("llama", "512 64 2 4 2 16 128", 4096, RopeConfig("default", 5e4)),
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
