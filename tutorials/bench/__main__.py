"""The command: `python tutorials/bench --against transformers,mlx-lm,llama3.np ...`."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

from tinylane.commands import bench, cli
from tinylane.commands.bench_engine import BenchCase
from tinylane.commands.bench_report import labels, middle, rate, spread
from tinylane.commands.terminal import print_table
from tinylane.core.errors import TinylaneError
from tutorials.bench.engines import check_peer
from tutorials.bench.process import measure

RATIOS = "ratios, pair by pair: median (low-high) of the rounds; above 1 tinylane is faster"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, as that of `tinylane`."""
    return cli.main(argv, _parser())


def _parser() -> cli.Parser:
    top = cli.Parser(
        prog="python tutorials/bench",
        description="Time decoding on this machine, beside other programs.",
        allow_abbrev=False,
    )
    bench.flags(top)
    top.set_defaults(run=run)
    return top


def run(args: Any) -> int:
    """Time what the flags ask for; returns the exit code."""
    peers = list(dict.fromkeys(args.against.split(","))) if args.against else []
    for peer in peers:
        check_peer(peer)
    if peers and args.adapter_path is not None:
        raise TinylaneError("--against and --adapter-path: peers know no lane adapters; leave one")
    document, cases, times = bench.timed(args, peers, measure)
    document["ratios"] = ratios(cases, times, peers)
    bench.show(args, document)
    if not args.json:
        head = ["engine", "against", "lanes", "prompt", "tokens/s", "first", "total", "same"]
        rows = [_row(r) for r in document["ratios"]]
        plain = args.plain or not sys.stdout.isatty()
        print_table(RATIOS, head, rows, (0, 1), plain)
    return 0


def ratios(
    cases: Sequence[BenchCase], times: dict[str, dict[str, Any]], peers: Sequence[str]
) -> list[dict[str, Any]]:
    """Every backend of tinylane against every peer, pair by pair within the rounds."""
    out = []
    ours = [name for name in times if name not in peers]
    for k, case in enumerate(cases):
        for name, peer in itertools.product(ours, peers):
            if not times[peer]["rounds"][k]:
                continue
            pairs = list(zip(times[name]["rounds"][k], times[peer]["rounds"][k], strict=True))
            speed = functools.partial(rate, case)
            total = lambda a: a["first"] + sum(a["steps"])
            first, second = pairs[0][0]["tokens"], pairs[0][1]["tokens"]
            differ = (k for k, (x, y) in enumerate(zip(first, second, strict=False)) if x != y)
            out.append(
                {
                    **labels(name, case),
                    "against": peer,
                    "tokens_per_second": middle([speed(a) / speed(b) for a, b in pairs]),
                    "first_token": middle([b["first"] / a["first"] for a, b in pairs]),
                    "total": middle([total(b) / total(a) for a, b in pairs]),
                    "same_tokens": next(differ, len(first)),
                }
            )
    return out


def _row(r: dict[str, Any]) -> list[str]:
    return [
        r["engine"],
        r["against"],
        str(r["lanes"]),
        str(r["prompt_tokens"]),
        *(spread(r[key]) for key in ("tokens_per_second", "first_token", "total")),
        f"{r['same_tokens']} of {r['max_tokens']}",
    ]


if __name__ == "__main__":
    sys.exit(main())
