"""Small checkpoints for tests: random weights, written in every layout that the loader reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinylane.checkpoints.config_json import parse_config
from tinylane.checkpoints.load import load
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED
from tinylane.files.safetensors import write_tensors

SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
}


def small(family: str = "qwen3", **changes: Any) -> dict[str, Any]:
    """A config.json object; null where `changes` says None."""
    more = {"sliding_window": None} if family == "mistral" else {}
    return {"model_type": family, **SMALL, **more, **changes}


def weights(raw: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 tensors in file layout; their low 16 bits are 0, so bfloat16 holds them."""
    rng = np.random.default_rng(seed)
    rounded = {}
    for name, shape in parse_config(raw).tensors().items():
        value = rng.normal(float(name.endswith("norm.weight")), 0.05, shape).astype(np.float32)
        rounded[name] = (value.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded


def encoded(value: np.ndarray, dtype: str) -> Any:
    """A float32 array as `write_tensors` takes it for F64, F32, F16 or BF16."""
    if dtype == "BF16":
        return (value.view(np.uint32) >> 16).astype(np.uint16), "BF16"
    return value.astype({"F64": np.float64, "F32": np.float32, "F16": np.float16}[dtype])


def write_checkpoint(
    folder: Path,
    raw: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
    *,
    dtype: str = "F32",
    shards: int = 1,
    prefix: bool = True,
    name: str = "model",
    generation: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder; `tensors` as `weights` gives, or ready for `write_tensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = small() if raw is None else raw
    tensors = weights(raw) if tensors is None else tensors
    (folder / "config.json").write_text(json.dumps(raw))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    ready = {
        (key if prefix else key.removeprefix("model.")): (
            encoded(value, dtype)
            if isinstance(value, np.ndarray) and value.dtype == np.float32
            else value
        )
        for key, value in tensors.items()
    }
    if shards == 1:
        write_tensors(folder / f"{name}.safetensors", ready, {"format": "pt"})
        return folder
    names, placed = list(ready), {}
    for i in range(shards):
        shard = f"{name}-{i + 1:05}-of-{shards:05}.safetensors"
        part = {key: ready[key] for key in names[i::shards]}
        write_tensors(folder / shard, part, {"format": "pt"})
        placed |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 0}, "weight_map": placed}
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps(index))
    return folder


def quantized(
    tensors: dict[str, np.ndarray], how: dict[str, dict[str, Any]], default: dict[str, Any]
) -> dict[str, Any]:
    """MLX's own packing of every matrix; `how` by path overrides `default`; None is dense."""
    import mlx.core as mx

    packed: dict[str, Any] = {}
    for name, value in tensors.items():
        path = name.removesuffix(".weight")
        settings = how.get(path, default)
        if value.ndim != 2 or settings is None:
            packed[name] = value
            continue
        parts = mx.quantize(mx.array(value).astype(mx.bfloat16), **settings)
        for part, array in zip(("weight", "scales", "biases"), parts, strict=False):
            packed[f"{path}.{part}"] = array
    return packed


def refusal(folder: Path, **arguments: object) -> str:
    """The one line with which `load` refuses a folder."""
    with pytest.raises(TinylaneError) as caught:
        load(folder, **arguments)  # type: ignore[arg-type]
    line = str(caught.value)
    assert "\n" not in line
    return line


def logits(model: Any) -> np.ndarray:
    """What a small model computes for seven tokens of a prompt."""
    n = 7
    return np.asarray(model(np.arange(n) * 5 % 96, np.arange(n), np.full(n, SHARED)))
