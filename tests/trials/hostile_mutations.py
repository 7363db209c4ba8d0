"""Mutated checkpoints: small good files with bytes, tokens and structures changed at random.

Every one must give a value or one TinylaneError within a second. A safetensors file that our reader
accepts must give the same names, shapes and bytes with the safetensors library.
"""

from __future__ import annotations

import json
import os
import random
import struct
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers_safetensors import GOOD, contents
from hostile import Reader
from hostile_corpus import good_files
from hostile_texts import put
from safetensors import deserialize

from tinylane.checkpoints.config_json import parse_config
from tinylane.checkpoints.export import config_to_dict
from tinylane.core.errors import TinylaneError

SECONDS = 1.0
TOKENS = [
    b"0",
    b"-1",
    b"8",
    b"24",
    b"1e1",
    b"true",
    b"null",
    b"-0",
    b"NaN",
    b"18446744073709551615",
]
TOKENS += [b"[", b"]", b"{", b"}", b",", b":", b'"', b" ", b"\x00", b"\xff", b"\\u0000", b"\\ud800"]
TOKENS += [
    b'"F32"',
    b'"BOOL"',
    b'"a":',
    b'"\\u0061"',
    b'"__metadata__":{},',
    b"[[]]",
    b"4294967296",
]
VALUES: list[Any] = [0, 1, -1, 2, 3, 7, 8, 64, 2**31, 2**53, 10**19, 0.5, -0.5, 1e-9, 1e30, 1e300]
VALUES += [None, True, False, "", "x", "\ud800", "9" * 30, [], [0], [[]], {}, {"a": 1}, [1] * 9]


def bytes_mutated(
    data: bytes, rng: random.Random, first: int = 0, last: int | None = None
) -> bytes:
    """A few bytes between `first` and `last` replaced, put in, taken out, doubled or cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        kind, span = rng.random(), rng.choice((0, 1, 1, 2, 5))
        if kind < 0.3 and out:
            out[min(at, len(out) - 1)] = rng.randrange(256)
        elif kind < 0.8:
            out[at : at + span] = rng.choice(TOKENS)
        elif kind < 0.9:
            out[at:at] = out[at : at + rng.randrange(40)]
        else:
            del out[rng.randrange(len(out) + 1) :]
    return bytes(out)


def value_mutated(value: Any, rng: random.Random) -> Any:
    """A copy with one value, key or entry changed, somewhere."""
    value = json.loads(json.dumps(value))
    places: list[tuple[Any, Any]] = []
    left = [value]
    while left:
        outer = left.pop()
        keys = list(outer) if isinstance(outer, dict) else range(len(outer))
        places += [(outer, key) for key in keys]
        left += [outer[key] for key in keys if isinstance(outer[key], (dict, list))]
    if not places:
        return rng.choice(VALUES)
    outer, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.6:
        outer[key] = rng.choice(VALUES)
    elif kind < 0.7:
        del outer[key]
    elif kind < 0.8:
        other, name = rng.choice(places)
        outer[key] = json.loads(json.dumps(other[name])) if name in _keys(other) else None
    elif kind < 0.9 and type(outer[key]) in (int, float):
        outer[key] = outer[key] * rng.choice((-1, 2, 3, 1000)) + rng.choice((0, 1, -1))
    elif isinstance(outer, dict):
        outer[rng.choice((str(key) + "x", "type", "id"))] = outer.pop(key)
    else:
        outer.insert(key, rng.choice(VALUES))
    return value


def _keys(outer: Any) -> Any:
    return outer if isinstance(outer, dict) else range(len(outer))


def json_mutated(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return bytes_mutated(data, rng)
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        value = value_mutated(value, rng)
        if not isinstance(value, (dict, list)):
            break
    return json.dumps(value).encode()


def tensors_mutated(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file: its header as bytes or as a structure; the length mostly kept true."""
    length = struct.unpack("<Q", data[:8])[0]
    header, rest = data[8 : 8 + length], data[8 + length :]
    kind = rng.random()
    if kind < 0.1:
        return bytes_mutated(data, rng)
    if kind < 0.15:  # only the data, which the header does not describe
        return data[: -len(rest)] + rng.randbytes(len(rest)) if rest else data
    if kind < 0.6:
        header = bytes_mutated(header, rng)
    else:
        header = json_mutated(header, rng)
    if rng.random() < 0.1:
        rest = rest[: rng.randrange(len(rest) + 1)] + bytes(rng.choice((0, 0, 1, 8)))
    if rng.random() < 0.05:
        length = max(0, length + rng.choice((-8, -1, 1, 8)))
        return struct.pack("<Q", length) + header + rest
    return struct.pack("<Q", len(header)) + header + rest


