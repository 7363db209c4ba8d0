"""What every table's file says beside its numbers, and the folders that its parts are made in.

A part (one trained or scored model) has a folder of its own. `result.json` is written last and
whole, so a part is done or it is not; a lock keeps two processes out of one part, which is how the
same command, started twice, uses two cores.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tinylane.commands.bench_machine import describe
from tinylane.files import run_dir
from tinylane.files.io import make_folder, read_json, write_text
from tutorials.study.score_one import Score

RESULT = "result.json"


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make a folder the home of these settings. Raises TinylaneError if it has others."""
    run_dir.claim(make_folder(folder), settings, name=run_dir.SETTINGS)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether this process may work in the folder: False if another does. Ends with the process."""
    lock = run_dir.hold(make_folder(folder) / ".part.lock")
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


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
        "revision": run_dir.revision(),
        "machine": describe(),
    }


def publish(table: dict[str, Any], paths: Sequence[Path]) -> None:
    """Write a table's JSON to every path, whole or not at all; a list of numbers on one line."""
    text = json.dumps(table, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\n[-\d.e+,\s]+\]", lambda m: "[" + " ".join(m[0][1:-1].split()) + "]", text)
    for path in paths:
        make_folder(path.parent)
        write_text(path, text + "\n")
