"""`tinylane replay`: a saved run's log-probabilities, recomputed in one pass, on either backend."""

from __future__ import annotations

from typing import Any

from tinylane.commands import common, shared_flags
from tinylane.core import __version__
from tinylane.core.errors import TinylaneError
from tinylane.files.display import printable

# By dtype, in nats. One pass and N steps add in different orders; in 16 bits a logit of 20 is only
# known to 0.01 (float16) or 0.06 (bfloat16).
TOLERANCE = {"float64": 1e-8, "float32": 2e-3, "float16": 0.1, "bfloat16": 0.5}


def tolerance_of(saved: Any, model: Any) -> float:
    """The larger tolerance of the two dtypes: of a saved run, and of the model that replays it."""
    return max(TOLERANCE.get(dtype, 0.0) for dtype in (saved.dtype, model.dtype))


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.add_argument("file", metavar="RUN", help="written by tinylane generate --save")
    shared_flags.model_flags(p)
    shared_flags.engine_flags(p)
    p.add_argument(
        "--tolerance", type=float, metavar="T", help="largest difference; default: by dtype"
    )
    p.add_argument(
        "--top-logprobs",
        type=int,
        metavar="K",
        help="the K likeliest tokens beside each, for --json; default: as many as the run holds",
    )
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(args: Any) -> int:
    """Run the command; the exit code: 1 where the difference exceeds the tolerance."""
    from tinylane.view.replay import replay
    from tinylane.view.run_file import load_run

    shared_flags.check_numbers(args, 0, "tolerance", "top_logprobs")
    if args.top_logprobs and not args.json:
        raise TinylaneError("--top-logprobs needs --json, which holds them")
    saved = load_run(args.file)
    model = common.load_saved(args, saved)
    with common.told_if_slow("computing the log-probabilities again"):
        replayed = replay(saved, model, args.top_logprobs)
    tolerance = tolerance_of(saved, model) if args.tolerance is None else args.tolerance
    agrees = replayed.difference <= tolerance  # never for NaN
    if args.json:
        common.print_json(
            {
                "tinylane": __version__,
                "run": args.file,
                "saved": {"backend": saved.backend, "dtype": saved.dtype},
                "replayed": {"backend": model.backend, "dtype": model.dtype},
                "logprobs": replayed.logprobs,
                "top_logprobs": replayed.top_logprobs,
                "difference_by_lane": replayed.by_lane,
                "difference": replayed.difference,
                "worst": None if replayed.worst is None else list(replayed.worst),
                "tolerance": tolerance,
                "agrees": agrees,
            }
        )
        return 0 if agrees else 1
    lanes = saved.result.lanes
    print(
        f"{printable(args.file)}: {len(lanes)} lanes, {sum(len(x.tokens) for x in lanes)} tokens, "
        f"written by {printable(f'{saved.backend} {saved.dtype}')}, "
        f"replayed by {model.backend} {model.dtype}"
    )
    for lane, difference in zip(lanes, replayed.by_lane, strict=True):
        name = f"lane {lane.index + 1}"
        print(f"{name}: {len(lane.tokens)} tokens, largest difference {difference:.2g}")
    where = ""
    if replayed.worst is not None:
        where = f" (lane {replayed.worst[0] + 1}, token {replayed.worst[1] + 1})"
    print(
        f"largest difference {replayed.difference:.2g}{where}, tolerance {tolerance:g}: "
        f"{'agrees' if agrees else 'DIFFERS'}"
    )
    return 0 if agrees else 1
