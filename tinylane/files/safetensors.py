"""One checked safetensors reader for both backends, and an atomic writer.

`mx.load` accepts extents that overlap, leave holes or are negative, and ends the process when they
are read. The safetensors library accepts duplicate names, and ends the process when a mapped file
shrinks. So the whole header is checked here first, and bytes are read, never mapped. What is
accepted here, the safetensors library accepts too, with the same shapes and bytes
(`tests/files/test_safetensors.py`).

Not handled: dtypes below one byte, float8, complex. BF16 comes as its raw 16 bits: NumPy has no
such type.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import open_regular, parse_json, replacing

MAX_HEADER = 8 << 20
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 48

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # raw bits; see `widen_bfloat16`
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAME_OF = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}


@dataclass(frozen=True)
class _TensorEntry:
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the beginning of the file
    stop: int


class TensorFile:
    """An open, checked safetensors file. Use as a context manager, or call `close`."""

    def __init__(
        self, file: BinaryIO, path: str, header: bytes, metadata: dict, entries: dict
    ) -> None:
        self.path, self.header, self.metadata = path, header, metadata
        self._file, self._entries = file, entries

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TensorFile:
        """Open a file and check its whole header against its size. Raises TinylaneError."""
        name = os.fspath(path)
        file = open_regular(path)
        try:
            header, metadata, entries = _read_header(file, name)
        except BaseException:
            file.close()
            raise
        return cls(file, name, header, metadata, entries)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        """Tensor names in the order of the header."""
        return list(self._entries)

    def _entry(self, name: str) -> _TensorEntry:
        try:
            return self._entries[name]
        except KeyError:
            raise TinylaneError(f"{self.path}: no tensor {show(name)}") from None

    def dtype(self, name: str) -> str:
        """The dtype that the file names: F32, BF16, U32, ..."""
        return self._entry(name).dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def nbytes(self, name: str) -> int:
        entry = self._entry(name)
        return entry.stop - entry.start

    def read(self, name: str) -> np.ndarray:
        """The whole tensor, C-contiguous and writable; BF16 as uint16. Raises TinylaneError."""
        entry = self._entry(name)
        return self._read(name, entry, entry.start, entry.stop, entry.shape)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start..stop-1 of the first axis, so that a tensor can be converted in pieces."""
        entry = self._entry(name)
        if not entry.shape or not 0 <= start <= stop <= entry.shape[0]:
            raise TinylaneError(f"{self.path}: rows {start}..{stop} of {show(name)} {entry.shape}")
        row = (entry.stop - entry.start) // entry.shape[0] if entry.shape[0] else 0
        shape = (stop - start, *entry.shape[1:])
        return self._read(name, entry, entry.start + start * row, entry.start + stop * row, shape)

    def _read(
        self, name: str, entry: _TensorEntry, start: int, stop: int, shape: tuple[int, ...]
    ) -> np.ndarray:
        data = np.empty(stop - start, np.uint8)  # aligned, which the file need not be
        view, filled = data.data, 0
        self._file.seek(start)
        while filled < len(data):
            try:
                count = self._file.readinto(view[filled:])  # type: ignore[attr-defined]
            except OSError as error:
                raise TinylaneError(f"{self.path}: {error.strerror}") from error
            if not count:
                raise TinylaneError(f"{self.path}: truncated since it was opened")
            filled += count
        if entry.dtype == "BOOL" and data.size and data.max() > 1:
            raise TinylaneError(
                f"{self.path}: {show(name)} is BOOL but holds bytes other than 0, 1"
            )
        return data.view(DTYPES[entry.dtype]).reshape(shape)


