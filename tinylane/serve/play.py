"""`tinylane play`: lanes of a model in the browser, while they write. The server of `serve` with a
page: `routes` has what the page asks, `session` what can be done to lanes."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tinylane.commands import shared_flags
from tinylane.serve import serve


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.description += " Without arguments: the model inside. OpenAI's routes are there as well."
    shared_flags.model_flags(p)
    shared_flags.engine_flags(p)
    says = "open the page in a browser; default: yes, on a terminal"
    p.add_argument("--open", action=argparse.BooleanOptionalAction, help=says)
    serve.address_flags(p, port=8100)
    p.set_defaults(
        max_tokens=512, temp=None, top_p=None, min_p=None, top_k=None, repetition_penalty=None
    )
    serve.limit_flags(p)


def run(args: Any) -> int:
    """Run the command; it ends by Ctrl-C."""
    args.open = sys.stdout.isatty() if args.open is None else args.open
    serve.serve(args, page=True)
    return 0
