"""`tinylane transcripts`: what the lanes of a task should write, for `tinylane train sft`.

The texts are right by construction; a model is asked only for its favourite order. Their problems
come from a stream of random numbers that `tinylane eval` and `tinylane collect` do not use,
whatever the seed. The first lines of a longer file with the same seed are those of a shorter one.

    tinylane transcripts sums --numbers 8 16 32 --lanes 1 2 4 --count 10000 --seed 1 --out S.jsonl
    tinylane train sft --model M --data S.jsonl --raw --lanes 1 2 4 --lora-rank 16 --out A
    tinylane eval sums --model M --adapter-path A --raw --lanes 4 --numbers 16 --count 100

Prompts are raw text: train and ask with `--raw`.
"""

from __future__ import annotations

import json
from typing import Any

from tinylane.commands import common, shared_flags, task_flags
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import MAX_LANES
from tinylane.evaluate import tasks
from tinylane.evaluate.tasks.naming import ORDERS
from tinylane.files.writing import replacing


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.add_argument("task", choices=tuple(tasks.KINDS))
    task_flags.task_flags(p)
    p.add_argument(
        "--order",
        choices=ORDERS,
        help="of the items of naming: random (default), or as the model of --model would draw them",
    )
    p.add_argument(
        "--lanes",
        type=int,
        nargs="+",
        metavar="N",
        help="of the transcripts, taking turns; default: the task's",
    )
    shared_flags.model_flags(p)
    shared_flags.engine_flags(p)
    p.add_argument("--out", metavar="FILE", required=True, help="a JSON object a line")


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    shared_flags.check_numbers(args, 1, "count")
    shared_flags.check_numbers(args, 0, "seed", most=(1 << 64) - 1)
    shared_flags.check_numbers(args, 1, "lanes", most=MAX_LANES)
    favourite = args.order == "favourite"
    if (args.model is not None) != favourite:
        raise TinylaneError("--model and --order favourite: expected both or neither")
    model = common.load(args) if favourite else None
    task = tasks.make(args.task, task_flags.options_of(args), model)
    if task.transcripts is None:
        raise TinylaneError(
            f"{args.task} does not say what lanes should write; tinylane collect samples a model"
        )
    lanes, count = args.lanes or task.lanes, args.count or 1000
    for n in lanes:
        task.lane_prompts(n)  # refuses other numbers before any work is done
    path = shared_flags.check_target("--out", args.out)
    with replacing(path) as file:
        for row in task.transcripts(count, args.seed, lanes):
            file.write(json.dumps(row).encode() + b"\n")
    shown = ", ".join(map(str, lanes))
    common.say(f"{task.name}: {count:,} transcripts of {shown} lanes, {path}")
    return 0
