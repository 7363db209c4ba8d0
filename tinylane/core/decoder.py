"""The decoder, leaf to root: linear, norm, attention, block, forward; then Model around them.

Pure functions over `params`, a dict of arrays keyed by the checkpoint's own tensor names. One
source serves NumPy and MLX: `xp = x.__array_namespace__()`. Llama, Mistral, Qwen2 and Qwen3 differ
only in which optional tensors are present (biases, query and key norms): there is one decoder.

Lanes enter as data in a `Plan`: angle tables and a mask, both computed from coordinates. A row is a
token with a coordinate; the same forward prefills, decodes, trains and tests.

`Seams` are the functions that have quicker versions, fused in MLX (`tinylane.core.mlx_ops`) or careful of
memory in NumPy (`tinylane.core.numpy_ops`); here is the text.
Sources: Llama (arXiv:2302.13971), Qwen2 (arXiv:2407.10671), Qwen3 (arXiv:2505.09388).

    T rows   S keys   H heads   K kv heads   D head dim   C width   V vocab   ... optional batch
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinylane.core.config import ModelConfig
from tinylane.core.lanes import LaneMask, Rotation
from tinylane.core.rope import Table, frequencies, rotate, table

if TYPE_CHECKING:
    from tinylane.core.cache import LaneCache

Array = Any  # numpy.ndarray or mlx.core.array
Params = dict[str, Array]


class Plan(NamedTuple):
    """Where the rows of one pass stand and whom they see: everything lanes are to the decoder."""

    keys: Sequence[Table]  # per layer: the table that turns this pass's keys
    queries: Sequence[tuple[Table, ...]]  # per layer: one table for every block of keys
    split: Any  # with two blocks, how many keys the first has; else (S,): the block of every key
    mask: Array | None  # (T, S) booleans; None where every row sees every key


def linear(params: Params, name: str, x: Array) -> Array:
    """x (..., in) -> (..., out): `name`.weight (in, out), its bias and low-rank update."""
    y = x @ params[name + ".weight"]
    if name + ".lora_a" in params:
        y = y + (x @ params[name + ".lora_a"]) @ params[name + ".lora_b"]
    return y + params[name + ".bias"] if name + ".bias" in params else y


def linears(params: Params, names: Sequence[str], x: Array) -> list[Array]:
    """`linear` of one input by several names, which a library may multiply in one go."""
    return [linear(params, name, x) for name in names]


def embed(params: Params, tokens: Array) -> Array:
    """tokens (..., T) -> (..., T, C)."""
    return params["model.embed_tokens.weight"][tokens]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """x / rms(x) * weight over the last axis, in at least float32 (arXiv:1910.07467)."""
    wide = _wide(x)
    xp = wide.__array_namespace__()
    mean_square = (wide * wide).mean(axis=-1, keepdims=True)
    return (wide / xp.sqrt(mean_square + eps)).astype(x.dtype) * weight


def gated(gate: Array, up: Array) -> Array:
    """SwiGLU's product silu(gate) * up (arXiv:2002.05202)."""
    xp = gate.__array_namespace__()
    return gate / (1 + xp.exp(-xp.maximum(gate, -80.0))) * up  # below -80, exp would overflow