class Mutations:
    """What is mutated, how, and who reads it."""

    def __init__(self, root: Path) -> None:
        from helpers_cli import write_checkpoint

        base = write_checkpoint(root / "base")
        (root / "good").mkdir()
        good_files(base, root / "good")
        self.reader, self.root = Reader(root), root
        self.scratch = root / "scratch"
        self.scratch.mkdir()
        for path in [p for p in base.iterdir() if p.is_file()]:
            os.link(path, self.scratch / path.name)
        self.good = {name: (base / name).read_bytes() for name in os.listdir(self.scratch)}
        for name in ("adapter_config.json", "adapters.safetensors"):
            self.good[name] = (base / "adapter" / name).read_bytes()
            put(self.scratch / name, self.good[name])
        for name in ("cache.safetensors", "run.json"):
            self.good[name] = (root / "good" / name).read_bytes()
        index = {"weight_map": {"model.norm.weight": "part.safetensors"}}
        self.good["model.safetensors.index.json"] = json.dumps(index).encode()
        self.kinds: list[tuple[str, float, Callable[[random.Random], None]]] = [
            ("tensors", 0.7, self.tensors),
            ("config", 0.1, self.config),
            ("index", 0.04, self.index),
            ("adapter", 0.04, self.adapter),
            ("cache", 0.04, self.cache),
            ("run", 0.05, self.run),
            ("tokenizer", 0.02, self.tokenizer),
            ("checkpoint", 0.01, self.checkpoint),
        ]

    def tensors(self, rng: random.Random) -> None:
        data = tensors_mutated(GOOD, rng)
        path = self.scratch / "mutated.safetensors"
        overwrite(path, data)
        ours = contents(path)
        theirs = {n: (t["dtype"], t["shape"], bytes(t["data"])) for n, t in deserialize(data)}
        assert ours == theirs, "the safetensors library reads something else"

    def config(self, rng: random.Random) -> None:
        from tinylane.files.io import parse_json

        raw = parse_json(json_mutated(self.good["config.json"], rng), "config.json")
        config_to_dict(parse_config(raw))

    def index(self, rng: random.Random) -> None:
        from tinylane.checkpoints.weights import shards

        folder = self.root / "index"
        if not folder.exists():
            folder.mkdir()
            put(folder / "part.safetensors", GOOD)
        name = "model.safetensors.index.json"
        overwrite(folder / name, json_mutated(self.good[name], rng))
        for path in shards(folder):
            assert path.parent == folder and path.suffix == ".safetensors", path

    def adapter(self, rng: random.Random) -> None:
        from tinylane.checkpoints.adapter import load_adapter

        name = rng.choice(("adapter_config.json", "adapters.safetensors"))
        self._change(name, rng)
        try:
            load_adapter(self.scratch, self.reader.model.config)
        finally:
            overwrite(self.scratch / name, self.good[name])

    def cache(self, rng: random.Random) -> None:
        self._change("cache.safetensors", rng)
        self.reader.cache(self.scratch / "cache.safetensors")

    def run(self, rng: random.Random) -> None:
        self._change("run.json", rng)
        self.reader.run(self.scratch / "run.json")

    def tokenizer(self, rng: random.Random) -> None:
        from tinylane.checkpoints.tokenizer import Tokenizer

        name = rng.choice(("tokenizer.json", "tokenizer_config.json"))
        self._change(name, rng)
        try:
            tokenizer = Tokenizer.from_folder(self.scratch, vocab=25)
            tokenizer.decode(tokenizer.prompt_ids("cups ABC, swap 1-2", raw=True))
        finally:
            put(self.scratch / name, self.good[name])

    def checkpoint(self, rng: random.Random) -> None:
        name = rng.choice(("config.json", "generation_config.json", "model.safetensors"))
        self._change(name, rng)
        (self.scratch / "mutated.safetensors").unlink(missing_ok=True)
        try:
            self.reader.checkpoint(self.scratch)
        finally:
            put(self.scratch / name, self.good[name])

    def _change(self, name: str, rng: random.Random) -> None:
        mutate = tensors_mutated if name.endswith(".safetensors") else json_mutated
        put(self.scratch / name, mutate(self.good[name], rng))


def overwrite(path: Path, data: bytes) -> None:
    """In place: making and truncating files anew is slow on some systems."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate()


def run(count: int, seed: int, root: Path) -> tuple[Counter[str], list[str]]:
    """`count` mutations; how many of each kind were refused and accepted, and what went wrong."""
    mutations, tally, wrong = Mutations(root), Counter[str](), []
    kinds, weights, readers = zip(*mutations.kinds, strict=True)
    draw = random.Random(seed)
    for number in range(count):
        which = draw.choices(range(len(kinds)), weights)[0]
        rng = random.Random(f"{seed}/{number}")  # any one can be tried again by itself
        began = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                readers[which](rng)
            outcome = "accepted"
        except TinylaneError as error:
            outcome = "refused"
            if "\n" in str(error):
                wrong.append(f"{kinds[which]} {seed}/{number}: more than one line: {error}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            outcome = "crashed"
            wrong.append(f"{kinds[which]} {seed}/{number}: {traceback.format_exc()}")
        if time.process_time() - began > SECONDS:
            wrong.append(f"{kinds[which]} {seed}/{number}: {time.process_time() - began:.1f} s")
        tally[f"{kinds[which]} {outcome}"] += 1
    return tally, wrong


def summary(tally: Counter[str], wrong: list[str], seconds: float) -> str:
    crashed = sum(n for kind, n in tally.items() if kind.endswith("crashed"))
    parts = ", ".join(f"{kind} {n:,}" for kind, n in sorted(tally.items()))
    return (
        f"{sum(tally.values()):,} mutations in {seconds:.0f} s, {crashed} crashes, "
        f"{len(wrong) - crashed} other faults ({parts})"
    )


def main(count: int, seed: int) -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally, wrong = run(count, seed, Path(folder))
    for text in wrong[:20]:
        print(text)
    print(summary(tally, wrong, time.monotonic() - began))
    return 1 if wrong else 0
