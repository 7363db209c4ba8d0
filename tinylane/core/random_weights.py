"""Random weights for a decoder that is trained from scratch, or tested at random."""

from __future__ import annotations

import numpy as np

from tinylane.core.config import ModelConfig


def random_params(config: ModelConfig, seed: int, std: float = 0.02) -> dict[str, np.ndarray]:
    """NumPy float32 parameters as the decoder takes them (matrices (in, out)), drawn from `seed`.

    Matrices are normal with deviation `std`, those that write to the residual stream smaller by
    sqrt(2 * layers) (GPT-2); norm weights are 1 and biases 0.
    """
    rng = np.random.default_rng(seed)
    C, D, M = config.width, config.head_dim, config.mlp_width
    q_width, kv_width = config.heads * D, config.kv_heads * D
    params: dict[str, np.ndarray] = {}

    def matrix(name: str, rows: int, columns: int, scale: float = 1.0, bias: bool = False) -> None:
        w = rng.standard_normal((rows, columns)) * (std * scale)
        params[name + ".weight"] = w.astype(np.float32)
        if bias:
            params[name + ".bias"] = np.zeros(columns, dtype=np.float32)

    back = (2 * config.layers) ** -0.5
    matrix("model.embed_tokens", config.vocab, C)
    for layer in range(config.layers):
        name = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            params[f"{name}{norm}.weight"] = np.ones(C, dtype=np.float32)
        matrix(name + "self_attn.q_proj", C, q_width, bias=config.qkv_bias)
        matrix(name + "self_attn.k_proj", C, kv_width, bias=config.qkv_bias)
        matrix(name + "self_attn.v_proj", C, kv_width, bias=config.qkv_bias)
        matrix(name + "self_attn.o_proj", q_width, C, back, bias=config.out_bias)
        if config.qk_norm:
            params[name + "self_attn.q_norm.weight"] = np.ones(D, dtype=np.float32)
            params[name + "self_attn.k_norm.weight"] = np.ones(D, dtype=np.float32)
        matrix(name + "mlp.gate_proj", C, M, bias=config.mlp_bias)
        matrix(name + "mlp.up_proj", C, M, bias=config.mlp_bias)
        matrix(name + "mlp.down_proj", M, C, back, bias=config.mlp_bias)
    params["model.norm.weight"] = np.ones(C, dtype=np.float32)
    if config.tied:
        params["lm_head.weight"] = np.ascontiguousarray(params["model.embed_tokens.weight"].T)
        params["model.embed_tokens.weight"] = params["lm_head.weight"].T
    else:
        matrix("lm_head", C, config.vocab)
    return params
