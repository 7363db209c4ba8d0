"""A transformers model as a callable that the laws can be checked on.

The model knows no lanes: positions are passed as `position_ids`, visibility as a 4-D additive mask,
which `eager` and `sdpa` attention accept. Not handled: `flash_attention_2`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinylane.core.lanes import LaneMask
from tinylane.testing.laws import numbers


def plain(model: Any) -> Callable[..., np.ndarray]:
    """`plain(tokens, positions, visible=None) -> logits (T, V)`: the unmodified model of laws 6, 7
    and 11. visible: (T, T) booleans, None for causal by position. float64, on the CPU."""
    import torch

    def run(tokens: Any, positions: Any, visible: np.ndarray | None = None) -> np.ndarray:
        positions = np.asarray(positions)
        if visible is None:
            visible = positions[None, :] <= positions[:, None]
        weight = next(model.parameters())
        hidden = torch.zeros(visible.shape, dtype=weight.dtype)
        hidden.masked_fill_(torch.from_numpy(~visible), torch.finfo(weight.dtype).min)
        batch = lambda x: x[None].to(weight.device)
        with torch.no_grad():
            logits = model(
                input_ids=batch(torch.from_numpy(np.asarray(tokens))),
                position_ids=batch(torch.from_numpy(positions)),
                attention_mask=batch(hidden[None]),
                use_cache=False,
            ).logits
        return numbers(logits[0])

    return run


def lanes(model: Any, mask: LaneMask) -> Callable[..., np.ndarray]:
    """`f(tokens, positions, lanes) -> logits (T, V)`: the model under a lane mask, Omega = 0."""
    run = plain(model)

    def f(tokens: Any, positions: Any, lanes: Any) -> np.ndarray:
        positions, lanes = np.asarray(positions), np.asarray(lanes)
        return run(tokens, positions, mask.visible(positions, lanes, positions, lanes))

    return f
