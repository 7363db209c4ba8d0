"""Runs in folders: one process writes a whole run, or N processes write a shard each.

    tinylane eval ... --shard 1/2 --out A        two processes, started by any means
    tinylane eval ... --shard 2/2 --out B
    tinylane report A B                          as if one process had done everything

    mlx.launch -n 2 --backend ring -- tinylane eval ... --out DIR
    tinylane report DIR                          reads DIR/shard-1-of-2 and DIR/shard-2-of-2

The `--` keeps mlx.launch from reading tinylane's flags as its own. Under mlx.launch shard K is the
process of rank K - 1. Shard K of N does problem k if k % N == K - 1, so that shards differ by one
problem at most. Nothing is sent between the processes, so hosts need no disk in common: copy the
folders to one host for the report. A shard is a run like any other: the same command goes on after
a stop. The same command without a shard, with the folder that holds the shards as its `--out`,
takes over what they have done and does the rest. It does the same with the `rank-*` folders that
earlier versions wrote.

Not handled: the number of shards of a run that has begun is fixed; MPI sets other variables than
mlx.launch does, so give `--shard` there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, groupby, zip_longest
from pathlib import Path
from typing import Any, TypeVar

from tinylane.core.errors import TinylaneError, show
from tinylane.files import jsonl
from tinylane.files.io import open_regular, parse_json, read_bytes
from tinylane.files.run_dir import MAX_RESULT, RESULTS, SETTINGS, Journal, differing, read_run
from tinylane.files.writing import replacing

Item = TypeVar("Item", bound="tuple[int, Any]")
Key = tuple[Any, ...]
MAX_SHARDS = 1 << 16
WHOLE = re.compile(r"[0-9]{1,9}")
INSIDE = ("shard-*-of-*", "rank-*")  # folders of a run's parts, inside its own


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of the `count` parts of a run."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def share(self, work: Sequence[Item]) -> list[Item]:
        """The part of the work, (index of the problem, what to do with it), that is this shard's.

        Raises TinylaneError where there is none.
        """
        mine = [item for item in work if item[0] % self.count == self.number - 1]
        if not mine:
            problems = len({index for index, _ in work})
            raise TinylaneError(
                f"shard {self} has nothing to do: there are {problems} problems; give at most as "
                "many shards"
            )
        return mine


def parse_shard(text: str, source: str = "--shard") -> Shard:
    """`2/4` is the second of four. Raises TinylaneError for anything else."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MAX_SHARDS:
        raise TinylaneError(
            f"{source} is {show(text, 40)}; expected K/N, like 1/4, with K from 1 to N"
        )
    return Shard(int(match[1]), int(match[2]))


def launched_shard() -> Shard | None:
    """The shard that mlx.launch gives this process by its environment; None without a launcher.

    MLX_RANK is the rank. The number of ranks is MLX_WORLD_SIZE (NCCL), or the length of the JSON
    list in the file that MLX_HOSTFILE (ring) or MLX_IBV_DEVICES (JACCL) names. Raises TinylaneError
    for values that cannot be right.
    """
    rank, size = os.environ.get("MLX_RANK"), os.environ.get("MLX_WORLD_SIZE")
    files = [name for name in ("MLX_HOSTFILE", "MLX_IBV_DEVICES") if name in os.environ]
    if rank is None:
        if files:
            raise TinylaneError(f"{files[0]} is set and MLX_RANK is not; start by mlx.launch")
        return None
    if size is None and files:
        size = str(_hosts(files[0], os.environ[files[0]]))
    if size is None:
        raise TinylaneError(
            "MLX_RANK is set, but none of MLX_HOSTFILE, MLX_IBV_DEVICES and MLX_WORLD_SIZE: the "
            "number of processes is not known; give --shard K/N"
        )
    if not (WHOLE.fullmatch(rank) and WHOLE.fullmatch(size)):
        raise TinylaneError(
            f"MLX_RANK is {show(rank, 40)} of {show(size, 40)}; expected whole numbers"
        )
    if not int(rank) < int(size) <= MAX_SHARDS:
        raise TinylaneError(f"MLX_RANK is {show(rank, 40)}; expected 0 to {int(size) - 1}")
    return None if int(size) == 1 else Shard(int(rank) + 1, int(size))


def _hosts(name: str, path: str) -> int:
    """How many processes a launcher's file lists; it is empty where there is one."""
    text = read_bytes(path, 1 << 20).strip()
    try:
        hosts = json.loads(text or b"[[]]")
    except (ValueError, RecursionError) as error:
        raise TinylaneError(f"{name} {path}: not JSON ({error})") from None
    if not (isinstance(hosts, list) and hosts and all(isinstance(host, list) for host in hosts)):
        raise TinylaneError(
            f"{name} {path}: {show(hosts, 60)}; expected a JSON list with a list for each process"
        )
    return len(hosts)


def assign(given: str | None, out: str | None) -> tuple[Shard | None, str | None]:
    """This process's shard and the folder for its results, from `--shard` and `--out`.

    Without `--shard` the launcher decides, and the folder lies inside `--out`. Raises TinylaneError
    for a shard without `--out`, and where a whole run is in the folder already.
    """
    shard = launched_shard() if given is None else parse_shard(given)
    if shard is None:
        return None, out
    if out is None:
        raise TinylaneError(f"shard {shard} needs --out DIR, for `tinylane report` to read")
    if given is not None:
        return shard, out
    if (Path(out) / SETTINGS).exists():
        raise TinylaneError(
            f"--out {out}: holds a run of one process; go on with one process, or give another "
            "folder"
        )
    return shard, os.path.join(out, f"shard-{shard.number}-of-{shard.count}")


# Writing.


