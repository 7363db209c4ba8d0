"""A second Python process that evaluates untrusted text, one request after the other.

A chat template is somebody else's program, and an answer to a problem may be 10^10^10. Both are
evaluated in a second process, so that they can be stopped. It is started at the first request and
serves many. A request that breaks a limit ends it; the next request starts another one. It also
ends when this process ends, however that happens, because its input ends then.

`tinylane/files/worker_program.py` is the second process's side. Requests of several threads wait
for each other. A forked child starts a worker of its own. Nothing here needs signals.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# macOS accepts a memory limit and does not enforce it. There, this process looks at the worker's
# size every so often, and the bound depends on how much can be filled in between.
WATCHED = sys.platform == "darwin"
WATCH_EVERY = 0.05  # s
# What starting Python may need. Not LD_PRELOAD: a BLAS in this process would be dead weight.
KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ", "SYSTEMROOT")


class Limits(NamedTuple):
    """Limits of one request. memory: bytes on top of what the process holds before it."""

    cpu_seconds: float
    wall_seconds: float  # in case the machine is too busy; the start has as many
    memory: int


class WorkerEnded(Exception):
    """The process ended instead of answering.

    why: "processor", "time" and "memory" are broken limits; "signal" (detail: its number) and
    "failed" (detail: the error) are other ends.
    """

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(f"{why}: {detail}")
        self.why, self.detail = why, detail


class Worker:
    """Keeps one process that runs `program`, the path of a Python file.

    The file has `prepare()`, called once, and `answer(request)`, from JSON values to JSON values.
    It runs in an isolated interpreter: nothing from the environment, the working directory or site
    hooks. folders: gives the entries that its `sys.path` needs beyond the standard library.
    """

    def __init__(self, program: Path, folders: Callable[[], list[str]]) -> None:
        self.program, self.folders = program, folders
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        _WORKERS.add(self)

    def ask(self, request: Any, limits: Limits) -> Any:
        """The program's answer. Raises WorkerEnded if there is none.

        TypeError, ValueError or RecursionError if the request is not made of plain JSON values.
        """
        line = json.dumps(request)
        with self._lock:
            try:
                if self._process is None or self._process.poll() is not None:
                    self._start(limits)
                memory = 0 if WATCHED else limits.memory
                head = json.dumps([limits.cpu_seconds, memory])
                return self._exchange(f"{head}\n{line}\n", limits)["answer"]
            except BaseException:  # Ctrl-C too: half a reply may be on its way
                self._end()
                raise

    def close(self) -> None:
        """End the process; the next request starts another."""
        with self._lock:
            self._end()

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self._end()

    def _start(self, limits: Limits) -> None:
        self._end()
        start = {"program": str(self.program), "folders": self.folders()}
        # Python's descriptors are not inherited, and close_fds=False lets macOS spawn instead of
        # forking a big process. Unbuffered, so that a forked child has no buffer to write out.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("worker_program.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ},
            close_fds=False,
            bufsize=0,
        )
        os.set_blocking(self._process.stdin.fileno(), False)  # type: ignore[union-attr]
        self._exchange(json.dumps(start) + "\n", limits)

    def _exchange(self, text: str, limits: Limits) -> dict[str, Any]:
        """Send lines and wait for one line back."""
        process, broken = self._process, ""
        assert process is not None and process.stdin is not None and process.stdout is not None
        into, out = process.stdin.fileno(), process.stdout.fileno()
        waiting = select.poll()
        waiting.register(into, select.POLLOUT)
        waiting.register(out, select.POLLIN)
        end = time.monotonic() + limits.wall_seconds
        rest, reply = memoryview(text.encode("ascii")), b""
        while not reply.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0:
                broken = "time"
                break
            ready = dict(waiting.poll(1000 * (min(left, WATCH_EVERY) if WATCHED else left)))
            if into in ready:
                try:
                    rest = rest[os.write(into, rest) :]
                except BrokenPipeError:  # it ended; what it said before is still to be read
                    rest = rest[:0]
                if not rest:
                    waiting.unregister(into)
            if out in ready:
                piece = os.read(out, 1 << 16)
                if not piece:
                    break  # it ended
                reply += piece
            if WATCHED and not ready and resident(process.pid) > limits.memory:
                broken = "memory"
                break
        if broken:
            process.kill()
        if reply.endswith(b"\n"):
            message = json.loads(reply)
            if "why" in message:
                raise WorkerEnded(message["why"], message["detail"])
            return message
        code = self._end()
        if broken:
            raise WorkerEnded(broken, "stopped while it grew" if broken == "memory" else "")
        if code == -getattr(signal, "SIGPROF", 0):
            raise WorkerEnded("processor")
        raise WorkerEnded("signal", str(-code))

    def _end(self) -> int:
        """Kill the process, if there is one, and wait for it; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()  # nothing happens if it has ended
        code = process.wait()
        _close_pipes(process)
        return code

    def _forget(self) -> None:
        """In a forked child: the process is the parent's, and a thread may have held the lock."""
        process, self._process, self._lock = self._process, None, threading.Lock()
        if process is not None:
            _close_pipes(process)  # else the worker's input would not end with the parent
            process.returncode = 0  # not this process's to wait for


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]


def resident(pid: int) -> int:
    """Resident bytes of another process; 0 if unknown (it may just have ended)."""
    try:
        kib = subprocess.run(
            ["/bin/ps", "-o", "rss=", "-p", str(pid)], capture_output=True, timeout=2, check=False
        ).stdout
        return int(kib) * 1024
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0


_WORKERS: weakref.WeakSet[Worker] = weakref.WeakSet()


def _end_all() -> None:
    for worker in list(_WORKERS):
        worker._end()


def _forget_all() -> None:
    for worker in list(_WORKERS):
        worker._forget()


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
