"""What a law is asked of: a `tinylane.Model`, or somebody's own decoder (`Foreign`).

The checks (`checks`, `segment_checks`) take either. They get from it a callable with the sample's
mask and rotation (`bound`), the unmodified model (`plain`), and an empty cache (`feeder`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tinylane.core.model import Model
from tinylane.testing.laws import Logits, Report
from tinylane.testing.reference import reference, widened
from tinylane.testing.samples import Chooser, Sample


@dataclass(frozen=True)
class Law:
    """A law's name, its number (0: not in the method's list), its sentence, and its check.

    The check takes a subject, a sample and a chooser, and returns a report.
    """

    number: int
    name: str
    says: str
    check: Callable[[Any, Sample, Chooser], Report]


@dataclass(frozen=True)
class Foreign:
    """A decoder that is no `tinylane.Model`, in the same words; `assert_all` makes one.

    run: `f(tokens, positions, lanes, lane_mask=, lane_rope=)`. plain: the unmodified model. start:
    `start(lane_mask=, lane_rope=)` gives a feed with an empty cache. exact: as run, in float64.
    What is None cannot be asked. context: how many positions it can have.
    """

    run: Logits
    dtype: str
    theta: np.ndarray
    plain: Logits | None = None
    start: Callable[..., Logits] | None = None
    exact: Logits | None = None
    context: int = 1 << 20
    backend: str = "yours"

    def __call__(self, tokens: Any, positions: Any, lanes: Any, **settings: Any) -> Any:
        return self.run(tokens, positions, lanes, **settings)


def bound(model: Any, sample: Sample) -> Logits:
    """`f(tokens, positions, lanes)` with the sample's mask and rotation; a law may override both
    by keyword."""
    return partial(model, lane_rope=sample.rope, lane_mask=sample.mask)


def plain(model: Any) -> Logits:
    """The unmodified model: `plain(tokens, positions, visible)`. That of a `Model` is by definition
    and in float64."""
    if isinstance(model, Foreign):
        assert model.plain is not None
        return model.plain

    def run(tokens: Any, positions: Any, visible: np.ndarray | None = None) -> np.ndarray:
        return reference(model.config, model.params, tokens, positions, visible=visible)

    return run


def feeder(model: Any, sample: Sample) -> Logits:
    """`feed(tokens, positions, lanes) -> logits` with an empty cache for the sample's mask and
    rotation."""
    if isinstance(model, Foreign):
        assert model.start is not None
        return model.start(lane_rope=sample.rope, lane_mask=sample.mask)
    return partial(model, cache=model.new_cache(sample.rope, sample.mask))


def in_float64(model: Any, sample: Sample) -> Logits:
    """The same decoder in float64, with the sample's mask and rotation."""
    if isinstance(model, Foreign):
        assert model.exact is not None
        return partial(model.exact, lane_rope=sample.rope, lane_mask=sample.mask)
    wide = widened(model.params)
    return bound(Model(model.config, wide, "numpy", "float64", side=model.side), sample)


def some_lane(sample: Sample, choose: Chooser) -> int:
    """Any of the mask's lanes."""
    return choose.integer(0, sample.mask.n - 1)
