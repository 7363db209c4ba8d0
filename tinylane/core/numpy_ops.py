"""NumPy's faster versions of the decoder's seams: the same signatures, each with a parity test.

`tinylane.core.decoder` is the text; these give its numbers up to rounding, and know three things about
BLAS and memory. A matrix that is wide is multiplied from its columns, one that is tall from its
rows, as they lie in the file: `(w.T @ x.T).T`; the rows of activations may then be innermost in
memory. What reads one input is multiplied in one product. And every large temporary is worked on in
place.

    T rows   S keys   H heads   K kv heads   D head dim   C width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinylane.core import decoder

Array = np.ndarray
Params = dict[str, np.ndarray]
ROWS = 128  # rows of a prefill that are scored at once: keys behind the last one seen are left out


def linear(params: Params, name: str, x: Array) -> Array:
    """As `model.linear`; a weight that lies as in the file, (out, in), is multiplied from there."""
    weight = params[name + ".weight"]
    if weight.flags.c_contiguous or not weight.flags.f_contiguous:
        return decoder.linear(params, name, x)
    return _rest(params, name, x, (weight.T @ x.swapaxes(-1, -2)).swapaxes(-1, -2))


def linears(params: Params, names: Sequence[str], x: Array) -> list[Array]:
    """As `model.linears`; one product where the weights are all the columns of one array.

    So the loader lays them: a small product is as quick on one core as on two.
    """
    weights = [params[name + ".weight"] for name in names]
    stack, widths = weights[0].base, [w.shape[1] for w in weights]
    if stack is None or stack.shape != (x.shape[-1], sum(widths)) or not _follow(stack, weights):
        return [linear(params, name, x) for name in names]
    y, ends = x @ stack, np.cumsum(widths).tolist()
    parts = [y[..., end - width : end] for end, width in zip(ends, widths, strict=True)]
    return [_rest(params, name, x, part) for name, part in zip(names, parts, strict=True)]


def _follow(stack: Array, weights: list[Array]) -> bool:
    """Whether the weights are the columns of `stack`, side by side."""
    at = stack.ctypes.data
    for w in weights:
        if w.ctypes.data != at or w.strides != stack.strides:
            return False
        at += w.shape[1] * w.itemsize
    return True


def _rest(params: Params, name: str, x: Array, y: Array) -> Array:
    """A linear layer's low-rank update and bias, on its product y."""
    if name + ".lora_a" in params:
        y = y + (x @ params[name + ".lora_a"]) @ params[name + ".lora_b"]
    return y + params[name + ".bias"] if name + ".bias" in params else y


def embed(params: Params, tokens: Array) -> Array:
    """As `model.embed`, rows innermost in memory, as `linear` gives them: sums need no turn."""
    return decoder.embed(params, tokens).swapaxes(-1, -2).copy().swapaxes(-1, -2)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """As `model.rms_norm`, with one temporary."""
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
    """As `model.gated`, with one temporary."""
    y = np.negative(gate)
    np.minimum(y, 80.0, out=y)
    np.exp(y, out=y)
    y += 1
    np.divide(gate, y, out=y)
    y *= up
    return y


def attention(
    queries: tuple[Array, ...], keys: Array, values: Array, mask: Array | None, split: Any
) -> Array:
    """As `model.attention`, some rows at a time, each key scored by its block's query only."""
    *batch, H, T, D = queries[0].shape
    K, S = keys.shape[-3:-1]
    out = np.empty(queries[0].shape, queries[0].dtype)
    for start in range(0, T, ROWS):
        rows, stop = slice(start, start + ROWS), S
        if mask is not None:
            seen: Any = mask[rows]
            stop = S - int(seen.any(axis=0)[::-1].argmax())  # behind the last key that one sees
            first = int(
                np.append(seen.all(axis=0), False).argmin()
            )  # and the first that one does not
        count = min(ROWS, T - start)
        folded = [
            (q[..., rows, :] * D**-0.5).reshape(*batch, K, H // K * count, D) for q in queries
        ]
        scores = _scores(folded, keys[..., :stop, :], split)
        if mask is not None and first < stop:
            wide = scores.reshape(*batch, K, H // K, count, stop)[..., first:]
            np.copyto(wide, -np.inf, where=~seen[:, first:stop])
        scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        mixed = scores @ values[..., :stop, :]
        mixed /= np.add.reduce(scores, axis=-1, keepdims=True)
        out[..., rows, :] = mixed.reshape(*batch, H, count, D)
    return out


def _scores(folded: list[Array], keys: Array, split: Any) -> Array:
    """(..., K, R, S), contiguous; folded: a query (..., K, R, D) for every block of keys."""
    if len(folded) == 1:
        return _product(folded[0], keys)
    stop = keys.shape[-2]
    if isinstance(split, int):
        parts = (folded[0], keys[..., :split, :]), (folded[1], keys[..., split:, :])
        return np.concatenate([_product(q, k) for q, k in parts], axis=-1)
    scores = np.empty((*folded[0].shape[:-1], stop), folded[0].dtype)
    for block, q in enumerate(folded):
        some = np.flatnonzero(split[:stop] == block)
        scores[..., some] = _product(q, keys[..., some, :])
    return scores


def _product(q: Array, keys: Array) -> Array:
    """q keys^T (..., K, R, S), by the way that is quickest for R rows."""
    rows = q.shape[-2]
    if rows > 128:
        return q @ keys.swapaxes(-1, -2)
    if rows <= 4:  # row by row, while the keys are in a near cache
        return (keys[..., None, :, :] @ q[..., None])[..., 0]
    return np.ascontiguousarray((keys @ q.swapaxes(-1, -2)).swapaxes(-1, -2))


SEAMS = decoder.Seams(linear, linears, embed, rms_norm, rotate, gated, attention)
