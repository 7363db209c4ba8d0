"""The definition, in float64 (method, section 2 and section 3), without tables and without a cache.

Planes are complex numbers, and a score is the sum over planes of Re(conj(q) k e^(i delta)), where
delta is the relative angle of key and query. A wrong sign, pairing or frequency shows here; a test
of shift invariance would not see it. Written to be read beside the papers. Weights are widened one
at a time, because all weights of a large model in float64 would not fit in memory.

    T rows   H heads   D head dim   V vocab
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinylane.checkpoints.quantized import Packing, dequantize
from tinylane.core.config import ModelConfig
from tinylane.core.decoder import widen
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.rope import frequencies

AT_ONCE = 8192  # outputs of a matrix that are widened together


def visible_by_definition(
    positions: Any, lanes: Any, mask: LaneMask, across: bool = False
) -> np.ndarray:
    """(T, T) booleans, method, section 3, sentence by sentence: may row t see row s? across: in
    LACE."""
    reads = mask.side if across and mask.side is not None else mask.visibility
    seen = np.zeros((len(positions), len(positions)), dtype=bool)
    for t, (i, m) in enumerate(zip(positions, lanes, strict=True)):
        for s, (j, n) in enumerate(zip(positions, lanes, strict=True)):
            if n in (SHARED, m):
                seen[t, s] = j <= i
            elif m != SHARED:
                seen[t, s] = reads[m, n] and j <= i - mask.lag
                if mask.since is not None and mask.until is not None:
                    seen[t, s] &= mask.since[m, n] <= i < mask.until[m, n]
    return seen


def same_step_by_definition(positions: Any, lanes: Any, mask: LaneMask) -> np.ndarray:
    """(T, T) booleans: may row t read row s of its own step in the side path?"""
    same = np.eye(len(positions), dtype=bool)
    reads = mask.side if mask.side is not None else mask.visibility & (mask.lag == 0)
    for t, (i, m) in enumerate(zip(positions, lanes, strict=True)):
        for s, (j, n) in enumerate(zip(positions, lanes, strict=True)):
            if i == j and m != SHARED and n != SHARED and m != n:
                same[t, s] = reads[m, n]
    return same


def relative_angles(
    theta: np.ndarray, rope: LaneRoPE | None, layer: int, positions: Any, lanes: Any
) -> np.ndarray:
    """(T, T, D/2): theta * (j - i) + Omega * (n - m) (method, section 2.1). rope None: plain."""
    i, m = np.asarray(positions), np.maximum(lanes, 0)
    angles = (i[None, :] - i[:, None])[..., None] * theta
    if rope is None:
        return angles
    apart = m[None, :] - m[:, None]
    if rope.prompt_lane == "own":  # the prompt has the lane of the row that reads it
        apart = np.where(np.asarray(lanes)[None, :] == SHARED, 0, apart)
    return angles + apart[..., None] * (rope.omega if rope.omega.ndim == 1 else rope.omega[layer])


def view_distances(
    positions: Any, lanes: Any, visible: np.ndarray, order: Sequence[int] = ()
) -> np.ndarray:
    """(T, T) integers, Hogwild!: the place of key s in the view of row t, less the place of t.

    The view is one list: the shared rows that t sees, the rows of other lanes lane by lane (those
    in `order` first), then the rows of t's lane, each in the order of positions. 0 for rows that t
    does not see.
    """
    first = [SHARED, *order, *sorted({*lanes} - {SHARED, *order})]
    apart = np.zeros(visible.shape, dtype=np.int64)
    for t, m in enumerate(lanes):
        rows = np.flatnonzero(visible[t]).tolist()
        view = sorted(rows, key=lambda s: (lanes[s] == m, first.index(lanes[s]), positions[s]))
        apart[t, view] = np.arange(len(view)) - view.index(t)
    return apart


def reference(
    config: ModelConfig,
    params: dict[str, Any],
    tokens: Any,
    positions: Any,
    lanes: Any = None,
    rope: LaneRoPE | Hogwild | None = None,
    visible: np.ndarray | None = None,
    noise: float = 0.0,
    same: np.ndarray | None = None,
    across: np.ndarray | None = None,
) -> np.ndarray:
    """Logits (T, V), float64. Without lanes and rope: the unmodified model.

    params: as the decoder takes them, of either library, in any dtype, MLX-quantized ones too.
    visible: (T, T) booleans; None is causal. noise: the standard deviation of a relative error of
    each matrix and norm result, as from rounding; the same errors in every call. same: (T, T), who
    sees whom across a bridge; None: each row itself. across: as visible, of LACE; None: the same.
    """
    positions = np.asarray(positions)
    lanes = np.zeros_like(positions) if lanes is None else np.asarray(lanes)
    if visible is None:
        visible = positions[None, :] <= positions[:, None]
    theta, factor = frequencies(config.rope, config.head_dim)
    get = _Weights(params, config.width, noise)
    x, table = get.embedded(np.asarray(tokens)), "model.lane_embed.weight"
    x = x + get[table][lanes + 1] if table in get else x
    for layer in range(config.layers):
        if isinstance(rope, Hogwild):
            delta = view_distances(positions, lanes, visible, rope.order)[..., None] * theta
        elif layer == 0 or (rope is not None and rope.omega.ndim == 2):
            delta = relative_angles(theta, rope, layer, positions, lanes)
        at = f"model.layers.{layer}."
        y = _norm(get, at + "input_layernorm", x, config.norm_eps)
        seen = (visible, visible if across is None else across)
        x = x + _attention(config, get, at, y, lanes, delta, seen, factor)
        y = _norm(get, at + "post_attention_layernorm", x, config.norm_eps)
        x = x + _feed_forward(get, at + "mlp.", y)
        if at + "bridge.norm.weight" in get:
            y = _norm(get, at + "bridge.norm", x, config.norm_eps)
            x = x + _bridge(config, get, at + "bridge.", y, same)
        if at + "p_match.norm.weight" in get:
            x = x + _feed_forward(
                get, at + "p_match.", _norm(get, at + "p_match.norm", x, config.norm_eps)
            )
    return _linear(get, "lm_head", _norm(get, "model.norm", x, config.norm_eps))


def widened(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """The parameters as NumPy float64 (bfloat16, which NumPy does not have, through float32)."""
    return {name: _wide(w) for name, w in params.items()}


def _wide(w: Any, dtype: Any = np.float64) -> np.ndarray:
    return np.asarray(widen(w), dtype=dtype)


class _Weights:
    """Parameters in float64, each widened (and unpacked, if quantized) when it is asked for."""

    def __init__(self, params: dict[str, Any], width: int, noise: float) -> None:
        self.params, self.width, self.noise = params, width, noise
        self.rng = np.random.default_rng(0)

    def rounded(self, y: np.ndarray) -> np.ndarray:
        """y with noise, if any."""
        return y * (1 + self.noise * self.rng.standard_normal(y.shape)) if self.noise else y

    def __getitem__(self, name: str) -> np.ndarray:
        return _wide(self.params[name])

    def __contains__(self, name: str) -> bool:
        return name in self.params

    def outputs(self, path: str) -> int:
        """The number of outputs of a matrix."""
        if path + ".scales" in self:
            return self.params[path + ".scales"].shape[0]
        return self.params[path + ".weight"].shape[1]

    def matrix(self, path: str, inputs: int, which: slice) -> np.ndarray:
        """(in, the outputs `which`)."""
        if path + ".scales" in self:
            return self._unpacked(path, inputs, which).T
        return _wide(self.params[path + ".weight"][:, which])

    def embedded(self, tokens: np.ndarray) -> np.ndarray:
        """(T, width)"""
        path, weight = "model.embed_tokens", self.params["model.embed_tokens.weight"]
        index = tokens if isinstance(weight, np.ndarray) else _mlx(tokens)
        if path + ".scales" in self:
            return self._unpacked(path, self.width, index)
        return _wide(weight[index])

    def _unpacked(self, path: str, inputs: int, rows: Any) -> np.ndarray:
        weight, scales = (self.params[path + part][rows] for part in (".weight", ".scales"))
        bits, group = weight.shape[1] * 32 // inputs, inputs // scales.shape[1]
        kind, scales, biases = "mxfp4", np.array(scales), None
        if path + ".biases" in self:
            kind, scales = "affine", _wide(scales, np.float32)
            biases = _wide(self.params[path + ".biases"][rows], np.float32)
        return _wide(dequantize(np.array(weight), scales, biases, Packing(kind, bits, group)))


def _mlx(tokens: np.ndarray) -> Any:
    import mlx.core as mx

    return mx.array(tokens.astype(np.int32))


def _attention(
    config: ModelConfig,
    get: _Weights,
    at: str,
    x: np.ndarray,
    lanes: np.ndarray,
    delta: np.ndarray,
    seen: tuple[np.ndarray, np.ndarray],
    factor: float,
) -> np.ndarray:
    """seen: who sees whom, and who in LACE (arXiv:2604.15529)."""
    D, lace, at = config.head_dim, at + "lace.", at + "self_attn."
    q = _linear(get, at + "q_proj", x).reshape(len(x), -1, D)
    k = _linear(get, at + "k_proj", x).reshape(len(x), -1, D)
    v = _linear(get, at + "v_proj", x).reshape(len(x), -1, D)
    if config.qk_norm:
        q = _norm(get, at + "q_norm", q, config.norm_eps)
        k = _norm(get, at + "k_norm", k, config.norm_eps)
    if at + "lane_kv.weight" in get:
        k, v = (y + get[at + "lane_kv.weight"][lanes + 1][:, None, :] for y in (k, v))
    mixed = _mixed(q, k, v, delta, seen[0], factor)
    if lace + "up_proj.weight" in get:
        narrow = _linear(get, lace + "down_proj", mixed)
        q, k, v = (
            _linear(get, f"{lace}{name}_proj", narrow).reshape(len(x), -1, D) for name in "qkv"
        )
        opened = 1 / (1 + np.exp(-_linear(get, lace + "gate_proj", mixed)))
        more = _mixed(q, k, v, delta, seen[1], factor)
        mixed = mixed + opened * _linear(get, lace + "up_proj", more)
    return _linear(get, at + "o_proj", mixed)


def _mixed(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, delta: np.ndarray, visible: np.ndarray,
    factor: float,
) -> np.ndarray:  # fmt: skip
    """(T, H, D), (T, K, D) twice -> (T, H D), head by head."""
    D, group = q.shape[-1], q.shape[1] // k.shape[1]
    q, k = q[..., : D // 2] + 1j * q[..., D // 2 :], k[..., : D // 2] + 1j * k[..., D // 2 :]
    turn, mixed = np.exp(1j * delta), []
    for head in range(q.shape[1]):
        kv_head = head // group
        scores = np.einsum("td,sd,tsd->ts", q[:, head].conj(), k[:, kv_head], turn).real
        scores = np.where(visible, scores * factor**2 / np.sqrt(D), -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        mixed.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, kv_head])
    return np.concatenate(mixed, axis=1)


def _feed_forward(get: _Weights, at: str, x: np.ndarray) -> np.ndarray:
    gate = _linear(get, at + "gate_proj", x)
    return _linear(
        get, at + "down_proj", gate / (1 + np.exp(-gate)) * _linear(get, at + "up_proj", x)
    )


def _bridge(
    config: ModelConfig, get: _Weights, at: str, x: np.ndarray, same: np.ndarray | None
) -> np.ndarray:
    """Row by row, head by head (arXiv:2510.01143)."""
    q, k, v = (_linear(get, f"{at}{name}_proj", x) for name in "qkv")
    D, mixed = min(config.head_dim, q.shape[1]), np.zeros_like(v)
    for t in range(len(x)):
        rows = np.array([t]) if same is None else np.flatnonzero(same[t])
        for head in range(0, q.shape[1], D):
            part = slice(head, head + D)
            weights = np.exp(k[rows, part] @ q[t, part] / np.sqrt(D))
            mixed[t, part] = weights / weights.sum() @ v[rows, part]
    return _linear(get, at + "o_proj", mixed)


def _linear(get: _Weights, name: str, x: np.ndarray) -> np.ndarray:
    parts, count = [], get.outputs(name)
    for which in (slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE)):
        w = get.matrix(name, x.shape[-1], which)
        if name + ".lora_a" in get:
            w = w + get[name + ".lora_a"] @ get[name + ".lora_b"][:, which]
        parts.append(x @ w)
    y = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    return get.rounded(y + get[name + ".bias"] if name + ".bias" in get else y)


def _norm(get: _Weights, name: str, x: np.ndarray, eps: float) -> np.ndarray:
    y = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * get[name + ".weight"]
    return get.rounded(y)
