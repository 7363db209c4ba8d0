"""What every table's file says beside its numbers, and the folders that its parts are made in.

A part (one trained or scored model) has a folder of its own. `result.json` is written last and
whole, so a part is done or it is not; a lock keeps two processes out of one part, which is how the
same command, started twice, uses two cores.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tinylane.commands.bench_machine import describe
from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import hold, read_json, write_json, write_text
from tinylane.files.run_dir import revision
from tutorials.study.score_one import Score

RESULT, SETTINGS = "result.json", "settings.json"


def make(folder: Path) -> Path:
    """The folder, made if need be. Raises TinylaneError if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TinylaneError(f"{folder}: cannot be made ({error.strerror})") from None
    return folder


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make a folder the home of these settings. Raises TinylaneError if it has others."""
    path, plain = make(folder) / SETTINGS, json.loads(json.dumps(settings))
    if path.exists():
        there = read_json(path)
        for key in [*plain, *there]:
            if there.get(key) != plain.get(key):
                raise TinylaneError(
                    f"{folder} is of another configuration ({key} {show(there.get(key), 40)} there,"
                    f" {show(plain.get(key), 40)} here); choose another folder"
                )
        return
    write_json(path, plain)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether this process may work in the folder: False if another does. Ends with the process."""
    handle = hold(make(folder) / ".part.lock")
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def done(folder: Path) -> dict[str, Any] | None:
    """The result of a part, None if it is not done."""
    path = folder / RESULT
    return read_json(path) if path.exists() else None


def scored(score: Score) -> dict[str, Any]:
    """A score as the tables keep it: counts, Wilson's interval, the lanes by themselves."""
    low, high = score.interval
    return {
        "count": score.count,
        "right": score.right,
        "accuracy": score.accuracy,
        "interval": [round(low, 5), round(high, 5)],
        "right_per_lane": list(score.per_lane),
        "steps": score.tokens - 1,
        "seconds": round(score.seconds, 2),
    }


def about(command: str) -> dict[str, Any]:
    """Which program, libraries, revision and machine made a table."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("tinylane", "numpy", "mlx"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "command": command,
        "versions": versions,
        "revision": revision(),
        "machine": describe(),
    }


def publish(table: dict[str, Any], paths: Sequence[Path]) -> None:
    """Write a table's JSON to every path, whole or not at all; a list of numbers on one line."""
    text = json.dumps(table, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\n[-\d.e+,\s]+\]", lambda m: "[" + " ".join(m[0][1:-1].split()) + "]", text)
    for path in paths:
        make(path.parent)
        write_text(path, text + "\n")
