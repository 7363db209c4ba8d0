"""A run directory that several ranks fill: `tinylane.files.run_dir`, over a `tinylane.distributed.Ring`.

    DIR/            rank 0's: what all have done, as one process would have left it
    DIR/rank-R/     rank R's own, each a run directory with a lock of its own

A rank writes to its own directory only. At the beginning, and when all have done their share, rank
0 adds to DIR what it lacks, in the order of the work: it hears of it through the ring, so the ranks
need no disk in common, and reads what lies beside it, so that a run may go on with another number
of ranks, or with one process. A result is known by the values of a few of its fields.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

from tinylane.core.errors import TinylaneError, show
from tinylane.distributed import Lost, Ring
from tinylane.files.io import parse_json
from tinylane.files.run_dir import RESULTS, Journal, differing, read_run

Key = tuple[Any, ...]


class Shared:
    """The directory as one rank sees it. Used as a `Journal` is.

    fields: those of a result that tell it from all others. order: the keys of all the work, in
    order; where rank 0 puts results together, they lie in it. Raises what `Journal` and `Ring` do.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: dict[str, Any],
        ring: Ring,
        fields: Sequence[str],
        order: Iterable[Key],
        what: str = "results",
    ) -> None:
        self.folder, self.ring, self.fields = Path(folder), ring, tuple(fields)
        self.place = {key: k for k, key in enumerate(order)}
        self.whole: Journal | None = None
        self.own: Journal | None = None
        ring.agree("configuration", settings)
        try:
            if ring.rank == 0:
                self.whole = Journal(self.folder, settings, what)
                absorb(self.whole, self.fields, self.place)
            self.own = Journal(self.folder / f"rank-{ring.rank}", settings, what)
            self.known: list[Key] = []
            self.merge()
        except BaseException:
            self.close()
            raise
        self.before, self.new = len(self.known), 0

    @property
    def path(self) -> Path:
        """Of the results of all."""
        return self.folder / RESULTS

    @property
    def count(self) -> int:
        """How many results there are, as far as this rank has heard."""
        elsewhere = sum(self.ring.done) - self.ring.done[self.ring.rank]
        return self.before + self.new + elsewhere

    def rows(self) -> Iterator[dict[str, Any]]:
        """The results of all ranks at the last `merge`; on other ranks than 0 their fields only."""
        if self.whole is not None:
            return self.whole.rows()
        return (dict(zip(self.fields, key, strict=True)) for key in self.known)

    def append(self, row: dict[str, Any]) -> None:
        """Add a result of this rank, and hear whether the others are still there."""
        assert self.own is not None
        self.own.append(row)
        self.new += 1
        self.ring.check(self.new)

    def merge(self) -> None:
        """Put together what all ranks have; waits for them."""
        assert self.own is not None
        if self.whole is not None:
            self.known = [key_of(row, self.fields) for row in self.whole.rows()]
        said = self.ring.gather(json.dumps(self.known).encode() if self.whole else b"")[0]
        self.known = [tuple(key) for key in json.loads(said)]
        there = set(self.known)
        lacking = [row for row in self.own.rows() if key_of(row, self.fields) not in there]
        lines = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in lacking)
        parts = self.ring.gather(lines.encode())
        rows = [
            parse_json(line, f"rank {rank}, result {k + 1}")
            for rank, part in enumerate(parts)
            for k, line in enumerate(part.splitlines())
        ]
        rows = _sorted(rows, self.fields, self.place)
        self.known += [key_of(row, self.fields) for row in rows]
        if self.whole is not None:
            for row in rows:
                self.whole.append(row)

    def close(self) -> None:
        """Let others in."""
        for journal in (self.own, self.whole):
            if journal is not None:
                journal.close()

    def __enter__(self) -> Shared:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, Lost):
                if self.whole is not None:
                    absorb(self.whole, self.fields, self.place)
                kept = self.whole or self.own
                assert kept is not None
                raise Lost(
                    f"{error}; {kept.count} {kept.what} are kept in {kept.folder}; the same "
                    "command goes on from there"
                ) from None
        finally:
            self.close()


def share(ring: Ring | None, work: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """The part of the work, (problem, what to do with it), that is this rank's."""
    if ring is None:
        return list(work)
    return [item for item in work if item[0] % ring.size == ring.rank]


def keep(
    folder: str | os.PathLike[str] | None,
    settings: dict[str, Any],
    ring: Ring | None,
    fields: Sequence[str],
    order: Iterable[Key],
    what: str = "results",
) -> AbstractContextManager[Journal | Shared | None]:
    """Where the results of a run go: nowhere without a folder, a Journal, or a Shared of all ranks.

    Raises TinylaneError for several ranks without a folder.
    """
    if folder is None:
        if ring is not None:
            raise TinylaneError("several ranks need --out DIR, to put their results together")
        return nullcontext()
    if ring is not None:
        return Shared(folder, settings, ring, fields, order, what)
    journal = Journal(folder, settings, what)
    try:
        absorb(journal, fields, {key: k for k, key in enumerate(order)})
    except BaseException:
        journal.close()
        raise
    return journal


def absorb(journal: Journal, fields: Sequence[str], place: dict[Key, int]) -> None:
    """Add to a run directory what the rank directories inside it have and it lacks.

    They may be written at the same time: a last line that is not whole yet is left. Raises
    TinylaneError for one of another configuration.
    """
    # One that has none yet was made and killed at once.
    folders = [f for f in sorted(journal.folder.glob("rank-*")) if (f / RESULTS).is_file()]
    if not folders:
        return
    there = {key_of(row, fields) for row in journal.rows()}
    settings = read_run(journal.folder)[0]["settings"]
    found: dict[Key, dict[str, Any]] = {}
    for folder in folders:
        made, rows = read_run(folder)
        if difference := differing(made.get("settings"), settings):
            raise TinylaneError(
                f"{folder}: of another configuration ({difference}); give another folder"
            )
        for _, row in rows:
            key = key_of(row, fields)
            if key not in there:
                found[key] = row
    for row in _sorted(list(found.values()), fields, place):
        journal.append(row)


def _sorted(
    rows: list[dict[str, Any]], fields: Sequence[str], place: dict[Key, int]
) -> list[dict[str, Any]]:
    for row in rows:
        if key_of(row, fields) not in place:
            raise TinylaneError(
                f"result {show(key_of(row, fields))} is not part of this run; give another folder"
            )
    return sorted(rows, key=lambda row: place[key_of(row, fields)])


def key_of(row: dict[str, Any], fields: Sequence[str]) -> Key:
    """What tells a result from the others. Raises TinylaneError where it has no such fields."""
    key = tuple(row.get(field) for field in fields)
    if not all(isinstance(value, (str, int)) for value in key):
        raise TinylaneError(f"a result has no {', '.join(fields)}; give another folder")
    return key
