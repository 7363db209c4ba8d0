"""A run directory that survives a kill at any instant: settings, whole lines, a lock.

    what            evaluation, transcripts   training          a part of the study
    settings        settings.json             recipe.json       settings.json
    lines           results.jsonl             log.jsonl
    lock            lock                      .lock             .part.lock

One process works in a folder at a time. The lock file stays there; the lock on it (flock) ends with
the process, however it ends. Settings are fixed: other ones are refused. A line counts once its
newline is on disk, and a line that a kill tore is cut off at the next start. A log of training is
cut back to the step of the saved state when a run goes on, so that no step is logged twice. Not
handled: file systems on which flock or fsync do nothing (some network shares).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.core import __version__
from tinylane.core.errors import TinylaneError, show
from tinylane.files import jsonl
from tinylane.files.io import inside, open_descriptor, read_json
from tinylane.files.writing import make_folder, sweep, write_json

if TYPE_CHECKING:
    from filelock import FileLock

RESULTS, SETTINGS, LOCK = "results.jsonl", "settings.json", "lock"
RECIPE, LOG = "recipe.json", "log.jsonl"
MAX_RESULT = 1 << 24  # bytes of a line: some hundred thousand tokens, as in a run file
MAX_SETTINGS = 16 << 20
MAX_STARTS = 1000  # remembered


# ---------------------------------------------------------------------------------- the lock


def hold(path: Path) -> FileLock | None:
    """The lock on a file, which is made if need be; None if another process has it.

    It is held until `release` is called or the object is gone. Raises TinylaneError where the file
    cannot be made, and on a file system that has no locks.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        raise TinylaneError(f"{path}: cannot be locked ({error.strerror})") from error
    return lock


