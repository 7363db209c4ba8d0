"""A run directory that survives a kill at any instant: settings, whole lines of results, a lock.

    settings.json   what was asked for, and every start of it: time, versions, git revision
    results.jsonl   one JSON object a line, in the order in which they were done
    lock            held (flock) by the one process that may write

A line counts when its newline is on disk: it is appended in one write and synced before the next
piece of work begins, and a line that a kill tore is cut off at the next start. So a restart loses
what was in flight and nothing else. Settings that differ are refused once there is a result to
lose: what stopped before its first may be corrected. Not handled: file systems on which flock or
fsync do nothing (some network shares).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from tinylane.core import __version__
from tinylane.core.errors import TinylaneError, show
from tinylane.files import jsonl
from tinylane.files.io import hold, inside, open_writable, read_json, write_json

RESULTS, SETTINGS, LOCK = "results.jsonl", "settings.json", "lock"
MAX_RESULT = 1 << 24  # bytes of a line: some hundred thousand tokens, as in a run file
MAX_SETTINGS = 16 << 20
MAX_STARTS = 1000  # remembered


class Journal:
    """A run directory that this process alone may add to.

    settings: plain JSON values; a directory with results of others is refused. what: a line's name
    in messages ("results"). Use as a context manager, or `close` it. Raises TinylaneError, in one
    line, for a folder that cannot be written, one that another process holds, one of other
    settings, and results that are not whole lines of JSON.
    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: dict[str, Any], what: str = "results"
    ):
        self.folder, self.what = Path(folder), what
        self.path = self.folder / RESULTS
        self._file = self._lock = -1
        settings = json.loads(json.dumps(settings, allow_nan=False))  # tuples are lists in a file
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TinylaneError(f"{self.folder}: cannot be made ({error.strerror})") from error
        try:
            held = hold(self.folder / LOCK)
            if held is None:
                raise TinylaneError(
                    f"{self.folder}: another process is writing this run; wait until it ends, or "
                    "give another folder"
                )
            self._lock = held
            for name in (SETTINGS, RESULTS):
                inside(self.folder, name)  # a link of somebody else's is not written through
            self._agree(settings)
            self._file = open_writable(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            self._size = self._repair()
            self.count = sum(1 for _ in self.rows())
        except BaseException:
            self.close()
            raise

    def rows(self) -> Iterator[dict[str, Any]]:
        """The results so far."""
        return (row for _, row in jsonl.read(self.path, limit=MAX_RESULT))

    def append(self, row: dict[str, Any]) -> None:
        """Add a line and wait until it is on disk.

        Raises TinylaneError, saying what was kept, where that fails (a full disk): the file is cut
        back to its whole lines.
        """
        data = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        line = data.encode("utf-8", "backslashreplace") + b"\n"
        if len(line) > MAX_RESULT:
            raise TinylaneError(
                f"{self.path}: a line of {len(line):,} bytes; only {MAX_RESULT:,} could be read "
                "again. Ask for fewer lanes or tokens"
            )
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise TinylaneError(
                f"{self.path}: {error.strerror}; {self.count} {self.what} are kept; the same "
                "command goes on from there"
            ) from error
        self._size += len(line)
        self.count += 1

    def close(self) -> None:
        """Let others in."""
        for handle in (self._file, self._lock):
            if handle >= 0:
                with contextlib.suppress(OSError):
                    os.close(handle)
        self._file = self._lock = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _agree(self, settings: dict[str, Any]) -> None:
        """Refuse another configuration; write down that the run was started (again)."""
        path, starts = self.folder / SETTINGS, []
        if path.exists():
            before = read_json(path, MAX_SETTINGS)
            difference = differing(before.get("settings"), settings)
            if difference and self._holds_results():
                raise TinylaneError(
                    f"{self.folder}: holds a run of another configuration ({difference}); give "
                    "another folder"
                )
            said = [] if difference else before.get("starts")
            starts = said[-MAX_STARTS:] if isinstance(said, list) else []
        elif self.path.exists() and self.path.stat().st_size:
            raise TinylaneError(
                f"{self.folder}: has {RESULTS} but no {SETTINGS}; give another folder"
            )
        write_json(path, {"settings": settings, "starts": [*starts, start()]})

    def _holds_results(self) -> bool:
        """Whether anything was done here, by one process or (in earlier versions) by several."""
        files = [self.path, *self.folder.glob(f"rank-*/{RESULTS}")]
        return any(path.exists() and path.stat().st_size for path in files)

    def _repair(self) -> int:
        """Cut off a line that was not finished; the size of what is left."""
        end = size = os.fstat(self._file).st_size
        while end > 0:
            begin = max(end - (1 << 16), 0)
            found = os.pread(self._file, end - begin, begin).rfind(b"\n")
            if found >= 0:
                end = begin + found + 1
                break
            end = begin
        if end < size:
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        return end


def differing(before: Any, now: Any, name: str = "") -> str:
    """Where two settings first differ, in words: "" if they do not."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *(k for k in before if k not in now)]:
            inner = f"{name}.{key}" if name else str(key)
            if found := differing(before.get(key), now.get(key), inner):
                return found
        return ""
    if before == now and type(before) is type(now):
        return ""
    return f"{name or 'settings'} was {show(before, 60)}, now {show(now, 60)}"


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
    """The git revision of tinylane's own checkout, "+" after it if the package's files differ; None
    elsewhere."""
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
    found = read_json(inside(folder, SETTINGS), MAX_SETTINGS)
    return found, jsonl.read(inside(folder, RESULTS), limit=MAX_RESULT, whole=True)
