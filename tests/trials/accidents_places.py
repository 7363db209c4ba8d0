"""Full disks, folders that cannot be written, and second processes, for `accidents.py`.

Every command that writes is run where its file cannot be written: exit 2, one line on standard
error, old files unchanged, no new ones.
"""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accidents_jobs import Faulty, digest, files, temporary, whole

from tinylane.commands.cli import main

if TYPE_CHECKING:
    from accidents import Place

Argv = list[str]
Rows = tuple[list[dict[str, Any]], list[str]]


def commands(place: Place) -> dict[str, Callable[[Path], Argv]]:
    """Every command that writes: a folder -> its words, so that it writes into that folder."""
    m = place.materials
    ready = place.root / "ready"
    if not ready.exists():  # what view, report and replay read
        ready.mkdir()
        for argv in (m.generate(ready / "run.json"), _eval(m, ready / "run")):
            if _call(place, argv) != 0:
                raise Faulty(f"{argv[0]}: {place.errors()}")
    words = lambda *w: [str(x) for x in w]
    by_name: dict[str, Callable[[Path], Argv]] = {
        "generate --save": lambda f: m.generate(f / "run.json"),
        "view --output": lambda f: words("view", ready / "run.json", "--output", f / "a.html"),
        "view --png": lambda f: words("view", ready / "run.json", "--png", f / "a.png"),
        "eval": lambda f: _eval(m, f / "run"),
        "collect": lambda f: words(
            "collect", *m.asked(), "--lanes", 2, "--temp", 1, "--quiet", "--out", f / "run"
        ),
        "report": lambda f: words("report", ready / "run", "--out", f / "page"),
        "fuse": lambda f: words(
            "fuse", "--model", m.game, "--adapter-path", m.game / "adapter", "--save-path", f / "m"
        ),
        "bench --plot": lambda f: words(
            "bench", "--model", m.game, "--backend", "numpy", "--prompt-tokens", 8, "-m", 4,
            "--repeats", 1, "--threads", 1, "--read-mib", 8, "--quiet", "--plot", f / "b.svg",
        ),
    }  # fmt: skip
    if place.mlx:
        by_name["train shell-game"] = lambda f: m.scratch(f / "run")
        by_name["train sft"] = lambda f: m.tune("sft", f / "run")
        by_name["train kto"] = lambda f: m.tune("kto", f / "run")
    return by_name


def _eval(m: Any, out: Path) -> Argv:
    return ["eval", *m.asked(), "--lanes", "1", "2", "--count", "3", "--quiet", "--out", str(out)]


def _call(place: Place, argv: Argv, before: Callable[[], None] | None = None) -> int:
    from accidents import finish

    return finish(lambda: main(argv), place.said, before)


def _cache(place: Place) -> Callable[[Path], int]:
    """`LaneCache.save` has no command: its error is printed as the command line would."""
    from tinylane.core.errors import TinylaneError

    def save(folder: Path) -> int:
        import tinylane

        model = tinylane.load(place.materials.game, backend="numpy")
        cache = model.new_cache(model.rope())
        model([1, 2, 3], [0, 1, 2], [0, 0, 0], cache=cache)
        try:
            cache.save(folder / "cache.safetensors")
        except TinylaneError as error:
            print(f"tinylane: error: {error}", file=sys.stderr)
            return 2
        return 0

    return save


def _works(place: Place, only: list[str] | None) -> dict[str, Callable[[Path], int]]:
    works: dict[str, Callable[[Path], int]] = {
        name: lambda folder, argv=argv: main(argv(folder)) for name, argv in commands(place).items()
    }
    works["cache save"] = _cache(place)
    return {name: work for name, work in works.items() if not only or name in only}


def _state(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): digest(p) for p in files(folder)}


def _refused(place: Place, code: int) -> None:
    said = place.errors()
    errors = [x for x in said.splitlines() if x.startswith("tinylane: error: ")]
    if code != 2 or len(errors) != 1 or "Traceback" in said or "Exception" in said:
        raise Faulty(f"exit code {code}: {said.strip()[-600:]}")


# Places.


def places(place: Place, times: int, seed: int, only: list[str] | None) -> Rows:
    """Each command on full disks and in folders without rights. times: 1 tries one of each."""
    from accidents import finish

    rows, wrong = [], []
    works = _works(place, only)
    for name, work in works.items():
        tally = Counter[str]()
        for kind, situation in (("full", _full(place)), ("unwritable", _unwritable(place))):
            for label, prepared in list(situation)[: 1 if times == 1 else None]:
                try:
                    with prepared(work) as (folder, before, after):
                        code = finish(lambda w=work, f=folder: w(f), place.said, before)
                        if code == 0 and "room" in label:
                            tally["room enough"] += 1
                        else:
                            _refused(place, code)
                            after()
                            tally[kind] += 1
                except Faulty as error:
                    wrong.append(f"{name}, {label}: {error}")
        rows.append({"job": name, **tally})
        print(f"{name:18} {dict(tally)}", flush=True)
    return rows, wrong


Prepared = Callable[[Any], Any]


