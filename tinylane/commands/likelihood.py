"""`tinylane likelihood`: how likely a model finds ordinary texts, with and without an adapter.

What does an adapter for lanes cost a model that writes alone? One lane, each text by itself, raw;
its first token is given. With --adapter-path both are measured on the same texts, and compared.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinylane.commands import common, shared_flags
from tinylane.commands.progress import Progress
from tinylane.commands.terminal import print_table
from tinylane.core.errors import TinylaneError
from tinylane.core.model import Model
from tinylane.evaluate.likelihood import logprobs
from tinylane.evaluate.measures import Estimate, as_json, mean
from tinylane.evaluate.tables import number
from tinylane.files import jsonl
from tinylane.files.io import Fields

HEAD = ("", "log-probability of a token (95%)", "perplexity")


def flags(p: Any) -> None:
    """Add the command's flags."""
    shared_flags.model_flags(p)
    shared_flags.engine_flags(p)
    p.add_argument("--data", metavar="FILE", required=True, help="JSON Lines")
    p.add_argument("--field", metavar="NAME", default="question", help="default: question")
    p.add_argument("--count", type=int, metavar="N", help="texts; default: all")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")
    p.add_argument("--quiet", action="store_true", help="no progress")


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    shared_flags.check_numbers(args, 1, "count")
    texts: list[str] = []
    for line, row in jsonl.read(args.data):
        if args.count is None or len(texts) < args.count:
            texts.append(Fields(row, f"{args.data}, line {line}").spelled(args.field))
    if not texts or (args.count is not None and args.count > len(texts)):
        raise TinylaneError(f"{args.data}: {len(texts)} texts; expected {args.count or 'one'}")
    adapter, by_name, tokens = args.adapter_path, {}, 0
    for name in ["without the adapter", "with the adapter"] if adapter else ["the model"]:
        args.adapter_path = False if name.startswith("without") else adapter
        model = common.load(args)
        by_name[name] = _measure(model, texts, args.quiet, name)
        tokens = int(by_name[name][1].sum())
        del model  # two models need not be in memory at once
    means = {name: sums / counts for name, (sums, counts) in by_name.items()}
    estimates = {name: mean(each) for name, each in means.items()}
    perplexity = {name: math.exp(-s.sum() / c.sum()) for name, (s, c) in by_name.items()}
    change: Estimate | None = None
    if adapter:
        change = mean(means["with the adapter"] - means["without the adapter"])
    if args.json:
        document = {
            "data": args.data,
            "texts": len(texts),
            "tokens": tokens,
            "logprob": {name: as_json(e) for name, e in estimates.items()},
            "perplexity": perplexity,
            "change": as_json(change),
        }
        common.print_json(document)
        return 0
    common.say(f"{len(texts)} texts, {tokens:,} tokens; {common.name_of(args)}; one lane")
    rows = [[name, number(e), f"{perplexity[name]:.2f}"] for name, e in estimates.items()]
    if change is not None:
        rows.append(["the difference", number(change, 3), ""])
    print_table("", HEAD, rows, (0,), plain=True)
    return 0


def _measure(
    model: Model, texts: list[str], quiet: bool, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Of each text the sum of its log-probabilities, and how many tokens these are."""
    if model.tokenizer is None:
        raise TinylaneError("this checkpoint has no tokenizer.json; texts are text")
    sums, counts = [], []
    with Progress(len(texts), quiet=quiet, name=name) as progress:
        for k, text in enumerate(texts):
            ids = model.tokenizer.prompt_ids(text, raw=True)
            if len(ids) < 2:
                raise TinylaneError(f"text {k + 1} has {len(ids)} tokens; expected 2 or more")
            (each,) = logprobs(model, ids[:1], [ids[1:]])
            sums.append(each.sum())
            counts.append(len(each))
            progress.done()
    return np.array(sums), np.array(counts)
