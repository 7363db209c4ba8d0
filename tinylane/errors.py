"""The errors that a user can act on: one line, the value, what was expected, what to do.

The command line prints the line without a traceback and exits with `code`.
"""

from __future__ import annotations


class TinylaneError(ValueError):
    """Bad usage or bad input: a file, a flag, an argument. The command line exits 2."""

    code = 2


class CheckFailed(TinylaneError):
    """The input was fine and a check of it failed. The command line exits 1."""

    code = 1
