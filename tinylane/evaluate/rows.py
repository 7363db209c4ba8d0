"""The results of a cell where there may be a hundred thousand: on disk, read one at a time.

`Rows` is a sequence of `AnswerRow` in a temporary file without a name. In memory are a few numbers
of each (COLUMNS), not what its lanes wrote. What is measured goes over the rows from first to last.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.results import AnswerRow

COLUMNS = ("steps", "tokens", "seconds", "cut")


class Rows(Sequence[AnswerRow]):
    """Append everything, then read it as often as needed. watch: called with (k, rows) before row k
    is read in a pass over all of them."""

    def __init__(self, watch: Callable[[int, int], None] | None = None) -> None:
        self._file = tempfile.TemporaryFile(prefix="tinylane-")  # noqa: SIM115 - ends with the rows
        self._at, self._lengths = array("q"), array("q")  # bytes
        self._end, self._watch = 0, watch
        self.problems: list[str] = []
        self.columns = {name: array("d") for name in COLUMNS}

    def append(self, row: AnswerRow) -> None:
        """Add a row. Raises TinylaneError where the disk for temporary files is full."""
        data = _line(row)
        try:
            self._file.seek(self._end)
            self._file.write(data)
        except OSError as error:
            raise TinylaneError(
                f"{tempfile.gettempdir()}: a temporary file cannot be written ({error.strerror}); "
                "set TMPDIR to a folder with more room"
            ) from error
        self._at.append(self._end)
        self._lengths.append(len(data))
        self._end += len(data)
        self.problems.append(row.problem)
        for name, column in self.columns.items():
            column.append(getattr(row, name))

    def pick(self, order: Sequence[int]) -> Rows:
        """These rows in this order; nothing is copied but their places."""
        picked = Rows.__new__(Rows)
        picked._file, picked._end, picked._watch = self._file, self._end, self._watch
        picked._at = array("q", [self._at[k] for k in order])
        picked._lengths = array("q", [self._lengths[k] for k in order])
        picked.problems = [self.problems[k] for k in order]
        picked.columns = {
            name: array("d", [column[k] for k in order]) for name, column in self.columns.items()
        }
        return picked

    def __len__(self) -> int:
        return len(self._at)

    @overload
    def __getitem__(self, k: int) -> AnswerRow: ...
    @overload
    def __getitem__(self, k: slice) -> Sequence[AnswerRow]: ...
    def __getitem__(self, k: int | slice) -> AnswerRow | Sequence[AnswerRow]:
        if isinstance(k, slice):
            return self.pick(range(*k.indices(len(self))))
        self._file.seek(self._at[k])
        return _row(self._file.read(self._lengths[k]))

    def __iter__(self) -> Iterator[AnswerRow]:
        for k in range(len(self)):
            if self._watch is not None:
                self._watch(k, len(self))
            yield self[k]


ARRAYS = {"lengths": int, "correct": bool, "readable": bool, "clock": float}  # fields, their dtype


def _line(row: AnswerRow) -> bytes:
    """A row as JSON."""
    return json.dumps(vars(row), default=lambda array: array.tolist()).encode()


def _row(line: bytes) -> AnswerRow:
    """What `_line` made a line of."""
    fields = json.loads(line)
    fields |= {name: np.array(fields[name], dtype) for name, dtype in ARRAYS.items()}
    fields["answers"] = tuple(
        (np.array(at, int), np.array(what, int)) for at, what in fields["answers"]
    )
    fields["logprobs"] = tuple(np.array(sums, np.float32) for sums in fields["logprobs"])
    return AnswerRow(**fields)


def column(rows: Sequence[AnswerRow], name: str) -> Sequence[Any]:
    """A number of each row: one of COLUMNS."""
    return rows.columns[name] if isinstance(rows, Rows) else [getattr(row, name) for row in rows]


def problems(rows: Sequence[AnswerRow]) -> list[str]:
    """The problem of each row."""
    return rows.problems if isinstance(rows, Rows) else [row.problem for row in rows]


def pick(rows: Sequence[AnswerRow], order: Sequence[int]) -> Sequence[AnswerRow]:
    """These rows in this order."""
    return rows.pick(order) if isinstance(rows, Rows) else [rows[k] for k in order]
