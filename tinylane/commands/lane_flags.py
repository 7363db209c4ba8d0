"""How lanes are rotated and read each other: what the flags of that come to.

Imported where one of them is given (`shared_flags.lanes_asked`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tinylane.checkpoints import extras
from tinylane.commands import shared_flags
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask
from tinylane.methods.modes import check_mode, lane_rope, mode

if TYPE_CHECKING:
    from tinylane.core.lanes import Rotation
    from tinylane.core.model import Model


def check(args: Any) -> None:
    """Check the flags; --visibility and --omega become values.

    Raises TinylaneError for what is wrong or contradicts a mode.
    """
    LaneMask.joint(1, args.lag or 0)  # refuses a lag out of range
    args.visibility = shared_flags.parse_visibility(args.visibility)
    args.omega = shared_flags.parse_omega(args.omega)
    if args.mode is not None:
        check_mode(
            args.mode,
            omega=args.omega,
            scale=args.omega_scale,
            prompt_lane=args.prompt_lane,
            visibility=args.visibility,
        )
    # group_think is a mode and a start
    shared_flags.check_omega_numbers(args, args.mode, args.omega)


def settings(
    args: Any, model: Model, n: int, max_tokens: int
) -> tuple[Rotation | None, LaneMask | None]:
    """The rotation and mask that the flags ask for; None is the model's own.

    A lane's slot is max_tokens unless --slot says otherwise.
    """
    slot = max_tokens if args.slot is None else args.slot
    visibility, lag = args.visibility, args.lag
    if isinstance(visibility, LaneMask) and visibility.n < n:
        raise TinylaneError(
            f"--visibility is {visibility.n} x {visibility.n}; expected {n} x {n}, for {n} lanes"
        )
    if args.mode is not None:
        if isinstance(visibility, LaneMask):
            visibility = replace(visibility, lag=model.lag if lag is None else lag)
        return mode(
            args.mode,
            model,
            n,
            slot=slot,
            omega=args.omega,
            scale=args.omega_scale,
            prompt_lane=args.prompt_lane,
            visibility=visibility,
            lag=lag,
        )
    mask = None
    if visibility is not None or lag is not None:
        reads = model.mask(n) if visibility is None else visibility
        reads = LaneMask.named(reads, n) if isinstance(reads, str) else reads
        mask = replace(reads, lag=lag or 0)
        if visibility == "bridge" and not {"bridge", "lace"} & {*extras.kinds_of(model.params)}:
            raise TinylaneError("--visibility bridge, but this model has no bridge and no lace")
    if args.omega is None and args.prompt_lane is None:
        return None, mask
    return lane_rope(model, n, args.omega, slot, args.omega_scale, args.prompt_lane), mask