def attention(
    queries: tuple[Array, ...], keys: Array, values: Array, mask: Array | None, split: Any
) -> Array:
    """softmax(q k / sqrt(D)) v, grouped heads: (..., H, T, D), (..., K, S, D) -> (..., H, T, D).

    With several queries each scores the keys of its block; one softmax runs over all blocks.
    Heads of a group become rows of one product, so K and V are never repeated.
    """
    xp = keys.__array_namespace__()
    *batch, H, T, D = queries[0].shape
    K, S = keys.shape[-3:-1]
    folded = [q.reshape(*batch, K, H // K * T, D) * D**-0.5 for q in queries]
    if isinstance(split, int):
        blocks = (keys[..., :split, :], keys[..., split:, :])
        parts = [q @ k.swapaxes(-1, -2) for q, k in zip(folded, blocks, strict=True)]
        scores = xp.concatenate(parts, axis=-1)
    else:
        scores = folded[0] @ keys.swapaxes(-1, -2)
        for block, q in enumerate(folded[1:], start=1):
            scores = xp.where(split == block, q @ keys.swapaxes(-1, -2), scores)
    scores = _wide(scores)
    if mask is not None:
        scores = scores.reshape(*batch, K, H // K, T, S)
        scores = xp.where(mask, scores, -xp.inf).reshape(*batch, K, H // K * T, S)
    scores = xp.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = scores / scores.sum(axis=-1, keepdims=True)
    return (weights.astype(values.dtype) @ values).reshape(*batch, H, T, D)


def _wide(x: Array) -> Array:
    """At least float32: sums over a row lose too much in 16 bits."""
    return x if x.itemsize >= 4 else x.astype(x.__array_namespace__().float32)


class Seams(NamedTuple):
    """Where a library's fused version may stand in for the text above (same signatures)."""

    linear: Callable[..., Array] = linear
    linears: Callable[..., list[Array]] = linears
    embed: Callable[..., Array] = embed
    rms_norm: Callable[..., Array] = rms_norm
    rotate: Callable[..., Array] = rotate
    gated: Callable[..., Array] = gated
    attention: Callable[..., Array] = attention


PLAIN = Seams()


def self_attention(
    params: Params,
    config: ModelConfig,
    layer: int,
    x: Array,
    plan: Plan,
    seams: Seams,
    cache: LaneCache | None,
) -> Array:
    """Project, rotate by (position, lane), attend, project back: (..., T, C) -> (..., T, C)."""
    name = f"model.layers.{layer}.self_attn."

    names = [name + projection for projection in ("q_proj", "k_proj", "v_proj")]
    q, k, v = (  # (..., T, heads, D)
        y.reshape(*y.shape[:-1], -1, config.head_dim) for y in seams.linears(params, names, x)
    )
    if config.qk_norm:
        q = seams.rms_norm(q, params[name + "q_norm.weight"], config.norm_eps)
        k = seams.rms_norm(k, params[name + "k_norm.weight"], config.norm_eps)
    q, k, v = (y.swapaxes(-2, -3) for y in (q, k, v))  # rows to the inner axis: (..., heads, T, D)
    keys, values = seams.rotate(k, *plan.keys[layer]), v
    queries = tuple(seams.rotate(q, *turn) for turn in plan.queries[layer])
    if cache is not None:
        keys, values = cache.put(layer, keys, values)
    mixed = seams.attention(queries, keys, values, plan.mask, plan.split).swapaxes(-2, -3)
    return seams.linear(params, name + "o_proj", mixed.reshape(*mixed.shape[:-2], -1))


def feed_forward(params: Params, layer: int, x: Array, seams: Seams) -> Array:
    """SwiGLU: (..., T, C) -> (..., T, C)."""
    name = f"model.layers.{layer}.mlp."
    gate, up = seams.linears(params, [name + "gate_proj", name + "up_proj"], x)
    return seams.linear(params, name + "down_proj", seams.gated(gate, up))


def forward(
    params: Params,
    config: ModelConfig,
    tokens: Array,
    plan: Plan,
    seams: Seams = PLAIN,
    cache: LaneCache | None = None,
    rows: Array | None = None,
) -> Array:
    """tokens (..., T) -> logits (..., T, V), or of `rows` only (an output head is dear).

    The coordinates of the T rows are in `plan` and common to the batch. With a cache the keys and
    values of this pass are put behind the cached ones; the caller commits their coordinates.
    """
    x = seams.embed(params, tokens)
    for layer in range(config.layers):
        name = f"model.layers.{layer}."
        normed = seams.rms_norm(x, params[name + "input_layernorm.weight"], config.norm_eps)
        x = x + self_attention(params, config, layer, normed, plan, seams, cache)
        normed = seams.rms_norm(
            x, params[name + "post_attention_layernorm.weight"], config.norm_eps
        )
        x = x + feed_forward(params, layer, normed, seams)
    if rows is not None:
        x = x[..., rows, :]
    x = seams.rms_norm(x, params["model.norm.weight"], config.norm_eps)
    return _wide(seams.linear(params, "lm_head", x))


def make_plan(
    config: ModelConfig,
    rope: Rotation,
    mask: LaneMask,
    positions: np.ndarray,
    lanes: np.ndarray,
    key_positions: np.ndarray,
    key_lanes: np.ndarray,
    dtype: Any = np.float32,
    array: Callable[[np.ndarray], Array] = np.asarray,
) -> Plan:
    """Coordinates of T rows and of all S keys (cached ones first, then these rows) -> Plan.

    The rotation says where the rows stand, the mask whom they see. array: to the backend's.
    """

    def tables(angles: np.ndarray) -> list[Table]:  # one a layer, or one for all
        c, s = table(angles, factor, dtype)
        if angles.ndim == 2:
            return [(array(c), array(s))] * config.layers
        return [(array(c[layer]), array(s[layer])) for layer in range(config.layers)]

    theta, factor = frequencies(config.rope, config.head_dim)
    places = positions, lanes, key_positions, key_lanes
    angles, views, split = rope.views(theta, mask, places)
    keys = tables(angles)
    queries = list(zip(*(keys if v is angles else tables(v) for v in views), strict=True))
    visible = None
    plain = type(mask) is LaneMask  # a mask of its own kind decides row by row
    if not (plain and _sees_all(mask, *places)):
        seen = mask.visible(*places)
        visible = None if seen.all() else array(seen)
    return Plan(keys, queries, array(split) if isinstance(split, np.ndarray) else split, visible)


def _sees_all(mask: LaneMask, i: np.ndarray, m: np.ndarray, j: np.ndarray, n: np.ndarray) -> bool:
    """A decoding step of lanes that all see each other needs no mask: say so cheaply."""
    everyone = mask.lag == 0 and bool((m >= 0).all()) and bool(mask.visibility[m].all())
    return everyone and int(i.min()) >= int(j.max())
