"""`tinylane bench`: how long decoding takes on this machine, step by step, and where the time goes.

`python tutorials/bench` times other programs beside it; it uses `timed` and `show`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.commands import common, shared_flags
from tinylane.core.errors import TinylaneError

if TYPE_CHECKING:
    from tinylane.commands.bench_engine import BenchCase
    from tinylane.commands.bench_measure import BenchWork

    Measure = Callable[[Sequence[str], BenchWork], dict[str, dict[str, Any]]]

MODES = ("independent", "joint")
SHAPES = "SmolLM2-135M, Qwen2.5-0.5B, Qwen3-0.6B, Llama-3.2-1B, tiny"


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.description += " Each backend is timed in a process of its own."
    shared_flags.model_flags(p)
    p.add_argument("--shape", metavar="NAME", help=f"instead: random weights; {SHAPES}")
    p.add_argument("--backend", choices=shared_flags.BACKENDS, nargs="+", default=["auto"])
    p.add_argument("--dtype", choices=shared_flags.DTYPES, default="auto")
    p.add_argument("--ops", **shared_flags.OPS)
    g = p.add_argument_group("what is decoded")
    g.add_argument("--lanes", type=int, nargs="+", default=[1], metavar="N", help="default: 1")
    g.add_argument("--prompt-tokens", type=int, nargs="+", metavar="N", help="default: 512")
    g.add_argument("--max-tokens", "-m", type=int, default=128, metavar="N", help="default: 128")
    g.add_argument("--mode", choices=MODES, nargs="+", help="default: both, with several lanes")
    g.add_argument("--prompt-lane", choices=("own", "0"), default="own", help="of joint lanes")
    g.add_argument("--temp", type=float, default=0.0, metavar="T", help="default: 0, greedy")
    g.add_argument("--top-p", type=float, default=1.0, metavar="P")
    g.add_argument("--top-k", type=int, default=0, metavar="K")
    g.add_argument("--seed", type=int, default=0, metavar="S", help="of prompt, weights and draws")
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
    g.add_argument("--plot", metavar="FILE", help="step times as SVG, or by name as .png or .pdf")
    g.add_argument("--plain", action="store_true", help="plain columns, in a terminal too")
    g.add_argument("--quiet", action="store_true", help="no progress")


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    if args.against is not None:
        raise TinylaneError(
            "--against: other programs are timed by python tutorials/bench, in a checkout of the "
            "repository, with the same flags"
        )
    show(args, timed(args)[0])
    return 0


def timed(
    args: Any, peers: Sequence[str] = (), measure: Measure | None = None
) -> tuple[dict[str, Any], list[BenchCase], dict[str, dict[str, Any]]]:
    """Time what the flags ask for: the document that --json prints, the cases, and every engine's
    times (as of `bench_measure.time_engine`).

    peers: other programs, which `measure` times as well; all engines are then in memory together.
    Raises TinylaneError for wrong flags, too little memory, or an engine that fails.
    """
    from tinylane.checkpoints.config_json import read_config
    from tinylane.checkpoints.hub import resolve
    from tinylane.checkpoints.load import choose_backend
    from tinylane.commands import bench_machine, bench_measure, bench_report
    from tinylane.commands.bench_shapes import shape, write_random
    from tinylane.core import __version__
    from tinylane.files.memory import forecast

    if peers and args.temp:
        raise TinylaneError(f"--temp {args.temp:g}: other programs are timed greedy; leave it out")
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
        engines = [*(f"tinylane {backend}" for backend in backends), *peers]
        together = len(engines) if peers else 1
        if needs.available is not None and needs.total * together > needs.available:
            raise TinylaneError(
                f"{together} engines need {common.mebibytes(needs.total)} each and "
                f"{common.mebibytes(needs.available)} are available: fewer of them at a time, or "
                "a smaller model"
            )
        if args.shape is not None:
            common.note(f"writing random weights of {name}", args.quiet)
            write_random(config, folder, args.seed)
        work = bench_measure.BenchWork(
            folder=str(folder),
            dtype=dtype,
            adapter=False if peers else args.adapter_path,
            ops=args.ops,
            cases=_cases(args, config.vocab, prompts, modes),
            repeats=args.repeats,
            profile=args.profile,
            threads=args.threads or bench_machine.cores(),
            read=args.read_mib << 20,
            quiet=args.quiet,
        )
        times = (measure or bench_measure.measure)(engines, work)
    results = bench_report.summary(
        work.cases, times, forecast(config, times[engines[0]]["load"]["dtype"]).kv_per_token
    )
    preload = bench_machine.environment("mlx", 1).get("LD_PRELOAD") if "mlx" in backends else None
    document = {
        "tinylane": __version__,
        "machine": {**bench_machine.describe(), "threads": work.threads},
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
            "sampling": {"temperature": args.temp, "top_p": args.top_p, "top_k": args.top_k},
            "repeats": args.repeats,
            "seed": args.seed,
            "preload": preload,
        },
        **results,
    }
    return document, work.cases, times


def _cases(args: Any, vocab: int, lengths: Sequence[int], modes: Sequence[str]) -> list[BenchCase]:
    """Of one lane joint decoding is the same as independent: it is left out if both are asked."""
    from tinylane.commands.bench_engine import BenchCase, random_prompt

    prompt_lane = 0 if args.prompt_lane == "0" else "own"
    sampling = args.temp, args.top_p, args.top_k
    prompts = [random_prompt(vocab, length, args.seed) for length in lengths]
    return [
        BenchCase(prompt, lanes, args.max_tokens, mode, prompt_lane, sampling, args.seed)
        for prompt in prompts
        for lanes in args.lanes
        for mode in modes
        if lanes > 1 or mode != "joint" or len(modes) == 1
    ]


def _check(args: Any) -> None:
    if args.shape is not None and (args.model or args.adapter_path or args.revision):
        raise TinylaneError("--shape has random weights; leave out --model and what goes with it")
    if args.plot is not None:
        from tinylane.view import figure_style

        figure_style.blank(1, 1)  # raises where matplotlib is missing
    from tinylane.core.lanes import MAX_LANES
    from tinylane.core.sampling import Sampler

    Sampler(args.temp, args.top_p, args.top_k)  # raises for what is out of range
    shared_flags.check_numbers(args, 1, "lanes", most=MAX_LANES)
    shared_flags.check_numbers(args, 1, "prompt_tokens", "repeats", "threads", "read_mib")
    shared_flags.check_numbers(args, 3, "max_tokens")  # two steps are timed after the first token


def show(args: Any, document: dict[str, Any]) -> None:
    """Print the document, as JSON or as tables, and draw --plot."""
    if args.plot is not None:
        from tinylane.view import figure_style
        from tinylane.view.bench_figure import step_times

        figure_style.save(step_times(document), args.plot, otherwise="svg")
        common.note(f"wrote {args.plot}", args.quiet)
    if args.json:
        common.print_json(document)
    else:
        from tinylane.commands.bench_report import print_tables

        print_tables(document, args.plain or not sys.stdout.isatty())
