"""JSON Lines that cannot be trusted: one object a line, read as a stream, strict and bounded.

Every error names the file and the line. Lines are read as strictly as files (`tinylane.files.io`):
UTF-8, no duplicate keys, no NaN, bounded nesting. Empty lines are skipped, but counted. One line is
in memory at a time, so a file may be larger than memory. `tinylane.files.run_dir` writes lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from tinylane.core.errors import TinylaneError
from tinylane.files.io import open_regular, parse_json

MAX_LINE = 1 << 22  # bytes: a transcript of a million characters
MAX_ROWS = 10_000_000


def read(
    path: str | os.PathLike[str],
    *,
    limit: int = MAX_LINE,
    rows: int = MAX_ROWS,
    whole: bool = False,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of every line that is not empty.

    limit: bytes of a line. rows: lines of the file. whole: leave out a last line without a newline,
    which somebody may be writing. Raises TinylaneError, naming file and line, for what is not a
    regular file, a line too long, too many lines, or a line that is no JSON object.
    """
    for number, line in lines(path, limit=limit, rows=rows, whole=whole):
        if line.strip():
            where = f"{os.fspath(path)}, line {number}"
            yield number, parse_json(line.rstrip(b"\r\n"), where)


def lines(
    path: str | os.PathLike[str],
    *,
    limit: int = MAX_LINE,
    rows: int = MAX_ROWS,
    whole: bool = False,
) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes with their newline) of every line, with the arguments of `read`.

    Raises TinylaneError as that does: what never ends is refused after `limit` bytes.
    """
    with open_regular(path) as file:
        number = 0
        while True:
            where = f"{os.fspath(path)}, line {number + 1}"
            try:
                line = file.readline(limit + 1)
            except OSError as error:
                raise TinylaneError(f"{where}: {error.strerror}") from error
            if not line:
                return
            if whole and not line.endswith(b"\n") and len(line) <= limit:
                return
            number += 1
            if len(line.rstrip(b"\r\n")) > limit or (len(line) > limit and line[-1:] != b"\n"):
                raise TinylaneError(f"{where}: longer than {limit:,} bytes, the limit here")
            if number > rows:
                raise TinylaneError(f"{where}: more than {rows:,} lines, the limit here")
            yield number, line
