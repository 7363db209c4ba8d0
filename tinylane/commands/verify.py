"""`tinylane verify`: the laws on a checkpoint at its real size; exit 1 where one does not hold."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

import numpy as np

from tinylane.checkpoints.load import DTYPES, choose_backend
from tinylane.commands import common, shared_flags
from tinylane.commands.progress import Progress, duration
from tinylane.commands.terminal import print_table
from tinylane.core import __version__
from tinylane.core.errors import CheckFailed, TinylaneError
from tinylane.core.lanes import LaneRoPE
from tinylane.core.model import Model
from tinylane.evaluate.tasks.shell_game import game_of
from tinylane.files.display import counted
from tinylane.methods.prompt import encode_prompt
from tinylane.testing import verification
from tinylane.testing.samples import Sample
from tinylane.testing.verification import LONGEST, Finding, Verification

LANES = 4
HEAD = ("", "law", "worst error", "tolerance", "used", "rows", "verdict")


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.description += (
        " Random prompts and yours; a table of errors and tolerances; exit 1 where a law fails."
    )
    shared_flags.model_flags(p, positional=True)
    shared_flags.engine_flags(p, every=True)
    p.add_argument(
        "--prompt", "-p", metavar="TEXT", help="one more sample; default: the shell game's"
    )
    p.add_argument(
        "--samples", type=int, default=3, metavar="N", help="with random prompts; default: 3"
    )
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of the samples; default: 0")
    p.add_argument("--lanes", type=int, metavar="N", help="default: 4")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")
    p.add_argument("--quiet", action="store_true", help="no notes")


def run(args: Any) -> int:
    """Run the command; returns the exit code. Raises CheckFailed where a law does not hold."""
    shared_flags.check_numbers(args, 1, "samples")
    shared_flags.check_numbers(args, 0, "seed")
    shared_flags.check_numbers(args, 1, "lanes", most=64)
    if args.prompt == "":
        raise TinylaneError("--prompt is empty; expected text")
    samples: dict[str, Sample] = {}
    runs: list[Verification] = []
    for backend, dtype in _asked(args):
        chosen = argparse.Namespace(**{**vars(args), "backend": backend, "dtype": dtype})
        common.exact_products(chosen)
        # One model at a time; only its logits are kept.
        model = common.load(chosen, lanes=args.lanes or LANES)
        samples = samples or _samples(args, model)
        _say_how_long(model, samples, args.quiet)
        with Progress(None, quiet=args.quiet) as progress:
            done = verification.verify(model, samples, args.seed, lambda law: progress.at(name=law))
        runs.append(done)
        if not args.json:
            title = f"{common.name_of(args)}, {done.name}, {done.seconds:.1f} s"
            _show(f"{title}; sensitivity to rounding {done.sensitivity:.1f}", done.findings)
        if done.blurred:
            common.note(
                f"{done.name}: rounding may move this model's logits by their own size; "
                "only the exact laws say anything about it",
                args.quiet,
            )
        identity = model.identity
        del model
    pairs = verification.compare(runs, samples)
    if args.json:
        common.print_json(_document(args, identity, samples, runs, pairs))
    elif pairs:
        _show("backends and dtypes against each other", pairs, by_says=True)
    failed = [f"{r.name}: {f.violation}" for r in runs for f in r.findings if not f.holds]
    failed += [f.violation for f in pairs if not f.holds]
    if failed:
        count = "1 violation" if len(failed) == 1 else f"{len(failed)} violations"
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise CheckFailed(f"{count}: {'; '.join(failed[:3])}{more}")
    return 0


def _asked(args: Any) -> list[tuple[str, str]]:
    """Which backends, in which dtypes."""
    backends = list(DTYPES) if args.backend == "all" else [choose_backend(args.backend)]
    return [(b, d) for b in backends for d in (DTYPES[b] if args.dtype == "all" else [args.dtype])]


def _samples(args: Any, model: Model) -> dict[str, Sample]:
    known = model.visibility if isinstance(model.visibility, (list, np.ndarray)) else None
    n = args.lanes or (LANES if known is None else min(LANES, len(known)))
    game, prompt = game_of(model), args.prompt
    if prompt is None and game is not None:
        prompt = game.prompt(game.draw(1, np.random.default_rng(args.seed))[0])
    ids = [] if prompt is None else encode_prompt(model, prompt, None)
    if len(ids) > LONGEST:
        common.note(f"the prompt has {len(ids)} tokens; {LONGEST} are used", args.quiet)
    return verification.samples_for(model, n, args.samples, args.seed, ids)


def _say_how_long(model: Model, samples: dict[str, Sample], quiet: bool) -> None:
    if quiet:
        return
    estimate, count = verification.estimate_time(model, samples), len(samples)
    common.note(
        f"{model.backend} {model.dtype}: {counted(count, 'sample')} of up to "
        f"{estimate.rows} rows, {estimate.passes} passes and {estimate.definitions} in float64 by "
        "definition: "
        + ("under a second" if estimate.seconds < 1 else f"about {duration(estimate.seconds)}")
    )


def _show(title: str, findings: list[Finding], by_says: bool = False) -> None:
    rows = [_cells(f, by_says) for f in findings]
    bad = [k for k, f in enumerate(findings) if not f.holds]
    print_table(title, HEAD, rows, (1, 6), not sys.stdout.isatty(), bad)


def _cells(f: Finding, by_says: bool) -> tuple[str, ...]:
    if not f.compared:
        error = allowed = used = "-"
    elif f.allowed == 0:
        error, allowed, used = f"{f.worst:.1e}" if f.worst else "0", "exact", ""
    else:
        error, allowed, used = f"{f.worst:.1e}", f"{f.allowed:.1e}", f"{f.worst / f.allowed:.1%}"
    law = f.says if by_says else f.law
    return str(f.number), law, error, allowed, used, str(f.compared), f.verdict


def _document(
    args: Any,
    identity: str,
    samples: dict[str, Sample],
    runs: list[Verification],
    pairs: list[Finding],
) -> dict[str, Any]:
    def laws(findings: list[Finding]) -> list[dict[str, Any]]:
        return [asdict(f) | {"holds": f.holds, "verdict": f.verdict} for f in findings]

    return {
        "tinylane": __version__,
        "model": args.model,
        "identity": identity,
        "seed": args.seed,
        "samples": {
            name: {
                "rows": len(s.tokens),
                "first_position": int(s.positions.min()),
                "lanes": s.mask.n,
                "visibility": s.mask.visibility.tolist(),
                "lag": s.mask.lag,
                "rotation": "lane_rope" if isinstance(s.rope, LaneRoPE) else "hogwild",
                "prompt_lane": getattr(s.rope, "prompt_lane", None),
            }
            for name, s in samples.items()
        },
        "runs": [
            {
                "backend": r.backend,
                "dtype": r.dtype,
                "seconds": r.seconds,
                "sensitivity": r.sensitivity,
                "blurred": r.blurred,
                "laws": laws(r.findings),
            }
            for r in runs
        ],
        "between": laws(pairs),
        "holds": all(f.holds for r in runs for f in r.findings) and all(f.holds for f in pairs),
    }
