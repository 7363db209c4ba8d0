"""How lanes are turned: the names of the page, and the rotation of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import LaneMask, Rotation
from tinylane.methods.modes import mode

if TYPE_CHECKING:
    from tinylane.core.model import Model

METHODS = ("learned", "none", "ntk", "group_think", "hogwild")


def rotation(method: str, model: Model, n: int, slot: int) -> Rotation:
    """The rotation of a method for this model. slot: positions that a lane takes."""
    if method not in METHODS:
        raise TinylaneError(f"method is {show(method, 40)}; expected {', '.join(METHODS)}")
    n = max(n, 2)  # a lane alone has no mode
    named: dict[str, Any] = {"visibility": LaneMask.joint(n), "slot": float(slot)}
    if method in ("group_think", "hogwild"):
        return mode(method, model, n, **named)[0]
    return mode("joint", model, n, omega=method, **named)[0]
