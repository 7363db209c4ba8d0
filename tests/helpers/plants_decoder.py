"""Bugs in the decoder and its fast operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from planting import Patch, Plant, instead, swap

from tinylane.core import decoder, numpy_ops


def separate_softmax(old: Any) -> Any:
    """A softmax for each block, and the mean of the results."""

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


DECODER = [
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
            "xp.where(matrix(mask, T, S, xp), x, -xp.inf)",
            "xp.where(matrix(mask, T, S, xp), x, x - 5)",
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
        swap(
            "decoder.block",
            'x = x + feed_forward(params, name + "mlp',
            'x = feed_forward(params, name + "mlp',
        ),
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
