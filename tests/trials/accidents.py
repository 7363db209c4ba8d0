"""What becomes of files when a process is killed, interrupted, locked out or the disk is full.

    python tests/trials/accidents.py --kills 200 --seed 0    SIGKILL at random instants
    python tests/trials/accidents.py interrupt --times 5     Ctrl-C at random instants
    python tests/trials/accidents.py places                  full disks, folders without rights
    python tests/trials/accidents.py second                  a second process on a run directory
    python tests/trials/accidents.py soak --steps 20000      memory while lanes join and leave

Totals are printed as a table and as one line of JSON; the exit code is 1 if anything was lost.
Every second kill is on a slow disk: each sync, rename and append waits up to 20 ms before and
after, so that the instants around them get their share. --plant writes files in place (kill) or
keeps every decoding (soak): bugs that the trial must find.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in
sys.path.insert(1, str(Path(__file__).parents[1] / "helpers"))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

from accidents_jobs import Faulty, Job, Materials, environment, files, jobs, serve, temporary, whole

LONGEST = 300.0  # seconds that a run may take on a busy machine
SLOW = 0.02  # seconds
PLANTED = 0.3  # seconds that a file written in place is empty


# Children: forks of this process, which has imported everything and computed nothing.


_OUTPUT: dict[int, tuple[int, Path]] = {}  # pid: its pipe (a full disk takes no file), its file


def start(work: Callable[[], int], said: Path, before: Callable[[], None] | None = None) -> int:
    """Do `work` in a process of its own; its id. `wait` puts what it prints into `said`."""
    sys.stdout.flush()
    inner, outer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(outer)
        os.set_blocking(inner, False)
        _OUTPUT[pid] = inner, said
        return pid
    code = 99
    try:
        os.setsid()
        os.dup2(outer, 1)
        os.dup2(outer, 2)
        sys.stdout, sys.stderr = (open(k, "w", 1, closefd=False) for k in (1, 2))  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if before is not None:
            before()
        code = work()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait(pid: int, seconds: float = LONGEST) -> int:
    """The exit code, negative for a signal; a process that hangs is killed, and an error."""
    until = time.monotonic() + seconds
    inner, said = _OUTPUT.pop(pid)
    text, status = b"", None
    while status is None:
        done, code = os.waitpid(pid, os.WNOHANG)
        status = code if done else None
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(inner, 1 << 16):
                text += piece
        if status is None and time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise Faulty(f"still running after {seconds:.0f} s")
        time.sleep(0.001)
    os.close(inner)
    said.write_bytes(text)
    return os.waitstatus_to_exitcode(status)


def finish(work: Callable[[], int], said: Path, before: Callable[[], None] | None = None) -> int:
    return wait(start(work, said, before))


def slow_disk() -> None:
    """Every sync, rename and append waits before and after."""
    rng = random.Random(os.getpid())
    acts = {name: getattr(os, name) for name in ("fsync", "replace", "write")}
    for name in acts:

        def slowly(*args: Any, act: Any = acts[name], **more: Any) -> Any:
            time.sleep(rng.random() * SLOW)
            done = act(*args, **more)
            time.sleep(rng.random() * SLOW)
            return done

        setattr(os, name, slowly)


def plant() -> None:
    """The bug: files written where they stand."""
    from tinylane.files import writing as ours

    @contextlib.contextmanager
    def in_place(path: Any) -> Iterator[Any]:
        with open(path, "wb") as file:
            time.sleep(PLANTED)
            yield file
            file.flush()
            os.fsync(file.fileno())

    original = ours.replacing
    for module in list(sys.modules.values()):
        if getattr(module, "replacing", None) is original:
            module.replacing = in_place  # type: ignore[attr-defined]


class Place:
    """Materials in a scratch folder, the stand-in hub in a process of its own, all imported."""

    def __init__(self, root: Path, hub: bool = True) -> None:
        self.root, self.said, self.number = root, root / "said", 0
        self.server = 0
        if hub:
            port = root / "port"
            self.server = start(lambda: serve(port) or 0, root / "hub-said")
            while not (port.exists() and port.read_text()):
                if os.waitpid(self.server, os.WNOHANG)[0]:
                    raise Faulty("the stand-in hub ended before it began")
                time.sleep(0.01)
            environment(root / "home", int(port.read_text()))
        self.mlx = has("mlx.core")
        for name in IMPORTS + (MLX if self.mlx else []) + (["huggingface_hub"] if hub else []):
            import_module(name)
        if hub:
            from huggingface_hub import snapshot_download  # noqa: F401, lazy otherwise
        self.materials = Materials(root)
        self.jobs = [job for job in jobs(self.materials) if self.mlx or not job.mlx]
        if not hub:
            self.jobs = self.jobs[1:]

    def close(self) -> None:
        if self.server:
            os.kill(self.server, signal.SIGKILL)
            os.waitpid(self.server, 0)

    def folder(self, job: Job) -> Path:
        """A new one, prepared."""
        self.number += 1
        folder = self.root / f"{self.number:05}"
        folder.mkdir()
        if finish(lambda: job.prepare(folder) or 0, self.said) != 0:
            raise Faulty(f"{job.name}: not prepared: {self.errors()}")
        return folder

    def errors(self) -> str:
        return self.said.read_text(errors="replace")[-2000:] if self.said.exists() else ""

    def alone(self, job: Job, disks: int = 2) -> tuple[Any, set[str], list[float]]:
        """A run that nobody disturbs: what comes of it, its files, seconds on a fast, slow disk."""
        times, outcome, names = [], None, set()
        for disk in (None, slow_disk)[:disks]:
            folder, began = self.folder(job), time.monotonic()
            if (code := finish(lambda f=folder: job.run(f), self.said, disk)) != 0:
                raise Faulty(f"{job.name}: exit code {code} undisturbed: {self.errors()}")
            times.append(time.monotonic() - began)
            where = job.where(folder)
            outcome, names = job.outcome(folder), {str(p.relative_to(where)) for p in files(where)}
            shutil.rmtree(folder)
        return outcome, {n for n in names if not n.endswith("lock")}, times


IMPORTS = ["tinylane.commands.generate", "tinylane.commands.eval", "tinylane.commands.collect"]
IMPORTS += [
    "tinylane.commands.fuse",
    "tinylane.files.cache_file",
    "tinylane.view.run_file",
    "tokenizers",
]
MLX = ["mlx.core", "mlx.optimizers", "tinylane.train.from_scratch", "tinylane.train.loop"]
MLX += ["tinylane.train.setup", "tinylane.commands.train"]


def has(name: str) -> bool:
    try:
        return bool(import_module(name))
    except ImportError:
        return False


# Kills.


def kill(
    place: Place, wanted: int, seed: int, planted: bool = False
) -> tuple[list[dict], list[str]]:
    """`wanted` kills in all, as many for every job; the totals by job, and what went wrong."""
    rng, rows, wrong = random.Random(seed), [], []
    for number, job in enumerate(place.jobs):
        share = wanted // len(place.jobs) + (number < wanted % len(place.jobs))
        began, tally = time.monotonic(), Counter[str]()
        expected, names, times = place.alone(job)
        if planted:
            times = [t + 3 * PLANTED for t in times]
        while tally["kills"] < share:
            try:
                _round(place, job, rng, tally, expected, names, times, share, planted)
            except Faulty as error:
                tally["failures"] += 1
                wrong.append(f"{job.name}: {error}")
                if tally["failures"] > 2:
                    break
        rows.append({"job": job.name, **tally, "seconds": round(time.monotonic() - began, 1)})
        _show(rows[-1])
    return rows, wrong


def _round(
    place: Place,
    job: Job,
    rng: random.Random,
    tally: Counter[str],
    expected: Any,
    names: set[str],
    times: list[float],
    share: int,
    planted: bool,
) -> None:
    """One to three kills of one run, then the same command until it ends by itself."""
    folder = place.folder(job)
    attempts = rng.randint(1, 3)
    for _ in range(attempts):
        if tally["kills"] >= share:
            break
        slow = (tally["kills"] + tally["ended before"]) % 2
        delay = rng.random() * times[slow]
        where = job.where(folder)
        old = {n: (where / n).read_bytes() for n in names if (where / n).exists()}

        def before(slow: int = slow) -> None:
            if slow:
                slow_disk()
            if planted:
                plant()

        pid = start(lambda: job.run(folder), place.said, before)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        if (code := wait(pid)) != -signal.SIGKILL:
            if code != 0:
                raise Faulty(f"exit code {code}: {place.errors()}")
            tally["ended before"] += 1
            break
        tally["kills"] += 1
        _examine(job, folder, names, old, expected, tally)
    if (code := finish(lambda: job.run(folder), place.said)) != 0:
        raise Faulty(f"does not go on: exit code {code}: {place.errors()}")
    if job.outcome(folder) != expected:
        raise Faulty("goes on to another result than an undisturbed run")
    if left := [p.name for p in files(folder) if temporary(p)]:
        raise Faulty(f"left behind: {left}")
    tally["continued"] += 1
    shutil.rmtree(folder)


def _examine(
    job: Job,
    folder: Path,
    names: set[str],
    old: dict[str, bytes],
    expected: Any,
    tally: Counter[str],
) -> None:
    """Count what became of every file; raises Faulty for one that is half there."""
    for name in sorted(names):
        path = job.where(folder) / name
        if not path.exists():
            if name in old:
                raise Faulty(f"{name} is gone")
            tally["absent"] += 1
            continue
        data = path.read_bytes()
        if data == old.get(name):
            tally["old"] += 1
        elif job.unchanged:
            raise Faulty(f"{name} was changed")
        else:
            if path.suffix == ".jsonl" and data and not data.endswith(b"\n"):
                tally["torn line"] += 1
            whole(path)
            if job.two_states and job.outcome(folder) != expected:
                raise Faulty(f"{name} is neither old nor new")
            tally["whole"] += 1
    tally["temporary"] += sum(temporary(p) for p in files(folder))


def _show(row: dict[str, Any]) -> None:
    keys = ("kills", "absent", "old", "whole", "torn line", "temporary", "continued", "failures")
    counts = ", ".join(f"{k} {row.get(k, 0)}" for k in keys)
    print(f"{row['job']:18} {counts} ({row['seconds']} s)", flush=True)


# The command line.


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    p.add_argument(
        "what", nargs="?", default="kill", choices=("kill", "interrupt", "places", "second", "soak")
    )
    p.add_argument("--kills", type=int, default=200)
    p.add_argument("--times", type=int, default=5, help="interruptions of every command")
    p.add_argument("--steps", type=int, default=20000)
    p.add_argument("--backend", choices=("numpy", "mlx"), default="numpy", help="of the soak")
    p.add_argument("--context", type=int, default=1024, help="of the soak's model")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", nargs="+", metavar="JOB", help="these jobs or commands only")
    p.add_argument("--plant", action="store_true", help="a bug that must be found")
    args = p.parse_args(argv)
    began = time.monotonic()
    if args.what == "soak":
        from accidents_soak import soak

        rows, wrong = soak(args.steps, args.seed, args.backend, args.context, args.plant)
    else:
        with tempfile.TemporaryDirectory() as folder:
            place = Place(Path(folder), hub=args.what == "kill")
            try:
                if args.only:
                    place.jobs = [job for job in place.jobs if job.name in args.only]
                if args.what == "kill":
                    rows, wrong = kill(place, args.kills, args.seed, args.plant)
                else:
                    from accidents_interrupt import interrupt
                    from accidents_places import places, second

                    act = {"interrupt": interrupt, "places": places, "second": second}[args.what]
                    rows, wrong = act(place, args.times, args.seed, args.only)
            finally:
                place.close()
    for text in wrong:
        print(f"WRONG: {text}")
    total = Counter[str]()
    for row in rows:
        total.update({k: v for k, v in row.items() if isinstance(v, int)})
    took = round(time.monotonic() - began)
    print(json.dumps({"what": args.what, **total, "wrong": len(wrong), "seconds": took}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
