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
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.checkpoints import extras
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import inside, read_json
from tinylane.files.memory import available_memory, size
from tinylane.files.safetensors import DENSE, FLOATS, MAX_HEADER, Tensor, TensorFile, widen

if TYPE_CHECKING:
    from tinylane.checkpoints.quantized import Packing

CHUNK = 1 << 20  # bytes of float32 that are converted at a time: twice as fast as 8 MiB (caches)
ROWS = 32  # at least so many rows at a time: transposed, they become one run of memory each
MAX_SHARDS = 1024
EMBED, HEAD = "model.embed_tokens", "lm_head"
_DENSE = ", ".join(DENSE)
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


class WeightFiles(AbstractContextManager):
    """A checkpoint's open weight files, checked against its config: a context manager.

    config: as in the file, but for `tied`, which follows what the files hold. tensors: by the
    decoder's names. extra: shapes of those of `extras`. packings: quantized layers by path. native:
    whether MLX can use one of them packed. untied: whether a head that differs from the embedding
    overruled config.json.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self.folder, self.config, self.untied = folder, config, False
        self.packings: dict[str, Packing] = {}
        self.native = False
        self.files: list[TensorFile] = []
        self.tensors: dict[str, Tensor] = {}
        self.extra: dict[str, tuple[int, ...]] = {}
        self.paths = shards(folder)
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as opened:
            for path in self.paths:
                self.files.append(opened.enter_context(TensorFile(path)))
                self._add(self.files[-1])
            self._settle_head()
            self._check()
            self._stack = opened.pop_all()  # all is well: they stay open

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def identity(self, config: dict[str, Any]) -> str:
        """sha256 of what tells checkpoints apart without reading them whole.

        config.json (canonical), and of every weight file its name, size, header, and 4 KiB at the
        start, middle and end of its tensors.
        """
        digest = hashlib.sha256()
        digest.update(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
        for path, file in zip(self.paths, self.files, strict=True):
            digest.update(f"\n{path.name} {file.size}\n".encode() + file.header)
            start = 8 + len(file.header)
            for at in (start, (start + file.size) // 2, max(start, file.size - 4096)):
                file.stream.seek(at)
                digest.update(file.stream.read(4096))
        return digest.hexdigest()

    def _add(self, file: TensorFile) -> None:
        for name, tensor in file.tensors.items():
            if name.endswith(HARMLESS):
                continue
            bare = name.startswith(("layers.", "embed_tokens.", "norm."))  # saved without its head
            ours = f"model.{name}" if bare else name
            if ours in self.tensors:
                other = self.tensors[ours].file.path
                raise TinylaneError(f"{file.path}: tensor {show(name)} is also in {other}")
            self.tensors[ours] = tensor

    def _parts(self, path: str) -> list[str]:
        """The tensors of a layer, which has scales and biases if it is quantized."""
        names = (f"{path}.{part}" for part in ("weight", "scales", "biases"))
        return [name for name in names if name in self.tensors]

    def _settle_head(self) -> None:
        """Decide whether the head is tied. As in transformers 5, the files overrule config.json.

        Tied, and the files have only a head: it is the embedding. Tied, and they have both: equal
        ones are tied; different ones are both used.
        """
        if not self.config.tied or f"{HEAD}.weight" not in self.tensors:
            return
        twins = {name: EMBED + name.removeprefix(HEAD) for name in self._parts(HEAD)}
        if f"{EMBED}.weight" not in self.tensors:
            for head, embedding in twins.items():
                self.tensors[embedding] = self.tensors.pop(head)
        elif all(self._equal(head, embedding) for head, embedding in twins.items()):
            for head in twins:
                del self.tensors[head]
        else:
            self.config, self.untied = replace(self.config, tied=False), True

    def _equal(self, head: str, embedding: str) -> bool:
        """Whether two tensors have the same bytes."""
        one, other = self.tensors[head], self.tensors.get(embedding)
        if other is None or (one.dtype, one.shape) != (other.dtype, other.shape) or not one.shape:
            return False
        need, have = one.nbytes, available_memory()
        if have is not None and need > have:  # a sparse file of terabytes takes no room on disk
            path = one.file.path
            raise TinylaneError(f"{path}: {head} has {size(need)}, {size(have)} are available")
        return all(
            np.array_equal(a.view(np.uint8), b.view(np.uint8))
            for (_, a), (_, b) in zip(_pieces(one), _pieces(other), strict=True)
        )

    def _check(self) -> None:
        expected = self.config.tensors()
        missing, wrong = [], []
        for name in sorted(self.tensors.keys() - expected.keys()):
            if extras.is_extra(name):
                self.extra[name] = self.tensors[name].shape
                if self.tensors[name].dtype not in DENSE:
                    wrong.append(f"{name} is {self.tensors[name].dtype}; expected {_DENSE}")
        if self.extra:
            try:
                extras.check(self.config, self.extra)
            except TinylaneError as error:
                raise TinylaneError(f"{self.folder}: {error}") from error
        used = {*self.extra, *expected}
        for name, shape in expected.items():
            tensor, path = self.tensors.get(name), name.removesuffix(".weight")
            if len(shape) == 2 and f"{path}.scales" in self.tensors:
                self._add_packing(path, shape)
                used.update(self._parts(path))
            elif tensor is None:
                missing.append(f"{name} {shape}")
            elif tensor.dtype == "U32" and len(shape) == 2:
                missing.append(f"{path}.scales of a packed weight")
            elif tensor.shape != shape:
                wrong.append(f"{name} is {tensor.shape}; expected {shape}")
            elif tensor.dtype not in DENSE:
                wrong.append(f"{name} is {tensor.dtype}; expected {_DENSE}")
        if wrong:
            raise TinylaneError(f"{self.folder}: {_few(wrong)} (config.json)")
        if missing:
            raise TinylaneError(f"{self.folder}: missing {_few(missing)}; config.json calls for it")
        if rest := self.tensors.keys() - used:
            shown = [f"{name} {one.shape}" for name, one in self.tensors.items() if name in rest]
            raise TinylaneError(
                f"{self.folder}: {_few(shown)} in the files, but a {self.config.family} with this "
                "config.json has no such tensor"
            )

    def _add_packing(self, path: str, shape: tuple[int, ...]) -> None:
        """Check a quantized layer."""
        from tinylane.checkpoints.quantized import packing

        parts = {
            name.removeprefix(f"{path}."): (self.tensors[name].dtype, self.tensors[name].shape)
            for name in self._parts(path)
        }
        how = packing(self.config.quantization, path, shape, parts)
        self.packings[path], self.native = how, self.native or how.native

    @property
    def float_dtype(self) -> str:
        """The dtype that most floating-point values have: float32, float16, bfloat16."""
        count = dict.fromkeys(DENSE, 0)
        for tensor in self.tensors.values():
            if tensor.dtype in count:
                count[tensor.dtype] += math.prod(tensor.shape)
        most = max(DENSE, key=lambda dtype: count[dtype])
        return {"F16": "float16", "BF16": "bfloat16"}.get(most, "float32")

    def final_bytes(self, itemsize: int, native: bool) -> int:
        """Bytes of the weights once loaded. native: layers that MLX can use packed stay packed."""
        total = 0
        for name, shape in {**self.config.tensors(), **self.extra}.items():
            how = self.packings.get(path := name.removesuffix(".weight"))
            if how is None or not (native and how.native):
                total += math.prod(shape) * itemsize
                continue
            for part in self._parts(path):
                wide = 4 if part == name else 1 if how.mode == "mxfp4" else itemsize
                total += wide * math.prod(self.tensors[part].shape)
        return total

    def chunks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows as float32, or float64 if the file has that), dequantized if packed."""
        tensor, path = self.tensors[name], name.removesuffix(".weight")
        how = self.packings.get(path)
        if how is None:
            for start, raw in _pieces(tensor):
                yield start, widen(raw, tensor.dtype)
            return
        from tinylane.checkpoints.quantized import dequantize

        rows, columns = tensor.shape[0], tensor.shape[1] * 32 // how.bits
        step = max(ROWS, CHUNK // (4 * columns))
        for start in range(0, rows, step):
            parts = []
            for part in map(self.tensors.__getitem__, self._parts(path)):
                raw = part.read(start, min(start + step, rows))
                parts.append(widen(raw, part.dtype) if part.dtype in FLOATS else raw)
            biases = parts[2] if len(parts) > 2 else None
            yield start, dequantize(parts[0], parts[1], biases, how)


def _pieces(tensor: Tensor) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows as the file has them)."""
    step = max(ROWS, CHUNK // max(1, 4 * math.prod(tensor.shape[1:])))
    for start in range(0, tensor.shape[0], step):
        yield start, tensor.read(start, min(start + step, tensor.shape[0]))


def read_extra(files: WeightFiles, damaged: list[str]) -> dict[str, np.ndarray]:
    """The file's parameters for lanes (`extras`), in its layout; damaged: as of `read_numpy`."""
    values: dict[str, np.ndarray] = {}
    for name in files.extra:
        tensor = files.tensors[name]
        values[name] = widen(tensor.read(), tensor.dtype)
        if not _finite(values[name]):
            damaged.append(name)
    return values


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
        for first in shapes:
            if not first.endswith(f"{kinds[0]}.weight"):
                continue
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
        raw, kind = files.tensors[name].read(), files.tensors[name].dtype
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
            params[name] = mx.array(files.tensors[name].read())
            for part in (f"{path}.scales", f"{path}.biases"):
                if how.mode == "mxfp4" and part in files.tensors:
                    params[part] = mx.array(files.tensors[part].read())
                elif part in files.tensors:
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
