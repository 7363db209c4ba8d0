"""The flags of `generate`, `replay` and `view`."""

from __future__ import annotations

import argparse
from typing import Any

from tinylane.flags.collaborate import collaborate_flags
from tinylane.flags.common import command, engine_flags, lane_flags, model_flags


def generate(commands: Any) -> None:
    """`tinylane generate`."""
    p = command(
        commands,
        "generate",
        "decode lanes jointly",
        "generate",
        "Without arguments: a random shell game, solved by four lanes of the model inside.",
    )
    model_flags(p)
    engine_flags(p)
    g = p.add_argument_group("prompt")
    g.add_argument("--prompt", "-p", metavar="TEXT", help='"-" reads it from standard input')
    g.add_argument("--raw", "--ignore-chat-template", action="store_true", help="no chat template")
    g.add_argument("--system-prompt", metavar="TEXT")
    g.add_argument("--prefill-response", metavar="TEXT", help="how every answer begins")
    g.add_argument("--chat-template-config", metavar="JSON", help='e.g. {"enable_thinking": false}')
    g.add_argument(
        "--lane-prompt",
        metavar="TEXT",
        action="extend",
        nargs="+",
        help="one text a lane, after the prompt they share",
    )
    g = p.add_argument_group("lanes")
    g.add_argument("--lanes", type=int, metavar="N", help="default: 1; the shell game's is 4")
    lane_flags(g)
    g = p.add_argument_group("length and sampling (defaults: the model's generation_config)")
    g.add_argument("--max-tokens", "-m", type=int, metavar="N", help="of each lane; default: 256")
    g.add_argument("--total-tokens", type=int, metavar="N", help="of all lanes together")
    g.add_argument("--stop", metavar="TEXT", action="extend", nargs="+", help="ends a lane")
    g.add_argument("--temp", type=float, metavar="T", help="0 is greedy")
    g.add_argument("--top-p", type=float, metavar="P")
    g.add_argument("--top-k", type=int, metavar="K")
    g.add_argument("--min-p", type=float, metavar="P")
    g.add_argument("--repetition-penalty", type=float, metavar="R")
    g.add_argument(
        "--logit-bias", metavar="ID:BIAS", action="extend", nargs="+", help="or a JSON object"
    )
    g.add_argument("--seed", type=int, metavar="S", help="default: a new one, which is shown")
    collaborate_flags(p)
    g = p.add_argument_group("answers")
    g.add_argument(
        "--vote",
        action=argparse.BooleanOptionalAction,
        help=r"take the majority (default: if a lane marks its answer by \boxed{} or ####)",
    )
    g.add_argument("--answer-pattern", metavar="RE", help="what an answer looks like; votes")
    g.add_argument("--best-of", action="store_true", help="name the likeliest lane")
    g.add_argument("--beams", type=int, metavar="N", help="beam search instead: a baseline")
    g = p.add_argument_group("output")
    g.add_argument("--save", metavar="FILE", help="write the run, for tinylane replay and view")
    g.add_argument("--json", action="store_true", help="one JSON document on standard output")
    g.add_argument("--plain", action="store_true", help="lines, in a terminal too")
    g.add_argument("--quiet", action="store_true", help="no notes and no statistics")
    g.add_argument(
        "--pace",
        type=float,
        metavar="S",
        help="seconds a step stays on the screen at least; default: 0, the shell game's is 0.1",
    )


def replay(commands: Any) -> None:
    """`tinylane replay`."""
    p = command(
        commands, "replay", "recompute a saved run's log-probabilities in one pass", "replay"
    )
    p.add_argument("file", metavar="RUN", help="written by tinylane generate --save")
    model_flags(p)
    engine_flags(p)
    p.add_argument(
        "--tolerance", type=float, metavar="T", help="largest difference; default: by dtype"
    )
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")


def view(commands: Any) -> None:
    """`tinylane view`."""
    p = command(
        commands,
        "view",
        "a saved run as one HTML page: who listened to whom",
        "view",
        "The page needs no network. The run is replayed to see its attention.",
    )
    p.add_argument("file", metavar="RUN", help="written by tinylane generate --save")
    p.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        help="the page (default: RUN with .html; none where only --png or --svg is given)",
    )
    p.add_argument("--png", metavar="FILE", help="the main panel as a picture, without a browser")
    p.add_argument("--svg", metavar="FILE", help="the same as SVG")
    p.add_argument(
        "--influence",
        action="store_true",
        help="also what each next token would have been, had a lane been silent: a pass a lane",
    )
    p.add_argument(
        "--keys", type=int, default=8, metavar="K", help="largest keys kept a token; default: 8"
    )
    p.add_argument(
        "--size",
        type=float,
        default=2.0,
        metavar="MB",
        help="layers and heads are kept while the page stays below; default: 2",
    )
    model_flags(p)
    engine_flags(p)
    p.add_argument("--quiet", action="store_true", help="no notes")
