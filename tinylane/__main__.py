"""`python -m tinylane`, and the installed command `tinylane`: the command line, and Ctrl-C.

Ctrl-C may come while Python still imports the command line, and libraries may turn it into another
error, or into none. So it is remembered here, and decides the exit code.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main() -> int:
    """Run the command line; returns the exit code. After Ctrl-C: 130, with one line on stderr."""
    pressed: list[bool] = []

    def interrupt(*_: Any) -> None:
        pressed.append(True)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not so under nohup
        signal.signal(signal.SIGINT, interrupt)
    try:
        from tinylane.commands.cli import main as run

        code = run()
    except BaseException:
        if not pressed:
            raise
        code = 130
        os.write(2, b"tinylane: error: interrupted\n")
    code = 130 if pressed and code else code  # the error that is told may be a library's: above
    # Nothing is left to do; a Ctrl-C while the interpreter shuts down would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
