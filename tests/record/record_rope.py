"""Record what transformers makes of RoPE settings: tests/data/rope.json.

    python tests/record/record_rope.py

Frequencies and attention factors of every kind that tinylane reads, in the settings of published
models. transformers computes them in float32.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

from tinylane.core.rope import RopeConfig

CASES: dict[str, tuple[int, RopeConfig]] = {
    "default": (64, RopeConfig()),
    "default, base 1e6, head_dim 128": (128, RopeConfig(base=1e6)),
    "default, base 500000, head_dim 8": (8, RopeConfig(base=500000.0)),
    "linear 4": (64, RopeConfig("linear", factor=4.0)),
    "llama3, Llama 3.1": (128, RopeConfig("llama3", 500000.0, 8.0, 8192, 1.0, 4.0)),
    "llama3, Llama 3.2 1B": (64, RopeConfig("llama3", 500000.0, 32.0, 8192, 1.0, 4.0)),
    "llama3, other bands": (32, RopeConfig("llama3", 10000.0, 4.0, 512, 2.0, 16.0)),
    "yarn 4, Qwen2.5": (128, RopeConfig("yarn", 1e6, 4.0, 32768)),
    "yarn 16, other betas": (
        64,
        RopeConfig("yarn", 10000.0, 16.0, 4096, beta_fast=16.0, beta_slow=2.0),
    ),
    "yarn, given factor": (64, RopeConfig("yarn", 10000.0, 8.0, 2048, attention_factor=1.25)),
    "yarn, mscale": (64, RopeConfig("yarn", 10000.0, 40.0, 4096, mscale=1.0, mscale_all_dim=0.7)),
    "yarn, not truncated": (64, RopeConfig("yarn", 150000.0, 32.0, 4096, truncate=False)),
    "yarn, tiny head": (8, RopeConfig("yarn", 100.0, 4.0, 16)),
    "yarn, bands beyond the head": (16, RopeConfig("yarn", 10.0, 4.0, 4096, beta_fast=400.0)),
    "yarn, bands on one plane": (8, RopeConfig("yarn", 10000.0, 4.0, 6)),
    "yarn, hardly stretched": (32, RopeConfig("yarn", 10000.0, 1.5, 512)),
}


def from_transformers(rope: RopeConfig, head_dim: int) -> tuple[list[float], float]:
    """Frequencies and attention factor as LlamaRotaryEmbedding has them."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    given: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.base}
    if rope.kind != "default":
        given["factor"] = rope.factor
    if rope.kind in ("llama3", "yarn"):
        given["original_max_position_embeddings"] = rope.original_context
    if rope.kind == "llama3":
        given |= {
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
        }
    if rope.kind == "yarn":
        given |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        given["truncate"] = rope.truncate
        for name in ("attention_factor", "mscale", "mscale_all_dim"):
            if getattr(rope, name) is not None:
                given[name] = getattr(rope, name)
    config = LlamaConfig(
        hidden_size=head_dim * 2,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=int(rope.factor * (rope.original_context or 2048)),
        rope_parameters=given,
    )
    made = LlamaRotaryEmbedding(config)
    return made.inv_freq.double().tolist(), float(made.attention_scaling)


def main() -> None:
    recorded = []
    for name, (head_dim, rope) in CASES.items():
        theta, factor = from_transformers(rope, head_dim)
        entry = {"name": name, "head_dim": head_dim, "rope": asdict(rope)}
        recorded.append({**entry, "theta": theta, "factor": factor})
    path = Path(__file__).parents[1] / "data" / "rope.json"
    path.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in recorded) + "\n]\n")


if __name__ == "__main__":
    main()
