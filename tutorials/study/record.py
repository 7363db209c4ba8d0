"""The study's folders and files: what is done, what is being done, and the tables.

A part is one model, trained and scored in its own folder. Its `result.json` is written last and at
once, so a part is either done or not. A lock keeps two processes out of one part: the same command,
started twice, works on two parts at a time.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tinylane.commands.bench_machine import describe
from tinylane.evaluate.measures import wilson
from tinylane.files import run_dir
from tinylane.files.io import read_json
from tinylane.files.writing import make_folder, write_text
from tutorials.study.score_one import Score

RESULT = "result.json"
Say = Callable[[str], None]


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Keep these settings in a folder. Raises TinylaneError if it has others."""
    run_dir.claim(make_folder(folder), settings, name=run_dir.SETTINGS)


@contextlib.contextmanager
def locked(folder: Path, say: Say = lambda line: None) -> Iterator[bool]:
    """Whether this process may work in the folder; False, and a line, if another process does."""
    lock = run_dir.hold(make_folder(folder) / ".part.lock")
    if lock is None:
        say(f"{folder.name}: another process is at it")
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


@contextlib.contextmanager
def part(folder: Path, say: Say) -> Iterator[bool]:
    """Whether this process should make the part: nobody has made it, and nobody is making it."""
    if done(folder) is not None:
        yield False
        return
    with locked(folder, say) as mine:
        yield mine and done(folder) is None  # another process may have made it just now


def done(folder: Path) -> dict[str, Any] | None:
    """The result of a part; None if it is not done."""
    path = folder / RESULT
    return read_json(path) if path.exists() else None


def parts(out: Path, name: str) -> list[dict[str, Any]]:
    """The results of a cell's parts that are done, by seed. Their folders are called name-SEED."""
    results = [done(folder) for folder in out.glob(f"{name}-[0-9]*")]
    return sorted((result for result in results if result), key=lambda result: result["seed"])


def share(right: int, count: int) -> dict[str, Any]:
    """`right` of `count` as the tables keep it: with the accuracy and Wilson's 95% interval."""
    estimate = wilson(right, count)
    interval = [round(estimate.low, 5), round(estimate.high, 5)]
    return {"count": count, "right": right, "accuracy": right / count, "interval": interval}


def scored(score: Score) -> dict[str, Any]:
    """A score as the tables keep it: the majority's share, then the lanes by themselves."""
    return {
        **share(score.right, score.count),
        "right_per_lane": list(score.per_lane),
        "steps": score.tokens - 1,
        "seconds": round(score.seconds, 2),
    }


def about(command: str) -> dict[str, Any]:
    """Which command, libraries, revision and machine made a table."""
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
    """Write a table's JSON to every path, atomically, with each list of numbers on one line."""
    text = json.dumps(table, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\n[-\d.e+,\s]+\]", lambda m: "[" + " ".join(m[0][1:-1].split()) + "]", text)
    for path in paths:
        make_folder(path.parent)
        write_text(path, text + "\n")
