"""`tinylane bench`: how long decoding takes on this machine, step by step, and where the time goes.

`python tutorials/bench` times other programs beside it; it uses `timed` and `show`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tinylane.commands import common
from tinylane.commands.terminal import print_table
from tinylane.core.errors import TinylaneError

MODES = ("independent", "joint")
SHAPES = "SmolLM2-135M, Qwen2.5-0.5B, Qwen3-0.6B, Llama-3.2-1B, tiny"
PARTS = ("projections", "head", "attention", "norms and gate", "cache", "sampling", "plan", "rest")


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.description += " Engines run in turn, each in its own process."
    common.model_flags(p)
    p.add_argument("--shape", metavar="NAME", help=f"instead: random weights; {SHAPES}")
    p.add_argument("--backend", choices=common.BACKENDS, nargs="+", default=["auto"])
    p.add_argument("--dtype", choices=common.DTYPES, default="auto")
    p.add_argument("--ops", **common.OPS)
    g = p.add_argument_group("what is decoded")
    g.add_argument("--lanes", type=int, nargs="+", default=[1], metavar="N", help="default: 1")
    g.add_argument("--prompt-tokens", type=int, nargs="+", metavar="N", help="default: 512")
    g.add_argument("--max-tokens", "-m", type=int, default=128, metavar="N", help="default: 128")
    g.add_argument("--mode", choices=MODES, nargs="+", help="default: both, with several lanes")
    g.add_argument("--prompt-lane", choices=("own", "0"), default="own", help="of joint lanes")
    g.add_argument("--seed", type=int, default=0, metavar="S", help="of prompt and weights")
    g = p.add_argument_group("how")
    g.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds; default: 5")
    g.add_argument("--threads", type=int, metavar="N", help="default: all processors")
    g.add_argument(
        "--against",
        metavar="NAMES",
        help="other programs, with commas: transformers, mlx-lm, llama3.np; only in a checkout of "
        "the repository: python tutorials/bench",
    )
    g.add_argument("--profile", action="store_true", help="where the time of a step goes")
    g.add_argument(
        "--read-mib", type=int, default=512, metavar="N", help="read to measure the bandwidth"
    )
    g = p.add_argument_group("output")
    g.add_argument("--json", action="store_true", help="one JSON document on standard output")
    g.add_argument("--plot", metavar="FILE", help="step times as a figure: .svg, .png or .pdf")
    g.add_argument("--plain", action="store_true", help="plain columns, in a terminal too")
    g.add_argument("--quiet", action="store_true", help="no progress")


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    if args.against is not None:
        raise TinylaneError(
            "--against: other programs are timed by python tutorials/bench, in a checkout of the "
            "repository, with the same flags"
        )
    document, _ = timed(args)
    show(args, document)
    return 0


def timed(
    args: Any, peers: Sequence[str] = (), worker: str | None = None
) -> tuple[dict[str, Any], list[Any]]:
    """Time what the flags ask for: the document that --json prints, and the rounds of every case.

    peers: engines of other programs, which the module `worker` knows (`bench_measure.measure`).
    Raises TinylaneError for wrong flags, too little memory, or an engine that fails.
    """
    from tinylane.checkpoints.config_json import read_config
    from tinylane.checkpoints.hub import resolve
    from tinylane.checkpoints.plan import choose_backend
    from tinylane.commands import bench_machine
    from tinylane.commands.bench_measure import WORKER, BenchSettings, environment, measure
    from tinylane.commands.bench_shapes import shape, write_random
    from tinylane.core import __version__
    from tinylane.files.memory import forecast

    backends = list(dict.fromkeys(choose_backend(name) for name in args.backend))
    modes = list(dict.fromkeys(args.mode or (MODES if max(args.lanes) > 1 else MODES[:1])))
    _check(args)
    with ExitStack() as stack:
        if args.shape is not None:
            config, name = shape(args.shape), args.shape
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tinylane-")))
        else:
            name = common.name_of(args)
            folder = resolve(common.source(args), args.revision)
            config = read_config(folder)
        dtype = args.dtype if args.dtype != "auto" else "float32" if peers else "auto"
        prompts = args.prompt_tokens or [max(min(512, config.context - args.max_tokens), 1)]
        if max(prompts) + args.max_tokens > config.context:
            raise TinylaneError(
                f"a prompt of {max(prompts)} and {args.max_tokens} new tokens; this model's "
                f"context is {config.context}: give --prompt-tokens and --max-tokens"
            )
        planned = "float32" if dtype == "auto" else dtype
        needs = forecast(config, planned, max(args.lanes), max(prompts), args.max_tokens)
        engines = len(backends) + len(peers)
        if needs.available is not None and needs.total * engines > needs.available:
            raise TinylaneError(
                f"{engines} engines need {common.mebibytes(needs.total)} each and "
                f"{common.mebibytes(needs.available)} are available: fewer of them at a time, or "
                "a smaller model"
            )
        if args.shape is not None:
            common.note(f"writing random weights of {name}", args.quiet)
            write_random(config, folder, args.seed)
        settings = BenchSettings(
            args, folder, config, backends, modes, prompts, dtype,
            threads=args.threads or bench_machine.cores(),
            adapter=False if peers else args.adapter_path,
            peers=peers,
            worker=worker or WORKER,
        )  # fmt: skip
        results, rounds = measure(settings, lambda line: common.note(line, args.quiet))
    preload = environment("mlx", 1).get("LD_PRELOAD") if "mlx" in backends else None
    document = {
        "tinylane": __version__,
        "machine": {**bench_machine.describe(), "threads": settings.threads},
        "model": {
            "name": name,
            "random_weights": args.shape is not None,
            "layers": config.layers,
            "weight_bytes": needs.weights,
        },
        "settings": {
            "lanes": args.lanes,
            "prompt_tokens": prompts,
            "max_tokens": args.max_tokens,
            "modes": modes,
            "prompt_lane": args.prompt_lane,
            "repeats": args.repeats,
            "seed": args.seed,
            "preload": preload,
        },
        **results,
    }
    return document, rounds


def _check(args: Any) -> None:
    if args.shape is not None and (args.model or args.adapter_path or args.revision):
        raise TinylaneError("--shape has random weights; leave out --model and what goes with it")
    if args.plot is not None:
        from tinylane.view import figure_style

        figure_style.check(args.plot)
    from tinylane.core.lanes import MAX_LANES

    whole = {
        "--lanes": args.lanes,
        "--prompt-tokens": args.prompt_tokens or [1],
        "--repeats": [args.repeats],
        "--threads": [1 if args.threads is None else args.threads],
    }
    for flag, values in whole.items():
        if min(values) < 1 or (flag == "--lanes" and max(values) > MAX_LANES):
            raise TinylaneError(f"{flag} {min(values)}; expected whole numbers, at least 1")
    if args.max_tokens < 3:
        raise TinylaneError(f"--max-tokens {args.max_tokens}; expected at least 3: 2 timed steps")


def show(args: Any, document: dict[str, Any]) -> None:
    """Print the document, as JSON or as tables, and draw --plot."""
    if args.plot is not None:
        from tinylane.view import figure_style
        from tinylane.view.bench_figure import step_times

        figure_style.save(step_times(document), args.plot)
        common.note(f"wrote {args.plot}", args.quiet)
    if args.json:
        common.print_json(document)
    else:
        _tables(document, args.plain or not sys.stdout.isatty())


def _tables(report: dict[str, Any], plain: bool) -> None:
    box, made = report["machine"], report["model"]
    speeds = report["bandwidth_bytes_per_second"].items()
    versions = ", ".join(f"{name} {v}" for name, v in report["versions"].items())
    loads = ", ".join(f"{name} {s:.1f} s" for name, s in report["load_seconds"].items())
    ops = ", ".join(f"{chosen} ({name})" for name, chosen in report["ops"].items())
    read = ", ".join(f"{speed / 1e9:.1f} GB/s ({name})" for name, speed in speeds)
    settings = report["settings"]
    common.say(
        f"{made['name']}{', random weights' * made['random_weights']}, {report['dtype']}: "
        f"{made['layers']} layers, {common.mebibytes(made['weight_bytes'])}; "
        f"{settings['max_tokens']} new tokens, greedy, {settings['repeats']} rounds"
    )
    common.say(
        f"{box['processor']}, {box['threads']} threads, {box['system']}, Python {box['python']}"
    )
    print(
        f"versions: {versions}" + f"; preloaded {settings['preload']}" * bool(settings["preload"])
    )
    print(f"operations: {ops}; memory read at best at: {read}; loaded in: {loads}")
    place = ["engine", "mode", "lanes", "prompt"]
    head = [*place, "first(ms)", "step(ms)", "10-90%", "tokens/s", "total(s)", "peak", "share"]
    head += ["of best"]
    print_table("", head, [_result(r) for r in report["results"]], (0, 1), plain)
    print_table(
        "time of a joint step over an independent one",
        ["engine", "lanes", "prompt", "step"],
        [[_case(r)[0], *_case(r)[2:], spread(r["step"])] for r in report["joint_cost"]],
        (0,),
        plain,
    )
    print_table(
        "time of a step for every row in the cache; over reading it at the measured bandwidth",
        ["engine", "mode", "lanes", "us/row", "over"],
        [
            [
                r["engine"],
                r["mode"],
                str(r["lanes"]),
                f"{r['seconds_per_row'] * 1e6:.2f}",
                f"{r['over_bandwidth']:.2f}",
            ]
            for r in report["context_slope"]
        ],
        (0, 1),
        plain,
    )
    print_table(
        "where a step goes, ms; Python is us a step and layer (MLX: every operation waited for)",
        [*place, *PARTS, "step", "Python"],
        [_profile(r) for r in report["profiles"]],
        (0, 1),
        plain,
    )


def _case(r: dict[str, Any]) -> list[str]:
    return [r["engine"], r["mode"], str(r["lanes"]), str(r["prompt_tokens"])]


def _result(r: dict[str, Any]) -> list[str]:
    step = r["step_seconds"]
    shares = (r["bandwidth_share"], r["bandwidth_share_of_best"])
    return [
        *_case(r),
        f"{r['first_token_seconds'] * 1000:.1f}",
        f"{step['median'] * 1000:.2f}",
        f"{step['p10'] * 1000:.2f}-{step['p90'] * 1000:.2f}",
        f"{r['tokens_per_second']:.1f}",
        f"{r['total_seconds']:.2f}",
        common.mebibytes(r["peak_memory_bytes"]),
        *("-" if share is None else f"{share:.0%}" for share in shares),
    ]


def _profile(r: dict[str, Any]) -> list[str]:
    parts = [f"{r['parts'][part] * 1000:.2f}" for part in PARTS]
    return [*_case(r), *parts, f"{r['step'] * 1000:.2f}", f"{r['python_per_layer'] * 1e6:.0f}"]


def spread(values: dict[str, float]) -> str:
    """A median and its range, as text."""
    return f"{values['median']:.2f} ({values['low']:.2f}-{values['high']:.2f})"