@contextlib.contextmanager
def locked(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Make the folder if need be and hold it, rid of files that a killed run left half-written.

    Raises TinylaneError if another process holds it.
    """
    make_folder(folder)
    lock = hold(folder / name)
    if lock is None:
        raise TinylaneError(
            f"{folder}: another process is writing this run; wait until it ends, or give another "
            "folder"
        )
    try:
        sweep(folder, ".*.tmp")
        sweep(folder / "adapter", ".*.tmp")
        yield
    finally:
        lock.release()


# ------------------------------------------------------------------------------ the settings


def claim(
    folder: Path,
    settings: Mapping[str, Any],
    notes: Mapping[str, Any] | None = None,
    name: str = RECIPE,
) -> None:
    """Write the settings that a folder's run has, or check that it has the same.

    notes: kept for people (paths, versions), not compared. Raises TinylaneError if it has others.
    """
    plain = json.loads(json.dumps(settings))  # tuples are lists in a file
    path = inside(folder, name)
    if path.exists():
        before = read_json(path, MAX_SETTINGS)
        before.pop("notes", None)
        _refuse(folder, differing(before, plain))
    else:
        _refuse_other_kind(folder, SETTINGS if name == RECIPE else RECIPE)
        write_json(path, {**plain, "notes": dict(notes)} if notes else plain)


def _refuse(folder: Path, difference: str) -> None:
    if difference:
        raise TinylaneError(
            f"{folder}: holds a run of another configuration ({difference}); give another folder"
        )


def _refuse_other_kind(folder: Path, other: str) -> None:
    """A training has RECIPE, what counts results has SETTINGS: a folder is for one of them."""
    if (folder / other).exists():
        raise TinylaneError(f"{folder}: holds a run of another kind ({other}); give another folder")


def differing(before: Any, now: Any, name: str = "") -> str:
    """Where two settings first differ, in words: "" if they do not."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *(k for k in before if k not in now)]:
            inner = f"{name}.{key}" if name else str(key)
            if difference := differing(before.get(key), now.get(key), inner):
                return difference
        return ""
    if before == now and isinstance(before, bool) == isinstance(now, bool):
        return ""
    return f"{name or 'settings'} was {show(before, 60)}, now {show(now, 60)}"


# --------------------------------------------------------------------------------- the lines


def append_line(path: Path, line: str, kept: str = "") -> None:
    """Add a line to a file, which is made if need be, and wait until it is on disk.

    Raises TinylaneError where that fails (a full disk): the file is cut back to its whole lines.
    kept: what the error says then.
    """
    handle = open_descriptor(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    size = os.fstat(handle).st_size
    try:
        left = memoryview(line.encode("utf-8", "backslashreplace") + b"\n")
        while left:
            left = left[os.write(handle, left) :]
        os.fsync(handle)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, size)
        raise TinylaneError(f"{path}: cannot be written ({error.strerror}){kept}") from error
    finally:
        os.close(handle)


def cut(path: Path, size: int | None = None) -> None:
    """Cut a file, which is made if need be, to `size` bytes; None: to its whole lines."""
    handle = open_descriptor(path, os.O_RDWR | os.O_CREAT)
    try:
        end = os.fstat(handle).st_size if size is None else size
        while size is None and end > 0:
            begin = max(end - (1 << 16), 0)
            newline = os.pread(handle, end - begin, begin).rfind(b"\n")
            end = begin + newline + 1
            if newline >= 0:
                break
        if end < os.fstat(handle).st_size:
            os.ftruncate(handle, end)
            os.fsync(handle)
    finally:
        os.close(handle)


class Log:
    """log.jsonl of a training run that goes on at `step`; lines of later steps are cut off."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = inside(folder, LOG)
        self.entries: list[dict[str, Any]] = []
        cut(self.path)
        size = 0
        for _, line in jsonl.lines(self.path, limit=MAX_RESULT):
            try:
                entry = json.loads(line)
                if entry["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break  # damaged; what follows cannot be trusted either
            self.entries.append(entry)
            size += len(line)
        cut(self.path, size)

    @property
    def seconds(self) -> float:
        """Seconds of training until the last line."""
        return float(self.entries[-1].get("seconds", 0.0)) if self.entries else 0.0

    def add(self, entry: dict[str, Any]) -> None:
        """Append a line. Raises TinylaneError when it cannot be written."""
        append_line(self.path, json.dumps(entry))
        self.entries.append(entry)


class Journal:
    """The results of an evaluation, which this process alone may add to.

    settings: plain JSON values; a directory with results of others is refused, one without results
    takes them. what: a line's name in messages ("results"). Use as a context manager, or `close`
    it. Raises TinylaneError, in one line, for a folder that cannot be written, one that another
    process holds, one of other settings, and lines too long; `rows` for lines that are not JSON.
    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: dict[str, Any], what: str = "results"
    ) -> None:
        self.folder, self.what = Path(folder), what
        self.path = self.folder / RESULTS
        self.settings = json.loads(json.dumps(settings, allow_nan=False))
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(self.folder, LOCK))
            for name in (SETTINGS, RESULTS):
                inside(self.folder, name)  # refuses a link to a file outside
            self._agree(self.settings)
            cut(self.path)
            self.count = sum(
                1 for _, line in jsonl.lines(self.path, limit=MAX_RESULT) if line.strip()
            )
            self._lock = stack.pop_all()

    def rows(self) -> Iterator[dict[str, Any]]:
        """The results so far."""
        return (row for _, row in jsonl.read(self.path, limit=MAX_RESULT))

    def append(self, row: dict[str, Any]) -> None:
        """Add a line and wait until it is on disk. Raises TinylaneError, saying what was kept."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(line.encode("utf-8", "backslashreplace")) + 1
        if size > MAX_RESULT:
            raise TinylaneError(
                f"{self.path}: a line of {size:,} bytes; only {MAX_RESULT:,} could be read again. "
                "Ask for fewer lanes or tokens"
            )
        kept = f"; {self.count} {self.what} are kept; the same command goes on from there"
        append_line(self.path, line, kept)
        self.count += 1

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _agree(self, settings: dict[str, Any]) -> None:
        """Refuse another configuration; record this start of the run."""
        path, starts = self.folder / SETTINGS, []
        if path.exists():
            before = read_json(path, MAX_SETTINGS)
            difference = differing(before.get("settings"), settings)
            if self._holds_results():
                _refuse(self.folder, difference)
            past = [] if difference else before.get("starts")
            starts = past[-MAX_STARTS:] if isinstance(past, list) else []
        elif self.path.exists() and self.path.stat().st_size:
            raise TinylaneError(
                f"{self.folder}: has {RESULTS} but no {SETTINGS}; give another folder"
            )
        else:
            _refuse_other_kind(self.folder, RECIPE)
        write_json(path, {"settings": settings, "starts": [*starts, start()]})

    def _holds_results(self) -> bool:
        """Whether anything was done here, by one process or (in earlier versions) by several."""
        files = [self.path, *self.folder.glob(f"rank-*/{RESULTS}")]
        return any(path.exists() and path.stat().st_size for path in files)


# ------------------------------------------------------------------------------ where it runs


def start() -> dict[str, Any]:
    """When, where and with which versions this process runs."""
    from importlib import metadata

    versions = {"tinylane": __version__, "python": sys.version.split()[0]}
    for name in ("numpy", "mlx", "tokenizers", "math-verify", "sympy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "platform": sys.platform,
        "versions": versions,
        "git": revision(),
    }


def revision() -> str | None:
    """The git revision of tinylane's checkout, with "+" if the package's files differ from it.

    None where tinylane was installed, or git cannot tell.
    """
    package = Path(__file__).parents[1]
    root = package.parent
    if not (root / ".git").exists():
        return None
    ask = ["git", "-C", str(root)]
    try:
        quiet = {"capture_output": True, "text": True, "timeout": 10, "check": True}
        head = subprocess.run([*ask, "rev-parse", "HEAD"], **quiet).stdout.strip()  # type: ignore[call-overload]
        dirty = subprocess.run(  # type: ignore[call-overload]
            [*ask, "status", "--porcelain", "--", str(package)], **quiet
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return head + "+" * bool(dirty)


def read_run(
    folder: str | os.PathLike[str],
) -> tuple[dict[str, Any], Iterator[tuple[int, dict[str, Any]]]]:
    """The settings of a run directory and its whole lines with their numbers; needs no lock.

    A torn last line, of a run that is going on or was killed, is left out. Raises TinylaneError for
    a folder that is no run.
    """
    folder = Path(folder)
    if not (folder / SETTINGS).is_file():
        raise TinylaneError(f"{folder}: no {SETTINGS} in it; expected the --out of tinylane eval")
    settings = read_json(inside(folder, SETTINGS), MAX_SETTINGS)
    return settings, jsonl.read(inside(folder, RESULTS), limit=MAX_RESULT, whole=True)
