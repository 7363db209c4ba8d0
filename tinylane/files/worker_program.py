"""The second process of `tinylane.files.worker`: it serves one program until its input ends.

Started by path in an isolated interpreter. Only the standard library may be imported, and nothing
of tinylane. One line of JSON for each message:

    in    {"program": path, "folders": [...]}         out   {} when it is ready
    in    [cpu_seconds, memory] and then a request    out   {"answer": ...}

or, before it ends, {"why": "memory" or "failed", "detail": ...}. A request that takes more than its
processor time ends the process by a signal, without a reply.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

MIB = 1 << 20


@contextlib.contextmanager
def limited(cpu_seconds: float, memory: int) -> Iterator[None]:
    """End this process (SIGPROF) after `cpu_seconds` of processor time in the block.

    From `memory` bytes above what it holds now, allocations raise MemoryError; 0 sets no limit.
    """
    timer = getattr(signal, "setitimer", None)  # None on Windows: the parent's clock is left
    limit_memory(memory)
    if timer is not None:
        timer(signal.ITIMER_PROF, cpu_seconds)
    try:
        yield
    finally:
        if timer is not None:
            timer(signal.ITIMER_PROF, 0)
        limit_memory(0)


def limit_memory(extra: int) -> None:
    """Limit this process to `extra` bytes more than it holds now; 0 takes the limit away."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = resource.getrlimit(resource.RLIMIT_AS)
    hard = most = before[1]
    if extra:
        try:
            with open("/proc/self/statm", encoding="ascii") as file:
                most = extra + int(file.read().split()[0]) * resource.getpagesize()
        except OSError:  # no /proc: allow for an ordinary interpreter
            most = extra + 512 * MIB
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
    if before != (most, hard):
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def load(path: str) -> Any:
    """The module in a file."""
    spec = importlib.util.spec_from_file_location("program", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C and ends this process
    if hasattr(signal, "SIGPROF"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
    lines, out = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints is no reply

    def say(reply: str) -> None:
        out.write(reply.encode("ascii") + b"\n")
        out.flush()

    def stop(why: str, detail: str) -> NoReturn:
        say(json.dumps({"why": why, "detail": detail}))
        raise SystemExit(1)

    try:
        start = json.loads(lines.readline())
        sys.path.extend(start["folders"])
        program = load(start["program"])
        program.prepare()
        say("{}")
        while head := lines.readline():
            request = json.loads(lines.readline())
            try:
                with limited(*json.loads(head)):
                    reply = json.dumps({"answer": program.answer(request)})
            except MemoryError:
                stop("memory", "MemoryError")
            say(reply)
    except Exception as error:
        stop("failed", f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
