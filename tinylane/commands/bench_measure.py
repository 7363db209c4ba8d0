"""How an engine is timed: in a process of its own, so that memory and threads are its own.

`python -m tinylane.commands.bench_measure PARENT` is that process: it reads the name of an engine
and its `BenchWork` as JSON from standard input and writes what `time_engine` returns, or
{"error": ...} where something is wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from tinylane.commands import bench_machine, common
from tinylane.commands.bench_engine import BenchCase, Tinylane, load_engine
from tinylane.commands.bench_profile import profile
from tinylane.core.errors import TinylaneError
from tinylane.files import memory
from tinylane.files.display import counted


@dataclass(frozen=True)
class BenchWork:
    """What every engine does: load the checkpoint in `folder`, decode each case `repeats` times.

    adapter: False where none is used. read: bytes that are read to measure the bandwidth.
    """

    folder: str
    dtype: str
    adapter: Any
    ops: str
    cases: list[BenchCase]
    repeats: int
    profile: bool
    threads: int
    read: int
    quiet: bool

    def bandwidth(self, name: str, tries: int = 4) -> float:
        """The bytes per second that the backend of the engine `name` reads from memory now."""
        return bench_machine.bandwidth(self.threads, name.split()[1], self.read, tries)


def measure(names: Sequence[str], work: BenchWork) -> dict[str, dict[str, Any]]:
    """Time the engines one after the other: name -> the answer of `time_engine`.

    Raises TinylaneError where an engine fails.
    """
    times: dict[str, dict[str, Any]] = {}
    for name in names:
        done = subprocess.run(
            [sys.executable, "-m", "tinylane.commands.bench_measure", str(os.getpid())],
            input=json.dumps({"name": name, **asdict(work)}),
            stdout=subprocess.PIPE,
            text=True,
            env=bench_machine.environment(name, work.threads),
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the other
        )
        if done.returncode:
            raise TinylaneError(f"bench: {name} ended: exit code {done.returncode}")
        times[name] = json.loads(done.stdout)
        if "error" in times[name]:
            raise TinylaneError(f"bench: {name}: {times[name]['error']}")
        work = replace(work, dtype=times[name]["load"]["dtype"])  # what "auto" is, is so for all
    return times


def time_engine(name: str, work: BenchWork) -> dict[str, Any]:
    """Time the engine `name` in this process.

    Returns JSON values: `load` (as of `timed_load`), `rounds` (for each case, what `timed_run`
    returns, for each repeat), `profiles` (of each case, if asked for), and `bandwidth`, the best of
    two measurements, before and after: the less disturbed one counts.
    """
    say: Callable[[str], None] = lambda text: common.note(f"{name}: {text}", work.quiet)
    before = work.bandwidth(name)
    say("loading")
    engine, load = timed_load(
        lambda: load_engine(name, work.folder, work.dtype, work.adapter, work.ops)
    )
    rounds, profiles = [], []
    for case in work.cases:
        say(describe(case))
        engine.run(warm_up(case))
        speed = partial(work.bandwidth, name, tries=1)
        rounds.append([timed_run(engine, case, speed) for _ in range(work.repeats)])
    for case in work.cases if work.profile else ():
        say(f"profile, {describe(case)}")
        profiles.append(profile(engine, case))
    bandwidth = max(before, work.bandwidth(name))
    return {"load": load, "rounds": rounds, "profiles": profiles, "bandwidth": bandwidth}


def warm_up(case: BenchCase) -> BenchCase:
    """A few steps of a case, so that its first measured step is not the first of all."""
    return replace(case, count=min(case.count, 4))


def timed_load(load: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """The engine that `load()` returns; and its seconds, the bytes that the process then holds,
    versions of libraries and, of tinylane, dtype and operations."""
    began = time.perf_counter()
    engine = load()
    facts = {
        "seconds": time.perf_counter() - began,
        "bytes": memory.memory("VmRSS") or 0,
        "versions": engine.versions,
    }
    if isinstance(engine, Tinylane):
        facts |= {"dtype": engine.model.dtype, "ops": engine.model.ops_name}
    return engine, facts


def timed_run(
    engine: Any, case: BenchCase, speed: Callable[[], float] | None = None
) -> dict[str, Any]:
    """Decode a case: the fields of `Timing`, and the peak of memory in bytes.

    speed: measures the bandwidth, just before and after, as other programs on the machine may come
    and go; their mean is kept too. Of tinylane also the bytes that a step reads.
    """
    before = speed() if speed is not None else 0.0
    memory.reset_peak()
    if engine.backend == "mlx":
        import mlx.core as mx

        mx.reset_peak_memory()
    answer = {**vars(engine.run(case)), "peak": common.peak_memory(engine.backend)}
    if speed is not None:
        answer["bandwidth"] = (before + speed()) / 2
    if isinstance(engine, Tinylane):
        answer["step_bytes"] = engine.step_bytes(case)
    return answer


def describe(case: BenchCase) -> str:
    """A case in words."""
    lanes = counted(case.lanes, "lane")
    return f"{lanes}, {case.mode}, prompt of {len(case.prompt)}"


def main() -> int:
    """The process of one engine; returns the exit code."""
    warnings.simplefilter("ignore")
    common.silence_panics()
    question = json.load(sys.stdin)
    name = question.pop("name")
    cases = [BenchCase(**case) for case in question.pop("cases")]
    try:
        answer = time_engine(name, BenchWork(cases=cases, **question))
    except TinylaneError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
    return 0


def _end_with(parent: int) -> None:
    """End this process once `parent`, which asked for the times, has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    raise SystemExit(main())
