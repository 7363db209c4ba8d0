"""The process in which decoding is timed: `python -m tinylane.commands.bench_worker`.

Reads lines of JSON and answers each with a line. The first question names the engine and its
checkpoint; each later one is a case, a profile or a measurement of the memory's bandwidth. An
answer is {"error": ...} where something is wrong. What libraries print goes to stderr. The process
ends when its input does. `serve` is the same loop for other engines.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from tinylane.commands.bench_engine import BenchCase, Tinylane, engine
from tinylane.commands.bench_machine import bandwidth
from tinylane.commands.bench_profile import profile
from tinylane.core.errors import TinylaneError
from tinylane.files import memory


def serve(build: Callable[..., Any] = engine) -> int:
    """Answer until the input ends; returns the exit code. build: loads an engine, like `engine`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks handles Ctrl-C
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    loaded: Any = None
    at_rest = 0
    for line in sys.stdin:
        question = json.loads(line)
        kind = question.pop("do")
        try:
            if kind == "load":
                began = time.perf_counter()
                loaded = build(**question)
                seconds = time.perf_counter() - began
                at_rest = memory.memory("VmRSS") or 0
                answer = {"seconds": seconds, "bytes": at_rest, "versions": loaded.versions}
                if isinstance(loaded, Tinylane):
                    answer |= {"dtype": loaded.model.dtype, "ops": loaded.model.ops_name}
            elif kind == "bandwidth":
                answer = {"bytes_per_second": bandwidth(**question)}
            else:
                assert loaded is not None
                case = BenchCase(**question["case"])
                if kind == "profile":
                    answer = profile(loaded, case)
                else:
                    answer = {**_measured(loaded, case, question.get("read")), "loaded": at_rest}
        except TinylaneError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


def _measured(engine: Any, case: BenchCase, read: dict[str, Any] | None) -> dict[str, Any]:
    """Times and memory of a case. read: also the bandwidth, just before and after, as other
    programs on the machine may come and go."""
    speeds = [bandwidth(**read, tries=1)] if read else []
    memory.reset_peak()
    engine.reset()
    timing = engine.run(case)
    peak = memory.memory()
    answer = {**vars(timing), "peak": None if peak is None else max(peak, engine.peak())}
    if read:
        speeds.append(bandwidth(**read, tries=1))
        answer["bandwidth"] = sum(speeds) / 2
    if isinstance(engine, Tinylane):
        answer["step_bytes"] = engine.step_bytes(case)
    return answer


if __name__ == "__main__":
    raise SystemExit(serve())
