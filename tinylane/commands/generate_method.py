"""`tinylane generate --method NAME`: what the method decides, and the flags that contradict it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.checkpoints import extras
from tinylane.commands import common, shared_flags
from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import LaneMask
from tinylane.methods import checked, method, prepare
from tinylane.methods.modes import MODES

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.methods import Setup

# Flags of how lanes are rotated and read each other, and what a method calls them.
FLAGS = {
    "omega": "omega", "slot": "slot", "omega_scale": "scale", "prompt_lane": "prompt_lane",
    "visibility": "visibility", "lag": "lag",
}  # fmt: skip


def check(args: Any) -> None:
    """Make --method-config an object. Raises TinylaneError for flags that do not go together."""
    if args.method is None:
        raise TinylaneError("--method-config without --method; give --method")
    chosen = method(args.method)
    args.method = chosen.name
    if args.mode is not None:
        raise TinylaneError(f"--mode {args.mode} and --method {args.method}; expected one of them")
    if args.beams is not None:
        raise TinylaneError("--beams and --method; --method beam --lanes N is beam search")
    if args.collaborate and chosen.name not in (*MODES, "lanerope"):
        raise TinylaneError(f"--collaborate with --method {chosen.name}, which has its own texts")
    try:
        given = json.loads(args.method_config or "{}")
    except (ValueError, RecursionError) as error:
        raise TinylaneError(f"--method-config is no JSON ({error})") from None
    if not isinstance(given, dict):
        raise TinylaneError(f"--method-config is {show(given)}; expected an object")
    for flag, option in FLAGS.items():
        name = f"--{flag.replace('_', '-')}"
        if getattr(args, flag) is not None and option not in chosen.options:
            raise TinylaneError(f"method {chosen.name} takes no {name}; leave it out")
        if getattr(args, flag) is not None and option in given:
            raise TinylaneError(f"{name}, and {option} in --method-config; expected one of them")
    args.visibility = shared_flags.parse_visibility(args.visibility)
    args.omega = shared_flags.parse_omega(args.omega)
    args.method_config = given
    checked(chosen.name, _options(args))


def note(args: Any, model: Model) -> None:
    """Say what the method does without the parameters that it is about."""
    chosen = method(args.method)
    if chosen.needs and chosen.needs not in extras.kinds_of(model.params):
        common.note(
            f"method {chosen.name}: this model has no {chosen.needs}; without it nothing tells "
            "the lanes apart, or they exchange nothing",
            args.quiet,
        )


def same_texts(args: Any, model: Model, chosen: Setup, lane_prompts: Any) -> bool:
    """Whether greedy lanes would all write the same: they begin alike, and none reads another, or
    nothing tells them apart. lane_prompts: of a method without texts of its own."""
    begins, mask = chosen.settings.get("lane_prompts", lane_prompts), chosen.settings["lane_mask"]
    kinds, n = {*extras.kinds_of(model.params)}, chosen.lanes
    if method(args.method).alike:
        return True
    if n == 1 or len({*map(str, begins)}) > 1 or kinds & {"lane_embed", "lane_kv"}:
        return False
    turned = getattr(chosen.settings["lane_rope"], "omega", np.zeros(1)).any()
    reads = mask.visibility if mask.side is None or "lace" not in kinds else mask.side
    others = reads[:n, :n][~np.eye(n, dtype=bool)]
    return not others.any() or bool(others.all() and not turned)


def setup(args: Any, model: Model, n: int, max_tokens: int) -> Setup:
    """What the method gives the decoding."""
    reads = args.visibility
    if isinstance(reads, LaneMask):
        if reads.n < n:
            raise TinylaneError(f"--visibility is {reads.n} x {reads.n}; expected {n} x {n}")
        args.visibility = replace(reads, lag=model.lag if args.lag is None else args.lag)
    chosen = prepare(model, args.method, n, max_tokens, _options(args))
    if args.lane_prompt and ("lane_prompts" in chosen.settings or chosen.lanes != n):
        raise TinylaneError(f"method {args.method} has texts of its own; leave out --lane-prompt")
    return chosen


def _options(args: Any) -> dict[str, Any]:
    """--method-config, and what other flags say of the same."""
    told = {option: getattr(args, flag) for flag, option in FLAGS.items()}
    flags = {name: value for name, value in told.items() if value is not None}
    return {**args.method_config, **flags}
