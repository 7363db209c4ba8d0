"""The tensors of a checkpoint folder: which files, which names, whether they fit the config.

Nothing of a tensor is read before every name, dtype and shape in every header agrees with what
config.json calls for. Then they are read one by one, in pieces, so that the peak of memory is the
weights in their final type and little more.

How `params` is laid out: every matrix so that `x @ w` works, in both libraries. MLX holds the
file's (out, in) array and `params` its `.T` view. So does NumPy for tall matrices; wide ones are
(in, out), and those that read one input are columns of one array (`tinylane.core.numpy_ops`). A
tied head and its embedding are one array. MLX-quantized layers stay packed in MLX where it has
kernels for them; everywhere else they are dequantized here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.checkpoints import extras
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import inside, open_regular, read_json
from tinylane.files.memory import available_memory, size
from tinylane.files.safetensors import DENSE, FLOATS, MAX_HEADER, TensorFile, widen

if TYPE_CHECKING:
    from tinylane.checkpoints.quantized import Packing

CHUNK = 1 << 20  # bytes of float32 that are converted at a time: twice as fast as 8 MiB (caches)
ROWS = 32  # at least so many rows at a time: transposed, they become one run of memory each
MAX_SHARDS = 1024
EMBED, HEAD = "model.embed_tokens", "lm_head"
HARMLESS = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")


def shards(folder: Path) -> list[Path]:
    """The weight files: `model.safetensors`, or the index's shards, or any *.safetensors there are.

    Raises TinylaneError for an index that points outside or at missing shards, and for no files.
    """
    if os.path.exists(folder / "model.safetensors"):
        return [inside(folder, "model.safetensors")]
    index = inside(folder, "model.safetensors.index.json")
    if os.path.lexists(index):  # a link to nothing is damage, not absence
        placed = read_json(index, MAX_HEADER).get("weight_map")
        if not isinstance(placed, dict) or not placed:
            raise TinylaneError(f"{index}: weight_map {show(placed, 40)}; expected shards by name")
        for shard in placed.values():
            if not isinstance(shard, str) or not shard.endswith(".safetensors"):
                raise TinylaneError(f"{index}: shard {show(shard)}; expected a *.safetensors name")
        names = sorted(set(placed.values()))
        paths = [inside(folder, name) for name in names]
        missing = [path.name for path in paths if not os.path.exists(path)]
        if missing:
            raise TinylaneError(
                f"{folder}: {len(missing)} of {len(paths)} shards missing: {_few(missing)}"
            )
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        other = ("adapters.safetensors", "adapter_model.safetensors", "consolidated")
        paths = [inside(folder, name) for name in names if not name.startswith(other)]
    if not paths:
        old = [*folder.glob("*.bin"), *folder.glob("*.gguf"), *folder.glob("*.pth")]
        hint = "only *.safetensors is read" if old else "expected model.safetensors"
        raise TinylaneError(f"{folder}: no weights ({hint})")
    if len(paths) > MAX_SHARDS:
        raise TinylaneError(f"{folder}: {len(paths)} weight files, limit {MAX_SHARDS}")
    return paths


def identity(folder: Path) -> str:
    """sha256 of what tells checkpoints apart without reading them whole.

    config.json (canonical), and of every weight file its name, size, header, and 4 KiB at the
    start, middle and end of its tensors. Raises TinylaneError.
    """
    digest = hashlib.sha256()
    config = read_json(inside(folder, "config.json"))
    digest.update(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    for path in shards(folder):
        with TensorFile.open(path) as tensors, open_regular(path) as file:
            end = file.seek(0, 2)
            digest.update(f"\n{path.name} {end}\n".encode() + tensors.header)
            start = 8 + len(tensors.header)
            for at in (start, (start + end) // 2, max(start, end - 4096)):
                file.seek(at)
                digest.update(file.read(4096))
    return digest.hexdigest()


class WeightFiles:
    """A checkpoint's open weight files, checked against its config; a context manager.

    config: as in the file, but for `tied`, which follows what the files hold. packings: quantized
    layers by path. native: whether MLX can use one of them packed. untied: whether a head that
    differs from the embedding overruled config.json.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self.folder, self.config, self.untied = folder, config, False
        self.packings: dict[str, Packing] = {}
        self.native = False
        self._where: dict[str, tuple[TensorFile, str]] = {}
        self._stack = contextlib.ExitStack()
        self.paths = shards(folder)
        try:
            for path in self.paths:
                self._add(self._stack.enter_context(TensorFile.open(path)))
            self._settle_head()
            more = self._where.keys() - self.config.tensors()
            self.extra = {name: self.shape(name) for name in sorted(more) if extras.is_extra(name)}
            self._check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _add(self, file: TensorFile) -> None:
        for name in file.names:
            if name.endswith(HARMLESS):
                continue
            bare = name.startswith(("layers.", "embed_tokens.", "norm."))  # saved without its head
            ours = f"model.{name}" if bare else name
            if ours in self._where:
                raise TinylaneError(
                    f"{file.path}: tensor {show(name)} is also in {self._where[ours][0].path}"
                )
            self._where[ours] = (file, name)

    def has(self, name: str) -> bool:
        """Whether a file holds this tensor."""
        return name in self._where

    def dtype(self, name: str) -> str:
        """The file's dtype: F32, BF16, U32, ..."""
        file, stored_name = self._where[name]
        return file.dtype(stored_name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The file's shape."""
        file, stored_name = self._where[name]
        return file.shape(stored_name)

    def read(self, name: str) -> np.ndarray:
        """A tensor as the file has it; BF16 as uint16."""
        file, stored_name = self._where[name]
        return file.read(stored_name)

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        file, stored_name = self._where[name]
        return file.rows(stored_name, start, stop)

    def _parts(self, path: str) -> list[str]:
        """The tensors of a layer, which has scales and biases if it is quantized."""
        names = (f"{path}.{part}" for part in ("weight", "scales", "biases"))
        return [name for name in names if name in self._where]

    def _settle_head(self) -> None:
        """Decide whether the head is tied. As in transformers 5, the files overrule config.json.

        Tied, and the files have only a head: it is the embedding. Tied, and they have both: equal
        ones are tied; different ones are both used.
        """
        if not self.config.tied or not self.has(f"{HEAD}.weight"):
            return
        twins = {name: EMBED + name.removeprefix(HEAD) for name in self._parts(HEAD)}
        if not self.has(f"{EMBED}.weight"):
            for head, embedding in twins.items():
                self._where[embedding] = self._where.pop(head)
        elif all(self._equal(head, embedding) for head, embedding in twins.items()):
            for head in twins:
                del self._where[head]
        else:
            self.config, self.untied = replace(self.config, tied=False), True

    def _equal(self, one: str, other: str) -> bool:
        if not self.has(other) or self.shape(one) != self.shape(other) or not self.shape(one):
            return False
        if self.dtype(one) != self.dtype(other):
            return False
        file, stored_name = self._where[one]
        need, have = file.nbytes(stored_name), available_memory()
        if have is not None and need > have:  # a sparse file of terabytes takes no room on disk
            raise TinylaneError(f"{file.path}: {one} has {size(need)}, {size(have)} are available")
        return all(
            np.array_equal(a.view(np.uint8), b.view(np.uint8))
            for (_, a), (_, b) in zip(self._raw(one), self._raw(other), strict=True)
        )

    def _check(self) -> None:
        expected = self.config.tensors()
        used, missing, wrong = set(self.extra), [], []
        if self.extra:
            try:
                extras.check(self.config, self.extra)
            except TinylaneError as error:
                raise TinylaneError(f"{self.folder}: {error}") from error
        for name in self.extra:
            if self.dtype(name) not in DENSE:
                wrong.append(f"{name} is {self.dtype(name)}; expected {', '.join(DENSE)}")
        for name, shape in expected.items():
            path = name.removesuffix(".weight")
            if len(shape) == 2 and self.has(f"{path}.scales"):
                parts = {
                    part.removeprefix(f"{path}."): (self.dtype(part), self.shape(part))
                    for part in self._parts(path)
                }
                from tinylane.checkpoints.quantized import packing

                how = packing(self.config.quantization, path, shape, parts)
                self.packings[path], self.native = how, self.native or how.native
                used.update(self._parts(path))
            elif not self.has(name):
                missing.append(f"{name} {shape}")
            elif self.dtype(name) == "U32" and len(shape) == 2:
                missing.append(f"{path}.scales of a packed weight")
            elif self.shape(name) != shape:
                wrong.append(f"{name} is {self.shape(name)}; expected {shape}")
            elif self.dtype(name) not in DENSE:
                wrong.append(f"{name} is {self.dtype(name)}; expected {', '.join(DENSE)}")
            used.add(name)
        if wrong:
            raise TinylaneError(f"{self.folder}: {_few(wrong)} (config.json)")
        if missing:
            raise TinylaneError(f"{self.folder}: missing {_few(missing)}; config.json calls for it")
        extra = [f"{name} {self.shape(name)}" for name in self._where if name not in used]
        if extra:
            raise TinylaneError(
                f"{self.folder}: {_few(extra)} in the files, but a {self.config.family} with this "
                "config.json has no such tensor"
            )

    @property
    def float_dtype(self) -> str:
        """The dtype that most floating-point values have: float32, float16, bfloat16."""
        count = dict.fromkeys(DENSE, 0)
        for name in self._where:
            if self.dtype(name) in count:
                count[self.dtype(name)] += math.prod(self.shape(name))
        most = max(DENSE, key=lambda dtype: count[dtype])
        return {"F16": "float16", "BF16": "bfloat16"}.get(most, "float32")

    def final_bytes(self, itemsize: int, native: bool) -> int:
        """Bytes of the weights once loaded. native: layers that MLX can use packed stay packed."""
        total = sum(math.prod(shape) * itemsize for shape in self.extra.values())
        for name, shape in self.config.tensors().items():
            how = self.packings.get(path := name.removesuffix(".weight"))
            if how is None or not (native and how.native):
                total += math.prod(shape) * itemsize
                continue
            for part in self._parts(path):
                wide = 4 if part == name else 1 if how.mode == "mxfp4" else itemsize
                total += wide * math.prod(self.shape(part))
        return total

    def _raw(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        shape = self.shape(name)
        step = max(ROWS, CHUNK // max(1, 4 * math.prod(shape[1:])))
        for start in range(0, shape[0], step):
            stop = min(start + step, shape[0])
            yield start, self._rows(name, start, stop)

    def chunks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows as float32, or float64 if the file has that), dequantized if packed."""
        path = name.removesuffix(".weight")
        how = self.packings.get(path)
        if how is None:
            for start, raw in self._raw(name):
                yield start, widen(raw, self.dtype(name))
            return
        from tinylane.checkpoints.quantized import dequantize

        columns = self.shape(name)[1] * 32 // how.bits
        step = max(ROWS, CHUNK // (4 * columns))
        for start in range(0, self.shape(name)[0], step):
            stop = min(start + step, self.shape(name)[0])
            parts = []
            for part in self._parts(path):
                rows, dtype = self._rows(part, start, stop), self.dtype(part)
                parts.append(widen(rows, dtype) if dtype in FLOATS else rows)
            biases = parts[2] if len(parts) > 2 else None
            yield start, dequantize(parts[0], parts[1], biases, how)


def read_extra(files: WeightFiles, damaged: list[str]) -> dict[str, np.ndarray]:
    """The file's parameters for lanes (`extras`), in its layout; damaged: as of `read_numpy`."""
    found = {name: widen(files.read(name), files.dtype(name)) for name in files.extra}
    damaged += [name for name, value in found.items() if not _finite(value)]
    return found


def _few(items: list[str]) -> str:
    shown = ", ".join(item if len(item) <= 120 else show(item, 120) for item in items[:3])
    shown = shown.replace("\n", " ")
    return shown if len(items) <= 3 else f"{shown} and {len(items) - 3} more"


def _finite(chunk: np.ndarray) -> bool:
    # NaN survives both min and max, and neither needs a second array
    return not chunk.size or bool(np.isfinite(chunk.min()) and np.isfinite(chunk.max()))


def read_numpy(files: WeightFiles, dtype: str, damaged: list[str]) -> dict[str, Any]:
    """All tensors as NumPy arrays; names with NaN or infinite values are added to `damaged`."""
    params: dict[str, Any] = {}
    tied, shapes = files.config.tied, files.config.tensors()
    stacked = _stacked(shapes, dtype)
    for name, shape in shapes.items():
        table = name == f"{HEAD}.weight" or (name == f"{EMBED}.weight" and tied)
        flipped = table or name in stacked
        array = stacked.pop(name) if name in stacked else np.empty(shape[:: 1 - 2 * table], dtype)
        rows, clean = (array.T if flipped else array), True
        for start, chunk in files.chunks(name):
            with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite: reported
                final = chunk.astype(dtype, copy=False)
            clean = clean and _finite(final)
            rows[start : start + len(final)] = final
        if not clean:
            damaged.append(name)
        straight = flipped or len(shape) == 1 or name == f"{EMBED}.weight"
        params[name] = array if straight else array.T  # stored in the file's order
    if tied:
        params[f"{HEAD}.weight"] = params[f"{EMBED}.weight"]
        params[f"{EMBED}.weight"] = params[f"{HEAD}.weight"].T
    return params


def _stacked(shapes: dict[str, tuple[int, ...]], dtype: str) -> dict[str, np.ndarray]:
    """Room, (in, out), for layers that read one input: columns of one array."""
    columns: dict[str, np.ndarray] = {}
    for kinds in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
        for first in [name for name in shapes if name.endswith(f"{kinds[0]}.weight")]:
            names = [first.replace(kinds[0], kind) for kind in kinds]
            ends = np.cumsum([shapes[name][0] for name in names])
            whole = np.empty((shapes[first][1], ends[-1]), dtype)
            columns.update(zip(names, np.split(whole, ends[:-1], axis=1), strict=True))
    return columns


def read_mlx(
    files: WeightFiles, dtype: str, damaged: list[str], keeps_packed: bool
) -> dict[str, Any]:
    """All tensors as MLX arrays, each made and evaluated before the next is read.

    keeps_packed: layers for which MLX has kernels stay packed.
    """
    import mlx.core as mx

    final = getattr(mx, dtype)
    most = 65504.0 if dtype == "float16" else np.inf  # beyond it a float16 is infinite

    def dense(name: str) -> Any:
        raw, kind = files.read(name), files.dtype(name)
        with np.errstate(over="ignore"):
            raw = raw.astype(np.float32) if kind == "F64" else raw
        flat, step = raw.reshape(-1), CHUNK // 4
        for start in range(0, flat.size, step):
            some = widen(flat[start : start + step], kind)
            if not (_finite(some) and -most <= some.min() and some.max() <= most):
                damaged.append(name)
                break
        array = mx.array(raw)
        del raw, flat  # before the conversion: the peak is one tensor, not two
        array = (array.view(mx.bfloat16) if kind == "BF16" else array).astype(final)
        mx.eval(array)
        return array

    def unpacked(name: str, shape: tuple[int, ...]) -> Any:
        rows = np.empty(shape, np.float32)
        for start, chunk in files.chunks(name):
            rows[start : start + len(chunk)] = chunk
            if not _finite(chunk) and name not in damaged:
                damaged.append(name)
        array = mx.array(rows)
        del rows
        array = array.astype(final)
        mx.eval(array)
        return array

    params: dict[str, Any] = {}
    for name, shape in files.config.tensors().items():
        path = name.removesuffix(".weight")
        how = files.packings.get(path)
        if how is None or not (keeps_packed and how.native):
            array = dense(name) if how is None else unpacked(name, shape)
            params[name] = array.T if len(shape) == 2 and path != EMBED else array
        else:
            params[name] = mx.array(files.read(name))
            for part in (f"{path}.scales", f"{path}.biases"):
                if how.mode == "mxfp4" and files.has(part):
                    params[part] = mx.array(files.read(part))
                elif files.has(part):
                    params[part] = dense(part)
        mx.eval(params[name])
        mx.clear_cache()  # freed buffers would count against the peak
    if files.config.tied:
        for part in ("scales", "biases"):
            if f"{EMBED}.{part}" in params:
                params[f"{HEAD}.{part}"] = params[f"{EMBED}.{part}"]
        table = params[f"{EMBED}.weight"]
        params[f"{HEAD}.weight"] = table if f"{EMBED}.scales" in params else table.T
        mx.eval(params[f"{HEAD}.weight"])
    return params
