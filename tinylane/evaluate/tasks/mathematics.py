"""Whether two answers are the same mathematics: 1/2 and 0.5, x+1 and 1+x. By math-verify.

Numbers are compared here, exactly, as decimals; everything else goes to math-verify in a process of
its own (`math_worker`), under limits of length, processor time and memory, from any thread: the
text is a model's. A comparison that breaks a limit, or a text that is no mathematics, is compared
as text. Source: https://github.com/huggingface/Math-Verify. Not handled: units, percent (`50%` is
50), answers that need the question to be understood.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import select
import subprocess
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.answers import WHOLE_NUMBER, normalise

LONGEST = 400  # characters of an answer that is read as mathematics
CPU_SECONDS = 3.0  # of one comparison; an ordinary one takes some milliseconds
WALL_SECONDS = 60.0  # for a machine too busy to give it those; also for the start
MEMORY = 1 << 30  # bytes above what the process starts with
REMEMBERED = 10_000  # comparisons

INSTALL = 'answers are compared by math-verify: pip install "tinylane[eval]", or --compare exact'


class Judge:
    """`judge(answer, truth)`: are they the same? `judge.readable(answer)`: is it mathematics?

    The process is started when first needed, again after one that a limit ended, and ends with this
    object (its input ends). Raises TinylaneError where math-verify is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise TinylaneError(INSTALL)
        self._process: subprocess.Popen[bytes] | None = None
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
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self.close()

    def _ask(self, *texts: str) -> dict[str, Any] | None:
        """The worker's reply; None where a limit was broken: that text is not asked about again."""
        if any(len(text) > LONGEST for text in texts):
            return None
        with self._lock:
            if texts not in self._known and not self._refused & set(texts):
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                    self._refused.clear()
                self._known[texts] = self._exchange({"texts": texts})
                if self._known[texts] is None:
                    self._refused.add(texts[0])
            return self._known.get(texts)

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any] | None:
        if self._process is None:
            self._start()
        reply = self._talk(request)
        if reply is None:
            self.close()
        return reply

    def _start(self) -> None:
        # -I -S: nothing from the environment or site hooks; modules from where this process has
        # them. close_fds=False lets macOS spawn instead of forking a big process.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("math_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            close_fds=False,
        )
        path = [str(Path(entry).resolve()) for entry in sys.path if entry]
        hello = {"path": path, "memory": MEMORY, "cpu_seconds": CPU_SECONDS}
        if self._talk(hello) is None:
            self.close()
            raise TinylaneError(f"math-verify does not start; {INSTALL}")

    def _talk(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """One line there and one back; None for a process that ended or is silent too long."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            process.stdin.flush()
        except OSError:
            return None
        end, line = time.monotonic() + WALL_SECONDS, b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(end - time.monotonic(), 0))
            piece = process.stdout.read1(65536) if ready else b""  # type: ignore[attr-defined]
            if not piece:
                return None
            line += piece
        return json.loads(line)
