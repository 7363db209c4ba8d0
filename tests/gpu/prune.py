"""Fill the device code of other cards in a CUDA library with zeros, so that it compresses well.

    python tests/gpu/prune.py libmlx.so PRUNED.so 90      keeps sm_90; 16 MB after xz

Device code is kept in "fatbins": a header of 16 bytes, then entries with a header each. Layout of
the fields below: as found in libraries of CUDA 12 and 13; NVIDIA does not document it.
"""

from __future__ import annotations

import struct
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAGIC = struct.pack("<I", 0xBA55ED50)
VERSION, HEADER = 1, 16
MACHINE_CODE = 2  # a kind of entry; 1 is PTX, which every card can compile


class Entry(NamedTuple):
    """Code for one architecture: bytes start to start + size of the file."""

    kind: int
    architecture: int
    start: int
    size: int


def fatbins(data: bytes | bytearray) -> Iterator[list[Entry]]:
    """The entries of every fatbin of a library, in the order of the file."""
    at = 0
    while (at := data.find(MAGIC, at)) >= 0:
        version, header, size = struct.unpack_from("<HHQ", data, at + 4)
        if (version, header) != (VERSION, HEADER):
            at += 4
            continue
        yield list(entries(data, at + header, at + header + size))
        at += header + size


def entries(data: bytes | bytearray, at: int, end: int) -> Iterator[Entry]:
    while at + 64 <= end:
        kind, _, header, size = struct.unpack_from("<HHIQ", data, at)
        (architecture,) = struct.unpack_from("<I", data, at + 28)
        if header == 0 or size == 0:
            return
        yield Entry(kind, architecture, at + header, size)
        at += header + size


def prune(data: bytearray, keep: set[int]) -> tuple[Counter, Counter]:
    """Zero the code for other architectures.

    Returns bytes before and bytes kept, by (kind, architecture). A fatbin
    without machine code for those to keep stays whole.
    """
    before: Counter[tuple[int, int]] = Counter()
    kept: Counter[tuple[int, int]] = Counter()
    for some in fatbins(data):
        has = keep & {entry.architecture for entry in some if entry.kind == MACHINE_CODE}
        for kind, architecture, start, size in some:
            before[kind, architecture] += size
            if not has or (kind == MACHINE_CODE and architecture in keep):
                kept[kind, architecture] += size
            else:
                data[start : start + size] = bytes(size)
    return before, kept


def main() -> None:
    source, target, *keep = sys.argv[1:]
    data = bytearray(Path(source).read_bytes())
    before, kept = prune(data, set(map(int, keep)))
    for what, sizes in (("before", before), ("kept", kept)):
        print(what, {which: f"{size / 1e6:.1f} MB" for which, size in sizes.items()})
    Path(target).write_bytes(data)


if __name__ == "__main__":
    main()
