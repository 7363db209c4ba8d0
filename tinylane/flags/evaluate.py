"""The flags of `eval`."""

from __future__ import annotations

from typing import Any

from tinylane.flags.common import command, engine_flags, model_flags


def eval(commands: Any) -> None:
    """`tinylane eval`."""
    p = command(commands, "eval", "measure accuracy on unseen problems of a task", "evaluate")
    p.add_argument("task", choices=("shell-game",))
    model_flags(p)
    engine_flags(p)
    p.add_argument("--lanes", type=int, nargs="+", metavar="N", help="default: all it was made for")
    p.add_argument("--count", type=int, default=1000, metavar="N", help="problems; default: 1000")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of the problems; default: 0")
    p.add_argument(
        "--visibility",
        nargs="+",
        default=["joint", "independent"],
        metavar="V",
        help="default: joint independent",
    )
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")
    p.add_argument("--quiet", action="store_true", help="no progress")
