"""The command line: its commands, and how every one of them ends.

Flags are named like those of mlx-lm where it has the same thing. A command's module is imported
only when that command is asked for; it adds its flags and runs. Errors are one line on stderr; exit
codes are 0, 1 (a check failed), 2 (bad input), 130 (Ctrl-C) and 141 (nobody reads the output).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from tinylane.core import __version__
from tinylane.core.errors import TinylaneError
from tinylane.files.display import one_line

# Each is a module of this folder, with `flags(parser)` and `run(args)`.
COMMANDS = {
    "generate": "decode lanes jointly",
    "chat": "a conversation in the terminal, with one lane or several",
    "play": "lanes of a model in the browser, as they write: step, fork, silence, ask what if",
    "serve": "a model behind a port, for OpenAI's clients",
    "methods": "every way to let lanes work together, in one row each",
    "eval": "measure accuracy on the problems of a task",
    "likelihood": "how likely a model finds texts, with and without an adapter",
    "perplexity": "how well a model predicts a text: bits per byte, with lanes too",
    "report": "tables and plots of eval runs",
    "collect": "sample lanes on a task, as labelled transcripts for train sft and kto",
    "transcripts": "what the lanes of a task should write, for train sft",
    "train": "train the model inside from scratch, or tune a checkpoint on lane transcripts "
    "(needs MLX)",
    "fuse": "merge an adapter into its checkpoint",
    "replay": "recompute a saved run's log-probabilities in one pass",
    "view": "a saved run as one HTML page: who listened to whom",
    "inspect": "what the loader chooses, from which file, and its memory",
    "verify": "check the laws of lanes on a model at its real size",
    "bench": "time decoding on this machine",
    "doctor": "what is installed here, which backend runs, and what to install for more",
}
# These are modules of `tinylane.serve`, which stands above this folder and imports it.
SERVED = {"chat", "play", "serve"}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are TinylaneErrors."""

    def error(self, message: str) -> NoReturn:
        raise TinylaneError(f"{message}; see {self.prog} --help")


class _Version(argparse.Action):
    """Prints versions. Those of the backends are looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib import metadata

        mlx = "no MLX"
        with contextlib.suppress(metadata.PackageNotFoundError):
            mlx = f"MLX {metadata.version('mlx')}"
        python, numpy = sys.version.split()[0], metadata.version("numpy")
        print(f"tinylane {__version__} (Python {python}, NumPy {numpy}, {mlx})")
        parser.exit()


def parser(words: Sequence[str]) -> Parser:
    """The parser of all commands; only the one that the words name has its flags."""
    top = Parser(
        prog="tinylane",
        description="N generations of one prompt that read each other while they write.",
        epilog="tinylane generate, without arguments, plays a shell game with four lanes.",
        allow_abbrev=False,
    )
    says = "show versions, of the backends too, and exit"
    top.add_argument("--version", action=_Version, nargs=0, help=says)
    named = next((word for word in words if not word.startswith("-")), None)
    commands = top.add_subparsers(metavar="command", required=True, parser_class=Parser)
    for name, says in COMMANDS.items():
        description = f"{says[0].upper()}{says[1:]}."
        one = commands.add_parser(name, help=says, description=description, allow_abbrev=False)
        if name == named:
            door = "serve" if name in SERVED else "commands"
            module = import_module(f"tinylane.{door}.{name}")
            module.flags(one)
            one.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None, top: Parser | None = None) -> int:
    """Run one command; its errors and warnings become lines on stderr. Returns the exit code.

    argv: without the program's name; None: sys.argv. top: a parser that sets `run`, in place of
    `parser`.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _reopen()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an ASCII terminal shows escapes, not a traceback
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _warn
        try:
            words = sys.argv[1:] if argv is None else argv
            if not words and top is None:
                parser(words).print_help()
                return 0
            args = (top or parser(words)).parse_args(words)
            code = args.run(args)
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
            return _fail(f"out of memory ({str(error) or 'no more is available'})", 2)
        except KeyboardInterrupt as error:  # some commands say what they have kept
            return _fail(str(error) or "interrupted", 130)


def _reopen() -> None:
    """Put nothing in the place of standard streams that are closed.

    Else the next file to be opened would take the number of one, and get what is written to it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            if number:  # that standard input was closed is an error for who reads it
                setattr(sys, name, os.fdopen(number, "w", closefd=False))


def _warn(message: Any, *_: Any, **__: Any) -> None:
    print(f"tinylane: warning: {one_line(str(message))}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"tinylane: error: {one_line(message, 1000)}", file=sys.stderr)
    return code


def _drop_output() -> None:
    """Send what is still buffered nowhere: the interpreter's flush at exit would fail again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
