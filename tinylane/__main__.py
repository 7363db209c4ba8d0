"""`python -m tinylane`, and the installed command: the command line, and Ctrl-C at any instant.

Ctrl-C may come before there is a command line to handle it (while Python imports it), and libraries
may make another error of it, or none. So it is remembered here, and has the last word.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main() -> int:
    """Run `tinylane.commands.cli.main` for the process; the exit code. 130 after Ctrl-C, with one line."""
    asked: list[bool] = []

    def interrupt(*_: Any) -> None:
        asked.append(True)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not so under nohup
        signal.signal(signal.SIGINT, interrupt)
    try:
        from tinylane.commands.cli import main as run

        code = run()
    except BaseException:
        if not asked:
            raise
        code = 130
        os.write(2, b"tinylane: error: interrupted\n")
    # Nothing is left to do; the interpreter's own shutdown would die of a Ctrl-C, or trace it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
