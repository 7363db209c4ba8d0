"""NumPy's faster versions of the decoder's operations: the same results, up to rounding.

They use three facts about BLAS and memory. A wide matrix is multiplied from its columns, a tall one
from its rows, as they lie in the file: `(w.T @ x.T).T`; the rows of activations may then be
innermost in memory. Layers that read one input are multiplied in one product. And every large
temporary array is worked on in place. Each function has the signature of its plain version and a
test against it.

    T rows   S keys   H heads   K kv heads   D head dim   C width
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tinylane.core import decoder
from tinylane.core.decoder import BlockOf, Mask

Array = np.ndarray
Params = dict[str, np.ndarray]
ROWS = 128  # rows of a prefill that are scored at once: keys behind the last one seen are left out
HIDDEN = 500  # keys that a row does not see, from which on it pays to leave them out row by row


def linear(params: Params, name: str, x: Array) -> Array:
    """As `decoder.linear`; a weight laid out as in the file, (out, in), is multiplied so."""
    weight = params[name + ".weight"]
    if weight.flags.c_contiguous or not weight.flags.f_contiguous:
        return decoder.linear(params, name, x)
    y = (weight.T @ x.swapaxes(-1, -2)).swapaxes(-1, -2)
    return decoder.add_updates(params, name, x, y)


def linears(params: Params, names: Sequence[str], x: Array) -> list[Array]:
    """As `decoder.linears`; one product where the weights are all the columns of one array.

    The loader stores q, k and v, and gate and up, as columns of one array.
    """
    weights = [params[name + ".weight"] for name in names]
    stack, widths = weights[0].base, [w.shape[1] for w in weights]
    if stack is None or stack.shape != (x.shape[-1], sum(widths)) or not _follow(stack, weights):
        return [linear(params, name, x) for name in names]
    y, ends = x @ stack, np.cumsum(widths).tolist()
    parts = [y[..., end - width : end] for end, width in zip(ends, widths, strict=True)]
    return [
        decoder.add_updates(params, name, x, part) for name, part in zip(names, parts, strict=True)
    ]


def _follow(stack: Array, weights: list[Array]) -> bool:
    """Whether the weights are the columns of `stack`, side by side."""
    at = stack.ctypes.data
    for w in weights:
        if w.ctypes.data != at or w.strides != stack.strides:
            return False
        at += w.shape[1] * w.itemsize
    return True


def embed(params: Params, tokens: Array) -> Array:
    """As `decoder.embed`, with the rows innermost in memory, as `linear` gives them."""
    return decoder.embed(params, tokens).swapaxes(-1, -2).copy().swapaxes(-1, -2)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """As `decoder.rms_norm`, with one temporary."""
    y = x * x
    scale = np.add.reduce(y, axis=-1, keepdims=True)
    scale /= x.shape[-1]
    scale += eps
    np.sqrt(scale, out=scale)
    np.divide(x, scale, out=y)
    y *= weight
    return y


def rotate(x: Array, c: Array, s: Array) -> Array:
    """As `rope.rotate`."""
    x, half = np.ascontiguousarray(x), x.shape[-1] // 2
    y = x * c
    y[..., :half] += x[..., half:] * s[..., :half]
    y[..., half:] += x[..., :half] * s[..., half:]
    return y


def gated(gate: Array, up: Array) -> Array:
    """As `decoder.gated`, with one temporary."""
    y = np.negative(gate)
    np.minimum(y, 80.0, out=y)
    np.exp(y, out=y)
    y += 1
    np.divide(gate, y, out=y)
    y *= up
    return y


def attention(
    queries: tuple[Array, ...], keys: Array, values: Array, mask: Mask, block_of: BlockOf
) -> Array:
    """As `decoder.attention`, some rows at a time, each key scored by its block's query only."""
    *batch, H, T, D = queries[0].shape
    K, S = keys.shape[-3:-1]
    out = np.empty(queries[0].shape, queries[0].dtype)
    for start in range(0, T, ROWS):
        rows, count = slice(start, start + ROWS), min(ROWS, T - start)
        # Behind the last key that a row sees, and before the first that a row does not see.
        first = stop = S
        if isinstance(mask, str):
            first, stop = (S - T + start + seen for seen in (1, count))
            hidden: Any = ~np.tri(count, count - 1, -1, dtype=bool)
        elif mask is not None:
            stop = S - int(mask[rows].any(axis=0)[::-1].argmax())
            first = int(np.append(mask[rows].all(axis=0), False).argmin())
            hidden = ~mask[rows, first:stop]
        folded = [decoder.fold(q[..., rows, :], K) for q in queries]
        if block_of is None and first < stop and hidden.sum() > HIDDEN * count:
            q = folded[0].reshape(*batch, K, H // K, count, D)
            mixed = _row_by_row(q, keys, values, ~hidden, first)
            out[..., rows, :] = mixed.reshape(*batch, H, count, D)
            continue
        scores = _scores(folded, keys[..., :stop, :], block_of)
        if first < stop:
            wide = scores.reshape(*batch, K, H // K, count, stop)[..., first:]
            np.copyto(wide, -np.inf, where=hidden)
        scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        mixed = scores @ values[..., :stop, :]
        mixed /= np.add.reduce(scores, axis=-1, keepdims=True)
        out[..., rows, :] = mixed.reshape(*batch, H, count, D)
    return out


def _row_by_row(q: Array, keys: Array, values: Array, seen: Array, first: int) -> Array:
    """As `attention` where rows see few keys: lanes that read nobody. (..., K, H/K, T, D)

    All rows see the keys before `first`. seen (T, some): who sees which of those behind. Each row
    is multiplied with the keys that it sees, where `attention` multiplies with all and hides most.
    """
    *group, G, T, D = q.shape
    shared = _product(q.reshape(*group, G * T, D), keys[..., :first, :])
    shared = shared.reshape(*group, G, T, first)
    own = [_evenly(first + np.flatnonzero(row)) for row in seen]
    scores = [q[..., t, :] @ keys[..., some, :].swapaxes(-1, -2) for t, some in enumerate(own)]
    tops = [np.max(s, axis=-1, initial=-np.inf) for s in scores]
    top = np.maximum(np.stack(tops, axis=-1), shared.max(axis=-1, initial=-np.inf))[..., None]
    shared = np.exp(shared - top)
    mixed = (shared.reshape(*group, G * T, first) @ values[..., :first, :]).reshape(q.shape)
    total = shared.sum(axis=-1, keepdims=True)
    for t, some in enumerate(own):
        weights = np.exp(scores[t] - top[..., t, :])
        total[..., t, 0] += weights.sum(axis=-1)
        mixed[..., t, :] += weights @ values[..., some, :]
    return mixed / total


def _evenly(places: np.ndarray) -> np.ndarray | slice:
    """Places as a slice if they are evenly spaced (lanes in step): then nothing is copied."""
    step = np.diff(places[:2]).sum()
    even = step > 0 and (np.diff(places) == step).all()
    return slice(places[0], places[-1] + 1, step) if even else places


def _scores(queries: list[Array], keys: Array, block_of: BlockOf) -> Array:
    """As `decoder.scores`, (..., K, R, S), in one piece of memory."""
    if block_of is None:
        return _product(queries[0], keys)
    block_of = block_of[: keys.shape[-2]]
    if (places := spans(block_of, len(queries))) is not None:
        parts = zip(queries, places, strict=True)
        return np.concatenate([_product(q, keys[..., a:b, :]) for q, (a, b) in parts], axis=-1)
    scores = np.empty((*queries[0].shape[:-1], keys.shape[-2]), keys.dtype)
    for block, q in enumerate(queries):
        some = np.flatnonzero(block_of == block)
        scores[..., some] = _product(q, keys[..., some, :])
    return scores


def spans(block_of: np.ndarray, blocks: int) -> list[tuple[int, int]] | None:
    """Where each block of keys begins and ends, if they follow one another; None if not.

    >>> spans(np.array([0, 0, 0, 1, 1]), 2)
    [(0, 3), (3, 5)]
    """
    if (block_of[1:] < block_of[:-1]).any():
        return None
    ends = np.searchsorted(block_of, np.arange(blocks), side="right").tolist()
    return list(pairwise([0, *ends]))


def _product(q: Array, keys: Array) -> Array:
    """q keys^T (..., K, R, S), by the way that is quickest for R rows."""
    rows = q.shape[-2]
    if rows > 128:
        return q @ keys.swapaxes(-1, -2)
    if rows <= 4:  # row by row, while the keys are in a near cache
        return (keys[..., None, :, :] @ q[..., None])[..., 0]
    return np.ascontiguousarray((keys @ q.swapaxes(-1, -2)).swapaxes(-1, -2))


OPS = decoder.Ops(linear, linears, embed, rms_norm, rotate, gated, attention)
