"""Looking inside, as numbers: who listened to whom in a pass, where keys stand for a query, and
how a score depends on distance.

`attention_weights` holds all of one pass at once; `listening` hands them out a layer and a block of
queries at a time, for passes of thousands of rows. `tinylane.plot` draws them. NumPy only.

    T query rows      S key rows      D channels of one head
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask, Places, Rotation

if TYPE_CHECKING:
    from tinylane.core.model import Model

Hear = Callable[[int, int, np.ndarray], None]  # layer, first query row, weights (H, rows, S)


def attention_weights(
    model: Model,
    tokens: Any,
    positions: Any,
    lanes: Any,
    lane_rope: Rotation | None = None,
    lane_mask: LaneMask | None = None,
) -> np.ndarray:
    """(layers, heads, T, S): who listened to whom, in one pass over all rows.

    Attention is a weighted average of values; averaging the rows of the identity matrix instead
    gives the weights themselves. Raises what `Model.__call__` raises.
    """
    from tinylane.core.decoder import attention as plain

    heard: list[np.ndarray] = []

    def listening(queries: Any, keys: Any, values: Any, mask: Any, block_of: Any) -> Any:
        S, D = keys.shape[-2:]
        columns = []
        for start in range(0, S, D):  # as wide as values are
            one = model.typed(np.eye(S, D, -start, dtype=np.float32))
            each = one.__array_namespace__().stack([one] * keys.shape[-3])
            part = plain(queries, keys, each, mask, block_of)
            columns.append(np.array(part.astype(part.__array_namespace__().float32)))
        heard.append(np.concatenate(columns, axis=-1)[..., :S])
        return own.attention(queries, keys, values, mask, block_of)

    twin, own = replace(model), model.ops
    twin.ops = own._replace(attention=listening)
    np.asarray(twin(tokens, positions, lanes, lane_rope, lane_mask))
    return np.stack(heard)


def listening(model: Model, hear: Hear, block: int = 256) -> Model:
    """A twin of `model` that tells `hear` the attention weights of every pass it makes.

    hear(layer, first, weights): float32 (float64 of a float64 model), (H, rows, S), of the query
    rows `first` .. `first + rows - 1` of the pass, each summing to 1 over the S keys, the cached
    ones first. The array is the caller's to keep. block: query rows at a time; the peak of memory
    is a few times H * block * S numbers, whatever the length of the pass. The twin's logits are
    the model's own, to the bit; a cache of the twin is made by the twin.
    """
    from tinylane.core.decoder import attention as plain

    twin, own, calls = replace(model), model.ops, 0

    def attention(queries: Any, keys: Any, values: Any, mask: Any, block_of: Any) -> Any:
        nonlocal calls
        layer, calls = calls % model.config.layers, calls + 1
        q, k = tuple(_host(x) for x in queries), _host(keys)
        seen = None if mask is None else np.asarray(mask)
        for first in range(0, q[0].shape[-2], block):
            rows = slice(first, first + block)
            kept = _Kept(k.dtype, k.shape[-1])
            some = tuple(x[..., rows, :] for x in q)
            plain(some, k, kept, None if seen is None else seen[rows], block_of)
            hear(layer, first, kept.weights.reshape(q[0].shape[0], -1, k.shape[-2]))
        return own.attention(queries, keys, values, mask, block_of)

    twin.ops = own._replace(attention=attention)
    return twin


class _Kept:
    """In place of values: keeps the weights that attention would have averaged them with."""

    __array_ufunc__ = None  # `weights @ kept` comes here

    def __init__(self, dtype: Any, width: int) -> None:
        self.dtype, self.width = dtype, width
        self.weights: Any = None

    def __rmatmul__(self, weights: np.ndarray) -> np.ndarray:
        self.weights = weights
        return np.zeros((*weights.shape[:-1], self.width), weights.dtype)


def _host(x: Any) -> np.ndarray:
    """An array of either library in NumPy, 16-bit floats widened."""
    if not isinstance(x, np.ndarray) and x.itemsize < 4:
        x = x.astype(x.__array_namespace__().float32)
    x = np.asarray(x)
    return x if x.itemsize >= 4 else x.astype(np.float32)


def relative_angles(
    lane_rope: Rotation,
    theta: np.ndarray,
    lane_mask: LaneMask,
    positions: Any,
    lanes: Any,
    layer: int = 0,
) -> np.ndarray:
    """(T, T, D/2) radians: key s's angle less query t's, in one pass over all rows.

    Of any rotation: the angles are the decoder's own (`Rotation.views`). Divided by theta it is how
    many positions behind the query (negative) the key stands. Pairs that do not see each other have
    no meaning. Raises what the rotation raises.
    """
    i, m = np.asarray(positions), np.asarray(lanes)
    keys, views, block_of = lane_rope.views(theta, lane_mask, Places(i, m, i, m))
    keys, *queries = (x if x.ndim == 2 else x[layer] for x in (keys, *views))
    block = np.zeros(len(i), dtype=int) if block_of is None else block_of
    return keys - np.stack(queries)[block].swapaxes(0, 1)


def difference_scores(
    query: Any, key: Any, theta: Any, omega: Any, positions: Any, lanes: Any
) -> np.ndarray:
    """(lanes, positions) scores of one query and one key (D,) at every pair of differences."""
    q, k, theta, omega = (np.asarray(x, dtype=np.float64) for x in (query, key, theta, omega))
    half = len(theta)
    if q.shape != (2 * half,) or k.shape != q.shape or omega.shape != theta.shape:
        raise TinylaneError(
            f"query {q.shape}, key {k.shape}, theta {theta.shape}, Omega {omega.shape}; "
            "expected (D,), (D,), (D/2,), (D/2,)"
        )
    apart = np.asarray(positions)[None, :, None] * theta
    apart = apart + np.asarray(lanes)[:, None, None] * omega
    # One plane as complex numbers: Re(conj(q) k e^(i delta)).
    product = (q[:half] - 1j * q[half:]) * (k[:half] + 1j * k[half:])
    return (product * np.exp(1j * apart)).real.sum(axis=-1)
