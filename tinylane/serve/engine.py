"""One model, many requests: a thread of its own runs their steps in turn.

A `TurnTaker` is one request's work. Every turn it does a little: one pass of its prompt, or one
step of its lanes. All that are ready get a turn before one gets a second. So requests share the
machine fairly, and none of them meets another in a pass: what a request gets does not depend on its
company. Tasks for which there is no room (lanes, memory) wait in a queue, in order.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinylane.core.errors import TinylaneError
from tinylane.files.display import one_line
from tinylane.files.memory import size


@dataclass(frozen=True)
class ServerLimits:
    """What a server takes on. Requests beyond it are refused, or wait where that helps."""

    lanes: int = 64  # of all requests that run
    memory: int = 4 << 30  # bytes of keys and values of all requests that run
    queue: int = 64  # requests that wait
    seconds: float = 600.0  # of a request, its wait included
    body: int = 4 << 20  # bytes
    stall: float = 30.0  # s that a client may take to read or to send the next bytes


class Busy(TinylaneError):
    """Too many requests wait already, or the server is ending: ask again later."""


class TurnTaker:
    """A request's work. lanes, nbytes: what it takes while it runs. deadline: on the clock of
    `time.monotonic`. A subclass has `turn`, `end` and `fail`, called in the engine's thread."""

    lanes = 1
    nbytes = 0
    deadline = float("inf")
    wakes = float("inf")  # when to ask again whether it is ready, on the same clock
    cancelled = False  # its client has gone

    def ready(self) -> bool:
        """Whether it wants a turn now. Who changes that calls `Engine.wake`."""
        return True

    def turn(self) -> bool:
        """Do a little; returns whether there is more to do."""
        raise NotImplementedError

    def end(self, why: str) -> None:
        """Stop with what there is: "time", or "closing"."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """Tell whoever waits that there is no result."""
        raise NotImplementedError

    def free(self) -> None:
        """Let go of what takes memory: it has had its last turn."""


class Engine:
    """Runs tasks in a thread of its own. `say` gets a line for whoever runs the server."""

    def __init__(self, limits: ServerLimits, say: Callable[[str], Any] = lambda line: None) -> None:
        self.limits, self.say = limits, say
        self.running: list[TurnTaker] = []
        self.waiting: deque[TurnTaker] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._calls: deque[Callable[[], Any]] = deque()
        self._thread = threading.Thread(target=self._run, name="tinylane engine", daemon=True)

    def start(self) -> None:
        """Begin to run tasks."""
        self._thread.start()

    def submit(self, task: TurnTaker) -> None:
        """Add a task. Raises Busy where it must come later, TinylaneError where it never fits."""
        self.check(task.lanes, task.nbytes)
        with self._changed:
            if self._closing:
                raise Busy("the server is ending")
            if len(self.waiting) >= self.limits.queue:
                raise Busy(f"{len(self.waiting)} requests wait already; try again later")
            self.waiting.append(task)
            self._changed.notify()

    def check(self, lanes: int, nbytes: int = 0) -> None:
        """Raise TinylaneError for a task that could never run."""
        if lanes > self.limits.lanes:
            raise TinylaneError(f"{lanes} lanes; this server runs at most {self.limits.lanes}")
        if nbytes > self.limits.memory:
            raise TinylaneError(
                f"prompt and lanes could take {size(nbytes)} of memory; this server gives them at "
                f"most {size(self.limits.memory)}: fewer lanes, or a smaller max_tokens"
            )

    def grow(self, lanes: int, nbytes: int) -> None:
        """Raise Busy where there is no room for so much more beside what runs."""
        running = [task for task in self.running if not task.cancelled]
        lanes += sum(task.lanes for task in running)
        nbytes += sum(task.nbytes for task in running)
        if lanes > self.limits.lanes or nbytes > self.limits.memory:
            raise Busy("there is no room for more beside what runs here: end a lane or a session")

    def cancel(self, task: TurnTaker) -> None:
        """Forget a task, whose client has gone, before its next turn."""
        task.cancelled = True
        self.wake()

    def call(self, do: Callable[[], Any]) -> None:
        """Run a function between two turns, in the engine's thread."""
        with self._changed:
            self._calls.append(do)
            self._changed.notify()

    def wake(self) -> None:
        """Look again which tasks are ready."""
        with self._changed:
            self._changed.notify()

    def close(self, timeout: float = 10.0) -> None:
        """End every task with what it has."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    # In the thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                self._drop()
                self._admit()
                ready = self._ready()
                if self._closing:
                    break
                if not ready and not self._calls:
                    self._changed.wait(self._until_something_is_due())
                    continue
                calls = list(self._calls)
                self._calls.clear()
            for do in calls:
                self._guard(None, do)
            for task in ready:
                if not task.cancelled and not self._closing:
                    self._turn(task)
        for task in [*self.running, *self.waiting]:
            if not task.cancelled:
                self._guard(task, lambda task=task: task.end("closing"))  # type: ignore[misc]
        self.running.clear()
        self.waiting.clear()

    def _ready(self) -> list[TurnTaker]:
        """The running tasks that want a turn. If their lanes are more than there is room for (a
        task may begin some while it runs) the last of them wait."""
        ready, lanes = list[TurnTaker](), 0
        for task in self.running:
            if task.ready():
                lanes += task.lanes
                if not ready or lanes <= self.limits.lanes:
                    ready.append(task)
        return ready

    def _turn(self, task: TurnTaker) -> None:
        if self._guard(task, task.turn) is not True:
            self.running.remove(task)
            task.free()

    def _guard(self, task: TurnTaker | None, do: Callable[[], Any]) -> Any:
        """`do()`; an error of it ends this task and nothing else."""
        try:
            return do()
        except BaseException as error:  # a panic of the tokenizers library is no Exception
            if not isinstance(error, TinylaneError):
                self.say(f"a request failed: {type(error).__name__}: {one_line(str(error))}")
            if task is not None:
                task.fail(error)
            return None

    def _drop(self) -> None:
        """Take out tasks whose client has gone or whose time is over."""
        now = time.monotonic()
        for task in [*self.running, *self.waiting]:
            if task.cancelled or now >= task.deadline:
                if not task.cancelled:
                    self._guard(task, lambda task=task: task.end("time"))  # type: ignore[misc]
                (self.running if task in self.running else self.waiting).remove(task)
                task.free()

    def _admit(self) -> None:
        """Let tasks in, in order, while there is room."""
        lanes = sum(task.lanes for task in self.running)
        nbytes = sum(task.nbytes for task in self.running)
        while self.waiting:
            lanes, nbytes = lanes + self.waiting[0].lanes, nbytes + self.waiting[0].nbytes
            if self.running and (lanes > self.limits.lanes or nbytes > self.limits.memory):
                return
            self.running.append(self.waiting.popleft())

    def _until_something_is_due(self) -> float | None:
        times = [min(task.deadline, task.wakes) for task in [*self.running, *self.waiting]]
        first = min(times, default=float("inf"))
        if first == float("inf"):
            return None
        return max(first - time.monotonic(), 0.0) + 0.001


def warn(line: str) -> None:
    """A line for whoever runs the server."""
    print(f"tinylane: {one_line(line)}", file=sys.stderr, flush=True)
