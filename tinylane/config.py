"""`config.json` of a Hugging Face checkpoint, as the few numbers the decoder needs.

What changes the mathematics and is not implemented is refused by name, never ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RopeConfig:
    """Which angular frequencies the checkpoint was trained with (see `tinylane.rope`)."""

    kind: str = "default"  # default, linear, llama3, yarn
    base: float = 10000.0
    factor: float = 1.0
    original_context: int = 0  # llama3, yarn: the context before it was stretched
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn: None means 0.1 ln(factor) + 1
    mscale: float | None = None  # yarn, DeepSeek's spelling of the attention factor
    mscale_all_dim: float | None = None
    truncate: bool = True  # yarn: round the correction range to whole planes


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's sizes. Names of the field; `source` says which file they came from."""

    family: str = "llama"  # llama, qwen2, qwen3, mistral
    vocab: int = 256
    width: int = 64  # hidden_size
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    mlp_width: int = 128  # intermediate_size
    context: int = 2048  # max_position_embeddings
    norm_eps: float = 1e-6
    rope: RopeConfig = field(default_factory=RopeConfig)
    tied: bool = False  # the output head is the embedding
    qkv_bias: bool = False
    out_bias: bool = False  # o_proj
    mlp_bias: bool = False
    qk_norm: bool = False  # Qwen3: RMSNorm over each query's and key's head_dim
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    dtype: str = "float32"  # what the checkpoint says of itself
    quantization: dict | None = None  # MLX-quantized: group_size, bits, mode, overrides by path
    source: str = "config.json"
