"""`tinylane fuse`: merge an adapter into its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinylane.commands import common, shared_flags


def flags(p: Any) -> None:
    """Add the command's flags."""
    shared_flags.model_flags(p)
    p.add_argument("--save-path", required=True, metavar="DIR", help="the merged checkpoint")
    p.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of its files; default: as in the checkpoint",
    )
    p.add_argument(
        "--dequantize", action="store_true", help="write a quantized checkpoint as plain arrays"
    )


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    from tinylane.checkpoints.export import fuse

    out = Path(args.save_path)
    with common.told_if_slow("merging the adapter, writing the weights"):
        notes = fuse(
            common.source(args),
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
