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
import numpy as np

from tinylane.core.config import ModelConfig
from tinylane.core.decoder import Plan, block, matrix
from tinylane.core.mlx_ops import OPS, blocks
from tinylane.train.exponentials import SLOW, gated, logsumexp, softmax

LOGITS = 1 << 23 if SLOW else 1 << 26  # how many logits are computed at a time
SCORES = 1 << 27  # and how many attention scores
ROWS = 96  # and of how many query rows, where exp is slow

whole = partial(blocks, softmax) if SLOW else OPS.attention


def attention(
    queries: tuple[mx.array, ...], keys: mx.array, values: mx.array, mask: Any, block_of: Any
) -> mx.array:
    """As `mlx_ops.attention`, in slices of query rows where that saves memory: with several blocks
    of keys, for which there is no fused kernel, and many scores. Where exp is slow slices are
    small: keys behind the last one that their rows see are left out."""
    *batch, H, T, _ = queries[0].shape
    room = max(SCORES // (math.prod(batch) * H * keys.shape[-2]), 1)
    large = room < T and (SLOW or len(queries) > 1)
    rows = min(room, ROWS) if SLOW else room if large else T
    if rows >= T:
        return whole(queries, keys, values, mask, block_of)
    mask = matrix(mask, T, keys.shape[-2], mx)
    seen: Any = None if mask is None else np.asarray(mask)

    def some(queries: tuple[mx.array, ...], keys: mx.array, values: mx.array, k: int) -> mx.array:
        stop, part = keys.shape[-2], None
        if seen is not None:
            stop -= int(seen[k : k + rows].any(axis=0)[::-1].argmax())
            part = mask[k : k + rows, :stop]
        block = None if block_of is None else block_of[:stop]
        if block is not None and not block.any():
            block, queries = None, queries[:1]
        return whole(queries, keys[..., :stop, :], values[..., :stop, :], part, block)

    parts = []
    for k in range(0, T, rows):
        these = tuple(q[..., k : k + rows, :] for q in queries)
        one = partial(some, k=k)
        parts.append((mx.checkpoint(one) if large else one)(these, keys, values))
    return mx.concatenate(parts, axis=-2)


TRAINING = OPS._replace(attention=attention, gated=gated if SLOW else OPS.gated)


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
    if plan.side is not None:
        x = plan.side.embed(params, x)
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
        here = plan._replace(keys={layer: keys}, queries={layer: queries})  # type: ignore[arg-type]
        return block({**params, **mine}, config, layer, x, here, TRAINING)

    return mx.checkpoint(inside)(x, mine, plan.keys[layer], plan.queries[layer])


def logprobs(
    params: dict[str, mx.array], x: mx.array, follows: mx.array, frozen: bool = False
) -> mx.array:
    """Log-softmax of the head's logits at the tokens that follow: (B, R, C), (B, R) -> (B, R).

    In float32, in slices of rows with at most `LOGITS` logits. frozen: the head takes no gradient.
    Then a slice computes its derivative by its rows of x at once, and keeps no logits for it: the
    derivative of a row's log-probability is a row. Otherwise, with several slices, their logits are
    computed again for the gradient.
    """

    def some(x: mx.array, head: dict[str, mx.array], follows: mx.array) -> mx.array:
        logits = TRAINING.linear({**params, **head}, "lm_head", x).astype(mx.float32)
        chosen = mx.take_along_axis(logits, follows[..., None], axis=-1)[..., 0]
        return chosen - logsumexp(logits)

    packed = "lm_head.scales" in params
    head = {} if packed else {"lm_head.weight": params["lm_head.weight"]}
    vocab = params["lm_head.weight"].shape[0 if packed else -1]
    step = max(LOGITS // (vocab * x.shape[0]), 1)
    parts = []
    for k in range(0, x.shape[1], step):
        rows = x[:, k : k + step]
        inside = partial(some, follows=follows[:, k : k + step])  # indices take no gradient
        if frozen:
            fixed = mx.stop_gradient(rows)
            each = partial(inside, head={})
            (value,), (slope,) = mx.vjp(each, [fixed], [mx.ones(rows.shape[:2])])
            parts.append(value + ((rows - fixed) * mx.stop_gradient(slope)).sum(axis=-1))
        elif step >= x.shape[1]:
            parts.append(inside(rows, head))
        else:
            parts.append(mx.checkpoint(inside)(rows, head))
    return mx.concatenate(parts, axis=1)
