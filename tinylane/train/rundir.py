"""A run directory: one process at a time, one configuration for ever, a log that never lies.

`recipe.json` says what decides the run's numbers; a directory of another recipe is refused. A lock
(flock, which the system drops when the process dies, however it dies) keeps a second process out.
`log.jsonl` grows by a line at a time; what a killed run wrote after its last saved state is cut off
before it goes on, so that no step stands there twice.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import hold, read_bytes, read_json, write_json, write_text

RECIPE, LOG, LOCK = "recipe.json", "log.jsonl", ".lock"
MAX_LOG = 1 << 30


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder if need be and hold it, rid of files that a killed run left half-written.

    Raises TinylaneError if another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TinylaneError(f"{folder}: cannot be written ({error.strerror})") from None
    handle = hold(folder / LOCK)
    if handle is None:
        raise TinylaneError(
            f"{folder}: another process is at work there; wait for it, or choose another folder"
        )
    try:
        for left in (*folder.glob(".*.tmp"), *folder.glob("adapter/.*.tmp")):
            with contextlib.suppress(OSError):  # half a file of a run that was killed
                left.unlink()
        yield
    finally:
        os.close(handle)


def claim(folder: Path, recipe: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> None:
    """Write recipe.json, or check that the one there is the same.

    recipe: what decides the numbers. notes: kept for people (paths, versions), not compared. Raises
    TinylaneError naming what differs, and for a folder that holds another kind of run.
    """
    path = folder / RECIPE
    plain = json.loads(json.dumps(recipe))
    if path.exists():
        there = read_json(path)
        there.pop("notes", None)
        if there != plain:
            differ = [
                f"{key} {show(there.get(key), 40)} there, {show(plain.get(key), 40)} here"
                for key in [*plain, *(k for k in there if k not in plain)]
                if there.get(key) != plain.get(key)
            ]
            raise TinylaneError(
                f"{folder} holds a run of another recipe ({'; '.join(differ[:3])}); "
                "choose another folder"
            )
        return
    write_json(path, {**plain, "notes": dict(notes)} if notes else plain)


class Log:
    """log.jsonl of a run that stands at `step`."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / LOG
        self.entries: list[dict[str, Any]] = []
        lines = []
        if self.path.exists():
            for line in read_bytes(self.path, MAX_LOG).decode("utf-8", "replace").splitlines():
                try:
                    entry = json.loads(line)
                    if entry["step"] > step:
                        break
                except (ValueError, KeyError, TypeError):
                    break  # torn by a kill; what follows is no better
                lines.append(line)
                self.entries.append(entry)
            write_text(self.path, "".join(line + "\n" for line in lines))

    @property
    def seconds(self) -> float:
        """Seconds of training until the last line."""
        return float(self.entries[-1].get("seconds", 0.0)) if self.entries else 0.0

    def add(self, entry: dict[str, Any]) -> None:
        """Append a line. Raises TinylaneError when it cannot be written."""
        append(self.path, entry)
        self.entries.append(entry)


def append(path: Path, value: Any) -> None:
    """Add a line of JSON to a file. Raises TinylaneError when it cannot be written."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")
    except OSError as error:
        raise TinylaneError(f"{path}: cannot be written ({error.strerror})") from None
