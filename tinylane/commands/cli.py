"""The command line: what can be asked, and how every answer ends.

Flags are named like those of mlx-lm where it has the same thing. Building the parser imports
nothing heavy: a command's module is imported when it runs. Errors are one line on stderr; exit
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
from tinylane.flags import collaborate, decode, evaluate, tools, train


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
        except KeyboardInterrupt as error:  # some commands say what they have kept
            return _fail(str(error) or "interrupted", 130)


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser. The flags of `train shell-game` are read from its recipe, which needs MLX, so
    they are there only when `argv` asks for them."""
    top = _Parser(
        prog="tinylane",
        description="N generations of one prompt that read each other while they write.",
        epilog="tinylane generate, without arguments, plays a shell game with four lanes.",
    )
    top.add_argument("--version", action="version", version=f"tinylane {__version__}")
    commands = top.add_subparsers(metavar="command", required=True, parser_class=_Parser)
    decode.generate(commands)
    collaborate.collect(commands)
    evaluate.eval(commands)
    evaluate.report(commands)
    tools.bench(commands)
    train.fuse(commands)
    tools.inspect(commands)
    decode.replay(commands)
    decode.view(commands)
    tools.verify(commands)
    train.train(commands, full=list(argv[:2]) == ["train", "shell-game"])
    return top


def _warn(message: Any, *_: Any, **__: Any) -> None:
    from tinylane.files.display import one_line

    print(f"tinylane: warning: {one_line(str(message))}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    from tinylane.files.display import one_line

    with contextlib.suppress(OSError):
        print(f"tinylane: error: {one_line(message, 1000)}", file=sys.stderr)
    return code


def _drop_output() -> None:
    """Let the interpreter's own flush at exit go nowhere, instead of failing once more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
