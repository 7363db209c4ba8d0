"""Whether two answers are the same mathematics: 1/2 and 0.5, x+1 and 1+x. By math-verify.

Numbers are compared here, exactly, as decimals. Everything else goes to math-verify in a process of
its own (`math_worker`), under limits of length, processor time and memory, because the text is a
model's. A text that breaks a limit or is no mathematics is compared as text. Works from any thread.
Source: https://github.com/huggingface/Math-Verify.

Not handled: units, percent (`50%` is 50), answers that need the question to be understood.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.answers import WHOLE_NUMBER, normalise
from tinylane.files.display import one_line
from tinylane.files.worker import Limits, Worker, WorkerEnded

LONGEST = 400  # characters of an answer that is read as mathematics
CPU_SECONDS = 3.0  # of one comparison; an ordinary one takes some milliseconds
WALL_SECONDS = 60.0  # for a machine too busy to give it those; also for the start
MEMORY = 1 << 30  # bytes above what the process starts with
REMEMBERED = 10_000  # comparisons

INSTALL = 'answers are compared by math-verify: pip install "tinylane[eval]", or --compare exact'


class Judge:
    """`judge(answer, truth)`: are they the same? `judge.readable(answer)`: is it mathematics?

    One worker process serves all comparisons (`tinylane.files.worker`). Raises TinylaneError where
    math-verify is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise TinylaneError(INSTALL)
        self._worker = Worker(Path(__file__).with_name("math_worker.py"), _folders)
        self._lock = threading.Lock()
        self._refused: set[str] = set()
        self._known: dict[tuple[str, ...], dict[str, Any] | None] = {}

    def __call__(self, answer: str, truth: str) -> bool:
        a, b = normalise(answer), normalise(truth)
        if a == b:
            return True
        if WHOLE_NUMBER.fullmatch(a) and WHOLE_NUMBER.fullmatch(b):
            return Decimal(a) == Decimal(b)
        reply = self._ask(a, b)
        return reply is not None and reply["same"]

    def readable(self, answer: str) -> bool:
        """Whether the answer can be read as mathematics, within the limits."""
        a = normalise(answer)
        if WHOLE_NUMBER.fullmatch(a):
            return True
        reply = self._ask(a)
        return reply is not None and reply["readable"][0]

    def close(self) -> None:
        """End the process; it is started again if needed."""
        self._worker.close()

    def _ask(self, *texts: str) -> dict[str, Any] | None:
        """The worker's reply; None where a limit was broken: that text is not asked about again."""
        if any(len(text) > LONGEST for text in texts):
            return None
        with self._lock:
            if texts not in self._known and not self._refused & set(texts):
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                    self._refused.clear()
                self._known[texts] = self._exchange(texts)
                if self._known[texts] is None:
                    self._refused.add(texts[0])
            return self._known.get(texts)

    def _exchange(self, texts: tuple[str, ...]) -> dict[str, Any] | None:
        try:
            return self._worker.ask(texts, Limits(CPU_SECONDS, WALL_SECONDS, MEMORY))
        except WorkerEnded as error:
            if error.why == "failed":  # only at the start: what a comparison raises is an answer
                raise TinylaneError(
                    f"math-verify does not start ({one_line(error.detail, 100)}); {INSTALL}"
                ) from None
            return None


def _folders() -> list[str]:
    """Where this process has its modules from."""
    return [str(Path(entry).resolve()) for entry in sys.path if entry]
