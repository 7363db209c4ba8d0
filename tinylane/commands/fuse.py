"""`tinylane fuse`: merge an adapter into its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinylane.commands import common


def run(args: Any) -> int:
    """Run the command; the exit code."""
    from tinylane.checkpoints.fuse import fuse

    out = Path(args.save_path)
    notes = fuse(
        args.model if args.model is not None else common.embedded(),
        out,
        args.adapter_path,
        dtype=args.dtype,
        dequantize=args.dequantize,
        revision=args.revision,
    )
    for text in notes:
        common.note(text)
    lanes = " Omega is in its adapter/" if (out / "adapter").is_dir() else ""
    common.say(f"merged: {out} (tinylane generate --model {out}){lanes}")
    return 0
