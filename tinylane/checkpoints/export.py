"""Write a Hugging Face checkpoint folder: config, weights in shards, and the small files beside it.

`config.json` is written last, so a folder that was not finished is not taken for a checkpoint.
Not handled: packing (quantization) and formats other than safetensors.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinylane.checkpoints.config_json import parse_config
from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import inside, make_folder, read_bytes, replacing, write_json
from tinylane.files.safetensors import write_tensors

DTYPES = ("float32", "float16", "bfloat16")
SHARD = 4 << 30  # bytes
LARGEST_BESIDE = 64 << 20
BESIDE = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def write_checkpoint(
    out: Path,
    raw: Mapping[str, Any],
    tensor: Callable[[str], np.ndarray],
    dtype: str,
    beside: Path,
    shard: int = SHARD,
) -> None:
    """Write config.json `raw`, the tensors that it calls for, and copies of the small files.

    tensor: name -> float32 array in file layout (out, in), asked for once each, a shard at a time.
    dtype: of the file. beside: the folder whose tokenizer and settings are copied. Raises
    TinylaneError when something cannot be written.
    """
    if dtype not in DTYPES:
        raise TinylaneError(f"dtype {show(dtype)}; expected {', '.join(DTYPES)}")
    raw = {**raw, "dtype" if "dtype" in raw else "torch_dtype": dtype}
    config = parse_config(dict(raw), str(out / "config.json"))
    make_folder(out)
    shapes, width = config.tensors(), 4 if dtype == "float32" else 2
    parts: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        bytes_ = math.prod(shape) * width
        if parts[-1] and size + bytes_ > shard:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += bytes_
    placed: dict[str, str] = {}
    for k, names in enumerate(parts):
        file = "model.safetensors"
        if len(parts) > 1:
            file = f"model-{k + 1:05}-of-{len(parts):05}.safetensors"
        tensors = {}
        for name in names:
            value = tensor(name)
            if value.shape != shapes[name]:
                raise TinylaneError(f"{name} is {value.shape}; expected {shapes[name]}")
            tensors[name] = encoded(name, value, dtype)
        write_tensors(out / file, tensors, {"format": "pt"})
        placed |= dict.fromkeys(names, file)
    if len(parts) > 1:
        total = sum(math.prod(shape) * width for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        write_json(out / "model.safetensors.index.json", index)
    copy_beside(beside, out)
    write_json(out / "config.json", dict(raw))


def copy_beside(source: Path, out: Path) -> None:
    """Copy tokenizer, chat template and generation settings, where there are any."""
    if os.path.realpath(source) == os.path.realpath(out):
        return
    for name in BESIDE:
        if os.path.exists(inside(source, name)):
            data = read_bytes(source / name, LARGEST_BESIDE)
            with replacing(out / name) as file:
                file.write(data)


def encoded(name: str, value: np.ndarray, dtype: str) -> Any:
    """A float array as `write_tensors` takes it, rounded to nearest even. Raises TinylaneError for
    what is not finite, or not in the dtype's range."""
    value = np.ascontiguousarray(value, dtype=np.float32)
    if not np.isfinite(value).all():
        raise TinylaneError(f"{name} holds NaN or infinite values")
    if dtype == "float32":
        return value
    if dtype == "float16":
        if np.abs(value).max(initial=0) > np.finfo(np.float16).max:
            raise TinylaneError(f"{name} holds values beyond float16; give --dtype bfloat16")
        return value.astype(np.float16)
    bits = value.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16), "BF16"
