"""The decoder, leaf to root: linear, norm, attention, block, forward; then Model around them.

Pure functions over `params`, a dict of arrays keyed by the checkpoint's own tensor names. One
source serves NumPy and MLX: `xp = x.__array_namespace__()`. Llama, Mistral, Qwen2 and Qwen3 differ
only in which optional tensors are present (biases, query and key norms): there is one decoder.

Lanes enter as data in a `Plan`: angle tables and a mask, both computed from coordinates. A row is a
token with a coordinate; the same forward prefills, decodes, trains and tests.

`Seams` are the functions that have quicker versions, fused in MLX (`tinylane.fast`) or careful of
memory in NumPy (`tinylane.blas`); here is the text.
Sources: Llama (arXiv:2302.13971), Qwen2 (arXiv:2407.10671), Qwen3 (arXiv:2505.09388).

    T rows   S keys   H heads   K kv heads   D head dim   C width   V vocab   ... optional batch
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinylane.config import ModelConfig
from tinylane.errors import TinylaneError
from tinylane.lanes import SHARED, LaneMask, LaneRoPE, Rotation
from tinylane.rope import Table, frequencies, rotate, table

if TYPE_CHECKING:
    from tinylane.cache import LaneCache
    from tinylane.tokenizer import Tokenizer

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


@dataclass
class Model:
    """A decoder with its weights: `model(tokens, positions, lanes)` gives logits.

    params: arrays of one library, matrices so that `x @ w` works. dtype: the activations'.
    lane_rope, visibility, lag: what the checkpoint or its adapter was trained with, the defaults
    of every call. sampling: generation_config's defaults. identity: a digest of its files.
    """

    config: ModelConfig
    params: Params
    backend: str = "numpy"
    dtype: str = "float32"
    tokenizer: Tokenizer | None = None
    lane_rope: LaneRoPE | None = None
    visibility: Any = None  # a name of `LaneMask.named`, or a matrix; None: not trained for lanes
    lag: int = 0
    sampling: dict | None = None
    identity: str = ""
    task: dict | None = None  # the task it was trained on, if its adapter names one
    report: Any = None  # what the loader chose and from where

    def __post_init__(self) -> None:
        if self.backend == "mlx":
            from tinylane.fast import SEAMS
        else:
            from tinylane.blas import SEAMS
        self.seams = SEAMS
        self.theta, self.attention_factor = frequencies(self.config.rope, self.config.head_dim)

    @property
    def trained_for_lanes(self) -> bool:
        """Whether the checkpoint or its adapter says how its lanes read each other."""
        return self.visibility is not None

    def mask(self, n: int) -> LaneMask:
        """The mask for n lanes that this model was trained with, or `independent`."""
        if self.visibility is None or isinstance(self.visibility, str):
            return LaneMask.named(self.visibility or "independent", n, self.lag)
        if len(self.visibility) < n:
            raise TinylaneError(
                f"{n} lanes, but this model's visibility is a matrix for {len(self.visibility)}; "
                "give a visibility"
            )
        return LaneMask(np.asarray(self.visibility)[:n, :n], self.lag)

    def rope(self, lane_rope: Rotation | None = None) -> Rotation:
        """`lane_rope`, checked against this model's sizes, or the model's own, or none."""
        rope = lane_rope or self.lane_rope or LaneRoPE.none(self.theta)
        sizes = (self.config.layers, self.config.head_dim // 2)
        if isinstance(rope, LaneRoPE) and rope.omega.shape not in (sizes, sizes[1:]):
            raise TinylaneError(
                f"Omega has shape {rope.omega.shape}; this model needs ({sizes[1]},) or {sizes}"
            )
        return rope

    def array(self, x: np.ndarray) -> Array:
        """A NumPy array as this backend's."""
        if self.backend == "numpy":
            return x
        import mlx.core as mx

        return mx.array(x)

    def typed(self, x: np.ndarray) -> Array:
        """A NumPy array of floats (bfloat16 as uint16 bits) in the activations' dtype."""
        if self.backend == "numpy":
            return np.ascontiguousarray(x, dtype=self.dtype)
        import mlx.core as mx

        bits = mx.array(x)
        bits = bits.view(mx.bfloat16) if x.dtype == np.uint16 else bits
        return bits.astype(getattr(mx, self.dtype))

    def new_cache(
        self, lane_rope: Rotation | None = None, lane_mask: LaneMask | None = None
    ) -> LaneCache:
        """An empty cache for this model, whose keys will be turned by `lane_rope`."""
        from tinylane.cache import LaneCache

        return LaneCache(self, self.rope(lane_rope), lane_mask)

    def __call__(
        self,
        tokens: Any,
        positions: Any,
        lanes: Any,
        lane_rope: Rotation | None = None,
        lane_mask: LaneMask | None = None,
        cache: LaneCache | None = None,
        rows: Any = None,
    ) -> Array:
        """Logits (T, V), float32 (float64 where the model is), for T rows at their coordinates.

        tokens, positions, lanes: flat integer arrays of one length; lanes may hold SHARED. rows:
        which rows' logits to compute (indices; default all). With a cache, the rows see what it
        holds and are added to it. Raises TinylaneError for anything out of range.
        """
        ids = _integers("tokens", tokens)
        i, m = _integers("positions", positions), _integers("lanes", lanes)
        if not len(ids) == len(i) == len(m) or len(ids) == 0:
            raise TinylaneError(
                f"{len(ids)} tokens, {len(i)} positions, {len(m)} lanes; expected the same number, "
                "at least one"
            )
        if ids.min() < 0 or ids.max() >= self.config.vocab:
            bad = int(ids[(ids < 0) | (ids >= self.config.vocab)][0])
            raise TinylaneError(f"token {bad} is outside the vocabulary of {self.config.vocab}")
        keep = None if rows is None else _integers("rows", rows)
        if keep is not None and not ((keep >= 0) & (keep < len(ids))).all():
            raise TinylaneError(
                f"rows are {keep.min()} .. {keep.max()}; expected 0 .. {len(ids) - 1}"
            )
        if cache is not None:
            cache.check(self, lane_rope)
            lane_rope = cache.lane_rope
            lane_mask = lane_mask or cache.lane_mask
        rope = self.rope(lane_rope)
        key_i = i if cache is None else np.concatenate([cache.positions, i])
        key_m = m if cache is None else np.concatenate([cache.lanes, m])
        mask = lane_mask or self.mask(max(int(key_m.max()) + 1, 1))
        if m.min() < SHARED or key_m.max() >= mask.n:
            raise TinylaneError(
                f"lane {int(m.min() if m.min() < SHARED else key_m.max())} is outside the mask's "
                f"0 .. {mask.n - 1} (SHARED is {SHARED})"
            )
        host = np.float64 if self.dtype == "float64" else np.float32
        plan = make_plan(self.config, rope, mask, i, m, key_i, key_m, host, self.array)
        # MLX gathers by 32-bit indices, unchecked: what is out of range must not get there.
        index = self.array(ids.astype(np.int32))
        some = None if keep is None else self.array(keep.astype(np.int32))
        logits = forward(self.params, self.config, index, plan, self.seams, cache, some)
        if cache is not None:
            cache.commit(i, m)
        return logits


def _integers(name: str, x: Any) -> np.ndarray:
    array = np.asarray(x)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TinylaneError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; expected a flat integer array"
        )
    return array.astype(np.int64)
