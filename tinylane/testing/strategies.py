"""Hypothesis strategies for what `tinylane.testing.samples` builds; their structure shrinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinylane.core.config import ModelConfig
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.testing import samples


@dataclass
class DrawChooser:
    """Choices from a Hypothesis `draw` (or a `data()` object's), so that they shrink."""

    draw: Any

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pick(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))


@st.composite
def configs(draw: Any, kinds: Sequence[str] = ()) -> ModelConfig:
    """Small decoders of every family; kinds: RoPE kinds (default all)."""
    return samples.random_config(DrawChooser(draw), kinds)


@st.composite
def weights(draw: Any, config: ModelConfig) -> dict[str, np.ndarray]:
    """NumPy float32 parameters for a config."""
    return samples.random_weights(config, draw(st.integers(0, 999)), draw(st.booleans()))


@st.composite
def masks(draw: Any, n: int | None = None) -> LaneMask:
    """Named patterns and any matrix, lag 0 to 3, for n lanes (default 1 to 4)."""
    return samples.random_mask(DrawChooser(draw), n or draw(st.integers(1, 4)))


@st.composite
def lane_ropes(draw: Any, theta: np.ndarray, layers: int = 1, n: int = 4) -> LaneRoPE:
    """Every start of Omega, of shape (D/2,) or (layers, D/2); both prompt lanes."""
    return samples.random_lane_rope(DrawChooser(draw), theta, layers, n)


@st.composite
def coordinates(draw: Any) -> tuple[np.ndarray, np.ndarray]:
    """Positions and lanes (T,): lanes forked, joined late or finished early; with or without a
    prompt."""
    rows, _ = samples.random_rows(DrawChooser(draw), 2)
    return rows[:, 1].copy(), rows[:, 2].copy()


@st.composite
def rows_for(draw: Any, config: ModelConfig, theta: np.ndarray) -> samples.Sample:
    """Samples for a model that is given: `rows_for(model.config, model.theta)`."""
    return samples.random_sample(DrawChooser(draw), config.vocab, theta, config.layers)


@st.composite
def cases(draw: Any, kinds: Sequence[str] = ()) -> samples.Case:
    """A small model and a sample for it; what a law needs besides is drawn too."""
    return samples.random_case(DrawChooser(draw), kinds)


@st.composite
def scripts(draw: Any, vocab: int = 11, steps: int = 8) -> list[tuple[Any, ...]]:
    """Operations on a joint decoding: ("step",), ("join", ids), ("fork", k), ("drop", k) and
    ("finish", k); k is taken modulo the number of lanes. At least one step."""
    ids = st.lists(st.integers(0, vocab - 1), max_size=2)
    event = st.one_of(
        st.just(("step",)),
        st.tuples(st.just("join"), ids),
        st.tuples(st.sampled_from(("fork", "drop", "finish")), st.integers(0, 7)),
    )
    return [("step",), *draw(st.lists(event, max_size=steps))]
