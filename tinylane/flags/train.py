"""The flags of `train`. Those of its recipe are read from it, which needs MLX."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from tinylane.flags.common import command


def train(commands: Any, full: bool) -> None:
    """`tinylane train`; full: with the flags of the recipe."""
    p = command(
        commands,
        "train",
        "train the model inside from scratch (needs MLX)",
        "train",
        "A run that was stopped goes on where it was: give the same command again.",
    )
    p.add_argument("task", choices=("shell-game",))
    p.add_argument("--out", required=True, metavar="DIR", help="checkpoint, state and log")
    p.add_argument("--stop-at", type=int, metavar="N", help="stop early, at this step")
    p.add_argument("--every", type=int, default=100, metavar="N", help="steps a progress line")
    p.add_argument("--check-every", type=int, default=500, metavar="N", help="steps a check")
    p.add_argument("--save-every", type=int, default=500, metavar="N", help="steps a saved state")
    p.add_argument("--quiet", action="store_true", help="no progress")
    if not full:
        return
    from tinylane.commands.train import recipe

    g = p.add_argument_group("recipe")
    for field in dataclasses.fields(recipe()):
        flag, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            g.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            shown = " ".join(map(str, default))
            g.add_argument(
                flag,
                nargs="+",
                type=type(default[0]),
                default=default,
                metavar="N",
                help=f"default: {shown}",
            )
        else:
            g.add_argument(
                flag, type=type(default), default=default, metavar="X", help=f"default: {default}"
            )
