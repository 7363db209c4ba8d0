"""`tinylane inspect`: what the loader chooses for a checkpoint, before it reads any tensor."""

from __future__ import annotations

from typing import Any

from tinylane.commands import common, shared_flags
from tinylane.files.display import printable


def flags(p: Any) -> None:
    """Add the command's flags."""
    shared_flags.model_flags(p, positional=True)
    shared_flags.engine_flags(p, runs=False)
    p.add_argument("--lanes", type=int, default=1, metavar="N")
    p.add_argument("--prompt-tokens", type=int, default=512, metavar="N")
    p.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of each lane")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    from tinylane.checkpoints.plan import format_report, inspect

    common.silence_panics()
    report = inspect(
        common.source(args),
        args.lanes,
        args.prompt_tokens,
        args.max_tokens,
        args.adapter_path,
        backend=args.backend,
        dtype=args.dtype,
        revision=args.revision,
        ops=args.ops,
    )
    if args.json:
        common.print_json(report)
    else:
        print("\n".join(printable(line) for line in format_report(report)))
    return 0
