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
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import open_regular, parse_json
from tinylane.files.writing import replacing

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


class Tensor(NamedTuple):
    """A tensor of an open file. dtype: as the file names it (F32, BF16, U32, ...)."""

    file: TensorFile
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the beginning of the file
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    def read(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """The whole tensor, or rows first..last-1 of its first axis, so that it can be converted in
        pieces; C-contiguous and writable; BF16 as uint16. Raises TinylaneError."""
        path, start, stop, shape = self.file.path, self.start, self.stop, self.shape
        if last is not None:
            if not shape or not 0 <= first <= last <= shape[0]:
                raise TinylaneError(f"{path}: rows {first}..{last} of {show(self.name)} {shape}")
            row = (stop - start) // max(shape[0], 1)
            start, stop, shape = start + first * row, start + last * row, (last - first, *shape[1:])
        data = np.empty(stop - start, np.uint8)  # aligned, which the file need not be
        view, filled = data.data, 0
        self.file.stream.seek(start)
        while filled < len(data):
            try:
                count = self.file.stream.readinto(view[filled:])  # type: ignore[attr-defined]
            except OSError as error:
                raise TinylaneError(f"{path}: {error.strerror}") from error
            if not count:
                raise TinylaneError(f"{path}: truncated since it was opened")
            filled += count
        if self.dtype == "BOOL" and data.size and data.max() > 1:
            raise TinylaneError(
                f"{path}: {show(self.name)} is BOOL but holds bytes other than 0, 1"
            )
        return data.view(DTYPES[self.dtype]).reshape(shape)


class TensorFile(AbstractContextManager):
    """An open, checked safetensors file: a context manager, which closes it.

    size: of the file. header: its bytes. metadata: texts by name. tensors: in the order of the
    header; `file[name]` is one of them, and a TinylaneError for a name that the file lacks.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a file and check its whole header against its size. Raises TinylaneError."""
        self.path = os.fspath(path)
        self.tensors: dict[str, Tensor] = {}
        self.stream = open_regular(path)
        try:
            self._read_header()
        except BaseException:
            self.stream.close()
            raise

    def __exit__(self, *error: object) -> None:
        self.stream.close()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise TinylaneError(f"{self.path}: no tensor {show(name)}")
        return self.tensors[name]

    def _read_header(self) -> None:
        path = self.path
        self.size = size = os.fstat(self.stream.fileno()).st_size
        prefix = self.stream.read(8)
        if len(prefix) < 8:
            raise TinylaneError(f"{path}: {size} bytes, too short for a safetensors file")
        if prefix == b"version ":  # a pointer of Git LFS, where the file itself should be
            raise TinylaneError(f"{path}: a Git LFS pointer; get the file itself: git lfs pull")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER:
            raise TinylaneError(f"{path}: header of {length:,} bytes, limit {MAX_HEADER:,}")
        if length > size - 8:
            what = f"header of {length:,} bytes in a file of {size:,}"
            raise TinylaneError(f"{path}: {what}: truncated")
        self.header = self.stream.read(length)
        if len(self.header) < length or not self.header.startswith(b"{"):
            raise TinylaneError(f"{path}: not a safetensors file (its header is not a JSON object)")
        raw = parse_json(self.header, f"{path}: header")
        metadata = raw.pop("__metadata__", None)
        # MLX writes null where it has none
        self.metadata: dict[str, str] = {} if metadata is None else metadata
        told = self.metadata.values() if isinstance(self.metadata, dict) else [None]
        if set(map(type, told)) - {str}:
            raise TinylaneError(f"{path}: __metadata__ {show(metadata)}; expected strings by name")
        for text in (*raw, *self.metadata, *told):
            if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
                raise TinylaneError(
                    f"{path}: name {show(text)} is not Unicode text (half a surrogate)"
                )
        if len(raw) > MAX_TENSORS:
            raise TinylaneError(f"{path}: {len(raw):,} tensors, limit {MAX_TENSORS:,}")
        end, extents = 8 + length, []
        for name, entry in raw.items():
            one = self.tensors[name] = _checked(self, name, entry, 8 + length)
            extents.append((one.start, one.stop, name))
        for start, stop, name in sorted(extents):
            if start != end:
                what = "overlaps what stands before it" if start < end else "leaves a hole"
                raise TinylaneError(f"{path}: tensor {show(name)} {what}")
            end = stop
        if end != size:
            state = "truncated" if end > size else "something follows the tensors"
            raise TinylaneError(f"{path}: {size:,} bytes, its header describes {end:,}: {state}")


def _checked(file: TensorFile, name: str, raw: Any, offset: int) -> Tensor:
    """The tensor that an entry of the header describes; offset: where the file's data begins."""

    def fail(what: str) -> TinylaneError:
        return TinylaneError(f"{file.path}: tensor {show(name)}: {what}")

    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise fail(f"{show(raw)}; expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise fail(f"dtype {show(dtype)} is not implemented")
    # types, and not isinstance(): True is an int to Python
    if not isinstance(shape, list) or set(map(type, shape)) - {int} or min(shape, default=0) < 0:
        raise fail(f"shape {show(shape)}; expected a list of whole numbers")
    if len(shape) > MAX_DIMENSIONS:
        raise fail(f"{len(shape)} dimensions, limit {MAX_DIMENSIONS}")
    count = 1
    for n in shape:
        count *= n
        if count > MAX_ELEMENTS or n > MAX_ELEMENTS:  # also when a later 0 would undo it
            raise fail(f"shape {show(shape)} is absurd")
    pair = isinstance(offsets, list) and list(map(type, offsets)) == [int, int]
    if not pair or min(offsets) < 0:
        raise fail(f"data_offsets {show(offsets)}; expected two whole numbers")
    expected = count * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != expected:
        raise fail(f"data_offsets {offsets} for {expected:,} bytes of {dtype} {tuple(shape)}")
    return Tensor(file, name, dtype, tuple(shape), offset + offsets[0], offset + offsets[1])


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
    for dtype, stored in DTYPES.items():
        if stored == array.dtype.newbyteorder("<") and dtype != "BF16":
            return array, dtype
    raise TinylaneError(f"tensor {show(name)}: dtype {array.dtype} has no place in safetensors")


FLOATS = ("F32", "F16", "BF16")
DENSE = (*FLOATS, "F64")


def widen(raw: np.ndarray, dtype: str) -> np.ndarray:
    """What the file holds as float32 (F64 stays), exactly."""
    if dtype == "BF16":
        return widen_bfloat16(raw)
    return raw.astype(np.float32) if dtype == "F16" else raw
