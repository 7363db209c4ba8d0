"""`tinylane methods`: every method in one row; with a name, all that is known of one."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from typing import Any

from tinylane.commands import common
from tinylane.commands.terminal import print_table
from tinylane.methods import METHODS, NAMES, method
from tinylane.methods.choices import Method

SHOWN = ("place", "sees", "life", "draws", "extra")


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.add_argument("name", nargs="?", metavar="NAME", help="a method; without it, all of them")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")


CODE = ("prepare", "check")  # fields that are functions


def run(args: Any) -> int:
    """Print the table, or one method."""
    chosen = [METHODS[name] for name in NAMES] if args.name is None else [method(args.name)]
    if args.json:
        common.print_json({"methods": [about(one) for one in chosen]})
    elif args.name is None:
        rows = [[one.name, *(getattr(one, field) for field in SHOWN)] for one in chosen]
        plain = not sys.stdout.isatty()
        print_table("", ["method", *SHOWN], rows, left=range(6), plain=plain)
    else:
        for field, value in about(chosen[0]).items():
            if value:
                shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                print(f"{field:10} {shown}")
    return 0


def about(one: Method) -> dict[str, Any]:
    """A method's fields as JSON."""
    named = {f.name: getattr(one, f.name) for f in fields(one) if f.name not in CODE}
    return {**named, "command": f"tinylane generate --method {one.name}"}
