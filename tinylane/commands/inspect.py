"""`tinylane inspect`: what the loader chooses for a checkpoint, before it reads any tensor."""

from __future__ import annotations

from typing import Any

from tinylane.commands import common
from tinylane.files.display import printable


def run(args: Any) -> int:
    """Run the command; the exit code."""
    from tinylane.checkpoints.plan import format_report, inspect

    common.silence_panics()
    report = inspect(
        args.model if args.model is not None else common.embedded(),
        args.lanes,
        args.prompt_tokens,
        args.max_tokens,
        args.adapter_path,
        backend=args.backend,
        dtype=args.dtype,
        revision=args.revision,
    )
    if args.json:
        common.print_json(report)
    else:
        print("\n".join(printable(line) for line in format_report(report)))
    return 0
