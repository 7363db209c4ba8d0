"""`tinylane transcripts`: what the lanes of a task should write, for `tinylane train sft`.

No model is asked: the texts are right by construction. Their problems come from a stream of random
numbers that `tinylane eval` and `tinylane collect` do not use, whatever the seed. The first lines
of a longer file with the same seed are those of a shorter one. Prompts are raw: train with `--raw`.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from tinylane.commands import common, eval
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import MAX_LANES
from tinylane.evaluate import tasks
from tinylane.evaluate.tasks.task import Options
from tinylane.files.io import replacing


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.add_argument("task", choices=tuple(tasks.KINDS))
    eval.task_flags(p)
    p.add_argument(
        "--lanes",
        type=int,
        nargs="+",
        metavar="N",
        help="of the transcripts, taking turns; default: the task's",
    )
    p.add_argument("--out", metavar="FILE", required=True, help="a JSON object a line")


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    common.check_numbers(args, 1, "count")
    common.check_numbers(args, 0, "seed", most=(1 << 64) - 1)
    common.check_numbers(args, 1, "lanes", most=MAX_LANES)
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    task = tasks.make(args.task, options)
    if task.transcripts is None:
        raise TinylaneError(
            f"{args.task} does not say what lanes should write; tinylane collect samples a model"
        )
    lanes, count = args.lanes or task.lanes, args.count or 1000
    for n in lanes:
        task.lane_prompts(n)  # refuses other numbers before any work is done
    path = common.check_target("--out", args.out)
    with replacing(path) as file:
        for row in task.transcripts(count, args.seed, lanes):
            file.write(json.dumps(row).encode() + b"\n")
    shown = ", ".join(map(str, lanes))
    common.say(f"{task.title or task.name}: {count:,} transcripts of {shown} lanes, {path}")
    return 0
