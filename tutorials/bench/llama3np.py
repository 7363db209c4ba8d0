"""The plain NumPy decoder that people read to learn, as a peer: the algorithm of llama3.np.

What it does as that project does: keys and values repeated for every query head at every step,
weights as transposed views of the file's (out, in) arrays, one batch row per sequence with a prompt
of its own, an attention of plain matmul and softmax, a mask added in prefill. Where it would not
run these checkpoints or would be slow for another reason (float64 caches), it is changed: biases,
query and key norms, the half-split rotation, float32 throughout. It shares no code with
`tinylane.core.decoder` except the reading of files and the frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinylane.core.config import ModelConfig
from tinylane.core.rope import frequencies


class Llama:
    """B sequences, greedy. Weights: as `tinylane.load` gives them on NumPy, in (in, out) order."""

    def __init__(self, config: ModelConfig, params: dict[str, np.ndarray]) -> None:
        self.config = config
        self.w: dict[str, np.ndarray] = {}
        for name in list(params):
            w = params.pop(name)
            if w.ndim == 2 and not name.startswith("model.embed_tokens"):
                w = np.ascontiguousarray(w.T).T  # a transposed view of the file's layout
            self.w[name] = w
        if config.tied:
            self.w["model.embed_tokens.weight"] = self.w["lm_head.weight"].T

    def generate(self, prompt: list[int], batch: int, count: int) -> Iterator[np.ndarray]:
        """The next token (B,) of every sequence, `count` times."""
        c = self.config
        room = len(prompt) + count
        shape = (batch, room, c.kv_heads, c.head_dim)
        self.k = [np.zeros(shape, np.float32) for _ in range(c.layers)]
        self.v = [np.zeros(shape, np.float32) for _ in range(c.layers)]
        theta, factor = frequencies(c.rope, c.head_dim)
        angles = np.outer(np.arange(room), theta)
        self.cos = (np.cos(angles) * factor).astype(np.float32)
        self.sin = (np.sin(angles) * factor).astype(np.float32)
        tokens, start = np.tile(np.array(prompt), (batch, 1)), 0
        for _ in range(count):
            found = self.forward(tokens, start)[:, -1].argmax(-1)
            yield found
            start, tokens = start + tokens.shape[1], found[:, None]

    def forward(self, tokens: np.ndarray, start: int) -> np.ndarray:
        """tokens (B, L) at positions from `start` on -> logits (B, 1, V) of the last."""
        c, L = self.config, tokens.shape[1]
        mask = None
        if L > 1:
            mask = np.triu(np.full((L, L), -np.inf, dtype=np.float32), k=1)
            mask = np.concatenate([np.zeros((L, start), np.float32), mask], axis=1)
        h = self.w["model.embed_tokens.weight"][tokens]
        for i in range(c.layers):
            at = f"model.layers.{i}."
            normed = self.norm(h, at + "input_layernorm")
            h = h + self.attention(normed, i, start, mask)
            normed = self.norm(h, at + "post_attention_layernorm")
            gate = self.linear(normed, at + "mlp.gate_proj")
            gate = gate * (1 / (1 + np.exp(-gate)))
            up = self.linear(normed, at + "mlp.up_proj")
            h = h + self.linear(gate * up, at + "mlp.down_proj")
        return self.norm(h, "model.norm")[:, [-1], :] @ self.w["lm_head.weight"]

    def attention(self, x: np.ndarray, layer: int, start: int, mask: Any) -> np.ndarray:
        c, (B, L, _) = self.config, x.shape
        at = f"model.layers.{layer}.self_attn."
        q = self.linear(x, at + "q_proj").reshape(B, L, c.heads, c.head_dim)
        k = self.linear(x, at + "k_proj").reshape(B, L, c.kv_heads, c.head_dim)
        v = self.linear(x, at + "v_proj").reshape(B, L, c.kv_heads, c.head_dim)
        if c.qk_norm:
            q, k = self.norm(q, at + "q_norm"), self.norm(k, at + "k_norm")
        stop = start + L
        self.k[layer][:, start:stop] = self.rotate(k, start, stop)
        self.v[layer][:, start:stop] = v
        groups = c.heads // c.kv_heads
        keys = np.repeat(self.k[layer][:, :stop], groups, axis=2).transpose(0, 2, 3, 1)
        values = np.repeat(self.v[layer][:, :stop], groups, axis=2).transpose(0, 2, 1, 3)
        q = self.rotate(q, start, stop).transpose(0, 2, 1, 3)
        scores = q @ keys / math.sqrt(c.head_dim)
        if mask is not None:
            scores = scores + mask[None, None]
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores = scores / scores.sum(axis=-1, keepdims=True)
        mixed = (scores @ values).transpose(0, 2, 1, 3).reshape(B, L, -1)
        return self.linear(mixed, at + "o_proj")

    def rotate(self, x: np.ndarray, start: int, stop: int) -> np.ndarray:
        cos, sin = self.cos[None, start:stop, None], self.sin[None, start:stop, None]
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        mean = (x**2).mean(-1, keepdims=True) + np.float32(self.config.norm_eps)
        return x / np.sqrt(mean) * self.w[name + ".weight"]

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        y = x @ self.w[name + ".weight"]
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y
