"""Modes by name: how N lanes of one prompt read each other, as a rotation and a mask.

    mode           rotation                                       who reads whom
    independent    none                                           nobody: N separate runs
    joint          LaneRoPE, Omega from any start                 everybody, or as told
    group_think    LaneRoPE.group_think(slot), the prompt at 0    the same
    hogwild        Hogwild: every lane reads one text             the same

    rotation, mask = mode("joint", model, 4, slot=256, omega="ntk")
    Decoding(model, prompt, 4, lane_rope=rotation, lane_mask=mask)

Both are pure functions of coordinates, to angles (`rotation.views`) and to visibility
(`mask.visible`); decoder, trainer, tests and plots call the same two. `check_mode` refuses what
contradicts a mode before a model is loaded; `lane_rope` is the table of Omega's starts
(method, section 2.2).
On the command line: `tinylane.commands.generate`.

Sources: LaneRoPE (arXiv:2605.27570), Group Think (arXiv:2505.11107), Hogwild! (arXiv:2504.06261).
"""

from __future__ import annotations

from types import NoneType
from typing import Any

import numpy as np

from tinylane.checkpoints.extras import kinds_of
from tinylane.core.errors import TinylaneError, of_kind, show
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask, LaneRoPE, Rotation
from tinylane.core.model import Model

MODES = ("independent", "joint", "group_think", "hogwild")
# Where Omega may start, and the numbers that each start uses.
STARTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "group_think": ("slot",),
    "ntk": ("slot", "scale"),
    "learned": (),
}
# What a mode decides by itself, and the one value (if any) that says the same.
_DECIDED: dict[str, dict[str, tuple[Any, ...]]] = {
    "independent": {
        "omega": ("none",),
        "scale": (),
        "prompt_lane": ("own",),
        "visibility": ("independent",),
    },
    "joint": {},
    "group_think": {"omega": ("group_think",), "scale": (), "prompt_lane": (0, "0")},
    "hogwild": {"omega": (), "scale": (), "prompt_lane": ()},
}


def mode(
    name: str,
    model: Model,
    lanes: int,
    *,
    slot: float | None = None,
    omega: Any = None,
    scale: float | None = None,
    prompt_lane: Any = None,
    visibility: Any = None,
    lag: int | None = None,
) -> tuple[Rotation, LaneMask]:
    """The rotation and the mask of a mode, for `lanes` lanes of `model`.

    slot: positions a lane (usually max_tokens), for group_think and ntk; others have no use for it.
    omega: of joint: a name of STARTS, or radians (D/2,) or (layers, D/2); None is learned if the
    model has an Omega, else none. scale: of ntk, default `lanes`. prompt_lane: of joint, "own" or
    0. visibility: a name of `LaneMask.named`, or a LaneMask (with its own lag); default joint.
    lag: default the model's. Raises TinylaneError for what contradicts the mode or is out of range.
    """
    of_kind("mode", name, str, "a name")
    of_kind("model", model, Model, "a model: tinylane.load gives one")
    given = {"omega": omega, "slot": slot, "scale": scale, "prompt_lane": prompt_lane}
    check_values(name, **given, visibility=visibility, lag=lag)
    if name == "independent":
        return LaneRoPE.none(model.theta), LaneMask.independent(lanes)
    mask = visibility
    if not isinstance(mask, LaneMask):
        late = model.lag if lag is None else lag
        mask = LaneMask.named("joint" if mask is None else mask, lanes, late)
    if lanes > 1 and mask.alone:
        raise TinylaneError(f"mode {name}, but no lane reads another; give mode independent")
    if mask.side is not None and not {"bridge", "lace"} & {*kinds_of(model.params)}:
        raise TinylaneError("visibility bridge, but this model has no bridge and no lace")
    if name == "hogwild":
        return Hogwild(), mask
    if name == "group_think":
        omega, prompt_lane = "group_think", 0
    return lane_rope(model, lanes, omega, slot, scale, prompt_lane), mask


