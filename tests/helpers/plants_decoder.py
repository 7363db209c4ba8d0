"""Bugs in the rotation, the lanes, the mask, the decoder and its fused ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from planting import Patch, Plant, instead, swap

from tinylane.core import decoder, lanes, numpy_ops, rope


def interleaved(x: Any, c: Any, s: Any) -> Any:
    half = x.shape[-1] // 2
    a, b, cos, sin = x[..., 0::2], x[..., 1::2], c[..., :half], s[..., half:]
    return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


def separate_softmax(old: Any) -> Any:
    """Each block under a softmax of its own, the results averaged."""

    def attention(queries: Any, keys: Any, values: Any, mask: Any, block_of: Any) -> Any:
        if len(queries) == 1:
            return old(queries, keys, values, mask, block_of)
        shared = (
            block_of == 0 if not isinstance(block_of, int) else np.arange(keys.shape[-2]) < block_of
        )
        seen = np.ones((queries[0].shape[-2], len(shared)), bool) if mask is None else mask
        out = []
        for query, block in zip(queries, (shared, ~shared), strict=True):
            with np.errstate(invalid="ignore"):
                mixed = old((query,), keys, values, seen & block, None)
            out.append(np.nan_to_num(mixed))
        both = (seen & shared).any(1) & (seen & ~shared).any(1)
        return (out[0] + out[1]) / np.where(both, 2, 1)[:, None]

    return attention


def wrong_group_order(old: Any) -> Any:
    """Query head h reads kv head h % K in place of h // (H / K)."""

    def attention(queries: Any, keys: Any, values: Any, mask: Any, block_of: Any) -> Any:
        H, K = queries[0].shape[-3], keys.shape[-3]
        order = np.arange(H).reshape(H // K, K).T.ravel()
        out = old(tuple(q[..., order, :, :] for q in queries), keys, values, mask, block_of)
        return out[..., np.argsort(order), :, :]

    return attention


def remembered(old: Any) -> Any:
    """A mask kept by the number of rows, as a memo table keyed by too little would."""
    known: dict[tuple[int, int], Any] = {}

    def visible(self: Any, i: Any, m: Any, j: Any, n: Any) -> Any:
        return known.setdefault((len(i), len(j)), old(self, i, m, j, n))

    return visible


def yarn_factor(keys: float, queries: float) -> Callable[[Patch], None]:
    """The attention factor, to so many more powers, in the tables of keys and of queries."""

    def make(old: Any) -> Any:
        def plan(config: Any, *args: Any) -> Any:
            made = old(config, *args)
            _, factor = rope.frequencies(config.rope, config.head_dim)
            by = lambda t, power: (t[0] * factor**power, t[1] * factor**power)
            return made._replace(
                keys=[by(t, keys) for t in made.keys],
                queries=[tuple(by(t, queries) for t in ts) for ts in made.queries],
            )

        return plan

    return instead(decoder, "make_plan", make)


def biased_after_rotation(patch: Patch) -> None:
    """The key bias is added to what has been turned already."""
    kept: list[Any] = []
    linear, turn = decoder.linear, decoder.PLAIN.rotate

    def bare(params: Any, name: str, x: Any) -> Any:
        if not name.endswith("k_proj") or name + ".bias" not in params:
            return linear(params, name, x)
        kept.append(params[name + ".bias"])
        return x @ params[name + ".weight"]

    def rotate(x: Any, c: Any, s: Any) -> Any:
        turned = turn(x, c, s)
        return turned + kept.pop().reshape(len(x), 1, -1) if kept else turned

    each = lambda params, names, x: [bare(params, name, x) for name in names]
    ops = decoder.PLAIN._replace(linear=bare, linears=each, rotate=rotate)
    patch.setattr(numpy_ops, "OPS", ops)


def float32_angles(old: Any) -> Any:
    return lambda angles, *rest: old(angles.astype(np.float32), *rest)


DECODER = [
    # rotation
    Plant(
        "rotation sign",
        "one lane",
        swap("rope.rotate", "x * c + flipped * s", "x * c - flipped * s"),
    ),
    Plant(
        "channels paired interleaved, not half-split",
        "one lane",
        instead(rope, "rotate", lambda old: interleaved),
    ),
    Plant(
        "keys turned the other way",
        "token shift",
        swap(
            "decoder.self_attention",
            "*plan.keys[layer])",
            "plan.keys[layer][0], -plan.keys[layer][1])",
        ),
    ),
    Plant("angles in float32", "token shift", instead(rope, "table", float32_angles)),
    Plant(
        "both halves' sine with one sign",
        "one lane",
        swap("rope.table", "[-sin, sin]", "[sin, sin]"),
    ),
    Plant(
        "cosines laid out interleaved",
        "definition",
        swap("rope.table", "np.concatenate([cos, cos], axis=-1)", "np.repeat(cos, 2, axis=-1)"),
    ),
    Plant(
        "frequencies over D/2 channels",
        "frequencies",
        swap(
            "rope.frequencies", "dtype=np.float64) / head_dim", "dtype=np.float64) * 2 / head_dim"
        ),
    ),
    Plant(
        "linear scaling upside down",
        "frequencies",
        swap("rope.frequencies", "return theta / rope.factor", "return theta * rope.factor"),
    ),
    Plant(
        "llama3: fast and slow planes mixed up",
        "frequencies",
        swap(
            "rope.frequencies",
            "(keep + (1 - keep) / rope.factor)",
            "(keep / rope.factor + 1 - keep)",
        ),
    ),
    Plant(
        "yarn: ramp the wrong way",
        "frequencies",
        swap(
            "rope.frequencies",
            "(1 - ramp + ramp / rope.factor)",
            "(ramp + (1 - ramp) / rope.factor)",
        ),
    ),
    Plant("yarn's factor in keys only", "one lane", yarn_factor(0, -1)),
    Plant("yarn's factor twice", "one lane", yarn_factor(1, 1)),
    # lanes in the rotation
    Plant(
        "lane index off by one",
        "group think",
        swap(
            "lanes.LaneRoPE.angles", "np.maximum(lanes, 0)", "(np.maximum(lanes, 0) + (lanes >= 0))"
        ),
    ),
    Plant(
        "lane 0 not turned, the others by m + 1",
        "lane shift",
        swap("lanes.LaneRoPE.angles", "np.maximum(lanes, 0)", "(lanes + (lanes > 0))"),
    ),
    Plant(
        "shared keys turned by -Omega",
        "group think",
        swap("lanes.LaneRoPE.angles", "np.maximum(lanes, 0)", "lanes"),
    ),
    Plant(
        "half of Omega", "periodicity", swap("lanes.LaneRoPE.angles", "* omega", "* (omega / 2)")
    ),
    Plant(
        "Omega of layer 0 in every layer",
        "definition",
        swap("lanes.LaneRoPE.angles", "self.omega[layer]", "self.omega[0]"),
    ),
    Plant(
        "Omega on the prompt",
        "shared prompt",
        swap("lanes.LaneRoPE.views", "and (lanes > 0).any()", "and False"),
    ),
    Plant(
        "prompt keys per lane: queries look at them from lane 0 only",
        "independent",
        swap("lanes.LaneRoPE.views", "(base, turned)", "(base + lanes[:, None], turned)"),
    ),
    Plant(
        "prompt_lane=0 read as own",
        "group think",
        swap(
            "lanes.LaneRoPE.views",
            'self.prompt_lane == "own" and count > 0',
            "count > 0",
        ),
    ),
    Plant(
        "keys not turned by their lane",
        "definition",
        swap("lanes.LaneRoPE.views", "turned, (base, turned)", "base, (base, turned)"),
    ),
    Plant(
        "group_think the other way",
        "group think",
        swap("lanes.LaneRoPE.group_think", "_slot(slot) *", "-_slot(slot) *"),
    ),
    Plant(
        "shared keys taken to stand first",
        "storage order",
        swap(
            "lanes.LaneRoPE.views",
            "(~shared).astype",
            "(np.arange(len(shared)) >= count).astype",
        ),
    ),
    Plant(
        "the two blocks cut one key late",
        "shared prompt",
        swap("lanes.LaneRoPE.views", "(~shared).astype", "np.roll(~shared, 1).astype"),
    ),
    Plant(
        "the two blocks mixed up",
        "shared prompt",
        swap("decoder.scores", "block_of == block", "block_of != block"),
    ),
    # masks
    Plant(
        "other lanes: < for <=",
        "definition",
        swap("lanes.LaneMask.visible", "(age >= self.lag)", "(age > self.lag)"),
    ),
    Plant(
        "own lane: < for <= where it has a past",
        "one lane",
        swap(
            "lanes.LaneMask.visible",
            "np.where((n == SHARED) | (n == m), age >= 0, other)",
            "np.where((n == SHARED) | (n == m), (age > 0) | (age == 0) & (age.max() == 0), other)"
            " | (age == 0) & (n == m) & (positions[:, None] == key_positions.min())",
        ),
    ),
    Plant(
        "a position ahead is seen",
        "causality",
        swap("lanes.LaneMask.visible", "(n == m), age >= 0, other", "(n == m), age >= -1, other"),
    ),
    Plant(
        "the prompt is seen whole",
        "causality",
        swap("lanes.LaneMask.visible", "age >= 0, other)", "(age >= 0) | (n == SHARED), other)"),
    ),
    Plant(
        "own lane not exempt from lag",
        "independent",
        swap(
            "lanes.LaneMask.visible",
            "age >= 0, other)",
            "(age >= 0) & ((n == SHARED) | (age == 0) | (age >= self.lag)), other)",
        ),
    ),
    Plant(
        "lag ignored",
        "causality",
        swap("lanes.LaneMask.visible", "(age >= self.lag)", "(age >= 0)"),
    ),
    Plant(
        "the prompt seen late by lag",
        "one lane",
        swap(
            "lanes.LaneMask.visible",
            "age >= 0, other)",
            "(age >= 0) & ((n == m) | (age >= self.lag)), other)",
        ),
    ),
    Plant(
        "visibility transposed",
        "isolation",
        swap("lanes.LaneMask.visible", "self.visibility[m, n]", "self.visibility[n, m]"),
    ),
    Plant(
        "visibility read one lane off",
        "company",
        swap(
            "lanes.LaneMask.visible",
            "self.visibility[m, n]",
            "self.visibility[m, (n + 1) % self.n]",
        ),
    ),
    Plant(
        "shared rows see lanes",
        "isolation",
        swap("lanes.LaneMask.visible", "(m >= 0) & (n >= 0)", "(n >= 0)"),
    ),
    Plant(
        "everybody sees the lanes' prompts",
        "company",
        swap(
            "lanes.LaneMask.visible",
            "self.visibility[m, n] &",
            "(self.visibility[m, n] | (m > n)) &",
        ),
    ),
    Plant(
        "a mask kept by shape",
        "causality",
        instead(lanes.LaneMask, "visible", remembered),
    ),
    Plant(
        "no mask where one row sees all",
        "steps",
        swap("decoder._sees_all", "int(i.min()) >=", "int(i.max()) >="),
    ),
    Plant(
        "no mask in a step, whoever sees whom",
        "steps",
        swap("decoder._sees_all", "bool(mask.visibility[m].all())", "True"),
    ),
    Plant(
        "reach of one hop only",
        "reach",
        swap("lanes.LaneMask.reaches", "range(self.n)", "range(0)"),
    ),
    Plant(
        "a silenced lane goes deaf, and is still heard",
        "company",
        swap("lanes.LaneMask.silence", "v[:, lane]", "v[lane, :]"),
    ),
    # the decoder
    Plant(
        "softmax over the two blocks separately",
        "shared prompt",
        instead(decoder, "attention", separate_softmax),
    ),
    Plant(
        "heads of a group in the wrong order",
        "one lane",
        instead(decoder, "attention", wrong_group_order),
    ),
    Plant(
        "scores not divided by sqrt(D)",
        "one lane",
        swap("decoder.fold", " * D**-0.5", ""),
    ),
    Plant(
        "masked keys at -5, not -inf",
        "isolation",
        swap(
            "decoder.attention_weights",
            "xp.where(mask, x, -xp.inf)",
            "xp.where(mask, x, x - 5)",
        ),
    ),
    Plant(
        "softmax normalised over all rows",
        "causality",
        swap("decoder.attention_weights", "x.sum(axis=-1, keepdims=True)", "x.sum(keepdims=True)"),
    ),
    Plant(
        "temperature by the number of rows",
        "company",
        swap("decoder.fold", "* D**-0.5", "* D**-0.5 * (1 + T / 100)"),
    ),
    Plant(
        "eps outside of the root",
        "one lane",
        swap("decoder.rms_norm", "xp.sqrt(mean_square + eps)", "(xp.sqrt(mean_square) + eps)"),
    ),
    Plant(
        "norm over all rows",
        "causality",
        swap("decoder.rms_norm", "mean(axis=-1, keepdims=True)", "mean(keepdims=True)"),
    ),
    Plant("bias added after rotation", "one lane", biased_after_rotation),
    Plant(
        "biases dropped",
        "one lane",
        swap("decoder.add_updates", 'return y + params[name + ".bias"]', "return y"),
    ),
    Plant(
        "low-rank update subtracted",
        "one lane",
        swap("decoder.add_updates", "y = y + (x @", "y = y - (x @"),
    ),
    Plant(
        "query norm used for keys",
        "one lane",
        swap("decoder.self_attention", '"k_norm.weight"', '"q_norm.weight"'),
    ),
    Plant(
        "up and gate exchanged",
        "one lane",
        swap("decoder.feed_forward", "ops.gated(gate, up)", "ops.gated(up, gate)"),
    ),
    Plant(
        "no residual around the feed-forward",
        "one lane",
        swap("decoder.block", "return x + feed_forward", "return feed_forward"),
    ),
    Plant(
        "norms of a block exchanged",
        "one lane",
        swap("decoder.block", '"post_attention_layernorm.weight"', '"input_layernorm.weight"'),
    ),
    # MLX's ops
    Plant(
        "mlx: fused attention without a mask",
        "backends",
        swap("mlx_ops.attention", "mask=mask", "mask=None"),
        "mlx float32",
    ),
    Plant(
        "mlx: scale forgotten",
        "backends",
        swap("mlx_ops.attention", "scale=q.shape[-1] ** -0.5", "scale=1.0"),
        "mlx float32",
    ),
    Plant(
        "mlx: rotation sign",
        "backends",
        swap("mlx_ops.rotate", "x * c + flipped * s", "x * c - flipped * s"),
        "mlx float32",
    ),
    Plant(
        "mlx: first query table for every key",
        "backends",
        swap("mlx_ops.attention", "if len(queries) > 1:", "if False:"),
        "mlx float32",
    ),
    Plant(
        "mlx: gate not multiplied by itself",
        "backends",
        swap("mlx_ops.gated", "gate * mx.sigmoid(gate)", "mx.sigmoid(gate)"),
        "mlx float32",
    ),
]
