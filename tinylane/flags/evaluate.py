"""The flags of `eval` and `report`."""

from __future__ import annotations

from typing import Any

from tinylane.evaluate.tasks import KINDS
from tinylane.flags.collaborate import collaborate_flags
from tinylane.flags.common import command, engine_flags, model_flags


def eval(commands: Any) -> None:
    """`tinylane eval`."""
    p = command(
        commands,
        "eval",
        "measure accuracy on the problems of a task",
        "evaluate",
        "With --out a run that was stopped goes on where it was: give the same command again.",
    )
    p.add_argument("task", choices=tuple(KINDS))
    model_flags(p)
    engine_flags(p)
    task_flags(p)
    g = p.add_argument_group("what is compared")
    g.add_argument(
        "--mode",
        "--visibility",
        dest="mode",
        nargs="+",
        default=["joint", "independent"],
        metavar="M",
        help="independent, joint, joint:OMEGA (none, group_think, ntk, learned), group_think, "
        "hogwild, star, neighbours:K; default: joint independent",
    )
    g.add_argument("--lanes", type=int, nargs="+", metavar="N", help="default: the task's")
    reading_flags(g)
    length_flags(p)
    g.add_argument(
        "--equal",
        choices=("tokens", "steps"),
        default="tokens",
        help="what all numbers of lanes may use alike: tokens in all (default; fewer lanes may "
        "write longer), or steps",
    )
    collaborate_flags(p)
    g = p.add_argument_group("output")
    g.add_argument("--out", metavar="DIR", help="keep every result; needed to go on after a stop")
    shard_flag(g)
    g.add_argument("--json", action="store_true", help="one JSON document on standard output")
    g.add_argument("--quiet", action="store_true", help="no progress")


def reading_flags(g: Any) -> None:
    """What a mode may be told besides its name."""
    g.add_argument("--lag", type=int, metavar="STEPS", help="how late lanes read each other")
    g.add_argument("--omega", metavar="O", help="of joint: as --mode joint:O, or @file.json")
    g.add_argument("--slot", type=float, metavar="S", help="positions a lane; default: max-tokens")
    g.add_argument("--omega-scale", type=float, metavar="S", help="of ntk; default: lanes")
    g.add_argument("--prompt-lane", choices=("own", "0"), help="where joint lanes see the prompt")


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
    g.add_argument("--data", metavar="FILE", help="JSON Lines: of gsm8k and jsonl")
    g.add_argument("--question-field", metavar="NAME", help="default: question, problem or prompt")
    g.add_argument("--answer-field", metavar="NAME", help="default: answer")
    g.add_argument("--template", metavar="TEXT", help="what is asked; {question} stands in it")
    g.add_argument("--compare", choices=("math", "exact"), help="answers; default: math")
    g.add_argument("--answer-pattern", metavar="RE", help="what an answer looks like")
    g.add_argument("--cups", type=int, metavar="N", help="of the shell game, in words")
    g.add_argument("--swaps", type=int, metavar="N", help="of the shell game, in words")
    g.add_argument("--count", type=int, metavar="N", help="problems; default: all; generated: 1000")
    g.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")


def length_flags(p: Any) -> None:
    """How a prompt is put, how long the lanes may write, and how tokens are chosen."""
    g = p.add_argument_group("prompt, length and sampling (defaults: the checkpoint's)")
    g.add_argument("--raw", "--ignore-chat-template", action="store_true", help="no chat template")
    g.add_argument("--system-prompt", metavar="TEXT")
    g.add_argument("--prefill-response", metavar="TEXT", help="how every answer begins")
    g.add_argument("--chat-template-config", metavar="JSON", help='e.g. {"enable_thinking": false}')
    g.add_argument(
        "--max-tokens",
        "-m",
        type=int,
        metavar="N",
        help="of each lane where there are most lanes; default: the task's, or 256",
    )
    g.add_argument("--stop", metavar="TEXT", action="extend", nargs="+", help="ends a lane")
    g.add_argument("--temp", type=float, metavar="T", help="0 is greedy")
    g.add_argument("--top-p", type=float, metavar="P")
    g.add_argument("--top-k", type=int, metavar="K")
    g.add_argument("--min-p", type=float, metavar="P")
    g.add_argument("--repetition-penalty", type=float, metavar="R")
    g.add_argument(
        "--logit-bias", metavar="ID:BIAS", action="extend", nargs="+", help="or a JSON object"
    )


def report(commands: Any) -> None:
    """`tinylane report`."""
    p = command(
        commands,
        "report",
        "tables and plots of eval runs",
        "report",
        "Needs scipy and matplotlib: pip install 'tinylane[eval,plot]'.",
    )
    p.add_argument("runs", nargs="+", metavar="RUN", help="the --out of tinylane eval")
    p.add_argument("--out", metavar="DIR", help="where to write; default: the first run's folder")
    p.add_argument(
        "--measure",
        nargs="+",
        choices=("majority", "one", "any"),
        default=["majority"],
        metavar="M",
        help="what is plotted: majority, one (lane), any (lane); default: majority",
    )
    p.add_argument("--no-plots", action="store_true", help="the tables only")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")
