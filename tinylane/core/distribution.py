"""From scores to a distribution over the vocabulary, and to one token of it.

A running sum over 150,000 weights in float32 is wrong by more than a token's weight, and a GPU has
no float64. So the vocabulary is cut into blocks: a token is sought among the blocks' weights, then
within one. Shares of a total are integers there, whose sums are exact in any order of addition.

    N rows   V vocabulary   B blocks   k top-k
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any  # a NumPy or MLX array
BLOCK = 128  # tokens
COLDEST = 1e-30  # float32 holds it, and one float32 spacing divided by it already has weight 0


def draw_from(scores: Array, uniforms: Any, s: Any) -> Array:
    """(N,) tokens, of scores (N, V): where the running sum of the weights reaches `uniforms` (N,),
    times the total; at temperature 0 the largest score. s: a `Sampler`."""
    if s.temperature == 0:
        return scores.argmax(axis=-1)  # the lowest id of equals
    xp = scores.__array_namespace__()
    blocks, masses, weigh = weights(scores, s)
    one, dtype = _one(xp)
    u = np.ceil(np.asarray(uniforms, dtype=np.float64).reshape(-1, 1) * one)
    block, share = _reach(masses, xp.array(u, dtype=dtype))
    return block * BLOCK + _reach(weigh(blocks[xp.arange(len(u)), block]), share)[0]


def weights(scores: Array, s: Any) -> tuple[Array, Array, Callable[[Array], Array]]:
    """Scores in blocks (N, B, BLOCK), the weight of each block (N, B), and what makes of scores
    (N, ..) weights: 1 for the likeliest token of a row, 0 for what a filter of `s` removed.

    Each filter keeps the tokens whose weight reaches some floor. The k largest scores stand in the
    k blocks with the largest tops: where k is small only these are weighed, and of the others the
    tokens that equal the k-th are counted.
    """
    xp, (N, V), k = scores.__array_namespace__(), scores.shape, s.top_k
    some = blocks = _blocks(scores, -math.inf)
    tops, floor = blocks.max(axis=-1), s.min_p
    top = tops.max(axis=-1, keepdims=True)
    weigh = lambda x: xp.exp((x - top) / max(s.temperature, COLDEST))  # x - top first: 0 stays 0
    if few := 0 < k * BLOCK < V:
        places = xp.arange(N)[:, None], xp.argpartition(tops, -k, axis=-1)[:, -k:]
        some = blocks[places]
    if 0 < k < V or s.top_p < 1:
        best = xp.sort(some.reshape(N, -1), axis=-1)[:, -k:]
        last, ranked = best[:, :1], weigh(best)
        equal = (blocks == last[:, None]).sum(axis=-1)
        more = equal.sum(axis=-1, keepdims=True) - (best == last).sum(axis=-1, keepdims=True)
        below = _cumsum(ranked) + more * ranked[:, :1]  # what each and all less likely ones hold
        nucleus = (below > (1 - s.top_p) * below[:, -1:]) | (s.top_p == 1)
        floor = xp.maximum(xp.where(nucleus, ranked, 1).min(axis=-1, keepdims=True), s.min_p)
    kept = lambda x: (w := weigh(x)) * (w >= floor)
    masses = _totals(kept(some.reshape(N, -1)).reshape(some.shape))
    if few:
        others = equal * kept(last)
        others[places] = masses
        masses = others
    return blocks, masses, kept


def logsumexp(x: Array) -> Array:
    """(N, V) -> (N,). MLX's fused one reduces row by row; a plain sum may group rows on a GPU."""
    xp = x.__array_namespace__()
    if xp is not np:
        return xp.logsumexp(x, axis=-1)
    top = x.max(axis=-1, keepdims=True)
    return top[:, 0] + np.log(np.exp(x - top).sum(axis=-1))


def _one(xp: Any) -> tuple[int, Any]:
    """The whole of a distribution in integers, and their dtype. A GPU has none of 64 bits."""
    return (1 << 52, np.int64) if xp is np else (1 << 30, xp.int32)


def _reach(parts: Array, share: Array) -> tuple[Array, Array]:
    """Where the running sum of `parts` (N, ..) reaches `share` (N, 1), 1 .. one, of their total:
    columns (N,), never one that holds nothing; and the share (N, 1) of that part that is needed."""
    xp = parts.__array_namespace__()
    one, dtype = _one(xp)
    parts = xp.round(parts * (one / _totals(parts)[:, None])).astype(dtype)
    sums = xp.cumsum(parts, axis=-1)
    share = share + (share * ((sums[:, -1:] - one) / one)).astype(dtype)  # they were rounded
    column = (sums >= share).argmax(axis=-1)
    at = lambda x: xp.take_along_axis(x, column[:, None], axis=-1)
    return column, xp.ceil((share - at(sums - parts)) / at(parts) * one).astype(dtype)


def _blocks(x: Array, rest: float) -> Array:
    """(N, V) -> (N, B, BLOCK), filled up with `rest`."""
    if x.shape[1] % BLOCK:
        pad = ((0, 0), (0, -x.shape[1] % BLOCK))
        x = x.__array_namespace__().pad(x, pad, constant_values=rest)
    return x.reshape(len(x), -1, BLOCK)


def _totals(x: Array) -> Array:
    """Sums along the last axis. On a GPU MLX's plain sum may group rows; its scan does not."""
    xp = x.__array_namespace__()
    return x.sum(axis=-1, dtype=np.float64) if xp is np else xp.cumsum(x, axis=-1)[..., -1]


def _cumsum(x: Array) -> Array:
    """Running sums along rows (N, ..): in float64 on NumPy, else within blocks and over them."""
    xp = x.__array_namespace__()
    if xp is np:
        return np.cumsum(x, axis=-1, dtype=np.float64)
    inner = xp.cumsum(_blocks(x, 0.0), axis=-1)
    ends = inner[..., -1:]
    return (inner + xp.cumsum(ends, axis=1) - ends).reshape(len(x), -1)[:, : x.shape[1]]
