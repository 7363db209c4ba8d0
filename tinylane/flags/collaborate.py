"""The flags of the collaboration prompts, for every command that decodes lanes."""

from __future__ import annotations

from typing import Any


def collaborate_flags(p: Any) -> None:
    """`--collaborate` and what changes it."""
    g = p.add_argument_group("collaboration prompts (for models that were not trained for lanes)")
    g.add_argument(
        "--collaborate",
        nargs="?",
        const="",
        metavar="DIR",
        help="explain the lanes to the model, ask it on the way whether it repeats others, and for "
        "its answer at the end; DIR: your own system.txt, lane.txt, nudge.txt, finish.txt",
    )
    g.add_argument(
        "--without",
        nargs="+",
        choices=("system", "lane", "nudge", "finish"),
        metavar="PART",
        help="leave out: system, lane, nudge or finish",
    )
    g.add_argument("--nudge-every", type=int, metavar="N", help="tokens of a lane; default: 256")
    g.add_argument(
        "--finish-at",
        type=int,
        metavar="N",
        help="tokens of a lane before it is asked for its answer; default: as late as leaves 32",
    )
