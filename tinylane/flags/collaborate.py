"""The flags of `collect`, and of the collaboration prompts for every command that decodes lanes."""

from __future__ import annotations

from typing import Any

from tinylane.flags.common import command, engine_flags, model_flags


def collaborate_flags(p: Any) -> None:
    """`--collaborate` and what changes it."""
    g = p.add_argument_group("collaboration prompts (for models that were not trained for lanes)")
    g.add_argument(
        "--collaborate",
        nargs="?",
        const="",
        metavar="DIR",
        help="explain the lanes to the model, ask it on the way whether it repeats others, and for "
        "its answer at the end; DIR: your own system.txt, lane.txt, nudge.txt, finish.txt",
    )
    g.add_argument(
        "--without",
        nargs="+",
        choices=("system", "lane", "nudge", "finish"),
        metavar="PART",
        help="leave out: system, lane, nudge or finish",
    )
    g.add_argument("--nudge-every", type=int, metavar="N", help="tokens of a lane; default: 256")
    g.add_argument(
        "--finish-at",
        type=int,
        metavar="N",
        help="tokens of a lane before it is asked for its answer; default: as late as leaves 32",
    )


def collect(commands: Any) -> None:
    """`tinylane collect`."""
    from tinylane.evaluate.tasks import KINDS
    from tinylane.flags.evaluate import length_flags, reading_flags, shard_flag, task_flags

    p = command(
        commands,
        "collect",
        "sample lanes on a task, as labelled transcripts for train sft and kto",
        "collect",
        "A run that was stopped goes on where it was: give the same command again.",
    )
    p.add_argument("task", choices=tuple(KINDS))
    model_flags(p)
    engine_flags(p)
    task_flags(p)
    g = p.add_argument_group("what is sampled")
    g.add_argument(
        "--mode",
        "--visibility",
        dest="mode",
        default="joint",
        metavar="M",
        help="independent, joint, joint:OMEGA (none, group_think, ntk, learned), group_think, "
        "hogwild, star, neighbours:K; default: joint",
    )
    g.add_argument("--lanes", type=int, metavar="N", help="default: the task's, at most 4")
    reading_flags(g)
    g.add_argument("--samples", type=int, default=1, metavar="S", help="of a problem; default: 1")
    g.add_argument(
        "--label-by",
        choices=("majority", "any", "all", "lane"),
        default="majority",
        help="good is: the majority's answer is right (default), any lane's, all lanes'; lane: a "
        "transcript of every lane, by its own answer (independent lanes)",
    )
    length_flags(p)
    collaborate_flags(p)
    g = p.add_argument_group("output")
    g.add_argument("--out", metavar="DIR", required=True, help="for results.jsonl and settings")
    shard_flag(g)
    g.add_argument("--json", action="store_true", help="one JSON document on standard output")
    g.add_argument("--quiet", action="store_true", help="no progress")