def check_mode(name: str, **given: Any) -> None:
    """Raise TinylaneError for a name that is none, and for settings that contradict the mode.

    given: `omega`, `scale`, `prompt_lane`, `visibility`, as of `mode`; None is not given.
    """
    if name not in MODES:
        raise TinylaneError(f"mode is {show(name, 40)}; expected {', '.join(MODES)}")
    for what, value in given.items():
        if value is None or what not in _DECIDED[name]:
            continue
        same = _DECIDED[name][what]
        if isinstance(value, LaneMask) and what == "visibility" and value.alone:
            continue
        if not (isinstance(value, (str, int)) and value in same):
            but = f" but {same[0]}" if same else ""
            shown = show(value, 40) if isinstance(value, (str, int, float)) else "another"
            raise TinylaneError(f"mode {name} takes no {what}{but}; {shown} was given")
    if name != "independent" and given.get("visibility") == "independent":
        raise TinylaneError(f"mode {name}, but visibility independent; give mode independent")


def check_values(name: str, **given: Any) -> None:
    """As `check_mode`, and for values that no model could take. given: what `mode` takes beside
    the model and the number of lanes."""
    names = ("omega", "slot", "scale", "prompt_lane", "visibility", "lag")
    omega, slot, scale, where, reads, lag = (given.get(key) for key in names)
    of_kind("visibility", reads, (str, LaneMask, NoneType), "a name or a LaneMask")
    of_kind("prompt_lane", where, (str, int, NoneType), "own or 0")
    check_mode(name, omega=omega, scale=scale, prompt_lane=where, visibility=reads)
    LaneMask.named(reads if isinstance(reads, str) else "joint", 1, 0 if lag is None else lag)
    LaneRoPE.ntk(1.0, 1 if slot is None else slot, 1 if scale is None else scale)
    if isinstance(omega, str) and omega not in STARTS:
        raise TinylaneError(f"omega is {show(omega, 40)}; expected {', '.join(STARTS)} or numbers")


def lane_rope(
    model: Model,
    lanes: int,
    omega: Any = None,
    slot: float | None = None,
    scale: float | None = None,
    prompt_lane: Any = None,
) -> LaneRoPE:
    """The LaneRoPE that starts at `omega`; the other arguments are `mode`'s.

    Raises TinylaneError for an unknown start, one without the slot that it needs, `learned` where
    the model has no Omega, and numbers of another shape than the model's.
    """
    where: Any = {None: "own", "0": 0}.get(prompt_lane, prompt_lane)
    fitting: Any = model.rope  # raises for another shape
    if omega is not None and not isinstance(omega, str):
        return fitting(LaneRoPE(omega, where))
    if omega not in (None, *STARTS):
        raise TinylaneError(f"omega is {show(omega, 40)}; expected {', '.join(STARTS)} or numbers")
    if omega not in (None, "learned"):
        return omega_start(omega, model.theta, slot, lanes if scale is None else scale, where)
    if omega == "learned" and model.lane_rope is None:
        raise TinylaneError("omega learned: this model has none; give --adapter-path")
    rope = fitting(model.lane_rope or LaneRoPE.none(model.theta))
    return rope if prompt_lane is None else LaneRoPE(rope.omega, where)


def omega_start(
    name: str, theta: np.ndarray, slot: float | None, scale: float, prompt_lane: Any = "own"
) -> LaneRoPE:
    """The rotation before any training: none, group_think or ntk, of the planes theta (D/2,).

    slot, scale: as of `mode`; none does not use them. Raises TinylaneError for another name.
    """
    if name == "none":
        return LaneRoPE.none(theta, prompt_lane)
    if "slot" not in STARTS.get(name, ()):
        raise TinylaneError(f"Omega start {show(name, 40)}; expected none, group_think or ntk")
    if slot is None:
        raise TinylaneError(f"omega {name} needs a slot: how many positions a lane takes")
    if name == "group_think":
        return LaneRoPE.group_think(theta, slot, prompt_lane)
    return LaneRoPE.ntk(theta, slot, scale, prompt_lane)
