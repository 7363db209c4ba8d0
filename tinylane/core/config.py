"""A decoder's sizes as dataclasses; `tinylane.checkpoints.config_json` reads them from a file."""

from __future__ import annotations

from dataclasses import dataclass, field

from tinylane.core.rope import RopeConfig


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
    context: int = 2048  # positions; max_position_embeddings, or what a scaled rotation reaches
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

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a dense file, in file layout (out, in); no `lm_head` when tied."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.width)}
        for i in range(self.layers):
            at = f"model.layers.{i}."
            shapes[at + "input_layernorm.weight"] = (self.width,)
            for name, out, into, bias in (
                ("self_attn.q_proj", q, self.width, self.qkv_bias),
                ("self_attn.k_proj", kv, self.width, self.qkv_bias),
                ("self_attn.v_proj", kv, self.width, self.qkv_bias),
                ("self_attn.o_proj", self.width, q, self.out_bias),
                ("mlp.gate_proj", self.mlp_width, self.width, self.mlp_bias),
                ("mlp.up_proj", self.mlp_width, self.width, self.mlp_bias),
                ("mlp.down_proj", self.width, self.mlp_width, self.mlp_bias),
            ):
                shapes[at + name + ".weight"] = (out, into)
                if bias:
                    shapes[at + name + ".bias"] = (out,)
            if self.qk_norm:
                shapes[at + "self_attn.q_norm.weight"] = (self.head_dim,)
                shapes[at + "self_attn.k_norm.weight"] = (self.head_dim,)
            shapes[at + "post_attention_layernorm.weight"] = (self.width,)
        shapes["model.norm.weight"] = (self.width,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab, self.width)
        return shapes