def _full(place: Place) -> Iterator[tuple[str, Prepared]]:
    from accidents import finish

    def after(folder: Path, old: dict[str, str], work: Any, free: Callable[[], None]) -> Any:
        def check() -> None:
            now = _state(folder)
            for name, data in old.items():
                if not name.endswith(("lock", "settings.json")) and now.get(name) != data:
                    raise Faulty(f"{name} is not what it was")
            if left := [p.name for p in files(folder) if temporary(p)]:
                raise Faulty(f"left behind: {left}")
            for path in files(folder):
                whole(path)
            free()
            if (code := finish(lambda: work(folder), place.said)) != 0:
                raise Faulty(f"with room again: exit code {code}: {place.errors()}")

        return check

    def limited(fresh: bool) -> Prepared:
        """Files may not grow beyond a few bytes."""

        @contextmanager
        def prepared(work: Any) -> Iterator[Any]:
            folder = new_folder(place)
            if not fresh and finish(lambda: work(folder), place.said) != 0:
                raise Faulty(f"exit code of the first: {place.errors()}")
            _again(folder)
            limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))
            yield folder, limit, after(folder, _state(folder), work, lambda: None)
            shutil.rmtree(folder)

        return prepared

    yield "files limited, old files there", limited(False)
    yield "files limited", limited(True)

    def mounted(room: int) -> Prepared:
        @contextmanager
        def prepared(work: Any) -> Iterator[Any]:
            folder = new_folder(place)
            if subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True
            ).returncode:
                raise Faulty("no small disk can be mounted here")
            try:
                with open(folder / "filler", "wb", buffering=0) as filler:
                    try:
                        while True:
                            filler.write(bytes(4096))
                    except OSError:
                        pass
                    filler.truncate(filler.tell() // 4096 * 4096 - room)
                (folder / "filler").rename(folder / "filler")
                free = lambda: os.truncate(folder / "filler", 0)
                yield folder, None, after(folder, {}, work, free)
            finally:
                subprocess.run(["umount", "-l", str(folder)], check=True)

        return prepared

    if can_mount(place):
        yield "a full disk", mounted(0)
        for pages in (2, 6):
            yield f"a disk with room for {pages} pages", mounted(4096 * pages)


def can_mount(place: Place) -> bool:
    folder = new_folder(place)
    argv = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    try:
        if subprocess.run(argv, capture_output=True).returncode:
            return False
    except OSError:
        return False
    subprocess.run(["umount", "-l", str(folder)], check=True)
    return True


def _again(folder: Path) -> None:
    """Remove the last result of a finished evaluation, so that it has something to do."""
    for path in files(folder):
        if path.name == "results.jsonl":
            *kept, _ = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(kept))
        elif path.name == "config.json" and path.parent.name == "m":
            for weights in path.parent.glob("*.safetensors"):
                weights.unlink()  # as `fuse` wants it


def _unwritable(place: Place) -> Iterator[tuple[str, Prepared]]:
    def fixed(folder: Path) -> Prepared:
        @contextmanager
        def prepared(work: Any) -> Iterator[Any]:
            yield folder, None, lambda: None

        return prepared

    below = new_folder(place) / "file"
    below.write_text("a file")
    yield "below a file", fixed(below)
    yield "/proc", fixed(Path("/proc"))
    yield "no such folder's /proc", fixed(Path("/proc/none"))
    if can_mount(place):

        @contextmanager
        def read_only(work: Any) -> Iterator[Any]:
            folder = new_folder(place)
            argv = ["mount", "-t", "tmpfs", "-o", "size=64k,ro", "none", str(folder)]
            subprocess.run(argv, check=True)
            try:
                yield folder, None, lambda: None
            finally:
                subprocess.run(["umount", "-l", str(folder)], check=True)

        yield "a read-only disk", read_only


def new_folder(place: Place) -> Path:
    place.number += 1
    folder = place.root / f"{place.number:05}"
    folder.mkdir()
    return folder


# A second process.


def second(place: Place, times: int, seed: int, only: list[str] | None) -> Rows:
    """The first is stopped while it holds the lock; the second is refused; the first goes on."""
    from accidents import finish, start, wait

    rows, wrong = [], []
    for job in place.jobs:
        if job.argv is None or job.name.startswith("generate"):
            continue
        tally, pid = Counter[str](), 0
        try:
            expected, _, _ = place.alone(job, disks=1)
            folder = place.folder(job)
            run = partial(job.run, folder)
            pid = start(run, place.root / "first")
            until = time.monotonic() + 60
            while not _held(folder / "run") and time.monotonic() < until:
                time.sleep(0.001)
            os.kill(pid, signal.SIGSTOP)
            before = _state(folder)
            code = finish(run, place.said)
            _refused(place, code)
            if "another process" not in place.errors():
                raise Faulty(f"refused for another reason: {place.errors()}")
            if _state(folder) != before:
                raise Faulty("the second changed files of the first")
            tally["refused"] += 1
            os.kill(pid, signal.SIGCONT)
            if (code := wait(pid)) != 0 or job.outcome(folder) != expected:
                raise Faulty(f"the first, after the second: exit code {code}")
            tally["first unharmed"] += 1
        except Faulty as error:
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # it may be stopped
            wrong.append(f"{job.name}: {error}")
        rows.append({"job": job.name, **tally})
        print(f"{job.name:18} {dict(tally)}", flush=True)
    return rows, wrong


def _held(folder: Path) -> bool:
    for name in ("lock", ".lock"):
        if (folder / name).exists():
            with open(folder / name) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    return True
    return False
