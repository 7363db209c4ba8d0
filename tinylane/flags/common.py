"""What the flags of several commands share."""

from __future__ import annotations

from typing import Any

BACKENDS = ("auto", "numpy", "mlx")
MODES = ("independent", "joint", "group_think", "hogwild")
DTYPES = ("auto", "float32", "float64", "float16", "bfloat16")


def command(commands: Any, name: str, help: str, module: str, more: str = "") -> Any:
    """A subcommand; `module` is the name in `tinylane.commands` that runs it."""
    found = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}. {more}")
    found.set_defaults(module=module)
    return found


def model_flags(p: Any, positional: bool = False) -> None:
    """Which model, adapter and revision."""
    if positional:
        p.add_argument(
            "model",
            metavar="MODEL",
            nargs="?",
            help="a folder or a hub id; default: the one inside",
        )
    else:
        p.add_argument("--model", metavar="M", help="a folder or a hub id; default: the one inside")
    p.add_argument("--adapter-path", metavar="DIR", help="a lane adapter (default: the model's)")
    p.add_argument("--revision", help="branch, tag or commit of a hub id")


def engine_flags(p: Any, every: bool = False) -> None:
    """Backend and dtype; every: "all" as well."""
    more = ("all",) if every else ()
    p.add_argument(
        "--backend",
        choices=(*BACKENDS, *more),
        default="auto",
        help="auto: MLX on Apple silicon" + "; all: one against the other as well" * every,
    )
    p.add_argument("--dtype", choices=(*DTYPES, *more), default="auto")


def lane_flags(g: Any) -> None:
    """How lanes read each other; `tinylane.commands.lanes` reads them."""
    g.add_argument(
        "--mode",
        choices=MODES,
        help="visibility and rotation by name: independent; joint; group_think; "
        "hogwild, where every lane reads one text, its own part last",
    )
    g.add_argument(
        "--visibility",
        metavar="V",
        help="who reads whom: joint, independent, star, neighbours:K, a JSON matrix, @file.json "
        "(default: as the model was trained; independent if it was not)",
    )
    g.add_argument("--lag", type=int, metavar="STEPS", help="how late lanes read each other")
    g.add_argument(
        "--omega",
        metavar="O",
        help="lane rotation: none, group_think, ntk, learned or @file.json "
        "(default: learned if the model has it, else none)",
    )
    g.add_argument("--slot", type=float, metavar="S", help="positions a lane; default: max-tokens")
    g.add_argument("--omega-scale", type=float, metavar="S", help="of ntk; default: lanes")
    g.add_argument("--prompt-lane", choices=("own", "0"), help="where lanes see the prompt")
