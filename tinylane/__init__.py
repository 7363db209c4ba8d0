"""tinylane: a small, complete transformer decoder whose N lanes read each other while they write.

Reading order: `rope`, `lanes`, `model`, `cache`, `sampling`, `decoding`; then `fast` (MLX) and
`oracle` (the slow path). Everything else hangs off these. Names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinylane import testing as testing
    from tinylane.cache import LaneCache as LaneCache
    from tinylane.checkpoint import load as load
    from tinylane.decoding import Decoding as Decoding
    from tinylane.decoding import Result as Result
    from tinylane.decoding import generate as generate
    from tinylane.decoding import stream as stream
    from tinylane.errors import CheckFailed as CheckFailed
    from tinylane.errors import TinylaneError as TinylaneError
    from tinylane.hogwild import Hogwild as Hogwild
    from tinylane.lanes import SHARED as SHARED
    from tinylane.lanes import LaneMask as LaneMask
    from tinylane.lanes import LaneRoPE as LaneRoPE
    from tinylane.model import Model as Model
    from tinylane.modes import mode as mode
    from tinylane.sampling import Sampler as Sampler
    from tinylane.select import best_of as best_of
    from tinylane.select import extract as extract
    from tinylane.select import vote as vote

__version__ = "0.1.0"

_HOME = {
    "load": "checkpoint",
    "Model": "model",
    "generate": "decoding",
    "stream": "decoding",
    "Decoding": "decoding",
    "Result": "decoding",
    "vote": "select",
    "best_of": "select",
    "extract": "select",
    "LaneRoPE": "lanes",
    "LaneMask": "lanes",
    "SHARED": "lanes",
    "Hogwild": "hogwild",
    "mode": "modes",
    "LaneCache": "cache",
    "Sampler": "sampling",
    "TinylaneError": "errors",
    "CheckFailed": "errors",
}

__all__ = ["__version__", "testing", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"tinylane.{_HOME[name]}"), name)
    if name == "testing":
        return import_module("tinylane.testing")
    raise AttributeError(f"module 'tinylane' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
