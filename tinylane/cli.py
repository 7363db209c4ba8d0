"""The command line: what can be asked, and how every answer ends.

Flags are named like those of mlx-lm where it has the same thing. Building the parser imports
nothing heavy: a command's module is imported when it runs. Errors are one line on stderr; exit
codes are 0, 1 (a check failed), 2 (bad input), 130 (Ctrl-C) and 141 (nobody reads the output).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import tinylane
from tinylane.errors import TinylaneError

BACKENDS = ("auto", "numpy", "mlx")
SHAPES = "SmolLM2-135M, Qwen2.5-0.5B, Qwen3-0.6B, Llama-3.2-1B, tiny"
DTYPES = ("auto", "float32", "float64", "float16", "bfloat16")


class _Parser(argparse.ArgumentParser):
    """Errors as TinylaneError: one line, like all others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["allow_abbrev"] = False
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise TinylaneError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. argv: without the program's name; None takes sys.argv."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an ASCII terminal shows escapes, not a traceback
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _warn
        try:
            args = parser(argv).parse_args(argv)
            code = import_module(f"tinylane.commands.{args.module}").run(args)
            sys.stdout.flush()
            return code
        except TinylaneError as error:
            return _fail(str(error), error.code)
        except BrokenPipeError:  # the reader has gone (`| head`): nobody to tell
            _drop_output()
            return 141
        except OSError as error:  # a full disk, a file that may not be written
            _drop_output()
            named = f"{error.filename}: " if error.filename else ""
            return _fail(f"{named}{error.strerror or error}", 2)
        except MemoryError as error:
            return _fail(f"out of memory ({error or 'no more to be had'})", 2)
        except KeyboardInterrupt:
            return _fail("interrupted", 130)


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser. The flags of `train` are read from its recipe, which needs MLX, so they are
    there only when `argv` asks for them."""
    top = _Parser(
        prog="tinylane",
        description="N generations of one prompt that read each other while they write.",
        epilog="tinylane generate, without arguments, plays a shell game with four lanes.",
    )
    top.add_argument("--version", action="version", version=f"tinylane {tinylane.__version__}")
    commands = top.add_subparsers(metavar="command", required=True, parser_class=_Parser)
    _generate(commands)
    _eval(commands)
    _bench(commands)
    _inspect(commands)
    _replay(commands)
    _verify(commands)
    _train(commands, full=bool(argv) and argv[0] == "train")
    return top


def _command(commands: Any, name: str, help: str, module: str, more: str = "") -> Any:
    found = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}. {more}")
    found.set_defaults(module=module)
    return found


def _model_flags(p: Any, positional: bool = False) -> None:
    if positional:
        p.add_argument(
            "model",
            metavar="MODEL",
            nargs="?",
            help="a folder or a hub id; default: the one inside",
        )
    else:
        p.add_argument("--model", metavar="M", help="a folder or a hub id; default: the one inside")
    p.add_argument("--adapter-path", metavar="DIR", help="a lane adapter (default: the model's)")
    p.add_argument("--revision", help="branch, tag or commit of a hub id")


def _engine_flags(p: Any, every: bool = False) -> None:
    more = ("all",) if every else ()
    p.add_argument(
        "--backend",
        choices=(*BACKENDS, *more),
        default="auto",
        help="auto: MLX on Apple silicon" + "; all: one against the other as well" * every,
    )
    p.add_argument("--dtype", choices=(*DTYPES, *more), default="auto")


def _generate(commands: Any) -> None:
    p = _command(
        commands,
        "generate",
        "decode lanes jointly",
        "generate",
        "Without arguments: a random shell game, solved by four lanes of the model inside.",
    )
    _model_flags(p)
    _engine_flags(p)
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
    g.add_argument(
        "--visibility",
        metavar="V",
        help="who reads whom: joint, independent, star, neighbours:K, a JSON matrix, @file.json "
        "(default: as the model was trained; independent if it was not)",
    )
    g.add_argument("--lag", type=int, metavar="STEPS", help="how late lanes read each other")
    g.add_argument(
        "--omega",
        metavar="O",
        help="lane rotation: none, group_think, ntk, learned or @file.json "
        "(default: learned if the model has it, else none)",
    )
    g.add_argument("--slot", type=float, metavar="S", help="positions a lane; default: max-tokens")
    g.add_argument("--omega-scale", type=float, metavar="S", help="of ntk; default: lanes")
    g.add_argument("--prompt-lane", choices=("own", "0"), help="where lanes see the prompt")
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
    g.add_argument("--save", metavar="FILE", help="write the run, for tinylane replay")
    g.add_argument("--json", action="store_true", help="one JSON document on standard output")
    g.add_argument("--plain", action="store_true", help="lines, in a terminal too")
    g.add_argument("--quiet", action="store_true", help="no notes and no statistics")
    g.add_argument(
        "--pace",
        type=float,
        metavar="S",
        help="seconds a step stays on the screen at least; default: 0, the shell game's is 0.1",
    )


def _eval(commands: Any) -> None:
    p = _command(commands, "eval", "measure accuracy on unseen problems of a task", "evaluate")
    p.add_argument("task", choices=("shell-game",))
    _model_flags(p)
    _engine_flags(p)
    p.add_argument("--lanes", type=int, nargs="+", metavar="N", help="default: all it was made for")
    p.add_argument("--count", type=int, default=1000, metavar="N", help="problems; default: 1000")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of the problems; default: 0")
    p.add_argument(
        "--visibility",
        nargs="+",
        default=["joint", "independent"],
        metavar="V",
        help="default: joint independent",
    )
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")
    p.add_argument("--quiet", action="store_true", help="no progress")


def _bench(commands: Any) -> None:
    p = _command(
        commands,
        "bench",
        "time decoding on this machine, beside other programs",
        "bench",
        "Everything is timed in turn, in processes of its own; ratios are taken round by round.",
    )
    _model_flags(p)
    p.add_argument("--shape", metavar="NAME", help=f"instead: random weights; {SHAPES}")
    p.add_argument("--backend", choices=BACKENDS, nargs="+", default=["auto"])
    p.add_argument("--dtype", choices=DTYPES, default="auto", help="with --against: float32")
    g = p.add_argument_group("what is decoded")
    g.add_argument("--lanes", type=int, nargs="+", default=[1], metavar="N", help="default: 1")
    g.add_argument("--prompt-tokens", type=int, nargs="+", metavar="N", help="default: 512")
    g.add_argument("--max-tokens", "-m", type=int, default=128, metavar="N", help="default: 128")
    g.add_argument(
        "--mode", choices=("independent", "joint"), nargs="+", help="default: both, of many lanes"
    )
    g.add_argument("--prompt-lane", choices=("own", "0"), default="own", help="of joint lanes")
    g.add_argument("--seed", type=int, default=0, metavar="S", help="of prompt and weights")
    g = p.add_argument_group("how")
    g.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds; default: 5")
    g.add_argument("--threads", type=int, metavar="N", help="default: all processors")
    g.add_argument(
        "--against", metavar="NAMES", help="peers, with commas: transformers, mlx-lm, llama3.np"
    )
    g.add_argument("--profile", action="store_true", help="where a step goes")
    g.add_argument(
        "--read-mib", type=int, default=512, metavar="N", help="read to measure the bandwidth"
    )
    g = p.add_argument_group("output")
    g.add_argument("--json", action="store_true", help="one JSON document on standard output")
    g.add_argument("--plot", metavar="FILE", help="step time against lanes and context, an SVG")
    g.add_argument("--plain", action="store_true", help="plain columns, in a terminal too")
    g.add_argument("--quiet", action="store_true", help="no progress")


def _inspect(commands: Any) -> None:
    p = _command(
        commands, "inspect", "what the loader chooses, from which file, and its memory", "inspect"
    )
    _model_flags(p, positional=True)
    _engine_flags(p)
    p.add_argument("--lanes", type=int, default=1, metavar="N")
    p.add_argument("--prompt-tokens", type=int, default=512, metavar="N")
    p.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of each lane")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")


def _replay(commands: Any) -> None:
    p = _command(
        commands, "replay", "recompute a saved run's log-probabilities in one pass", "replay"
    )
    p.add_argument("file", metavar="RUN", help="written by tinylane generate --save")
    _model_flags(p)
    _engine_flags(p)
    p.add_argument(
        "--tolerance", type=float, metavar="T", help="largest difference; default: by dtype"
    )
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")


def _verify(commands: Any) -> None:
    p = _command(
        commands,
        "verify",
        "check the laws of lanes on a model at its real size",
        "verify",
        "Random prompts and yours; a table of errors and tolerances; exit 1 where a law fails.",
    )
    _model_flags(p, positional=True)
    _engine_flags(p, every=True)
    p.add_argument(
        "--prompt", "-p", metavar="TEXT", help="one more sample; default: the shell game's"
    )
    p.add_argument(
        "--samples", type=int, default=3, metavar="N", help="with random prompts; default: 3"
    )
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of the samples; default: 0")
    p.add_argument("--lanes", type=int, metavar="N", help="default: 4")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")
    p.add_argument("--quiet", action="store_true", help="no notes")


def _train(commands: Any, full: bool) -> None:
    p = _command(
        commands,
        "train",
        "train the model inside from scratch (needs MLX)",
        "train",
        "A run that was stopped goes on where it was: give the same command again.",
    )
    p.add_argument("task", choices=("shell-game",))
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


def _warn(message: Any, *_: Any, **__: Any) -> None:
    from tinylane.text import one_line

    print(f"tinylane: warning: {one_line(str(message))}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    from tinylane.text import one_line

    with contextlib.suppress(OSError):
        print(f"tinylane: error: {one_line(message, 1000)}", file=sys.stderr)
    return code


def _drop_output() -> None:
    """Let the interpreter's own flush at exit go nowhere, instead of failing once more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
