"""Flags of the commands that work on the problems of a task: eval, collect and transcripts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tinylane.commands import shared_flags
from tinylane.evaluate.tasks.task import Options


def mode_flag(g: Any, **more: Any) -> None:
    """Which modes are run; more: of `add_argument`."""
    default = more["default"]
    shown = default if isinstance(default, str) else " ".join(default)
    g.add_argument(
        "--mode",
        "--visibility",
        dest="mode",
        metavar="M",
        help="independent, joint, joint:OMEGA (none, group_think, ntk, learned), group_think, "
        "hogwild, star, neighbours:K, fork_join:K (lanes read nobody for K tokens, then all; "
        f"without K: for what the task says is their own part); default: {shown}",
        **more,
    )


def shard_flag(g: Any) -> None:
    """Which part of a run this process does."""
    g.add_argument(
        "--shard",
        metavar="K/N",
        help="do part K of N of the problems, into an --out of its own; `tinylane report` merges "
        "the parts; under mlx.launch K is the rank + 1 and the parts are folders inside --out",
    )


def task_flags(p: Any) -> None:
    """Which problems, and how an answer is read."""
    g = p.add_argument_group("task")
    g.add_argument("--data", metavar="FILE", help="JSON Lines, for gsm8k and jsonl")
    g.add_argument("--question-field", metavar="NAME", help="default: question, problem or prompt")
    g.add_argument("--answer-field", metavar="NAME", help="default: answer")
    g.add_argument("--template", metavar="TEXT", help="the prompt, with {question} in it")
    g.add_argument("--compare", choices=("math", "exact"), help="how answers are compared; math")
    g.add_argument("--answer-pattern", metavar="RE", help="what an answer looks like")
    g.add_argument("--cups", type=int, metavar="N", help="of the shell game in words")
    g.add_argument("--swaps", type=int, metavar="N", help="of the shell game in words")
    g.add_argument("--numbers", type=int, nargs="+", metavar="K", help="of a sum; default: 16")
    g.add_argument("--kinds", nargs="+", metavar="K", help="of naming: trained, held-back, names")
    g.add_argument("--share", choices=("letters",), help="lane prompts split the work of naming")
    for name in ("nodes", "edges", "depth"):
        g.add_argument(f"--{name}", type=int, metavar="N", help="of frontier's graphs, in words")
    g.add_argument("--count", type=int, metavar="N", help="problems; default: all, or the task's")
    g.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")


def options_of(args: Any) -> Options:
    """What the flags of `task_flags` say. Not every command has each flag."""
    return Options(**{field.name: getattr(args, field.name, None) for field in fields(Options)})


def length_flags(p: Any) -> None:
    """How a prompt is written, how long the lanes may write, and how tokens are chosen."""
    g = p.add_argument_group("prompt, length and sampling (defaults: the checkpoint's)")
    shared_flags.prompt_flags(g)
    g.add_argument(
        "--max-tokens",
        "-m",
        type=int,
        metavar="N",
        help="of each lane, for the largest number of lanes; default: the task's, or 256",
    )
    shared_flags.sampling_flags(g)
