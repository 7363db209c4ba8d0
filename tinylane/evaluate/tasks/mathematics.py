"""Whether two answers are the same mathematics: 1/2 and 0.5, x+1 and 1+x. With math-verify.

`tinylane.evaluate.reading` reads what is made of numbers, in this process and exactly. Expressions
go to math-verify's grammar and sympy in a process of its own (`math_worker`), under limits of
length, processor time and memory, because the text is a model's. A text that breaks a limit or is
no mathematics is compared as text. Works from any thread.
Source: https://github.com/huggingface/Math-Verify.

Not handled: units that differ, percent as a part of one (`50%` is 50), decimals that round a
number (0.333 is not 1/3), answers that need the question to be understood.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from tinylane.core.errors import TinylaneError
from tinylane.evaluate import reading
from tinylane.evaluate.reading import LONGEST
from tinylane.evaluate.spelling import Key, normalise
from tinylane.files.display import one_line
from tinylane.files.worker import Limits, Worker, WorkerEnded

CPU_SECONDS = 1.0  # of one expression; an ordinary one takes some milliseconds
STOPPED = 2  # expressions of one vote that may break a limit
WALL_SECONDS = 60.0  # for a machine too busy to give it those; also for the start
MEMORY = 1 << 30  # bytes above what the process starts with
REMEMBERED = 10_000  # answers

INSTALL = 'answers are compared by math-verify: pip install "tinylane[eval]", or --compare exact'


class Judge:
    """`judge(answer, truth)`: are they the same? `judge.readable(answer)`: is it mathematics?

    It is symmetric and transitive: answers are the same where `judge.key` gives the same.
    One worker process serves all answers (`tinylane.files.worker`). Raises TinylaneError where
    math-verify is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise TinylaneError(INSTALL)
        self._worker = Worker(Path(__file__).with_name("math_worker.py"), _folders)
        self._lock = threading.Lock()
        self._known: dict[str, Key] = {}
        self._stopped = 0  # how often a limit was broken

    def __call__(self, answer: str, truth: str) -> bool:
        return normalise(answer) == normalise(truth) or self.key(answer) == self.key(truth)

    def readable(self, answer: str) -> bool:
        """Whether the answer can be read as mathematics, within the limits."""
        return reading.readable(self.key(answer))

    def key(self, answer: str) -> Key:
        """What all answers that say the same have in common; hashable."""
        text = normalise(answer)
        with self._lock:
            if (known := self._known.get(text)) is None:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                known = self._known[text] = reading.key(text, self._algebra)
            return known

    def keys(self, answers: Iterable[str]) -> dict[str, Key]:
        """The keys of the answers of one vote, the shortest first, so that their order is none.

        After STOPPED expressions that broke a limit the longer ones are compared as text: each
        takes a second or more, and a new process.
        """
        keys: dict[str, Key] = {}
        before = self._stopped
        for answer in sorted(set(answers), key=lambda text: (len(text), text)):
            late = self._stopped - before >= STOPPED
            keys[answer] = reading.key(answer) if late else self.key(answer)
        return keys

    def close(self) -> None:
        """End the process; it is started again if needed."""
        self._worker.close()

    def _algebra(self, text: str, equation: bool) -> Key | None:
        """The key of an expression; None where a limit was broken or it is none."""
        if len(text) > 2 * LONGEST:
            return None
        limits = Limits(CPU_SECONDS, WALL_SECONDS, MEMORY)
        try:
            reply = self._worker.ask([text, equation], limits)
        except WorkerEnded as error:
            if error.why == "failed":  # only at the start: what an expression raises is an answer
                raise TinylaneError(
                    f"math-verify does not start ({one_line(error.detail, 100)}); {INSTALL}"
                ) from None
            self._stopped += 1
            return None
        return None if reply is None else _key(reply)


def _key(reply: Any) -> Any:
    """The worker's lists as tuples, and its numbers as those that are read here."""
    if not isinstance(reply, list):
        return reply
    if reply[0] == "number" and "/" in reply[1] and " " not in reply[1]:
        return "number", Fraction(reply[1])
    return tuple(map(_key, reply))


def _folders() -> list[str]:
    """Where this process has its modules from."""
    return [str(Path(entry).resolve()) for entry in sys.path if entry]
