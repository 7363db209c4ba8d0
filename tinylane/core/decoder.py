"""The decoder, leaf to root: linear, norm, attention, block, forward.

Pure functions over `params`, a dict of arrays keyed by the checkpoint's own tensor names. One
source serves NumPy and MLX: `xp = x.__array_namespace__()`. Llama, Mistral, Qwen2 and Qwen3 differ
only in which optional tensors are present (biases, query and key norms): there is one decoder.

Lanes enter as data in a `Plan`: angle tables and a mask, both computed from coordinates. A row is a
token with a coordinate; the same forward prefills, decodes, trains and tests.

`Ops` are the functions that a backend may replace with faster ones (`numpy_ops`, `mlx_ops`). The
plain ones below are what runs wherever the faster ones would save nothing (`Model.ops`).
Sources: Llama (arXiv:2302.13971), Qwen2 (arXiv:2407.10671), Qwen3 (arXiv:2505.09388).

    T rows   S keys   H heads   K kv heads   D head dim   C width   V vocab   ... optional batch
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from tinylane.core.config import ModelConfig
from tinylane.core.lanes import LaneMask, Places, Rotation
from tinylane.core.rope import Array, Table, frequencies, rotate, table

Params = dict[str, Array]
Mask = Array | Literal["causal"] | None  # (T, S) booleans, or as `LaneMask.seen` says
BlockOf = np.ndarray | None  # (S,) the block of every key, on the host; None with one block
# `LaneCache.put`: layer, this pass's keys and values -> those of all rows, these last
Put = Callable[[int, Array, Array], tuple[Array, Array]]


class Plan(NamedTuple):
    """Where the rows of one pass stand and whom they see: everything lanes are to the decoder."""

    keys: Sequence[Table]  # per layer: the table that turns this pass's keys
    queries: Sequence[tuple[Table, ...]]  # per layer: one table for every block of keys
    block_of: BlockOf
    mask: Mask  # who sees whom
    side: Any = None  # what a checkpoint's own tensors for lanes do (`tinylane.checkpoints.side`)


def linear(params: Params, name: str, x: Array) -> Array:
    """x (..., in) -> (..., out): `name`.weight (in, out), its bias and low-rank update."""
    return add_updates(params, name, x, x @ params[name + ".weight"])


def add_updates(params: Params, name: str, x: Array, y: Array) -> Array:
    """Adds a layer's low-rank update and its bias, where it has them, to y = x @ weight."""
    if name + ".lora_a" in params:
        y = y + (x @ params[name + ".lora_a"]) @ params[name + ".lora_b"]
    return y + params[name + ".bias"] if name + ".bias" in params else y


def linears(params: Params, names: Sequence[str], x: Array) -> list[Array]:
    """`linear` of one input by several names, which a backend may multiply in one product."""
    return [linear(params, name, x) for name in names]


def embed(params: Params, tokens: Array) -> Array:
    """tokens (..., T) -> (..., T, C)."""
    return params["model.embed_tokens.weight"][tokens]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """x / rms(x) * weight over the last axis, in at least float32 (arXiv:1910.07467)."""
    wide = widen(x)
    xp = wide.__array_namespace__()
    mean_square = (wide * wide).mean(axis=-1, keepdims=True)
    return (wide / xp.sqrt(mean_square + eps)).astype(x.dtype) * weight


def gated(gate: Array, up: Array) -> Array:
    """SwiGLU's product silu(gate) * up (arXiv:2002.05202)."""
    xp = gate.__array_namespace__()
    return gate / (1 + xp.exp(-xp.maximum(gate, -80.0))) * up  # below -80, exp would overflow


def scores(queries: Sequence[Array], keys: Array, block_of: BlockOf) -> Array:
    """q k: (..., K, R, D), (..., K, S, D) -> (..., K, R, S), in the dtype of the keys.

    With several queries each scores the keys of its own block (`Plan.block_of`).
    """
    xp = keys.__array_namespace__()
    result = queries[0] @ keys.swapaxes(-1, -2)
    for block, q in enumerate(queries[1:], start=1):
        result = xp.where(xp.array(block_of == block), q @ keys.swapaxes(-1, -2), result)
    return result


