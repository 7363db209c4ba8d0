"""Hostile adapters and saved caches for `hostile.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from helpers_cli import config
from helpers_safetensors import CRAFTED
from hostile_files import PICKLE, sparse
from hostile_texts import Make

from tinylane.files.safetensors import TensorFile, write_tensors


def adapters(base: Path) -> Iterator[tuple[str, Make]]:
    """Adapter folders for the base model."""
    record = json.loads((base / "adapter" / "adapter_config.json").read_text())
    omega = np.zeros(4)
    q, up = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"
    one = np.float32

    def write(folder: Path, raw: Any, tensors: dict[str, Any] | bytes) -> None:
        data = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
        (folder / "adapter_config.json").write_bytes(data)
        if isinstance(tensors, bytes):
            (folder / "adapters.safetensors").write_bytes(tensors)
        else:
            write_tensors(folder / "adapters.safetensors", tensors)

    def settings(**changes: Any) -> Make:
        return lambda folder: write(folder, {**record, **changes}, {"lane_rope.omega": omega})

    def holding(**tensors: Any) -> Make:
        named = {k.replace("__", "."): v for k, v in tensors.items()}
        return lambda folder: write(folder, record, named)

    for key, values in {
        "base": [[], 3, "x", {**record["base"], "width": 17}, {"width": None}, {"vocab": [1]}],
        "identity": ["0" * 64, 5, []],
        "prompt_lane": [1, "other", None, [], {}, True, -1],
        "visibility": [3, [], [[1]] * 2, [[1, 2], [3, 4]], "all", "neighbours:x", "neighbours:²"],
        "lag": [-1, 1.5, "1", None, 10**19, True, []],
        "lanes": [[0], [-1], [10**6], "four", [1.5], [[1]], {}],
        "scale": ["x", 1e30, [1], True],
        "fine_tune_type": ["loha", "full", 3],
        "task": [
            {"name": "shell-game", "cups": c, "swaps": s, "lanes": n}
            for c, s, n in (
                (3, 10**9, [1]),
                (99, 4, [1]),
                ("3", 4, [1]),
                (3, 4, [3]),
                (3, 4, "1"),
                (3, -4, [1]),
                (3, 4, [[1]]),
                (None, None, None),
            )
        ],
    }.items():
        for value in values:
            yield f"{key} {json.dumps(value)[:90]}", settings(**{key: value})
    yield "neighbours of 5000 digits", settings(visibility="neighbours:" + "9" * 5000)
    for what, data in {
        "empty": b"",
        "a list": b"[]",
        "a pickle": PICKLE,
        "UTF-16": "{}".encode("utf-16"),
        "deep": b'{"base":' * 3000 + b"1" + b"}" * 3000,
        "NaN": b'{"lag": NaN}',
    }.items():
        yield (
            f"config {what}",
            lambda folder, data=data: write(folder, data, {"lane_rope.omega": omega}),
        )
    for what, value in {
        "of 3": np.zeros(3),
        "a scalar": np.zeros(()),
        "of no layers": np.zeros((0, 4)),
        "of 3 dimensions": np.zeros((1, 2, 4)),
        "of integers": np.zeros(4, np.int64),
        "of NaN": np.full(4, np.nan),
        "infinite": np.full(4, np.inf),
    }.items():
        yield f"Omega {what}", holding(lane_rope__omega=value)
    a, b = np.zeros((16, 2), one), np.zeros((2, 16), one)
    yield "half an update", holding(**{f"{q}.lora_a": a})
    yield "updates that do not fit", holding(**{f"{q}.lora_a": b, f"{q}.lora_b": a})
    yield "an update of NaN", holding(**{f"{q}.lora_a": a * np.nan, f"{q}.lora_b": b})
    yield (
        "an update of another layer",
        holding(**{"model.layers.9.mlp.up_proj.lora_a": a, "model.layers.9.mlp.up_proj.lora_b": b}),
    )
    yield "a bias of an MLP", holding(**{f"{up}.bias": np.zeros(24, one)})
    yield "a bias too long", holding(**{f"{q}.bias": np.zeros(17, one)})
    yield "a weight of the model", holding(**{f"{q}.weight": np.zeros((16, 16), one)})
    yield "an escape as a name", holding(**{"\x1b[31m\n": omega})
    for what, data in {"empty": b"", "a pickle": PICKLE, "overlapping": CRAFTED["overlap"]}.items():
        yield f"tensors {what}", lambda folder, data=data: write(folder, record, data)
    for what, shapes in {
        "an unknown tensor": {"x": (1 << 37,)},
        "Omega": {"lane_rope.omega": (1 << 34, 4)},
        "a bias": {f"{q}.bias": (1 << 37,)},
        "an update": {f"{q}.lora_a": (16, 1 << 30), f"{q}.lora_b": (1 << 30, 16)},
    }.items():

        def vast(folder: Path, shapes: dict = shapes) -> None:
            write(folder, record, b"")
            sparse(folder / "adapters.safetensors", shapes)

        yield f"much too much of {what}", vast

    def linked(name: str) -> Make:
        def make(folder: Path) -> None:
            write(folder, record, {"lane_rope.omega": omega})
            (folder / name).unlink()
            (folder / name).symlink_to(base / "adapter" / name)

        return make

    for name in ("adapter_config.json", "adapters.safetensors"):
        yield f"{name} links outside", linked(name)


def caches(good: Path) -> Iterator[tuple[str, Make]]:
    """Saved caches, each a file made from a good one of the base model."""
    with TensorFile(good) as file:
        meta, tensors = file.metadata, {name: x.read() for name, x in file.tensors.items()}

    def write(path: Path, m: dict, t: dict) -> None:
        write_tensors(path, {k: v for k, v in t.items() if v is not None}, m)

    def changed(tensor: str, value: Any) -> Make:
        return lambda path: write(path, meta, {**tensors, tensor: value})

    for key in meta:
        for value in ("", "x", "-1", "9" * 30, "²", "\x1b[31m\n"):
            other = {**meta, key: value}
            yield f"{key} {value[:10]!r}", lambda path, m=other: write(path, m, tensors)
        less = {k: v for k, v in meta.items() if k != key}
        yield f"no {key}", lambda path, m=less: write(path, m, tensors)
    rows = len(tensors["positions"])
    for name, value in tensors.items():
        if name not in ("lane_mask.visibility", "tokens"):  # files of before have no tokens
            yield f"no {name}", changed(name, None)
        yield f"a row less of {name}", changed(name, value[:-1])
        yield f"{name} one dimension more", changed(name, value[None])
        changed_kind = value.astype(np.float64 if value.dtype.kind in "iu" else np.int32)
        yield f"{name} of other numbers", changed(name, changed_kind)
        if value.dtype.kind == "f":
            yield f"{name} of NaN", changed(name, value * np.nan)
    for name in ("positions", "lanes", "tokens"):
        for value in (-(2**40), 2**62, 2**63 - 1, -(2**63)):
            yield f"{name} {value}", changed(name, np.full(rows, value, np.int64))
    yield "twice the same coordinate", changed("positions", np.zeros(rows, np.int64))
    yield (
        "visibility of twos",
        changed("lane_mask.visibility", tensors["lane_mask.visibility"] * 2 + 2),
    )
    yield "an unknown tensor", changed("x", np.zeros(3, np.float32))
    c = config()
    for what, shapes in {
        "positions": {"positions": (1 << 37,)},
        "visibility": {"lane_mask.visibility": (1 << 20, 1 << 20)},
        "rows": {
            "positions": (1 << 30,),
            "lanes": (1 << 30,),
            **{
                f"layers.{i}.{kind}": (c.kv_heads, 1 << 30, c.head_dim)
                for i in range(c.layers)
                for kind in ("keys", "values")
            },
        },
    }.items():
        small = {k: v.shape for k, v in tensors.items()} | shapes
        yield f"much too much of {what}", lambda path, s=small: sparse(path, s, **meta)
    for what, data in {
        "empty": b"",
        "a pickle": PICKLE,
        "an archive of NumPy": b"PK\x03\x04" + PICKLE,
        "overlapping": CRAFTED["overlap"],
        "half of a good one": good.read_bytes()[: good.stat().st_size // 2],
    }.items():
        yield what, lambda path, data=data: path.write_bytes(data) and None
