"""Looking inside, as numbers: who listened to whom in a pass, and how a score depends on distance.

`tinylane.plot` draws them. NumPy only.

    T query rows      S key rows      D channels of one head
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.errors import TinylaneError
from tinylane.lanes import LaneMask, Rotation

if TYPE_CHECKING:
    from tinylane.model import Model


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
    from tinylane.model import attention as plain

    heard: list[np.ndarray] = []

    def listening(queries: Any, keys: Any, values: Any, mask: Any, split: Any) -> Any:
        S, D = keys.shape[-2:]
        columns = []
        for start in range(0, S, D):  # as wide as values are
            one = model.typed(np.eye(S, D, -start, dtype=np.float32))
            each = one.__array_namespace__().stack([one] * keys.shape[-3])
            part = plain(queries, keys, each, mask, split)
            columns.append(np.array(part.astype(part.__array_namespace__().float32)))
        heard.append(np.concatenate(columns, axis=-1)[..., :S])
        return own.attention(queries, keys, values, mask, split)

    twin, own = replace(model), model.seams
    twin.seams = own._replace(attention=listening)
    np.asarray(twin(tokens, positions, lanes, lane_rope, lane_mask))
    return np.stack(heard)


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
