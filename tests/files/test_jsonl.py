"""Claims about JSON Lines that cannot be trusted: strict, bounded, read as a stream."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from tinylane.core.errors import TinylaneError
from tinylane.files import jsonl


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_lines_are_read_with_their_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": "\xc3\xa9"}')
    assert list(jsonl.read(path)) == [(1, {"a": 1}), (4, {"a": "é"})]
    assert list(jsonl.read(path, whole=True)) == [(1, {"a": 1})]
    assert list(jsonl.read(write(tmp_path / "e.jsonl", b""))) == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2: not valid JSON (Expecting value: column 7)"),
        (b'{"a": 1}\n\n[1, 2]\n', "line 3: expected a JSON object"),
        (b'{"a": 1, "a": 2}\n', "line 1: key 'a' occurs twice"),
        (b'{"a": NaN}\n', "line 1: NaN"),
        (b'{"a": 1e999}\n', "line 1: number"),
        (b'{"a": "\xff"}\n', "line 1: not UTF-8"),
        (b"[" * 100_000 + b"\n", "line 1: "),
        (b'{"a": "' + b"x" * 2000 + b'"}\n', "line 1: longer than 1,000 bytes"),
        (b"\n".join([b"{}"] * 12), "line 11: more than 10 lines"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, data: bytes, says: str) -> None:
    path = write(tmp_path / "bad.jsonl", data)
    limit = 1 << 20 if data.startswith(b"[[") else 1000
    with pytest.raises(TinylaneError, match=r"bad\.jsonl, line") as caught:
        list(jsonl.read(path, limit=limit, rows=10))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe"):
        with pytest.raises(TinylaneError):
            list(jsonl.read(path))


def test_a_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """8 MiB in lines of 1 KiB must not take a MiB: files may be larger than memory."""
    path = write(tmp_path / "big.jsonl", (b'{"a": "' + b"x" * 1000 + b'"}\n') * 8192)
    tracemalloc.start()
    assert sum(1 for _ in jsonl.read(path)) == 8192
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
