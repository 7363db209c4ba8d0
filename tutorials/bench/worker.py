"""The process of one contestant: `python -m tutorials.bench.worker`, lines of JSON in and out.

The first line names the contestant and its checkpoint; each later one is a case, a profile or a
measurement of the bandwidth. An answer is one line; {"error": ...} where something is wrong. What
libraries print goes to stderr. The process ends when its input does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tinylane.commands import bench_machine
from tinylane.core.errors import TinylaneError
from tinylane.files import memory
from tutorials.bench.engines import Case, Engine, Tinylane, build


def main() -> int:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the commanding process's to handle
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine: Engine | None = None
    loaded = 0
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["do"] == "load":
                began = time.perf_counter()
                engine = build(
                    asked["name"],
                    Path(asked["folder"]),
                    asked["dtype"],
                    asked["threads"],
                    asked["adapter"],
                )
                seconds = time.perf_counter() - began
                loaded = memory.memory("VmRSS") or 0
                answer: dict[str, Any] = {
                    "seconds": seconds,
                    "bytes": loaded,
                    "versions": engine.versions,
                }
                if isinstance(engine, Tinylane):
                    answer["dtype"] = engine.model.dtype
            elif asked["do"] == "bandwidth":
                best = bench_machine.bandwidth(asked["threads"], asked["backend"], asked["size"])
                answer = {"bytes_per_second": best}
            elif asked["do"] == "profile":
                from tinylane.commands.bench_profile import profile

                assert isinstance(engine, Tinylane)
                answer = profile(engine, Case(**asked["case"]))
            else:
                assert engine is not None
                read = asked.get("read")  # beside the run: others on the machine come and go
                speeds = [bench_machine.bandwidth(**read, tries=1)] if read else []
                answer = _measured(engine, Case(**asked["case"]), loaded)
                speeds += [bench_machine.bandwidth(**read, tries=1)] if read else []
                answer["bandwidth"] = sum(speeds) / 2
        except TinylaneError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
    return 0


def _measured(engine: Engine, case: Case, loaded: int) -> dict[str, Any]:
    memory.reset_peak()
    engine.reset()
    run = engine.run(case)
    peak = memory.memory()
    answer: dict[str, Any] = {
        "first": run.first,
        "steps": run.steps,
        "tokens": run.tokens,
        "peak": None if peak is None else max(peak, engine.peak()),
        "loaded": loaded,
    }
    if isinstance(engine, Tinylane):
        answer["step_bytes"] = engine.step_bytes(case)
    return answer


if __name__ == "__main__":
    raise SystemExit(main())
