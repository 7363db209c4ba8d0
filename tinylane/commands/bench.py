"""`tinylane bench`: decoding timed on this machine, beside the peers that are installed."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tinylane.checkpoints.config_json import read_config
from tinylane.commands import bench_machine, common
from tinylane.commands.bench_measure import Settings, environment, measure
from tinylane.commands.bench_profile import PARTS
from tinylane.commands.bench_shapes import shape, write_random
from tinylane.core import __version__
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import MAX_LANES
from tinylane.view import figure_style
from tinylane.view.bench_figure import step_times
from tutorials.bench.engines import MODES, check_peer

Rows = list[list[str]]


def run(args: Any) -> int:
    """Run the command; the exit code."""
    from tinylane.checkpoints.hub import resolve
    from tinylane.checkpoints.plan import choose_backend
    from tinylane.files.memory import forecast

    backends = list(dict.fromkeys(choose_backend(name) for name in args.backend))
    modes = list(dict.fromkeys(args.mode or (MODES if max(args.lanes) > 1 else MODES[:1])))
    against = list(dict.fromkeys(args.against.split(","))) if args.against else []
    for peer in against:
        check_peer(peer)
    if against and args.adapter_path is not None:
        raise TinylaneError("--against and --adapter-path: peers know no lane adapters; leave one")
    if args.shape is not None and (args.model or args.adapter_path or args.revision):
        raise TinylaneError("--shape has random weights; leave out --model and what goes with it")
    if args.plot is not None:
        figure_style.check(args.plot)
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
    with ExitStack() as stack:
        if args.shape is not None:
            config, name = shape(args.shape), args.shape
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tinylane-")))
        else:
            name = common.name_of(args)
            folder = resolve(args.model or common.embedded(), args.revision)
            config = read_config(folder)
        dtype = args.dtype if args.dtype != "auto" else "float32" if against else "auto"
        prompts = args.prompt_tokens or [max(min(512, config.context - args.max_tokens), 1)]
        if max(prompts) + args.max_tokens > config.context:
            raise TinylaneError(
                f"a prompt of {max(prompts)} and {args.max_tokens} new tokens; this model's "
                f"context is {config.context}: give --prompt-tokens and --max-tokens"
            )
        planned = "float32" if dtype == "auto" else dtype
        needs = forecast(config, planned, max(args.lanes), max(prompts), args.max_tokens)
        total, contestants = needs.total, len(backends) + len(against)
        if needs.available is not None and total * contestants > needs.available:
            raise TinylaneError(
                f"{contestants} contestants need {common.mebibytes(total)} each and "
                f"{common.mebibytes(needs.available)} are available: fewer of them at a time, or "
                "a smaller model"
            )
        if args.shape is not None:
            common.note(f"writing random weights of {name}", args.quiet)
            write_random(config, folder, args.seed)
        settings = Settings(
            folder=folder,
            config=config,
            backends=backends,
            against=against,
            dtype=dtype,
            lanes=args.lanes,
            prompts=prompts,
            count=args.max_tokens,
            modes=modes,
            prompt_lane=0 if args.prompt_lane == "0" else "own",
            repeats=args.repeats,
            threads=args.threads or bench_machine.cores(),
            seed=args.seed,
            profile=args.profile,
            read=args.read_mib << 20,
            adapter=False if against else args.adapter_path,
        )
        found = measure(settings, lambda line: common.note(line, args.quiet))
    preload = {n: environment(n, 1).get("LD_PRELOAD") for n in ("tinylane mlx", "mlx-lm")}
    report = {
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
            "preload": preload["tinylane mlx"] if "mlx" in backends else None,
        },
        **found,
    }
    if args.plot is not None:
        figure_style.save(step_times(report), args.plot)
        common.note(f"wrote {args.plot}", args.quiet)
    if args.json:
        common.print_json(report)
    else:
        _show(report, args.plain or not sys.stdout.isatty())
    return 0


def _show(report: dict[str, Any], plain: bool) -> None:
    box, made = report["machine"], report["model"]
    speeds = report["bandwidth_bytes_per_second"].items()
    versions = ", ".join(f"{name} {v}" for name, v in report["versions"].items())
    loads = ", ".join(f"{name} {s:.1f} s" for name, s in report["load_seconds"].items())
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
    print(f"memory read at best at: {read}; loaded in: {loads}")
    head = ["engine", "mode", "lanes", "prompt", "first(ms)", "step(ms)", "10-90%", "tokens/s"]
    head += ["total(s)", "peak", "share", "of best"]
    _table("", head, [_result(r) for r in report["results"]], plain)
    title = "ratios, pair by pair: median (low-high) of the rounds; above 1 tinylane is faster"
    head = ["engine", "against", "lanes", "prompt", "tokens/s", "first", "total", "same"]
    _table(title, head, [_ratio(r) for r in report["ratios"]], plain)
    title = "time of a joint step over an independent one"
    rows = [
        [r["engine"], str(r["lanes"]), str(r["prompt_tokens"]), _spread(r["step"])]
        for r in report["joint_cost"]
    ]
    _table(title, ["engine", "lanes", "prompt", "step"], rows, plain)
    title = "time of a step for every row in the cache; over reading it at the measured bandwidth"
    rows = [
        [
            r["engine"],
            r["mode"],
            str(r["lanes"]),
            f"{r['seconds_per_row'] * 1e6:.2f}",
            f"{r['over_bandwidth']:.2f}",
        ]
        for r in report["context_slope"]
    ]
    _table(title, ["engine", "mode", "lanes", "us/row", "over"], rows, plain)
    title = "where a step goes, ms; Python is us a step and layer (MLX: seams forced one by one)"
    head = ["engine", "mode", "lanes", "prompt", *PARTS, "step", "Python"]
    _table(title, head, [_profile(r) for r in report["profiles"]], plain)


def _result(r: dict[str, Any]) -> list[str]:
    step = r["step_seconds"]
    shares = (r["bandwidth_share"], r["bandwidth_share_of_best"])
    return [
        r["engine"],
        r["mode"],
        str(r["lanes"]),
        str(r["prompt_tokens"]),
        f"{r['first_token_seconds'] * 1000:.1f}",
        f"{step['median'] * 1000:.2f}",
        f"{step['p10'] * 1000:.2f}-{step['p90'] * 1000:.2f}",
        f"{r['tokens_per_second']:.1f}",
        f"{r['total_seconds']:.2f}",
        common.mebibytes(r["peak_memory_bytes"]),
        *("-" if share is None else f"{share:.0%}" for share in shares),
    ]


def _ratio(r: dict[str, Any]) -> list[str]:
    return [
        r["engine"],
        r["against"],
        str(r["lanes"]),
        str(r["prompt_tokens"]),
        *(_spread(r[key]) for key in ("tokens_per_second", "first_token", "total")),
        f"{r['same_tokens']} of {r['max_tokens']}",
    ]


def _profile(r: dict[str, Any]) -> list[str]:
    return [
        r["engine"],
        r["mode"],
        str(r["lanes"]),
        str(r["prompt_tokens"]),
        *(f"{r['parts'][part] * 1000:.2f}" for part in PARTS),
        f"{r['step'] * 1000:.2f}",
        f"{r['python_per_layer'] * 1e6:.0f}",
    ]


def _spread(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['low']:.2f}-{values['high']:.2f})"


def _table(title: str, head: list[str], rows: Rows, plain: bool) -> None:
    if not rows:
        return
    words = sum(isinstance(cell, str) and not cell[:1].isdigit() for cell in rows[0][:2])
    if plain:
        if title:
            print(title)
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in [head, *rows]:
            cells = [
                cell.ljust(width) if k < words else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            print("  ".join(cells).rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", safe_box=True)
    for k, name in enumerate(head):
        table.add_column(name, justify="left" if k < words else "right")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, emoji=False).print(table)
