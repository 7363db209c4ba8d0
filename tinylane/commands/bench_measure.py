"""Engines timed in turn, case by case, and what the times amount to.

An engine (tinylane on NumPy, on MLX) is a process of its own that loads the checkpoint and then
waits. In a round every engine decodes the case once, in an order that turns from round to round, so
that a machine which is busy for a while is busy for all of them.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tinylane.commands.bench_engine import BenchCase, random_prompt
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError
from tinylane.files.memory import forecast

LIBRARIES = ("OPENBLAS", "OMP", "MKL")
THREADS = (*(f"{name}_NUM_THREADS" for name in LIBRARIES), "VECLIB_MAXIMUM_THREADS")
WORKER = "tinylane.commands.bench_worker"


@dataclass
class BenchSettings:
    """What is measured: the flags (`args`), and what they come to.

    folder: the checkpoint that all engines load. adapter: False where none is used. peers: engines
    of other programs, which the module `worker` knows; they decode independent lanes only.
    """

    args: Any
    folder: Path
    config: ModelConfig
    backends: Sequence[str]
    modes: Sequence[str]
    prompts: Sequence[int]
    dtype: str
    threads: int
    adapter: Any = None
    peers: Sequence[str] = ()
    worker: str = WORKER


class Worker:
    """An engine's process. module: what it runs (`bench_worker`)."""

    def __init__(self, name: str, threads: int, module: str = WORKER) -> None:
        self.name = name
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115, closed in `close`
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
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

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def environment(name: str, threads: int) -> dict[str, str]:
    """A worker's environment: threads; no network; OpenBLAS for MLX where its wheel lacks one.

    On Linux MLX's wheel links the reference BLAS, 40 times slower; engines on MLX get the system's
    OpenBLAS if there is one, by LD_PRELOAD, unless LD_PRELOAD is set.
    """
    env = dict(os.environ)
    env.update({variable: str(threads) for variable in THREADS})
    env.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    here = str(Path(__file__).parents[2])  # this package, wherever it was started from
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [here, env.get("PYTHONPATH")]))
    if "mlx" in name and sys.platform == "linux" and "LD_PRELOAD" not in env:
        library = ctypes.util.find_library("openblas")
        if library is not None:
            env["LD_PRELOAD"] = library
    return env


def measure(
    settings: BenchSettings, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[Rounds]]:
    """Time everything: the results as JSON values, and the rounds of every case.

    say: is called with lines about the progress. Raises TinylaneError where an engine fails; the
    engines' processes are ended.
    """
    ours = [f"tinylane {backend}" for backend in settings.backends]
    read = {"do": "bandwidth", "threads": settings.threads, "size": settings.args.read_mib << 20}
    speed: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        loads: dict[str, dict[str, Any]] = {}
        dtype = settings.dtype
        for name in [*ours, *settings.peers]:
            say(f"{name}: loading")
            workers[name] = stack.enter_context(Worker(name, settings.threads, settings.worker))
            if name in ours:
                backend = name.split()[1]
                speed[name] = workers[name].ask(backend=backend, **read)["bytes_per_second"]
            loads[name] = workers[name].ask(
                do="load",
                name=name,
                folder=str(settings.folder),
                dtype=dtype,
                threads=settings.threads,
                adapter=settings.adapter,
                ops=settings.args.ops,
            )
            dtype = loads[name].get("dtype", dtype)  # what "auto" was for the first holds for all
        cases = _cases(settings)
        rounds = [Rounds(case, _rounds(workers, ours, case, settings, say)) for case in cases]
        profiles = []
        if settings.args.profile:
            for name, case in itertools.product(ours, cases):
                say(f"{name}: profile, {_told(case)}")
                where = workers[name].ask(do="profile", case=asdict(case))
                profiles.append({**labels(name, case), **where})
        for name in ours:  # again: the least disturbed reading counts
            backend = name.split()[1]
            again = workers[name].ask(backend=backend, **read)["bytes_per_second"]
            speed[name] = max(speed[name], again)
    results = [result for one in rounds for result in _results(one, loads, speed)]
    document = {
        "dtype": dtype,
        "bandwidth_bytes_per_second": speed,
        "ops": {name: load["ops"] for name, load in loads.items() if "ops" in load},
        "versions": {k: v for load in loads.values() for k, v in load["versions"].items()},
        "load_seconds": {name: load["seconds"] for name, load in loads.items()},
        "results": results,
        "joint_cost": _joint_cost(rounds, ours),
        "context_slope": _slopes(results, forecast(settings.config, dtype).kv_per_token),
        "profiles": profiles,
    }
    return document, rounds


@dataclass
class Rounds:
    """Every round of one case. answers: engine -> the answers of its process, in order."""

    case: BenchCase
    answers: dict[str, list[dict[str, Any]]]


def _cases(settings: BenchSettings) -> list[BenchCase]:
    """Of one lane joint decoding is the same as independent: it is left out if both are asked."""
    cases, args = [], settings.args
    prompt_lane = 0 if args.prompt_lane == "0" else "own"
    for length, lanes in itertools.product(settings.prompts, args.lanes):
        prompt = random_prompt(settings.config.vocab, length, args.seed)
        for mode in settings.modes:
            if lanes == 1 and mode == "joint" and len(settings.modes) > 1:
                continue
            cases.append(BenchCase(prompt, lanes, args.max_tokens, mode, prompt_lane))
    return cases


