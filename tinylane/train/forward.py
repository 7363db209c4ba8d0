"""The decoder's forward pass for training, with the functions of `decoder.forward` and less memory.

Each block can be a gradient checkpoint: what is inside is not kept, but computed again for the
gradient. Scores of many rows, and logits of a large vocabulary, are computed in slices of rows.
`tests/train/test_forward.py` compares it with `decoder.forward`.

    B batch   T rows   S keys   R rows that predict   H heads   D head dim   C width   V vocab
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial
from typing import Any

import mlx.core as mx

from tinylane.core.config import ModelConfig
from tinylane.core.decoder import Plan, block, matrix
from tinylane.core.mlx_ops import OPS

LOGITS = 1 << 26  # how many logits are computed at a time
SCORES = 1 << 27  # and how many attention scores


def attention(
    queries: tuple[mx.array, ...], keys: mx.array, values: mx.array, mask: Any, block_of: Any
) -> mx.array:
    """As `mlx_ops.attention`, in slices of query rows where that saves memory: with several blocks
    of keys, for which there is no fused kernel, and many scores."""
    *batch, H, T, _ = queries[0].shape
    rows = max(SCORES // (math.prod(batch) * H * keys.shape[-2]), 1)
    if len(queries) == 1 or rows >= T:
        return OPS.attention(queries, keys, values, mask, block_of)

    whole = matrix(mask, T, keys.shape[-2], mx)

    def some(queries: tuple[mx.array, ...], keys: mx.array, values: mx.array, k: int) -> mx.array:
        seen = None if whole is None else whole[k : k + rows]
        return OPS.attention(queries, keys, values, seen, block_of)

    parts = []
    for k in range(0, T, rows):
        part = tuple(q[..., k : k + rows, :] for q in queries)
        parts.append(mx.checkpoint(partial(some, k=k))(part, keys, values))
    return mx.concatenate(parts, axis=-2)


TRAINING = OPS._replace(attention=attention)


def hidden(
    params: dict[str, mx.array],
    config: ModelConfig,
    tokens: mx.array,
    plan: Plan,
    rows: mx.array | None = None,
    live: Collection[str] | None = None,
) -> mx.array:
    """tokens (..., T) -> the input of the output head, (..., T, C), or of `rows` only.

    live: make every block a gradient checkpoint, and differentiate only the parameters of these
    names.
    """
    x = TRAINING.embed(params, tokens)
    for layer in range(config.layers):
        if live is None:
            x = block(params, config, layer, x, plan, TRAINING)
        else:
            x = _checkpointed(params, config, layer, x, plan, live)
    if rows is not None:
        x = x[..., rows, :]
    return TRAINING.rms_norm(x, params["model.norm.weight"], config.norm_eps)


def _checkpointed(
    params: dict[str, mx.array],
    config: ModelConfig,
    layer: int,
    x: mx.array,
    plan: Plan,
    live: Collection[str],
) -> mx.array:
    prefix = f"model.layers.{layer}."
    mine = {name: params[name] for name in live if name.startswith(prefix)}

    def inside(x: mx.array, mine: dict[str, mx.array], keys: Any, queries: Any) -> mx.array:
        here = Plan({layer: keys}, {layer: queries}, plan.block_of, plan.mask)  # type: ignore[arg-type]
        return block({**params, **mine}, config, layer, x, here, TRAINING)

    return mx.checkpoint(inside)(x, mine, plan.keys[layer], plan.queries[layer])


def logprobs(params: dict[str, mx.array], x: mx.array, follows: mx.array) -> mx.array:
    """Log-softmax of the head's logits at the tokens that follow: (B, R, C), (B, R) -> (B, R).

    In float32, in slices of rows with at most `LOGITS` logits. With several slices, their logits
    are computed again for the gradient.
    """

    def some(x: mx.array, head: dict[str, mx.array], follows: mx.array) -> mx.array:
        logits = TRAINING.linear({**params, **head}, "lm_head", x).astype(mx.float32)
        chosen = mx.take_along_axis(logits, follows[..., None], axis=-1)[..., 0]
        return chosen - mx.logsumexp(logits, axis=-1)

    packed = "lm_head.scales" in params
    head = {} if packed else {"lm_head.weight": params["lm_head.weight"]}
    vocab = params["lm_head.weight"].shape[0 if packed else -1]
    step = max(LOGITS // (vocab * x.shape[0]), 1)
    if step >= x.shape[1]:
        return some(x, head, follows)
    parts = []
    for k in range(0, x.shape[1], step):
        inside = partial(some, follows=follows[:, k : k + step])  # indices take no gradient
        parts.append(mx.checkpoint(inside)(x[:, k : k + step], head))
    return mx.concatenate(parts, axis=1)
