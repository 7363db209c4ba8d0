"""Small safetensors files: a good one, and crafted ones that every reader must refuse."""

from __future__ import annotations

import json
import struct

from tinylane.files.safetensors import MAX_HEADER, TensorFile


def build(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def contents(path) -> dict[str, tuple[str, list[int], bytes]]:
    with TensorFile(path) as file:
        return {
            name: (file[name].dtype, list(file[name].shape), file[name].read().tobytes())
            for name in file.tensors
        }


GOOD = build(
    {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", (2, 3), (0, 24)),
        "b": entry("BF16", (4,), (24, 32)),
        "empty": entry("F16", (0, 3), (32, 32)),
        "scalar": entry("I64", (), (32, 40)),
        "flag": entry("BOOL", (3,), (40, 43)),
    },
    bytes(range(40)) + b"\x00\x01\x01",
)


def duplicate(key: str) -> bytes:
    return b'{"a":%s,"%s":%s}' % ((e := json.dumps(entry()).encode()), key.encode(), e)


CRAFTED = {
    "empty file": b"",
    "shorter than a length": b"\x01\x02",
    "length beyond the file": struct.pack("<Q", 100) + b"{}",
    "length of 2**64-1": struct.pack("<Q", 2**64 - 1) + b"{}",
    "header over the limit": struct.pack("<Q", MAX_HEADER + 1) + b"{" + b" " * MAX_HEADER + b"}",
    "not an object": build(b"[]"),
    "leading space": build(b" {}"),
    "byte order mark": build(b"\xef\xbb\xbf{}"),
    "not UTF-8": build(b'{"\xff":1}'),
    "half a surrogate": build(rb'{"\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "deep nesting": build(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "duplicate tensor": build(duplicate("a"), b"\0" * 8),
    "duplicate after escape": build(duplicate(r"\u0061"), b"\0" * 8),
    "duplicate field": build(
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8
    ),
    "missing field": build({"a": {"dtype": "F32", "shape": [2]}}),
    "extra field": build({"a": {**entry(), "x": 1}}, b"\0" * 8),
    "entry not an object": build({"a": 3}),
    "metadata not strings": build({"__metadata__": {"a": 1}}),
    "metadata a list": build({"__metadata__": []}),
    "metadata twice": build(b'{"__metadata__":{},"__metadata__":{}}'),
    "unknown dtype": build({"a": entry("F33")}, b"\0" * 8),
    "float8": build({"a": entry("F8_E4M3", (8,))}, b"\0" * 8),
    "dtype a number": build({"a": entry(3)}, b"\0" * 8),
    "shape a number": build({"a": {**entry(), "shape": 2}}, b"\0" * 8),
    "shape of floats": build({"a": entry(shape=(2.0,))}, b"\0" * 8),
    "shape of bools": build({"a": entry(shape=(True, 2))}, b"\0" * 8),
    "minus zero": build(b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'),
    "NaN in shape": build(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,0]}}'),
    "exponent": build(b'{"a":{"dtype":"F32","shape":[2e0],"data_offsets":[0,8]}}', b"\0" * 8),
    "negative shape": build({"a": entry(shape=(-2, -1))}, b"\0" * 8),
    "negative offset": build({"a": entry(offsets=(-8, 0))}),
    "wrapping shape": build({"a": entry("U8", (2**63, 2), (0, 0))}),
    "overflow undone by 0": build({"a": entry("U8", (2**60, 2**60, 0), (0, 0))}),
    "huge dimension beside 0": build({"a": entry("U8", (0, 2**63), (0, 0))}),
    "nine dimensions": build({"a": entry("U8", (1,) * 9, (0, 1))}, b"\0"),
    "three offsets": build({"a": entry(offsets=(0, 8, 8))}, b"\0" * 8),
    "reversed offsets": build({"a": entry(offsets=(8, 0))}, b"\0" * 8),
    "wrong extent": build({"a": entry(shape=(3,))}, b"\0" * 8),
    "overlap": build({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
    "same extent twice": build({"a": entry(), "b": entry()}, b"\0" * 8),
    "hole": build({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20),
    "hole at the start": build({"a": entry(offsets=(4, 12))}, b"\0" * 12),
    "truncated data": build({"a": entry()}, b"\0" * 7),
    "trailing data": build({"a": entry()}, b"\0" * 9),
    "extent past the end": build({"a": entry("F32", (2**40,), (0, 2**42))}, b"\0" * 8),
    "bool of 2": build({"a": entry("BOOL", (1,), (0, 1))}, b"\2"),
    "long number": build(
        b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 9999)
    ),
}
