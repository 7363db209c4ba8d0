"""The decoder's forward pass, block by block, for training: the same functions as `model.forward`.

What it adds: each block can be a gradient checkpoint (its inside is computed again on the way back
instead of being kept), and log-probabilities come in slices of rows, so that logits of a large
vocabulary never stand in memory all at once. `tests/test_tune.py` holds it against
`model.forward`.

    B batch   T rows   R rows that predict   C width   V vocab
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import mlx.core as mx

from tinylane.config import ModelConfig
from tinylane.fast import SEAMS
from tinylane.model import Plan, Seams, feed_forward, self_attention

LOGITS = 1 << 26  # elements of logits that are computed at a time


def block(
    params: dict[str, mx.array],
    config: ModelConfig,
    layer: int,
    x: mx.array,
    plan: Plan,
    seams: Seams = SEAMS,
) -> mx.array:
    """One block of the decoder, attention then feed-forward: (..., T, C) -> (..., T, C)."""
    name = f"model.layers.{layer}."
    normed = seams.rms_norm(x, params[name + "input_layernorm.weight"], config.norm_eps)
    x = x + self_attention(params, config, layer, normed, plan, seams, None)
    normed = seams.rms_norm(x, params[name + "post_attention_layernorm.weight"], config.norm_eps)
    return x + feed_forward(params, layer, normed, seams)


def hidden(
    params: dict[str, mx.array],
    config: ModelConfig,
    tokens: mx.array,
    plan: Plan,
    rows: mx.array | None = None,
    live: Collection[str] | None = None,
    seams: Seams = SEAMS,
) -> mx.array:
    """tokens (..., T) -> what the output head takes, (..., T, C), or of `rows` only.

    live: the names of the parameters that are being differentiated; given, every block is a
    gradient checkpoint (and only what is handed to it as an argument gets a gradient).
    """
    x = seams.embed(params, tokens)
    for layer in range(config.layers):
        if live is None:
            x = block(params, config, layer, x, plan, seams)
        else:
            x = _checkpointed(params, config, layer, x, plan, live, seams)
    if rows is not None:
        x = x[..., rows, :]
    return seams.rms_norm(x, params["model.norm.weight"], config.norm_eps)


def _checkpointed(
    params: dict[str, mx.array],
    config: ModelConfig,
    layer: int,
    x: mx.array,
    plan: Plan,
    live: Collection[str],
    seams: Seams,
) -> mx.array:
    prefix = f"model.layers.{layer}."
    mine = {name: params[name] for name in live if name.startswith(prefix)}

    def inside(x: mx.array, mine: dict[str, mx.array], keys: Any, queries: Any) -> mx.array:
        here = Plan({layer: keys}, {layer: queries}, plan.split, plan.mask)  # type: ignore[arg-type]
        return block({**params, **mine}, config, layer, x, here, seams)

    return mx.checkpoint(inside)(x, mine, plan.keys[layer], plan.queries[layer])


def logprobs(
    params: dict[str, mx.array], x: mx.array, follows: mx.array, seams: Seams = SEAMS
) -> mx.array:
    """Log-softmax of the head's logits at the tokens that follow: (B, R, C), (B, R) -> (B, R).

    In float32, in slices of rows of at most `LOGITS` logits; all but a single slice are computed
    again on the way back.
    """

    def some(x: mx.array, follows: mx.array, head: dict[str, mx.array]) -> mx.array:
        logits = seams.linear({**params, **head}, "lm_head", x).astype(mx.float32)
        chosen = mx.take_along_axis(logits, follows[..., None], axis=-1)[..., 0]
        return chosen - mx.logsumexp(logits, axis=-1)

    head = {} if "lm_head.scales" in params else {"lm_head.weight": params["lm_head.weight"]}
    vocab = params["lm_head.weight"].shape[0 if "lm_head.scales" in params else -1]
    step = max(LOGITS // (vocab * x.shape[0]), 1)
    if step >= x.shape[1]:
        return some(x, follows, head)
    parts = [
        mx.checkpoint(some)(x[:, k : k + step], follows[:, k : k + step], head)
        for k in range(0, x.shape[1], step)
    ]
    return mx.concatenate(parts, axis=1)
