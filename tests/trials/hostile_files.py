"""Hostile weight files and indexes for `hostile.py`."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from helpers_cli import CONFIG
from helpers_safetensors import CRAFTED, build, entry
from hostile_texts import Make, put

from tinylane.checkpoints.config_json import parse_config
from tinylane.files.safetensors import DTYPES, MAX_HEADER, TensorFile, write_tensors

# What a careless reader would run: unpickled, it writes the file CANARY beside itself.
PICKLE = b"cos\nsystem\n(S'touch CANARY'\ntR."


def prefixes() -> Iterator[tuple[str, bytes]]:
    """Every proper prefix of a small, good file."""
    whole = build({"a": entry(), "b": entry("U8", (3,), (8, 11))}, bytes(11))
    for length in range(len(whole)):
        yield f"prefix of {length} bytes", whole[:length]


def headers() -> Iterator[tuple[str, bytes]]:
    """Single weight files that every reader must refuse."""
    yield from CRAFTED.items()
    for length in (0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 8):
        yield f"header of {length} bytes", struct.pack("<Q", length) + b"{}" + bytes(100)
    yield "header of -1 bytes", struct.pack("<q", -1) + b"{}" + bytes(100)
    for shape in ((10**9,), (10**5, 10**4), (1000, 1000, 1000), (2**31, 2**31), (10**9, 0, 10**9)):
        for kind in ("F32", "F64", "BOOL"):
            at = (0, 1000)
            yield f"{shape} {kind} in 1 KiB", build({"a": entry(kind, shape, at)}, bytes(1000))
    big = 10**9
    yield "10^9 elements, honest", build({"a": entry("U8", (big,), (0, big))}, bytes(1000))
    yield "unaligned hole", build({"a": entry(), "b": entry(offsets=(9, 17))}, bytes(17))
    yield "overlap by one byte", build({"a": entry(), "b": entry(offsets=(7, 15))}, bytes(15))
    yield (
        "shared empty in the middle",
        build({"a": entry(), "b": entry("U8", (0,), (4, 4))}, bytes(8)),
    )
    yield "empty beyond the end", build({"a": entry(), "b": entry("U8", (0,), (99, 99))}, bytes(8))
    yield "dtype of 3 bytes", build({"a": entry("F24", (2,), (0, 6))}, bytes(6))
    yield "4-bit dtype", build({"a": entry("F4", (2,), (0, 1))}, bytes(1))
    yield "complex", build({"a": entry("C64", (1,), (0, 8))}, bytes(8))
    yield "dtype null", build({"a": entry(None)}, bytes(8))
    yield "dtype a list", build({"a": entry([])}, bytes(8))
    yield "shape null", build({"a": {**entry(), "shape": None}}, bytes(8))
    yield "shape nested", build({"a": {**entry(), "shape": [[2]]}}, bytes(8))
    yield "offsets of text", build({"a": {**entry(), "data_offsets": ["0", "8"]}}, bytes(8))
    yield "offsets of 2**64", build({"a": entry(offsets=(2**64, 2**64 + 8))}, bytes(8))
    yield "a terminal's escapes", build({"\x1b[2J\r\nok": entry(offsets=(1, 9))}, bytes(8))
    yield "a name of 1 MiB", build({"x" * (1 << 20): entry("F33")}, bytes(8))
    for depth in (50, 90, 300, 900, 960, 980, 990, 995, 1000, 3000):
        deep = b"[" * depth + b"]" * depth
        yield f"entry nested {depth} deep", build(b'{"a":' + deep + b"}")
        yield (
            f"dtype nested {depth} deep",
            build(b'{"a":{"dtype":' + deep + b',"shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        )
    fill = MAX_HEADER - 64
    for name, piece in (
        ("empty lists", b"[],"),
        ("empty objects", b"{},"),
        ("zeros", b"0,"),
        ("numbers", b"999,"),
        ("fractions", b"1.5,"),
        ("texts", b'"ab",'),
    ):
        yield f"8 MiB of {name}", build(b'{"a":[' + piece * (fill // len(piece)) + b"0]}")
    keys = b",".join(b'"%x":0' % k for k in range(fill // 9))
    yield "8 MiB of keys", build(b"{" + keys + b"}")
    yield "8 MiB of metadata", build(b'{"__metadata__":{' + keys + b"}}")
    wide = ("x" * (fill // 2) + "\U0001f600").encode()
    yield "4 MiB of text, one wide", build(b'{"a":"%s"}' % wide)


def weights(base: Path) -> Iterator[tuple[str, Make]]:
    """Checkpoint folders whose tensors do not fit the config."""
    with TensorFile(base / "model.safetensors") as file:
        good = {name: x.read() for name, x in file.tensors.items()}
    first, norm = "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"
    outside = base / "model.safetensors"

    def tensors(**changes: Any) -> Make:
        made = {**good, **{k.replace("__", "."): v for k, v in changes.items()}}
        return lambda folder: write_tensors(
            folder / "model.safetensors", {k: v for k, v in made.items() if v is not None}
        )

    for name in (first, norm, "model.embed_tokens.weight"):
        plain = {name: good[name]}
        yield f"without {name}", tensors(**{name: None})
        yield f"one dimension more of {name}", tensors(**{name: plain[name][None]})
        yield f"one row less {name}", tensors(**{name: plain[name][:-1]})
        yield f"I64 {name}", tensors(**{name: plain[name].astype(np.int64)})
        yield f"BOOL {name}", tensors(**{name: plain[name] > 0})
        yield f"empty {name}", tensors(**{name: plain[name][:0]})
    yield "an extra tensor", tensors(extra=np.zeros(3, np.float32))
    yield "an extra layer", tensors(**{first.replace("layers.0", "layers.2"): good[first]})
    yield "twice, with and without its prefix", tensors(**{norm.removeprefix("model."): good[norm]})
    yield "escapes in a name", tensors(**{"\x1b]0;x\x07\n\r\u2028": good[norm]})
    yield "a mixture of experts", tensors(**{"model.layers.0.mlp.experts.0.w": good[norm]})
    yield (
        "scales without a quantization",
        tensors(**{"model.layers.0.mlp.up_proj.scales": np.zeros((24, 1), np.float32)}),
    )
    for rows, columns in ((24, 0), (24, 3), (0, 1), (24, 16)):

        def quantized(folder: Path, shape: tuple[int, int] = (rows, columns)) -> None:
            path = "model.layers.0.mlp.up_proj."
            tensors(**{path + "scales": np.zeros(shape, np.float32)})(folder)
            raw = {**CONFIG, "quantization": {"group_size": 64, "bits": 4}}
            put(folder / "config.json", json.dumps(raw))

        yield f"scales of {rows} x {columns}", quantized

    def file(name: str, data: bytes) -> Make:
        return lambda folder: put(folder / name, data)

    yield "a pickle called model.safetensors", file("model.safetensors", PICKLE)
    yield (
        "a pickle after a length",
        file("model.safetensors", struct.pack("<Q", len(PICKLE)) + PICKLE),
    )
    yield "an archive", file("model.safetensors", b"PK\x03\x04" + bytes(200))

    def only(name: str, data: bytes) -> Make:
        def make(folder: Path) -> None:
            (folder / "model.safetensors").unlink()
            (folder / name).write_bytes(data)

        return make

    yield "only pytorch_model.bin", only("pytorch_model.bin", PICKLE)
    yield "only model.gguf", only("model.gguf", b"GGUF" + bytes(100))
    yield "a shard with a line break", only("a\nb\x1b[2J.safetensors", b"\1\2")

    def kind(make: Make) -> Make:
        def replaced(folder: Path) -> None:
            (folder / "model.safetensors").unlink()
            make(folder / "model.safetensors")

        return replaced

    yield "a folder", kind(lambda path: path.mkdir())
    yield "a pipe", kind(os.mkfifo)
    yield "a link to itself", kind(lambda path: path.symlink_to(path.name))
    yield "a link to nothing", kind(lambda path: path.symlink_to("absent"))
    yield "a link outside", kind(lambda path: path.symlink_to(outside))
    yield "a link to /dev/zero", kind(lambda path: path.symlink_to("/dev/zero"))

    def vast(folder: Path) -> None:  # a sparse file: 1 TiB that takes no room
        raw = {**CONFIG, "vocab_size": 1 << 24, "hidden_size": 1 << 14}
        put(folder / "config.json", json.dumps(raw))
        (folder / "tokenizer.json").unlink()
        names = config_tensors(raw)
        sparse(folder / "model.safetensors", names)

    yield "a sparse file of much too much", vast

    def two_heads(folder: Path) -> None:
        raw = {**CONFIG, "vocab_size": 1 << 24, "hidden_size": 1 << 14}
        put(folder / "config.json", json.dumps(raw))
        names = config_tensors(raw)
        names["lm_head.weight"] = (1 << 24, 1 << 14)
        sparse(folder / "model.safetensors", names)

    yield "two sparse heads to compare", two_heads


def config_tensors(raw: dict[str, Any]) -> dict[str, tuple[int, ...]]:

    return parse_config(raw).tensors()


KINDS = {"positions": "I64", "lanes": "I64", "lane_rope.omega": "F64", "lane_mask.visibility": "U8"}


def sparse(path: Path, shapes: dict[str, tuple[int, ...]], **meta: str) -> None:
    """A file with a correct header whose tensors take no room on the disk."""
    header: dict[str, Any] = {"__metadata__": meta} if meta else {}
    end = 0
    for name, shape in shapes.items():
        dtype = KINDS.get(name, "F32")
        size = math.prod(shape) * DTYPES[dtype].itemsize
        header[name] = entry(dtype, shape, (end, end + size))
        end += size
    text = json.dumps(header).encode()
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def indexes(base: Path) -> Iterator[tuple[str, Make]]:
    """Index files, each in a folder without model.safetensors; `part.safetensors` is a good one."""
    name = "model.safetensors.index.json"
    with TensorFile(base / "model.safetensors") as file:
        names = file.tensors

    def pointing(shard: Any, **more: Any) -> Make:
        return text(json.dumps({"weight_map": {**dict.fromkeys(names, shard), **more}}).encode())

    def text(data: bytes) -> Make:
        def make(folder: Path) -> None:
            (folder / "model.safetensors").rename(folder / "part.safetensors")
            (folder / name).write_bytes(data)

        return make

    outside = base / "model.safetensors"
    for what, shard in {
        "one up": "../base/model.safetensors",
        "many up": "../" * 40 + "etc/passwd.safetensors",
        "up and down": "x/../part.safetensors",
        "beside": "./part.safetensors",
        "absolute": str(outside),
        "a URL": "https://127.0.0.1:9/x.safetensors",
        "a home": "~/x.safetensors",
        "backslashes": "..\\base\\model.safetensors",
        "a drive": "C:\\x.safetensors",
        "an empty name": "",
        "a dot": ".",
        "two dots": "..",
        "NUL": "part\0.safetensors",
        "a line break": "no\nsuch.safetensors",
        "half a surrogate": "\ud800.safetensors",
        "a name of 5000": "x" * 5000 + ".safetensors",
        "itself": name,
        "the config": "config.json",
        "an absent shard": "absent.safetensors",
        "a number": 3,
        "null": None,
        "a list": ["part.safetensors"],
        "an object": {},
    }.items():
        yield f"shard {what}", pointing(shard)
    yield "one of two shards absent", pointing("part.safetensors", x="part2.safetensors")
    yield (
        "2000 shards",
        pointing("part.safetensors", **{f"x{k}": f"s{k}.safetensors" for k in range(2000)}),
    )
    for what, value in {"a list": [], "null": None, "empty": {}, "a text": "part"}.items():
        yield f"weight_map {what}", text(json.dumps({"weight_map": value}).encode())
    yield "no weight_map", text(b"{}")
    yield "an empty file", text(b"")
    yield "not JSON", text(b"part.safetensors")
    yield "a list", text(b"[]")
    yield "UTF-16", text("{}".encode("utf-16"))
    yield "a key twice", text(b'{"weight_map":{"a":"p.safetensors","a":"../q.safetensors"}}')
    yield "deep", text(b'{"weight_map":' * 5000 + b"1" + b"}" * 5000)
    yield "9 MiB", text(b'{"weight_map":{"a":"' + b"x" * (9 << 20) + b'"}}')
    yield "8 MiB of lists", text(b'{"weight_map":{"a":[' + b"[]," * (2 << 20) + b"0]}}")

    def links(*steps: tuple[str, str], shard: str = "loop.safetensors") -> Make:
        def make(folder: Path) -> None:
            pointing(shard)(folder)
            for link, target in steps:
                (folder / link).unlink(missing_ok=True)
                (folder / link).symlink_to(target)

        return make

    yield "a shard that links outside", links(("loop.safetensors", str(outside)))
    yield "a shard that links up", links(("loop.safetensors", "../../base/model.safetensors"))
    yield "a shard that links to itself", links(("loop.safetensors", "loop.safetensors"))
    yield (
        "two shards that link in a circle",
        links(("loop.safetensors", "b.safetensors"), ("b.safetensors", "loop.safetensors")),
    )
    yield "a shard in a linked folder", links(("d", str(base)), shard="d/model.safetensors")
    yield "an index that links outside", links((name, str(base / "config.json")))
    yield "an index that links to itself", links((name, name))

    def doubled(folder: Path) -> None:
        pointing("part.safetensors", x="copy.safetensors")(folder)
        os.link(folder / "part.safetensors", folder / "copy.safetensors")

    yield "every tensor in two shards", doubled