def fold(q: Array, kv_heads: int) -> Array:
    """(..., H, T, D) -> (..., K, H/K*T, D), times D^-0.5: the heads of a group as rows of one
    product, so that K and V are never repeated."""
    *batch, H, T, D = q.shape
    return q.reshape(*batch, kv_heads, H // kv_heads * T, D) * D**-0.5


def matrix(mask: Mask, rows: int, keys: int, xp: Any) -> Array:
    """A mask as booleans (T, S), or None."""
    causal = isinstance(mask, str)
    return xp.arange(keys) <= xp.arange(keys - rows, keys)[:, None] if causal else mask


def attention_weights(
    queries: tuple[Array, ...], keys: Array, mask: Mask, block_of: BlockOf
) -> Array:
    """softmax(q k / sqrt(D)), grouped heads: (..., H, T, D), (..., K, S, D) -> (..., H, T, S).

    One softmax, in at least float32, runs over all blocks of keys.
    """
    xp = keys.__array_namespace__()
    *batch, H, T, _ = queries[0].shape
    K, S = keys.shape[-3:-1]
    folded = [fold(widen(q), K) for q in queries]
    x = scores(folded, widen(keys), block_of).reshape(*batch, H, T, S)
    if mask is not None:
        x = xp.where(matrix(mask, T, S, xp), x, -xp.inf)
    x = xp.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def attention(
    queries: tuple[Array, ...], keys: Array, values: Array, mask: Mask, block_of: BlockOf
) -> Array:
    """`attention_weights`, then each row's weighted sum of values: (..., H, T, D).

    Three keys that a query likes equally give the mean of their values:

    >>> q, k = np.zeros((1, 1, 2)), np.ones((1, 3, 2))
    >>> attention((q,), k, np.array([[[0.0, 3.0], [6.0, 3.0], [0.0, 3.0]]]), None, None).tolist()
    [[[2.0, 3.0]]]
    """
    *batch, H, T, D = queries[0].shape
    K, S = keys.shape[-3:-1]
    weights = attention_weights(queries, keys, mask, block_of)
    folded = weights.reshape(*batch, K, H // K * T, S).astype(values.dtype)
    return (folded @ values).reshape(*batch, H, T, D)


def widen(x: Array) -> Array:
    """At least float32: sums over a row lose too much in 16 bits."""
    return x if x.itemsize >= 4 else x.astype(x.__array_namespace__().float32)


def draw(
    model: Any, sampler: Any, logits: Array, uniforms: Array, history: Any, rows: Any
) -> tuple[Any, Any]:
    """What `sampler` draws, and None: `pipeline.draw` gives the next pass, of `rows`, already."""
    return sampler(logits, uniforms, history), None


class Ops(NamedTuple):
    """Functions that a backend may replace with faster ones of the same signature."""

    linear: Callable[..., Array] = linear
    linears: Callable[..., list[Array]] = linears
    embed: Callable[..., Array] = embed
    rms_norm: Callable[..., Array] = rms_norm
    rotate: Callable[..., Array] = rotate
    gated: Callable[..., Array] = gated
    attention: Callable[..., Array] = attention
    draw: Callable[..., tuple[Any, Any]] = draw


PLAIN = Ops()


def self_attention(
    params: Params, config: ModelConfig, layer: int, x: Array, plan: Plan, ops: Ops, put: Put | None
) -> Array:
    """Project, rotate by (position, lane), attend, project back: (..., T, C) -> (..., T, C)."""
    name = f"model.layers.{layer}.self_attn."
    names = [name + projection for projection in ("q_proj", "k_proj", "v_proj")]
    q, k, v = (  # (..., T, heads, D)
        y.reshape(*y.shape[:-1], -1, config.head_dim) for y in ops.linears(params, names, x)
    )
    if config.qk_norm:
        q = ops.rms_norm(q, params[name + "q_norm.weight"], config.norm_eps)
        k = ops.rms_norm(k, params[name + "k_norm.weight"], config.norm_eps)
    q, k, v = (y.swapaxes(-2, -3) for y in (q, k, v))  # rows to the inner axis: (..., heads, T, D)
    if plan.side is not None:
        k, v = plan.side.keys_values(params, layer, k, v)

    def attend(mask: Mask, entry: int, q: Array, k: Array, values: Array) -> Array:
        keys = ops.rotate(k, *plan.keys[layer])
        queries = tuple(ops.rotate(q, *turn) for turn in plan.queries[layer])
        if put is not None:
            keys, values = put(entry, keys, values)
        mixed = ops.attention(queries, keys, values, mask, plan.block_of).swapaxes(-2, -3)
        return mixed.reshape(*mixed.shape[:-2], -1)

    mixed = attend(plan.mask, layer, q, k, v)
    if plan.side is not None:
        mixed = plan.side.beside(params, layer, mixed, attend, ops)
    return ops.linear(params, name + "o_proj", mixed)


def feed_forward(params: Params, name: str, x: Array, ops: Ops) -> Array:
    """SwiGLU: (..., T, C) -> (..., T, C)."""
    gate, up = ops.linears(params, [name + "gate_proj", name + "up_proj"], x)
    return ops.linear(params, name + "down_proj", ops.gated(gate, up))


def block(
    params: Params,
    config: ModelConfig,
    layer: int,
    x: Array,
    plan: Plan,
    ops: Ops = PLAIN,
    put: Put | None = None,
) -> Array:
    """Attention, then feed-forward: x + f(norm(x)), (..., T, C) -> (..., T, C)."""
    name = f"model.layers.{layer}."
    normed = ops.rms_norm(x, params[name + "input_layernorm.weight"], config.norm_eps)
    x = x + self_attention(params, config, layer, normed, plan, ops, put)
    normed = ops.rms_norm(x, params[name + "post_attention_layernorm.weight"], config.norm_eps)
    x = x + feed_forward(params, name + "mlp.", normed, ops)
    return x if plan.side is None else plan.side.behind(params, layer, x, ops)


def forward(
    params: Params,
    config: ModelConfig,
    tokens: Array,
    plan: Plan,
    ops: Ops = PLAIN,
    put: Put | None = None,
    rows: Array | None = None,
) -> Array:
    """tokens (..., T) -> logits (..., T, V), or of `rows` only: the output head is expensive.

    The coordinates of the T rows are in `plan` and common to the batch. With `put` the keys and
    values of this pass go behind a cache's, and attention sees all of them; the caller commits the
    coordinates.
    """
    x = ops.embed(params, tokens)
    if plan.side is not None:
        x = plan.side.embed(params, x)
    for layer in range(config.layers):
        x = block(params, config, layer, x, plan, ops, put)
    if rows is not None:
        x = x[..., rows, :]
    x = ops.rms_norm(x, params["model.norm.weight"], config.norm_eps)
    return widen(ops.linear(params, "lm_head", x))


def make_plan(
    config: ModelConfig,
    rope: Rotation,
    mask: LaneMask,
    places: Places,
    dtype: Any = np.float32,
    array: Callable[[np.ndarray], Array] = np.asarray,
) -> Plan:
    """The coordinates of one pass -> its angle tables and its mask.

    The rotation says where the rows stand, the mask whom they see. dtype: of the tables. array:
    turns a NumPy array into the backend's.
    """

    def tables(angles: np.ndarray) -> list[Table]:  # one a layer, or one for all
        c, s = table(angles, factor, dtype)
        if angles.ndim == 2:
            return [(array(c), array(s))] * config.layers
        return [(array(c[layer]), array(s[layer])) for layer in range(config.layers)]

    theta, factor = frequencies(config.rope, config.head_dim)
    angles, views, block_of = rope.views(theta, mask, places)
    keys = tables(angles)
    queries = list(zip(*(keys if v is angles else tables(v) for v in views), strict=True))
    seen = mask.seen(places)
    who = array(seen) if isinstance(seen, np.ndarray) else seen
    return Plan(keys, queries, block_of, who)
