"""`tinylane perplexity`: how well a model predicts a text, by a sliding window; with lanes too.

Bits per byte do not depend on the tokenizer, so models can be compared by them. What it measures:
`tinylane.evaluate.perplexity`.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from tinylane.commands import common, shared_flags
from tinylane.commands.progress import Progress
from tinylane.commands.terminal import print_table
from tinylane.core.errors import TinylaneError, whole
from tinylane.core.lanes import MAX_LANES
from tinylane.evaluate.measures import as_json
from tinylane.evaluate.perplexity import Perplexity, measure, tokenized
from tinylane.evaluate.tables import number
from tinylane.files.io import read_bytes

WINDOW = 1024  # tokens, where the context has room
LARGEST = 64 << 20  # bytes of a text
HEAD = ("lanes", "bits per byte (95%)", "bits per token", "perplexity")


def flags(p: Any) -> None:
    """Add the command's flags."""
    shared_flags.model_flags(p, positional=True)
    shared_flags.engine_flags(p)
    p.add_argument("--data", metavar="FILE", required=True, help="a text, UTF-8")
    p.add_argument(
        "--window",
        "--sequence-length",
        type=int,
        metavar="N",
        help=f"tokens that the model sees at once; default: {WINDOW:,}, or its context",
    )
    p.add_argument(
        "--stride", type=int, metavar="N", help="new tokens of a window; default: half of it"
    )
    p.add_argument(
        "--lanes",
        type=int,
        nargs="+",
        default=[1],
        metavar="N",
        help="write what is new in N stretches at once (Plain Lanes); several are compared",
    )
    p.add_argument(
        "--lane-start",
        metavar="TEXT",
        type=shared_flags.text,
        default="\n",
        help="what every stretch but the first begins with; default: a newline",
    )
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")
    p.add_argument("--quiet", action="store_true", help="no progress")


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    shared_flags.check_numbers(args, 1, "lanes", most=MAX_LANES)
    shared_flags.check_numbers(args, 1, "window", "stride")
    try:
        text = read_bytes(args.data, LARGEST).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TinylaneError(f"{args.data}: not UTF-8 text (byte {error.start})") from None
    if not text:
        raise TinylaneError(f"{args.data}: is empty; expected a text")
    if max(args.lanes) > 1 and not args.lane_start:
        raise TinylaneError("--lane-start is empty; expected a text that stretches begin with")
    model = common.load(args)
    size = args.window or min(WINDOW, model.config.context)
    size = whole("--window", size, 2, model.config.context)
    stride = whole("--stride", args.stride or max(size // 2, 1), 1, size - 1)
    try:
        ids, ends = tokenized(model, text)
    except TinylaneError as error:
        raise TinylaneError(f"{args.data}: {error}") from None
    start = model.tokenizer.encode(args.lane_start)
    if max(args.lanes) > 1 and not start:
        raise TinylaneError(
            f"--lane-start {args.lane_start!r}: this model's vocabulary has no token for it; give "
            "another text, with which a stretch begins"
        )
    measured: dict[int, Perplexity] = {}
    for n in dict.fromkeys(args.lanes):
        name, count = "1 lane" if n == 1 else f"{n} lanes", math.ceil((len(ids) - 1) / stride)
        with Progress(count, quiet=args.quiet, name=name, after=common.SILENT) as progress:
            measured[n] = measure(model, (ids, ends), size, stride, n, start, progress.done)
    one = next(iter(measured.values()))
    if args.json:
        rows = [
            {"lanes": n, **as_json(asdict(p)), "bits_per_byte": as_json(p.bits_per_byte)}
            | {"perplexity": p.perplexity}
            for n, p in measured.items()
        ]
        common.print_json(
            {**common.about(args, model), "data": args.data, "window": size, "stride": stride}
            | {"measured": rows}
        )
        return 0
    common.say(
        f"{args.data}: {one.tokens:,} tokens, {one.bytes:,} bytes; {common.name_of(args)} "
        f"({model.backend}, {model.dtype}); {one.windows:,} windows of {size:,} tokens, "
        f"{stride:,} new in each"
    )
    table = [
        [str(n), number(p.bits_per_byte, 4), f"{p.bits_per_token:.3f}", f"{p.perplexity:.3f}"]
        for n, p in measured.items()
    ]
    print_table("", HEAD, table, (), plain=True)
    return 0
