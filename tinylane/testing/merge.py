"""Law 23: attention over all keys is the merge of attention over blocks of them.

    attention(q; union) = sum_b w_b attention(q_b; b)      w = softmax_b(log-sum-exp of b's scores)

Each block may be scored by a query of its own, turned for it (method, section 2.1). So any kernel
that gives its log-sum-exp (FlashAttention, and what serves with it) can serve lanes: one call for
each block, and `merge_blocks`. It is how a long context is cut over machines, too.

    H heads   K kv heads   T rows   S keys   D head dim   B blocks
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.core.model import Model
from tinylane.testing.laws import Report, nothing_to_compare, numbers, verdict, worst_of
from tinylane.testing.samples import Chooser, Sample
from tinylane.testing.tolerances import tolerance

Part = Callable[[Any, Any, Any, np.ndarray], tuple[Any, Any]]


def attention_part(
    query: Any, keys: Any, values: Any, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Attention by definition, in float64: its result (H, T, D) and log-sum-exp (H, T).

    query: (H, T, D), not yet divided by sqrt(D). keys, values: (K, S, D); head h reads kv head
    h // (H / K). mask: (T, S) booleans. A row that sees no key gives 0 and -inf.
    """
    q, k, v = (numbers(x) for x in (query, keys, values))
    k, v = (np.repeat(x, len(q) // len(x), axis=0) for x in (k, v))
    scores = np.where(mask, q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = weights.sum(axis=-1, keepdims=True)
    mixed = weights @ v / np.where(total == 0, 1, total)
    with np.errstate(divide="ignore"):
        return mixed, (np.log(total) + np.where(np.isfinite(top), top, 0))[..., 0]


def merge_blocks(parts: Sequence[tuple[Any, Any]]) -> np.ndarray:
    """B results (H, T, D) with their log-sum-exp (H, T) -> the result over all keys, float64."""
    results, sums = zip(*parts, strict=True)
    lse = np.stack([numbers(x) for x in sums])
    weights = np.exp(lse - lse.max(axis=0))
    shares = (weights / weights.sum(axis=0))[..., None]
    return (np.stack([numbers(x) for x in results]) * shares).sum(axis=0)


def assert_blocks_merge(
    whole: Any,
    queries: Sequence[Any],
    keys: Any,
    values: Any,
    mask: np.ndarray,
    block_of: np.ndarray,
    sample: Sample | None = None,
    part: Part = attention_part,
    *,
    dtype: str = "float64",
) -> Report:
    """Law 23: `whole`, (H, T, D), equals the merge of `part` over blocks by log-sum-exp.

    queries: B times (H, T, D), each for its block. keys, values: (K, S, D). mask: (T, S). block_of:
    (S,) 0 .. B - 1. whole: the result of one attention over all keys: the one to be tested, or None
    for the definition, where `part` is tested: `part(query, keys, values, mask) -> result,
    log-sum-exp`. sample: for the message.
    """
    if (mask.sum(axis=1) == 0).any():
        raise TinylaneError("blocks merge: a row of the mask sees no key")
    parts = []
    for block, query in enumerate(queries):
        of = np.flatnonzero(np.asarray(block_of) == block)
        parts.append(part(query, keys[:, of], values[:, of], mask[:, of]))
    if whole is None:
        whole = _one_softmax(queries, keys, values, mask, np.asarray(block_of))
    off = np.abs(numbers(whole) - merge_blocks(parts)).max(axis=(0, 2))  # (T,)
    allowed = tolerance(dtype, float(np.abs(numbers(values)).max()))
    return verdict("blocks merge", off, allowed, range(len(off)), sample)


def _one_softmax(
    queries: Sequence[Any], keys: Any, values: Any, mask: np.ndarray, block_of: np.ndarray
) -> np.ndarray:
    """(H, T, D): one softmax over all keys, key by key in the query of its block. float64."""
    group = len(queries[0]) // len(keys)
    q = np.stack([numbers(x) for x in queries])[block_of]  # (S, H, T, D)
    k, v = (np.repeat(numbers(x), group, axis=0) for x in (keys, values))
    scores = np.einsum("shtd,hsd->hts", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def merged_in_every_layer(model: Model, sample: Sample, choose: Chooser) -> Report:
    """Law 23 for the attention of every layer of a model, on what it computes for the sample."""
    reports: list[Report] = []
    visible = sample.mask.visible(sample.positions, sample.lanes, sample.positions, sample.lanes)

    def attention(queries: Any, keys: Any, values: Any, mask: Any, block_of: Any) -> Any:
        whole = model.ops.attention(queries, keys, values, mask, block_of)
        blocks = np.zeros(keys.shape[-2], dtype=int) if block_of is None else block_of
        *turned, k, v = (numbers(x) for x in (*queries, keys, values))
        how: dict[str, Any] = {"sample": sample, "dtype": model.dtype}
        reports.append(assert_blocks_merge(whole, turned, k, v, visible, blocks, **how))
        return whole

    watched = replace(model, ops=model.ops._replace(attention=attention))
    watched(*sample.rows, lane_rope=sample.rope, lane_mask=sample.mask)
    return worst_of(reports) if reports else nothing_to_compare("blocks merge")
