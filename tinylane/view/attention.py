"""Looking inside, as numbers: who listened to whom in a pass, where keys stand for a query, and
how a score depends on distance.

`attention_weights` gives all weights of one pass; `listening` gives them a layer and a block of
queries at a time, for passes of thousands of rows. Both call the decoder's own function for the
weights, on the host. `tinylane.plot` draws them.

    T query rows      S key rows      H heads      D channels of one head
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core import decoder
from tinylane.core.decoder import widen
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
    """(layers, H, T, T): who listened to whom, in one pass over all T rows.

    float32 (float64 of a float64 model). Raises what `Model.__call__` raises.
    """
    heard: list[np.ndarray] = []
    twin = listening(model, lambda layer, first, weights: heard.append(weights), len(tokens))
    np.asarray(twin(tokens, positions, lanes, lane_rope, lane_mask))
    return np.stack(heard)


def listening(model: Model, hear: Hear, block: int = 256) -> Model:
    """A twin of `model` that tells `hear` the attention weights of every pass it makes.

    hear(layer, first, weights): float32 (float64 of a float64 model), (H, rows, S), of the query
    rows `first` .. `first + rows - 1` of the pass, each summing to 1 over the S keys, the cached
    ones first. The caller may keep the array. What a bridge or LACE attends to is not told. block:
    query rows at a time; the peak of memory is a few times H * block * S numbers, whatever the
    length of the pass. The twin's logits are the model's own, to the bit. A cache for the twin
    comes from `twin.new_cache`.
    """
    twin, ops, calls = replace(model), model.ops, 0
    # In a layer, LACE's attention comes after the layer's own, and a bridge's after both.
    beside = ("lace.up_proj", "bridge.o_proj")
    of_call: list[int | None] = []
    for layer in range(model.config.layers):
        names = (f"model.layers.{layer}.{part}.weight" for part in beside)
        of_call += [layer, *(None for name in names if name in model.params)]

    def attention(queries: Any, keys: Any, values: Any, mask: Any, block_of: Any) -> Any:
        nonlocal calls
        layer, calls = of_call[calls % len(of_call)], calls + 1
        if layer is None:
            return ops.attention(queries, keys, values, mask, block_of)
        *q, k = (np.asarray(widen(x)) for x in (*queries, keys))
        seen = decoder.matrix(mask, q[0].shape[-2], k.shape[-2], np)
        seen = None if seen is None else np.asarray(seen)
        for first in range(0, q[0].shape[-2], block):
            rows = slice(first, first + block)
            some = tuple(x[..., rows, :] for x in q)
            visible = None if seen is None else seen[rows]
            hear(layer, first, decoder.attention_weights(some, k, visible, block_of))
        return ops.attention(queries, keys, values, mask, block_of)

    twin.ops = ops._replace(attention=attention)
    return twin


def relative_angles(
    lane_rope: Rotation,
    theta: np.ndarray,
    lane_mask: LaneMask,
    positions: Any,
    lanes: Any,
    layer: int = 0,
) -> np.ndarray:
    """(T, T, D/2) radians: key s's angle less query t's, in one pass over all rows.

    For any rotation: the angles are the decoder's own (`Rotation.views`). Divided by theta they say
    how many positions behind the query (negative) the key stands. Pairs that do not see each other
    have no meaning. Raises what the rotation raises.
    """
    i, m = np.asarray(positions), np.asarray(lanes)
    keys, views, block_of = lane_rope.views(theta, lane_mask, Places(i, m, i, m))
    keys, *queries = (x if x.ndim == 2 else x[layer] for x in (keys, *views))
    block = np.zeros(len(i), dtype=int) if block_of is None else block_of
    return keys - np.stack(queries)[block].swapaxes(0, 1)


def difference_scores(
    query: Any, key: Any, theta: Any, omega: Any, positions: Any, lanes: Any
) -> np.ndarray:
    """(lanes, positions) scores of one query and one key (D,) at every pair of differences.

    theta, omega: (D/2,) radians. Raises TinylaneError for other shapes.
    """
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
