"""An exercise, its verdict, and the search for the smallest input that an answer gets wrong."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError, show
from tinylane.files.display import one_line

PAGES = ("numbers", "lanes", "practice")  # modules of this folder with a tuple EXERCISES


class Wrong(AssertionError):
    """An answer is wrong for one input; the text says which, what it gave and what was expected."""


class NotWritten(Exception):
    """The function of a stub returned None: it has not been written yet."""


@dataclass(frozen=True)
class Exercise:
    """A function for the reader to write.

    name: page and number, such as "05.1". arguments: the parameters that the answer must take.
    inputs: a Hypothesis strategy. test(answer, drawn): raises Wrong. tries: inputs that are
    drawn. whole(answer): a further test after all inputs, of something that no single input shows.
    """

    name: str
    says: str
    arguments: tuple[str, ...]
    inputs: Any
    test: Callable[[Callable[..., Any], Any], None]
    tries: int = 100
    whole: Callable[[Callable[..., Any]], None] | None = None


@dataclass(frozen=True)
class Verdict:
    """What `check` found out. True as a condition if, and only if, the answer is right."""

    name: str
    right: bool
    says: str

    def __bool__(self) -> bool:
        return self.right

    def __str__(self) -> str:
        return f"{self.name}: {self.says}"

    __repr__ = __str__  # a notebook shows the last value of a cell


def exercises() -> dict[str, Exercise]:
    """All exercises by name, in the order of the pages. Raises TinylaneError without Hypothesis."""
    try:
        import hypothesis  # noqa: F401 - the pages import it
    except ImportError as error:
        raise TinylaneError(
            "hypothesis is not installed; the exercises need it: pip install 'tinylane[learn]'"
        ) from error
    modules = [import_module(f"tinylane.learn.{page}") for page in PAGES]
    return {exercise.name: exercise for module in modules for exercise in module.EXERCISES}


def check(name: str, answer: Callable[..., Any]) -> Verdict:
    """Check an answer to an exercise, such as `check("05.1", my_sees)`.

    The same answer always gets the same verdict. Raises TinylaneError for a name that no exercise
    has, for an answer that is no function of the exercise's arguments, and without Hypothesis.
    """
    known = exercises()
    if name not in known:
        raise TinylaneError(f"exercise {show(name)}; expected one of {', '.join(known)}")
    exercise = known[name]
    _check_signature(exercise, answer)
    try:
        tried = _search(exercise, answer)
        if exercise.whole is not None:
            exercise.whole(answer)
    except NotWritten:
        return Verdict(name, False, f"not written yet: {exercise.says}")
    except Wrong as wrong:
        return Verdict(name, False, f"wrong: {wrong}")
    return Verdict(name, True, f"right, in {tried} random cases")


def call(answer: Callable[..., Any], *given: Any, of: str = "") -> Any:
    """What the answer returns. Raises NotWritten for None, Wrong for an error in it.

    of: the input in words, for the message; default the values themselves.
    """
    try:
        with np.errstate(all="ignore"):  # a warning is no verdict; NaN is
            result = answer(*given)
    except NotImplementedError as error:
        raise NotWritten from error
    except Exception as error:
        kind = type(error).__name__
        raise Wrong(f"{of or spell(given)}: {kind}: {one_line(str(error), 200)}") from error
    if result is None:
        raise NotWritten
    return result


def compare(got: Any, expected: Any, of: str, close: float = 1e-9) -> None:
    """Numbers, arrays or booleans; raises Wrong unless shape and values agree.

    close: allowed, as a share of the largest expected value (or of 1).
    """
    want = np.asarray(expected)
    try:
        have = np.asarray(got)
        values = have.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise Wrong(f"{of}: got {one_line(repr(got), 80)}, expected {spell(want)}") from error
    if have.shape != want.shape:
        raise Wrong(f"{of}: got the shape {have.shape}, expected {want.shape}")
    allowed = close * max(1.0, float(np.abs(want).max(initial=0)))
    if not (np.abs(values - want) <= allowed).all():  # NaN is not close to anything
        raise Wrong(f"{of}: got {spell(have)}, expected {spell(want)}")


def spell(value: Any) -> str:
    """A value as a reader would type it: short numbers, arrays on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {spell(x)}" for name, x in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(spell, value))
    if isinstance(value, (np.ndarray, np.generic)):
        if value.ndim == 0:
            return repr(value.item())
        plain = np.asarray(value.astype(int) if value.dtype == bool else value)
        text = np.array2string(plain, precision=4, separator=", ", suppress_small=True)
        return re.sub(r"\s+(?=[\],])|(?<=\[)\s+", "", " ".join(text.split()))
    return repr(value)


def _search(exercise: Exercise, answer: Callable[..., Any]) -> int:
    """Draw inputs and return how many; raises what the smallest wrong one raises."""
    from hypothesis import HealthCheck, Phase, given, settings

    tried = 0

    @settings(
        max_examples=exercise.tries,
        phases=[Phase.generate, Phase.shrink],
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(exercise.inputs)
    def holds(drawn: Any) -> None:
        nonlocal tried
        tried += 1
        exercise.test(answer, drawn)

    holds()
    return tried


def _check_signature(exercise: Exercise, answer: Callable[..., Any]) -> None:
    """Raises TinylaneError unless the answer can be called with the exercise's arguments."""
    wanted = f"a function of ({', '.join(exercise.arguments)})"
    if not callable(answer):
        raise TinylaneError(f"exercise {exercise.name}: {show(answer)}; expected {wanted}")
    try:
        inspect.signature(answer).bind(*exercise.arguments)
    except TypeError as error:
        raise TinylaneError(f"exercise {exercise.name}: {error}; expected {wanted}") from None
