"""The flags of `train` and `fuse`. Those of a recipe are read from it."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from tinylane.flags.common import command, model_flags

GOES_ON = "A run that was stopped goes on where it was: give the same command again."


def train(commands: Any, full: bool) -> None:
    """`tinylane train`; full: with the flags of the recipe, which needs MLX."""
    p = command(
        commands,
        "train",
        "train the model inside from scratch, or tune a checkpoint on lane transcripts (needs MLX)",
        "train",
        GOES_ON,
    )
    tasks = p.add_subparsers(metavar="task", required=True, dest="task", parser_class=type(p))
    _shell_game(tasks, full)
    for objective, help in (
        ("sft", "tune on transcripts, by their likelihood"),
        ("kto", "tune on transcripts labelled good or bad (arXiv:2402.01306)"),
    ):
        _tune(tasks, objective, help)


def _shell_game(tasks: Any, full: bool) -> None:
    p = command(tasks, "shell-game", "the model inside, from scratch", "train", GOES_ON)
    p.add_argument("--out", required=True, metavar="DIR", help="checkpoint, state and log")
    p.add_argument("--stop-at", type=int, metavar="N", help="stop early, at this step")
    p.add_argument("--every", type=int, default=100, metavar="N", help="steps a progress line")
    p.add_argument("--check-every", type=int, default=500, metavar="N", help="steps a check")
    p.add_argument("--save-every", type=int, default=500, metavar="N", help="steps a saved state")
    p.add_argument("--quiet", action="store_true", help="no progress")
    if not full:
        return
    from tinylane.commands.train import recipe

    g = p.add_argument_group("recipe")
    for field in dataclasses.fields(recipe()):
        flag, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            g.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            shown = " ".join(map(str, default))
            g.add_argument(
                flag,
                nargs="+",
                type=type(default[0]),
                default=default,
                metavar="N",
                help=f"default: {shown}",
            )
        else:
            g.add_argument(
                flag, type=type(default), default=default, metavar="X", help=f"default: {default}"
            )


def _tune(tasks: Any, objective: str, help: str) -> None:
    p = command(tasks, objective, help, "tune", GOES_ON)
    model_flags(p)
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
    g = p.add_argument_group("what is tuned")
    on_off = argparse.BooleanOptionalAction
    g.add_argument("--tune-omega", action=on_off, default=True, help="default: yes")
    g.add_argument("--omega-per-layer", action="store_true", help="an Omega for every layer")
    g.add_argument(
        "--tune-biases", action=on_off, default=True, help="of q, k and v, added where missing; yes"
    )
    g.add_argument(
        "--lora-rank", type=int, default=0, metavar="R", help="low-rank updates; 0: none"
    )
    g.add_argument("--lora-scale", type=float, default=2.0, metavar="S", help="default: 2")
    g.add_argument("--lora-alpha", type=float, metavar="A", help="instead: scale = A / R")
    g.add_argument(
        "--lora-targets",
        "--lora-keys",
        nargs="+",
        metavar="P",
        help="default: self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj",
    )
    g.add_argument("--full", action="store_true", help="every weight")
    g = p.add_argument_group("lanes")
    g.add_argument(
        "--lanes", type=int, nargs="+", metavar="N", help="in the data; the first line's"
    )
    g.add_argument("--visibility", metavar="V", help="default: the model's own, else joint")
    g.add_argument("--lag", type=int, metavar="STEPS", help="how late lanes read each other")
    g.add_argument(
        "--omega",
        metavar="O",
        help="where Omega starts: none, group_think, ntk, learned or @file.json "
        "(default: learned if the model has it, else ntk)",
    )
    g.add_argument("--slot", type=float, metavar="S", help="positions a lane; default: the longest")
    g.add_argument("--omega-scale", type=float, metavar="S", help="of ntk; default: most lanes")
    g.add_argument("--prompt-lane", choices=("own", "0"), help="where lanes see the prompt")
    g = p.add_argument_group("prompts")
    g.add_argument("--raw", "--ignore-chat-template", action="store_true", help="no chat template")
    g.add_argument("--system-prompt", metavar="TEXT")
    g.add_argument("--prefill-response", metavar="TEXT", help="how every answer begins")
    g.add_argument("--chat-template-config", metavar="JSON", help='e.g. {"enable_thinking": false}')
    _schedule(p)
    if objective == "kto":
        g = p.add_argument_group("kto")
        g.add_argument("--beta", type=float, metavar="B", help="default: 0.1")
        g.add_argument("--desirable", type=float, metavar="L", help="lambda_D; default: 1")
        g.add_argument("--undesirable", type=float, metavar="L", help="lambda_U; default: 1")
        g.add_argument(
            "--reduce",
            choices=("sum", "mean"),
            help="a transcript's log-probability: over all tokens of all lanes; default: sum",
        )
    g = p.add_argument_group("run")
    g.add_argument("--seed", type=int, metavar="S", help="default: 0")
    g.add_argument("--stop-at", type=int, metavar="N", help="stop early, at this step")
    g.add_argument(
        "--every", "--steps-per-report", type=int, default=10, metavar="N", help="steps a line; 10"
    )
    g.add_argument("--save-every", type=int, default=100, metavar="N", help="steps a state; 100")
    g.add_argument(
        "--valid-every", "--steps-per-eval", type=int, default=100, metavar="N", help="steps; 100"
    )
    g.add_argument("--quiet", action="store_true", help="no notes and no progress")


def _schedule(p: Any) -> None:
    g = p.add_argument_group("steps")
    g.add_argument("--steps", "--iters", type=int, metavar="N", help="default: 1000")
    g.add_argument("--batch-size", type=int, metavar="B", help="transcripts a microbatch; 8")
    g.add_argument(
        "--grad-accumulation-steps",
        dest="accumulate",
        type=int,
        metavar="N",
        help="microbatches a step; 1",
    )
    g.add_argument("--grad-checkpoint", action="store_true", help="less memory, more time")
    g.add_argument("--lr", "--learning-rate", type=float, metavar="X", help="of weights; 1e-4")
    g.add_argument("--omega-lr", type=float, metavar="X", help="default: 1e-2")
    g.add_argument("--bias-lr", type=float, metavar="X", help="default: 1e-2")
    g.add_argument("--warmup", type=int, metavar="N", help="steps; default: 20")
    g.add_argument("--final", type=float, metavar="X", help="of the peak, at the end; 0.02")
    g.add_argument("--weight-decay", type=float, metavar="X", help="of matrices; 0.01")
    g.add_argument("--clip", type=float, metavar="X", help="norm of all gradients; 1")


def fuse(commands: Any) -> None:
    """`tinylane fuse`."""
    p = command(commands, "fuse", "merge an adapter into its checkpoint", "fuse")
    model_flags(p)
    p.add_argument("--save-path", required=True, metavar="DIR", help="the merged checkpoint")
    p.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of its files; default: as the checkpoint's",
    )
    p.add_argument("--dequantize", action="store_true", help="write a packed checkpoint dense")