def _read_header(
    file: BinaryIO, path: str
) -> tuple[bytes, dict[str, str], dict[str, _TensorEntry]]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        raise TinylaneError(f"{path}: {size} bytes, too short for a safetensors file")
    (length,) = struct.unpack("<Q", start)
    if length > MAX_HEADER:
        raise TinylaneError(f"{path}: header of {length:,} bytes, limit {MAX_HEADER:,}")
    if length > size - 8:
        raise TinylaneError(f"{path}: header of {length:,} bytes in a file of {size:,}: truncated")
    header = file.read(length)
    if len(header) < length or not header.startswith(b"{"):
        raise TinylaneError(f"{path}: not a safetensors file (its header is not a JSON object)")
    raw = parse_json(header, f"{path}: header")
    metadata = raw.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata  # MLX writes null where it has none
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise TinylaneError(f"{path}: __metadata__ {show(metadata)}; expected strings by name")
    for text in (*raw, *metadata, *metadata.values()):
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            raise TinylaneError(f"{path}: name {show(text)} is not Unicode text (half a surrogate)")
    if len(raw) > MAX_TENSORS:
        raise TinylaneError(f"{path}: {len(raw):,} tensors, limit {MAX_TENSORS:,}")
    entries = {name: _checked(name, raw[name], 8 + length, path) for name in raw}
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            what = "overlaps what stands before it" if entry.start < end else "leaves a hole"
            raise TinylaneError(f"{path}: tensor {show(name)} {what}")
        end = entry.stop
    if end != size:
        state = "truncated" if end > size else "something follows the tensors"
        raise TinylaneError(f"{path}: {size:,} bytes, its header describes {end:,}: {state}")
    return header, metadata, entries


def _checked(name: str, raw: Any, offset: int, path: str) -> _TensorEntry:
    def fail(what: str) -> TinylaneError:
        return TinylaneError(f"{path}: tensor {show(name)}: {what}")

    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise fail(f"{show(raw)}; expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise fail(f"dtype {show(dtype)} is not implemented")
    # type() and not isinstance(): True is an int to Python
    if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in shape):
        raise fail(f"shape {show(shape)}; expected a list of whole numbers")
    if len(shape) > MAX_DIMENSIONS:
        raise fail(f"{len(shape)} dimensions, limit {MAX_DIMENSIONS}")
    count = 1
    for n in shape:
        count *= n
        if count > MAX_ELEMENTS or n > MAX_ELEMENTS:  # also when a later 0 would undo it
            raise fail(f"shape {show(shape)} is absurd")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or any(type(n) is not int or n < 0 for n in offsets)
    ):
        raise fail(f"data_offsets {show(offsets)}; expected two whole numbers")
    expected = count * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != expected:
        raise fail(f"data_offsets {offsets} for {expected:,} bytes of {dtype} {tuple(shape)}")
    return _TensorEntry(dtype, tuple(shape), offset + offsets[0], offset + offsets[1])


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """uint16 bits of bfloat16 -> float32 of the same shape, exactly (NaN payloads included)."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file atomically: the same tensors always give the same bytes.

    Values are NumPy arrays, MLX arrays, or a pair (uint16 array, "BF16"). At most one tensor is
    copied at a time. Raises TinylaneError for a dtype that the format lacks and when the file
    cannot be written.
    """
    bare = [(name, *_to_numpy(name, value)) for name, value in tensors.items()]
    bare.sort(key=lambda item: (-item[1].itemsize, item[0]))  # widest first keeps all aligned
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = {key: metadata[key] for key in sorted(metadata)}
        if not all(isinstance(text, str) for text in header["__metadata__"].values()):
            raise TinylaneError(f"{os.fspath(path)}: metadata {show(metadata)}; expected strings")
    offset = 0
    for name, array, dtype in bare:
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise TinylaneError(
            f"{os.fspath(path)}: header of {len(text):,} bytes, limit {MAX_HEADER:,}"
        )
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array, dtype in bare:
            plain = np.ascontiguousarray(array, DTYPES[dtype]).reshape(-1)
            file.write(plain.view(np.uint8).data)


def _to_numpy(name: str, value: Any) -> tuple[np.ndarray, str]:
    if isinstance(value, tuple):
        bits, dtype = value
        if dtype != "BF16" or bits.dtype != np.uint16:
            raise TinylaneError(f"tensor {show(name)}: expected (uint16 array, 'BF16')")
        return bits, dtype
    if type(value).__module__.partition(".")[0] == "mlx":
        import mlx.core as mx

        if value.dtype == mx.bfloat16:
            return np.asarray(value.view(mx.uint16)), "BF16"
        value = np.asarray(value)
    array = np.asarray(value)
    dtype = _NAME_OF.get(array.dtype.newbyteorder("<"))
    if dtype is None:
        raise TinylaneError(f"tensor {show(name)}: dtype {array.dtype} has no place in safetensors")
    return array, dtype


FLOATS = ("F32", "F16", "BF16")
DENSE = (*FLOATS, "F64")


def widen(raw: np.ndarray, dtype: str) -> np.ndarray:
    """What the file holds as float32 (F64 stays), exactly."""
    if dtype == "BF16":
        return widen_bfloat16(raw)
    return raw.astype(np.float32) if dtype == "F16" else raw
