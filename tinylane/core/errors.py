"""The errors that a user can act on: one line, the value, what was expected, what to do.

The command line prints the line without a traceback and exits with `code`.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LONGEST = 1000  # characters of a message
LAZY = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
NEVER_RUN = "is a generator or coroutine function, of which a call does nothing"


class TinylaneError(ValueError):
    """Bad usage or bad input: a file, a flag, an argument. The command line exits 2.

    The message is one line whatever was put into it: names of files and tensors are other people's
    text. What cannot be printed is shown escaped, and a long message is cut in the middle.
    """

    code = 2

    def __init__(self, message: str = "") -> None:
        if not message.isprintable():
            message = " ".join(message.split("\n"))
            message = "".join(
                c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
                for c in message
            )
        if len(message) > LONGEST:
            message = f"{message[: LONGEST // 2]} ... {message[5 - LONGEST // 2 :]}"
        super().__init__(message)


class CheckFailed(TinylaneError):
    """The input was fine and a check of it failed. The command line exits 1."""

    code = 1


def show(value: object, limit: int = 80) -> str:
    """`repr(value)` on one line, cut in the middle: text from a file never breaks an error line."""
    try:
        text = repr(value)
    except ValueError:  # an integer beyond Python's limit of digits
        text = f"a {type(value).__name__} too long to print"
    return text if len(text) <= limit else f"{text[: limit - 23]} ... {text[-18:]}"


def of_kind(name: str, value: object, kinds: Any, expected: str) -> Any:
    """`value`. Raises TinylaneError unless it is one of `kinds`, and a call of it does a thing."""
    if not isinstance(value, kinds):
        raise TinylaneError(f"{name} is {show(value)}; expected {expected}")
    calls = (value, type(value).__call__) if callable(value) else ()
    for lazy in LAZY:
        if any(map(lazy, calls)):
            raise TinylaneError(f"{name} {NEVER_RUN}; expected {expected}")
    return value


def made(kind: Any, given: dict[str, Any]) -> Any:
    """`kind(**given)` of a dataclass. Raises TinylaneError for a name that is no field of it."""
    fields = kind.__dataclass_fields__
    for name in given:
        if name not in fields:
            raise TinylaneError(f"{show(name)} is no setting; expected one of {', '.join(fields)}")
    return kind(**given)


def reals(name: str, value: Any, single: bool = False) -> np.ndarray:
    """`value` as a float64 array of its own. Raises TinylaneError for what is no number (`single`),
    or no numbers."""
    import numpy as np

    array = None
    if value is not None and not isinstance(value, (str, bytes, bool)):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            array = np.array(value, dtype=np.float64)
    if array is None or (single and array.ndim):
        raise TinylaneError(
            f"{name} is {show(value)}; expected {'a number' if single else 'numbers'}"
        )
    return array


def whole(name: str, value: object, least: int, most: int | None = None) -> int:
    """`value` as an int. Raises TinylaneError unless it is a whole number in least .. most."""
    try:
        number = None if isinstance(value, bool) else int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != value or number < least or (most is not None and number > most):
        upto = f"at least {least}" if most is None else f"from {least} to {most}"
        raise TinylaneError(f"{name} is {show(value)}; expected a whole number {upto}")
    return number
