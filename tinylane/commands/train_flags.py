"""Flags of `tinylane train sft` and `train kto`, and those that all its tasks share."""

from __future__ import annotations

import argparse
from typing import Any

from tinylane.commands import shared_flags


def tune_flags(p: Any, objective: str) -> None:
    """Flags of tuning a checkpoint. objective: sft or kto."""
    shared_flags.model_flags(p)
    p.add_argument("--dtype", choices=("auto", "float32", "float16", "bfloat16"), default="auto")
    p.add_argument(
        "--from-scratch", action="store_true", help="random weights for the model's config.json"
    )
    p.add_argument(
        "--data", required=True, metavar="FILE", help="transcripts, a JSON object a line"
    )
    p.add_argument(
        "--out", required=True, metavar="DIR", help="adapter (or checkpoint), state, log"
    )
    p.add_argument("--valid", metavar="FILE", help="transcripts whose loss is shown")
    on_off: Any = {"action": argparse.BooleanOptionalAction, "default": True}
    g = p.add_argument_group("what is tuned")
    g.add_argument("--tune-omega", help="default: yes", **on_off)
    g.add_argument("--omega-per-layer", action="store_true", help="an Omega for every layer")
    g.add_argument("--tune-biases", help="of q, k and v, added where missing; yes", **on_off)
    numbers(
        g,
        ("--lora-rank", int, "R", "low-rank updates; 0: none", 0),
        ("--lora-scale", float, "S", "default: 2", 2.0),
        ("--lora-alpha", float, "A", "instead: scale = A / R"),
    )
    g.add_argument(
        "--lora-targets",
        "--lora-keys",
        nargs="+",
        metavar="P",
        help="default: self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj",
    )
    extra_flags(g)
    numbers(g, ("--extra-lanes", int, "N", "rows of new tables; default: the data's lanes", 0))
    g.add_argument("--full", action="store_true", help="every weight")
    g = p.add_argument_group("lanes")
    g.add_argument(
        "--lanes", type=int, nargs="+", metavar="N", help="in the data; default: the first line's"
    )
    g.add_argument("--visibility", metavar="V", help="default: the model's own, else joint")
    shared_flags.rotation_flags(
        g,
        "where Omega starts: none, group_think, ntk, learned or @file.json "
        "(default: learned if the model has it, else ntk)",
        slot="the longest lane",
        scale="the largest number of lanes",
    )
    shared_flags.prompt_flags(p.add_argument_group("prompts"))
    g = p.add_argument_group("steps")
    numbers(
        g,
        ("--steps --iters", int, "N", "default: 1000"),
        ("--lr --learning-rate", float, "X", "of weights; 1e-4"),
        ("--batch-size", int, "B", "transcripts a microbatch; 8"),
        ("--omega-lr", float, "X", "learning rate of Omega; 1e-2"),
        ("--bias-lr", float, "X", "learning rate of biases; 1e-2"),
        ("--extra-lr", float, "X", "learning rate of --extra; 1e-3"),
        ("--warmup", int, "N", "steps; default: 20"),
        ("--final", float, "X", "learning rate at the end, of the peak; 0.02"),
        ("--weight-decay", float, "X", "of matrices; 0.01"),
        ("--clip", float, "X", "norm of all gradients; 1"),
    )
    g.add_argument(
        "--grad-accumulation-steps",
        dest="accumulate",
        type=int,
        metavar="N",
        help="microbatches a step; 1",
    )
    if objective == "sft":
        g.add_argument(
            "--group-by-shape",
            action="store_true",
            help="microbatches of equal lengths: one pass each, so quicker",
        )
    g.add_argument("--grad-checkpoint", action="store_true", help="less memory, more time")
    if objective == "kto":
        g = p.add_argument_group("kto")
        numbers(
            g,
            ("--beta", float, "B", "default: 0.1"),
            ("--desirable", float, "L", "lambda_D; default: 1"),
            ("--undesirable", float, "L", "lambda_U; default: 1"),
        )
        g.add_argument(
            "--reduce",
            choices=("sum", "mean"),
            help="a transcript's log-probability: over all tokens of all lanes; default: sum",
        )
    g = p.add_argument_group("run")
    numbers(
        g,
        ("--seed", int, "S", "default: 0"),
        ("--stop-at", int, "N", "stop early, at this step"),
        ("--every --steps-per-report", int, "N", "steps a line; 10", 10),
        ("--save-every", int, "N", "steps a state; 100", 100),
        ("--valid-every --steps-per-eval", int, "N", "steps; 100", 100),
    )
    g.add_argument("--quiet", action="store_true", help="no notes and no progress")


def extra_flags(g: Any) -> None:
    """Which parameters for lanes are added."""
    g.add_argument(
        "--extra",
        nargs="+",
        default=(),
        metavar="KIND",
        help="parameters for lanes: lane_embed, lane_kv, bridge, p_match, lace; default: none",
    )
    g.add_argument(
        "--bridge-width", type=int, default=0, metavar="W", help="of bridge, lace; the head dim"
    )


def numbers(g: Any, *flags: Any) -> None:
    """Flags that take a number: (names, type, metavar, help, and perhaps the default) each."""
    for names, kind, metavar, says, *default in flags:
        options: Any = {"type": kind, "metavar": metavar, "help": says}
        g.add_argument(*names.split(), **options, default=default[0] if default else None)
