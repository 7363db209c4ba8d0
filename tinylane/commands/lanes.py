"""What the lane flags (`tinylane.flags.common.lane_flags`) come to: a rotation and a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinylane.commands import common
from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import LaneMask, Rotation
from tinylane.core.modes import STARTS, check_mode, lane_rope, mode

if TYPE_CHECKING:
    from tinylane.core.model import Model


def check(args: Any, n: int | None, name: str | None) -> None:
    """Raise TinylaneError for lane flags that cannot be right, before a model is loaded.

    n: the number of lanes, if it is known. name: the mode, if there is one (`args.mode`, or one of
    several); the flags that contradict it are refused.
    """
    LaneMask.joint(1, args.lag or 0)
    if args.visibility:
        common.parse_mask(args.visibility, n, args.lag or 0)
    omega = parse_omega(args.omega)
    if name is not None:
        check_mode(
            name,
            omega=omega,
            scale=args.omega_scale,
            prompt_lane=args.prompt_lane,
            visibility=_named(args.visibility),
        )
    start = "group_think" if name == "group_think" else args.omega
    if args.slot is not None and start not in ("group_think", "ntk"):
        raise TinylaneError("--slot needs --mode group_think, --omega group_think or --omega ntk")
    if args.omega_scale is not None and start != "ntk":
        raise TinylaneError("--omega-scale needs --omega ntk")


def settings(
    args: Any, model: Model, n: int, max_tokens: int, name: str | None
) -> tuple[Rotation | None, LaneMask | None]:
    """The rotation and mask that the flags ask for; None is the model's own.

    name: the mode, if there is one. A lane's slot is max_tokens unless --slot says otherwise.
    """
    slot = max_tokens if args.slot is None else args.slot
    omega = parse_omega(args.omega)
    if name is not None:
        seen: Any = _named(args.visibility)
        if args.visibility and seen is None:
            seen = common.parse_mask(
                args.visibility, n, model.lag if args.lag is None else args.lag
            )
        turn = {"omega": omega, "scale": args.omega_scale, "prompt_lane": args.prompt_lane}
        return mode(name, model, n, slot=slot, visibility=seen, lag=args.lag, **turn)
    mask = common.parse_mask(args.visibility, n, args.lag or 0) if args.visibility else None
    if mask is None and args.lag is not None:
        mask = LaneMask(model.mask(n).visibility, args.lag)
    if omega is None and args.prompt_lane is None:
        return None, mask
    return lane_rope(model, n, omega, slot, args.omega_scale, args.prompt_lane), mask


def parse_omega(text: str | None) -> Any:
    """`--omega`: a name of STARTS as it is, the numbers in an @file.json, or None."""
    if text is None or text in STARTS:
        return text
    if not text.startswith("@"):
        raise TinylaneError(
            f"--omega is {show(text, 40)}; expected {', '.join(STARTS)} or @file.json"
        )
    return common.numbers(common.json_argument(text, "--omega"), f"--omega {text}")


def _named(visibility: str | None) -> str | None:
    """A pattern by name; None for a matrix, which is read with the number of lanes."""
    return None if not visibility or visibility.startswith(("@", "[")) else visibility
