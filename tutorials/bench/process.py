"""Engines timed in turn: the process of each, which answers questions, and the rounds.

In a round every engine decodes the case once, in an order that turns from round to round, so that a
machine which is busy for a while is busy for all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from tinylane.commands import common
from tinylane.commands.bench_engine import BenchCase
from tinylane.commands.bench_machine import bandwidth, environment
from tinylane.commands.bench_measure import BenchWork, describe, timed_load, timed_run, warm_up
from tinylane.commands.bench_profile import profile
from tinylane.core.errors import TinylaneError


def measure(names: Sequence[str], work: BenchWork) -> dict[str, dict[str, Any]]:
    """Time the engines in turn, case by case: name -> its times, as of `bench_measure.time_engine`.

    Other programs have no bandwidth, no profiles, and no rounds of joint cases. Raises
    TinylaneError where an engine fails; the engines' processes are ended.
    """
    say = partial(common.note, quiet=work.quiet)
    ours = [name for name in names if name.startswith("tinylane ")]
    read = {
        name: {"backend": name.split()[1], "threads": work.threads, "size": work.read}
        for name in ours
    }
    times: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        workers: dict[str, EngineProcess] = {}
        for name in names:
            say(f"{name}: loading")
            workers[name] = stack.enter_context(EngineProcess(name, work.threads))
            times[name] = {"rounds": [], "profiles": []}
            if name in ours:
                times[name] |= workers[name].ask(do="bandwidth", **read[name])
            load = workers[name].ask(
                do="load",
                name=name,
                folder=work.folder,
                dtype=work.dtype,
                threads=work.threads,
                adapter=work.adapter,
                ops=work.ops,
            )
            times[name]["load"] = load
            work = replace(work, dtype=load.get("dtype", work.dtype))  # "auto" is the same for all
        for case in work.cases:
            asked = ours if case.mode == "joint" else list(names)
            say(f"{describe(case)}: {', '.join(asked)}")
            for name in asked:
                workers[name].ask(do="run", case=asdict(warm_up(case)))
            for name in names:
                times[name]["rounds"].append([])
            for turn in range(work.repeats):
                at = turn % len(asked)
                for name in asked[at:] + asked[:at]:
                    answer = workers[name].ask(do="run", case=asdict(case), read=read.get(name))
                    times[name]["rounds"][-1].append(answer)
        if work.profile:
            for name in ours:
                for case in work.cases:
                    say(f"{name}: profile, {describe(case)}")
                    where = workers[name].ask(do="profile", case=asdict(case))
                    times[name]["profiles"].append(where)
        for name in ours:  # again: the less disturbed reading counts
            again = workers[name].ask(do="bandwidth", **read[name])["bandwidth"]
            times[name]["bandwidth"] = max(times[name]["bandwidth"], again)
    return times


class EngineProcess:
    """An engine's process. It runs `tutorials.bench.engines`, which calls `serve`."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115, closed in `close`
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tutorials.bench.engines"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment(name, threads),
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """One question, its answer. Raises TinylaneError if the process says so, or has died."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps(question), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").strip().splitlines()
            last = lines[-1] if lines else f"exit code {self.process.wait()}"
            raise TinylaneError(f"bench: {self.name} ended: {last}")
        answer = json.loads(line)
        if "error" in answer:
            raise TinylaneError(f"bench: {self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(build: Callable[..., Any]) -> int:
    """Answer questions, a JSON object a line, until the input ends; returns the exit code.

    build: loads an engine. The first question names the engine and its checkpoint; each later one
    is a case, a profile or a measurement of the memory's bandwidth. An answer is {"error": ...}
    where something is wrong. What libraries print goes to stderr.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks handles Ctrl-C
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine: Any = None
    for line in sys.stdin:
        question = json.loads(line)
        kind = question.pop("do")
        try:
            if kind == "load":
                engine, answer = timed_load(partial(build, **question))
            elif kind == "bandwidth":
                answer = {"bandwidth": bandwidth(**question)}
            else:
                assert engine is not None
                case, read = BenchCase(**question["case"]), question.get("read")
                if kind == "profile":
                    answer = profile(engine, case)
                else:
                    speed = partial(bandwidth, **read, tries=1) if read else None
                    answer = timed_run(engine, case, speed)
        except TinylaneError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
    return 0
