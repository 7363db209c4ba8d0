"""Modes by name: how N lanes of one prompt read each other, as a rotation and a mask.

    mode           rotation                                       who reads whom
    independent    none                                           nobody: N separate runs
    joint          LaneRoPE, Omega from any start                 everybody (or as told), `lag` late
    group_think    LaneRoPE.group_think(slot), the prompt at 0    the same
    hogwild        Hogwild: every lane reads one text             the same

    rotation, mask = mode("joint", model, lanes=4, omega="ntk", slot=256)
    Decoding(model, prompt, 4, lane_rope=rotation, lane_mask=mask)

Both are pure functions from coordinates, to angles (`rotation.views`) and to visibility
(`mask.visible`); decoder, trainer, tests and plots call the same two. `check_mode` refuses what
contradicts a mode before a model is loaded. `lane_rope` is the table of Omega's starts (SPEC 2.2).

Sources: LaneRoPE (arXiv:2605.27570), Group Think (arXiv:2505.11107), Hogwild! (arXiv:2504.06261).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.errors import TinylaneError
from tinylane.files import show
from tinylane.hogwild import Hogwild
from tinylane.lanes import LaneMask, LaneRoPE

if TYPE_CHECKING:
    from tinylane.lanes import Rotation
    from tinylane.model import Model

MODES = ("independent", "joint", "group_think", "hogwild")
STARTS = ("none", "group_think", "ntk", "learned")
# What a mode decides by itself, and so cannot be told. --flags are named like these words.
_FIXED: dict[str, dict[str, tuple[Any, ...]]] = {
    "independent": {
        "omega": ("none",),
        "slot": (),
        "scale": (),
        "prompt_lane": ("own",),
        "visibility": ("independent",),
        "lag": (0,),
    },
    "joint": {},
    "group_think": {"omega": ("group_think",), "scale": (), "prompt_lane": (0, "0")},
    "hogwild": {"omega": (), "slot": (), "scale": (), "prompt_lane": ()},
}


def mode(
    name: str,
    model: Model,
    lanes: int,
    *,
    omega: Any = None,
    slot: float | None = None,
    scale: float | None = None,
    prompt_lane: Any = None,
    visibility: Any = None,
    lag: int | None = None,
) -> tuple[Rotation, LaneMask]:
    """The rotation and the mask of a mode, for `lanes` lanes of `model`.

    omega: of joint only: a name of STARTS, or radians (D/2,) or (layers, D/2); None is learned if
    the model has an Omega, else none. slot: positions a lane, of group_think and ntk (usually
    max_tokens). scale: of ntk; default `lanes`. prompt_lane: "own" or 0, of joint. visibility: a
    LaneMask, or a name of `LaneMask.named`; default all. lag: default the model's.
    Raises TinylaneError, in one line, for what contradicts the mode or is out of range.
    """
    check_mode(
        name,
        omega=omega,
        slot=slot,
        scale=scale,
        prompt_lane=prompt_lane,
        visibility=visibility,
        lag=lag,
    )
    if name == "independent":
        return LaneRoPE.none(model.theta), LaneMask.independent(lanes)
    mask = visibility
    if not isinstance(mask, LaneMask):
        late = model.lag if lag is None else lag
        mask = LaneMask.named("joint" if mask is None else mask, lanes, late)
    if name == "hogwild":
        return Hogwild(), mask
    if name == "group_think":
        omega, prompt_lane = "group_think", 0
    return lane_rope(model, lanes, omega, slot, scale, prompt_lane), mask


def check_mode(name: str, **given: Any) -> None:
    """Raise TinylaneError for a name that is none, and for settings that contradict the mode.

    given: keyword arguments of `mode`; None is not given.
    """
    if name not in MODES:
        raise TinylaneError(f"mode {show(name, 40)}; expected {', '.join(MODES)}")
    for what, value in given.items():
        if value is None or what not in _FIXED[name]:
            continue
        if isinstance(value, LaneMask):
            value = "independent" if _alone(value) else "a mask in which lanes read each other"
        allowed = _FIXED[name][what]
        if isinstance(value, np.ndarray) or value not in allowed:
            but = f" but {allowed[0]}" if allowed else ""
            raise TinylaneError(f"mode {name} takes no {what}{but}; {show(value, 40)} was given")
    seen = given.get("visibility")
    alone = _alone(seen) if isinstance(seen, LaneMask) else seen == "independent"
    if name != "independent" and alone and not (isinstance(seen, LaneMask) and seen.n == 1):
        raise TinylaneError(f"mode {name}, but no lane reads another; give mode independent")


def lane_rope(
    model: Model,
    lanes: int,
    omega: Any = None,
    slot: float | None = None,
    scale: float | None = None,
    prompt_lane: Any = None,
) -> LaneRoPE:
    """The LaneRoPE of a start of Omega: arguments as of `mode`, in the same order.

    Raises TinylaneError for an unknown start, one without the slot that it needs, `learned` where
    the model has no Omega, and numbers of another shape.
    """
    named = omega is None or isinstance(omega, str)
    if named and omega not in (None, *STARTS):
        raise TinylaneError(f"omega {show(omega, 40)}; expected {', '.join(STARTS)} or numbers")
    where: Any = {None: "own", "0": 0}.get(prompt_lane, prompt_lane)
    if omega in ("group_think", "ntk") if named else False:
        if slot is None:
            raise TinylaneError(f"omega {omega} needs a slot: how many positions a lane takes")
        if omega == "group_think":
            return LaneRoPE.group_think(model.theta, slot, where)
        return LaneRoPE.ntk(model.theta, slot, lanes if scale is None else scale, where)
    if named and omega == "none":
        return LaneRoPE.none(model.theta, where)
    if not named:
        return _own(model, LaneRoPE(omega, where))
    if omega == "learned" and model.lane_rope is None:
        raise TinylaneError("omega learned: this model has none; give --adapter-path")
    own = _own(model, model.lane_rope or LaneRoPE.none(model.theta))
    return own if prompt_lane is None else LaneRoPE(own.omega, where)


def _own(model: Model, rope: LaneRoPE) -> LaneRoPE:
    model.rope(rope)  # raises for another shape
    return rope


def _alone(mask: LaneMask) -> bool:
    return not (mask.visibility & ~np.eye(mask.n, dtype=bool)).any()