def key_of(row: dict[str, Any], fields: Sequence[str]) -> Key:
    """The values by which a result is told from the others of its run."""
    values = [row.get(field) for field in fields]
    return tuple(value if type(value) in (str, int) else show(value, 40) for value in values)


def open_run(
    folder: str | os.PathLike[str],
    settings: dict[str, Any],
    fields: Sequence[str],
    keys: Sequence[Key],
    what: str = "results",
    read: Callable[[Journal], Iterable[dict[str, Any]]] = Journal.rows,
) -> tuple[Journal, set[Key]]:
    """The folder of a run or a shard, and the keys of the results that it has.

    The results of the parts inside it are added first. fields: those of `key_of`. keys: of all
    results, in order. what: a result's name in messages. read: gives the journal's rows, once from
    first to last, and may look at each after it was taken. Raises TinylaneError as `Journal` does,
    for parts of another configuration, for a result of other work, and for one that is there twice.
    """
    journal = Journal(folder, settings, what)
    try:
        wanted = dict.fromkeys(keys)
        _take_over(journal, fields, wanted)
        done = set[Key]()
        for number, row in enumerate(read(journal), 1):
            key = key_of(row, fields)
            if key not in wanted or key in done:
                named = ", ".join(f"{name} {show(row.get(name), 40)}" for name in fields)
                state = "twice in" if key in done else "not part of"
                raise TinylaneError(
                    f"result {number} ({named}) is {state} this run; give another folder"
                )
            done.add(key)
    except BaseException:
        journal.close()
        raise
    return journal, done


def _take_over(journal: Journal, fields: Sequence[str], wanted: dict[Key, None]) -> None:
    """Add to a run's results those of the parts inside its folder that it lacks, in the order of
    `wanted`. In memory are their places, not the results."""
    places: dict[Key, tuple[Path, int]] = {}
    for part in (path for pattern in INSIDE for path in sorted(journal.folder.glob(pattern))):
        if not (part / RESULTS).is_file():  # it was killed before its first result
            continue
        document, _ = read_run(part)
        made = document.get("settings")
        if isinstance(made, dict):
            made.pop("shard", None)
        if difference := differing(made, journal.settings):
            raise TinylaneError(
                f"{part}: is part of a run of another configuration ({difference}); give another "
                "folder"
            )
        at = 0
        for number, line in jsonl.lines(part / RESULTS, limit=MAX_RESULT, whole=True):
            if line.strip():
                row = parse_json(line, f"{part / RESULTS}, line {number}")
                places[key_of(row, fields)] = part / RESULTS, at
            at += len(line)
    if not places:
        return
    for row in journal.rows():
        places.pop(key_of(row, fields), None)
    with ExitStack() as stack:
        files = {path: stack.enter_context(open_regular(path)) for path, _ in places.values()}
        for key in wanted:
            if key in places:
                path, at = places[key]
                files[path].seek(at)
                journal.append(parse_json(files[path].readline(), str(path)))


# Reading.


@dataclass(frozen=True)
class RunFolder:
    """A run as it lies on disk. path: what was given. folders: its own as number 1, or those of its
    shards by their number. settings: without the shard. starts: of all its processes."""

    path: Path
    folders: dict[int, Path]
    settings: dict[str, Any]
    starts: list[Any]
    shards: int = 1

    @property
    def transcripts(self) -> bool:
        """Whether it is a run of `tinylane collect`."""
        return self.settings.get("what") == "transcripts"

    @property
    def missing(self) -> list[int]:
        """The shards that were not given."""
        return [k for k in range(1, self.shards + 1) if k not in self.folders]

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(file and line, result), problem by problem as one process does them.

        The k-th problem of every shard, then the next; shards that are behind have fewer.
        """
        problems = [
            groupby(_lines(folder), key=lambda line: line[1].get("problem"))
            for _, folder in sorted(self.folders.items())
        ]
        for _, lines in chain.from_iterable(zip_longest(*problems, fillvalue=(None, ()))):
            yield from lines


def _lines(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in read_run(folder)[1]:
        yield f"{folder / RESULTS}, line {number}", row


def find_runs(paths: Sequence[str | os.PathLike[str]]) -> list[RunFolder]:
    """The runs in some folders: of each its own run, or the shards inside it; shards of one run are
    one. Raises TinylaneError for a folder that has neither, and for a shard that is given twice."""
    run_folders: dict[str, RunFolder] = {}
    given: dict[Path, Path] = {}  # by where it really is
    for path in map(Path, paths):
        if given.setdefault(path.resolve(), path) is not path:
            raise TinylaneError(f"{path} is given twice; give it once")
        parts = [path]
        if not (path / SETTINGS).is_file():
            parts = sorted(path.glob("shard-*-of-*")) or parts
        for part in parts:
            document, _ = read_run(part)
            settings, starts = document.get("settings"), document.get("starts")
            if not isinstance(settings, dict):
                raise TinylaneError(
                    f"{part}: {SETTINGS} is not that of tinylane eval (no settings)"
                )
            shard, key = Shard(1, 1), str(len(run_folders))
            if "shard" in settings:
                shard = parse_shard(str(settings.pop("shard")), f"{part}: its shard")
                key = json.dumps([shard.count, settings], sort_keys=True)
            run = run_folders.setdefault(key, RunFolder(path, {}, settings, [], shard.count))
            if shard.number in run.folders:
                raise TinylaneError(
                    f"{run.folders[shard.number]} and {part} are both shard {shard} of one run; "
                    "give one of them"
                )
            run.folders[shard.number] = part
            run.starts.extend(starts if isinstance(starts, list) else [])
    return list(run_folders.values())


def write_rows(run: RunFolder, path: Path) -> None:
    """Write the results of all shards into one file, as JSON Lines in the order of the problems."""
    with replacing(path) as file:
        for _, row in run.rows():
            file.write(json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n")
