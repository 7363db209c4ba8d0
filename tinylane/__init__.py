"""tinylane: a small, complete transformer decoder whose N lanes read each other while they write.

Reading order, in `core`: `rope`, `lanes`, `decoder`, `cache`, `model`, `sampling`, `decoding`. Then
`mlx_ops` and `numpy_ops` (faster operations) and `oracle` (the slow path). Everything else uses
these. Names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinylane.core import __version__

if TYPE_CHECKING:
    from tinylane import testing as testing
    from tinylane.checkpoints.load import load as load
    from tinylane.core.cache import LaneCache as LaneCache
    from tinylane.core.errors import CheckFailed as CheckFailed
    from tinylane.core.errors import TinylaneError as TinylaneError
    from tinylane.core.hogwild import Hogwild as Hogwild
    from tinylane.core.lanes import SHARED as SHARED
    from tinylane.core.lanes import LaneMask as LaneMask
    from tinylane.core.lanes import LaneRoPE as LaneRoPE
    from tinylane.core.model import Model as Model
    from tinylane.core.result import Result as Result
    from tinylane.core.sampling import Sampler as Sampler
    from tinylane.evaluate.answers import best_of as best_of
    from tinylane.evaluate.answers import extract as extract
    from tinylane.evaluate.answers import vote as vote
    from tinylane.methods.decoding import Decoding as Decoding
    from tinylane.methods.decoding import generate as generate
    from tinylane.methods.decoding import stream as stream
    from tinylane.methods.modes import mode as mode

_MODULES = {
    "load": "checkpoints.load",
    "Model": "core.model",
    "generate": "methods.decoding",
    "stream": "methods.decoding",
    "Decoding": "methods.decoding",
    "Result": "core.result",
    "vote": "evaluate.answers",
    "best_of": "evaluate.answers",
    "extract": "evaluate.answers",
    "LaneRoPE": "core.lanes",
    "LaneMask": "core.lanes",
    "SHARED": "core.lanes",
    "Hogwild": "core.hogwild",
    "mode": "methods.modes",
    "LaneCache": "core.cache",
    "Sampler": "core.sampling",
    "TinylaneError": "core.errors",
    "CheckFailed": "core.errors",
}

__all__ = ["__version__", "testing", *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"tinylane.{_MODULES[name]}"), name)
    if name in ("testing", "plot", "hf", "learn"):
        return import_module(f"tinylane.{name}")
    raise AttributeError(f"module 'tinylane' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