def _rounds(
    workers: dict[str, Worker],
    ours: list[str],
    case: BenchCase,
    settings: BenchSettings,
    say: Callable[[str], None],
) -> dict[str, list[dict[str, Any]]]:
    read = {"threads": settings.threads, "size": settings.args.read_mib << 20}
    names = ours + [peer for peer in settings.peers if case.mode == "independent"]
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    warm = replace(case, count=min(case.count, 4))
    say(f"{_told(case)}: {', '.join(names)}")
    for name in names:
        workers[name].ask(do="run", case=asdict(warm))
    for turn in range(settings.args.repeats):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            beside = {"read": {**read, "backend": name.split()[1]}} if name in ours else {}
            answers[name].append(workers[name].ask(do="run", case=asdict(case), **beside))
    return answers


def _told(case: BenchCase) -> str:
    lanes = f"{case.lanes} lane{'s' if case.lanes > 1 else ''}"
    return f"{lanes}, {case.mode}, prompt of {len(case.prompt)}"


def labels(name: str, case: BenchCase) -> dict[str, Any]:
    """What a result is of: the engine and the case."""
    return {
        "engine": name,
        "mode": case.mode,
        "lanes": case.lanes,
        "prompt_tokens": len(case.prompt),
        "max_tokens": case.count,
    }


def _results(
    rounds: Rounds, loads: dict[str, dict[str, Any]], speed: dict[str, float]
) -> list[dict[str, Any]]:
    out, case = [], rounds.case
    for name, answers in rounds.answers.items():
        steps = [s for answer in answers for s in answer["steps"]]
        median = statistics.median(steps)
        totals = [answer["first"] + sum(answer["steps"]) for answer in answers]
        peaks = [answer["peak"] for answer in answers if answer["peak"] is not None]
        moved = answers[0].get("step_bytes")
        shares = [moved / statistics.median(a["steps"]) / a["bandwidth"] for a in answers if moved]
        out.append(
            {
                **labels(name, case),
                "load_seconds": loads[name]["seconds"],
                "first_token_seconds": statistics.median(a["first"] for a in answers),
                "step_seconds": {"median": median, **_spread(steps)},
                "tokens_per_second": statistics.median(rate(case, a) for a in answers),
                "total_seconds": statistics.median(totals),
                "peak_memory_bytes": max(peaks, default=None),
                "loaded_memory_bytes": loads[name]["bytes"] or None,
                "bytes_per_step": moved,
                "bandwidth_share": statistics.median(shares) if moved else None,
                "bandwidth_share_of_best": moved / median / speed[name] if moved else None,
                "bandwidth_bytes_per_second": [a["bandwidth"] for a in answers] if moved else None,
                "steps_by_index": [
                    statistics.median(row)
                    for row in zip(*(a["steps"] for a in answers), strict=True)
                ],
                "rounds": len(answers),
            }
        )
    return out


def rate(case: BenchCase, answer: dict[str, Any]) -> float:
    """Tokens per second of all lanes together, after the first token."""
    return case.lanes * len(answer["steps"]) / sum(answer["steps"])


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = lambda share: ordered[round(share * (len(ordered) - 1))]
    return {"p10": at(0.1), "p90": at(0.9)}


def middle(values: list[float]) -> dict[str, float]:
    """The median, the lowest and the highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _joint_cost(rounds: Sequence[Rounds], ours: list[str]) -> list[dict[str, Any]]:
    """Time of a joint step over that of an independent one, round by round."""
    size = lambda case: (case.lanes, len(case.prompt))
    alone = {size(one.case): one.answers for one in rounds if one.case.mode == "independent"}
    out = []
    for one in rounds:
        if one.case.mode != "joint" or size(one.case) not in alone:
            continue
        for name in ours:
            pairs = zip(one.answers[name], alone[size(one.case)][name], strict=True)
            ratio = [
                statistics.median(a["steps"]) / statistics.median(b["steps"]) for a, b in pairs
            ]
            out.append({**labels(name, one.case), "step": middle(ratio)})
    return out


def _slopes(results: list[dict[str, Any]], row: int) -> list[dict[str, Any]]:
    """Seconds a step for every cached row, by least squares over the prompt lengths; and the same
    over the time in which a row's keys and values (`row` bytes) are read at the bandwidth."""
    groups: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    speeds: dict[str, list[float]] = {}
    for r in results:
        speeds.setdefault(r["engine"], []).extend(r["bandwidth_bytes_per_second"] or [])
    for r in results:
        rows = r["prompt_tokens"] + r["lanes"] * r["max_tokens"] / 2
        key = (r["engine"], r["mode"], r["lanes"])
        groups.setdefault(key, []).append((rows, r["step_seconds"]["median"]))
    out, every = [], [s for some in speeds.values() for s in some]
    for (engine, mode, lanes), points in groups.items():
        if len({x for x, _ in points}) < 2:
            continue
        slope = statistics.linear_regression(*zip(*points, strict=True)).slope
        speed = statistics.median(speeds[engine] or every)
        out.append(
            {
                "engine": engine,
                "mode": mode,
                "lanes": lanes,
                "seconds_per_row": slope,
                "over_bandwidth": slope * speed / row,
            }
        )
    return out
