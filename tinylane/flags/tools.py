"""The flags of `bench`, `inspect` and `verify`."""

from __future__ import annotations

from typing import Any

from tinylane.flags.common import BACKENDS, DTYPES, command, engine_flags, model_flags

SHAPES = "SmolLM2-135M, Qwen2.5-0.5B, Qwen3-0.6B, Llama-3.2-1B, tiny"


def bench(commands: Any) -> None:
    """`tinylane bench`."""
    p = command(
        commands,
        "bench",
        "time decoding on this machine, beside other programs",
        "bench",
        "Everything is timed in turn, in processes of its own; ratios are taken round by round.",
    )
    model_flags(p)
    p.add_argument("--shape", metavar="NAME", help=f"instead: random weights; {SHAPES}")
    p.add_argument("--backend", choices=BACKENDS, nargs="+", default=["auto"])
    p.add_argument("--dtype", choices=DTYPES, default="auto", help="with --against: float32")
    g = p.add_argument_group("what is decoded")
    g.add_argument("--lanes", type=int, nargs="+", default=[1], metavar="N", help="default: 1")
    g.add_argument("--prompt-tokens", type=int, nargs="+", metavar="N", help="default: 512")
    g.add_argument("--max-tokens", "-m", type=int, default=128, metavar="N", help="default: 128")
    g.add_argument(
        "--mode", choices=("independent", "joint"), nargs="+", help="default: both, of many lanes"
    )
    g.add_argument("--prompt-lane", choices=("own", "0"), default="own", help="of joint lanes")
    g.add_argument("--seed", type=int, default=0, metavar="S", help="of prompt and weights")
    g = p.add_argument_group("how")
    g.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds; default: 5")
    g.add_argument("--threads", type=int, metavar="N", help="default: all processors")
    g.add_argument(
        "--against", metavar="NAMES", help="peers, with commas: transformers, mlx-lm, llama3.np"
    )
    g.add_argument("--profile", action="store_true", help="where a step goes")
    g.add_argument(
        "--read-mib", type=int, default=512, metavar="N", help="read to measure the bandwidth"
    )
    g = p.add_argument_group("output")
    g.add_argument("--json", action="store_true", help="one JSON document on standard output")
    g.add_argument("--plot", metavar="FILE", help="step time against lanes and context, an SVG")
    g.add_argument("--plain", action="store_true", help="plain columns, in a terminal too")
    g.add_argument("--quiet", action="store_true", help="no progress")


def inspect(commands: Any) -> None:
    """`tinylane inspect`."""
    p = command(
        commands, "inspect", "what the loader chooses, from which file, and its memory", "inspect"
    )
    model_flags(p, positional=True)
    engine_flags(p)
    p.add_argument("--lanes", type=int, default=1, metavar="N")
    p.add_argument("--prompt-tokens", type=int, default=512, metavar="N")
    p.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of each lane")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")


def verify(commands: Any) -> None:
    """`tinylane verify`."""
    p = command(
        commands,
        "verify",
        "check the laws of lanes on a model at its real size",
        "verify",
        "Random prompts and yours; a table of errors and tolerances; exit 1 where a law fails.",
    )
    model_flags(p, positional=True)
    engine_flags(p, every=True)
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
