"""The process in which answers are compared as mathematics; `mathematics.Judge` keeps it.

math-verify parses model text with a grammar and hands it to sympy, which may compute 10^10^10 if it
is asked to. Its own timeouts are signals, which work in a main thread only and cannot interrupt
one long multiplication. So it runs here: a request that takes more than its share of processor
time ends the process (the default action of SIGPROF), and memory is bounded. One JSON request a
line on stdin, one reply a line on stdout. Run by path: nothing of tinylane may be imported.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
from typing import Any

MIB = 1 << 20


def limit_memory(extra: int) -> None:
    """From `extra` bytes above what this process has now, allocations fail (not on macOS)."""
    try:
        import resource
    except ImportError:
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + extra, now + extra))


def answer(request: dict[str, Any], parse: Any, verify: Any) -> dict[str, Any]:
    """{"readable": [bool of every text], "same": bool}: `texts` are one answer or two."""
    parsed = []
    for text in request["texts"]:
        try:
            parsed.append(parse(f"\\boxed{{{text}}}", parsing_timeout=None, raise_on_error=True))
        except (Exception, RecursionError):  # a parser over model text: anything at all
            parsed.append([])
    # What only its own text stands for (a string, and nothing of sympy's) is not mathematics.
    readable = [any(not isinstance(x, str) for x in found) for found in parsed]
    same = False
    if len(parsed) == 2 and all(readable):
        try:
            answer, truth = parsed
            same = bool(verify(truth, answer, timeout_seconds=None, raise_on_error=True))
        except (Exception, RecursionError):
            same = False
    return {"readable": readable, "same": same}


def main() -> None:
    """Serve until stdin ends."""
    start = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = start["path"]
    logging.disable(logging.CRITICAL)
    from math_verify import parse, verify

    for text in ("1", "\\frac{1}{2}"):  # grammars and tables are made on first use
        answer({"texts": [text, text]}, parse, verify)
    limit_memory(start["memory"])
    out = sys.stdout.buffer
    out.write(b"{}\n")
    out.flush()
    while line := sys.stdin.buffer.readline():
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, start["cpu_seconds"])
        reply = answer(json.loads(line), parse, verify)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        out.write(json.dumps(reply).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    main()
