"""What the flags of several commands share."""

from __future__ import annotations

from typing import Any

BACKENDS = ("auto", "numpy", "mlx")
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
