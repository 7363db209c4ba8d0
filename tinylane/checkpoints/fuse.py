"""Merge an adapter into its checkpoint: a folder that every loader of the family reads.

Low-rank updates are added to their matrices, attention biases become the checkpoint's. Omega has no
place in a checkpoint: it stays beside it, in the `adapter/` of the new folder, which tinylane reads
and plain loaders (one lane, plain RoPE) ignore.

Where a family has no such bias, its config says so: Llama's and Qwen3's `attention_bias` brings a
bias to o_proj as well, which is written as zeros; Mistral has no such key, and becomes the Llama
that computes the same. mlx-lm (0.32) reads no biases of a Qwen3; transformers and tinylane do.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinylane.checkpoints.adapter import OMEGA, Adapter, save_adapter
from tinylane.checkpoints.config_json import config_to_dict, parse_config
from tinylane.checkpoints.export import write_checkpoint
from tinylane.checkpoints.hub import resolve
from tinylane.checkpoints.plan import Plan
from tinylane.checkpoints.weights import WeightFiles
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError
from tinylane.files.io import make_folder, read_json, write_text

UNFINISHED = ".unfinished"  # is in a folder until its merge is complete


def fuse(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None = None,
    *,
    dtype: str | None = None,
    dequantize: bool = False,
    revision: str | None = None,
) -> list[str]:
    """Write the checkpoint `source` with `adapter` merged into it to `out`; notes for people.

    adapter: a folder; None takes the checkpoint's own `adapter/`. dtype: of the new files, None
    takes the checkpoint's. dequantize: a packed checkpoint becomes a dense one, with an adapter or
    without. Raises TinylaneError: no adapter, a packed checkpoint without `dequantize`, `out` holds
    weights.
    """
    out, folder = Path(out), resolve(source, revision)
    plan = Plan(folder, "numpy", "auto", adapter)
    found = plan.adapter(plan.config)
    if found is None and not dequantize:
        raise TinylaneError(f"{folder}: has no adapter of its own; give --adapter-path")
    found = found or Adapter(folder)
    mark = out / UNFINISHED
    if list(out.glob("*.safetensors")) and not mark.exists():
        raise TinylaneError(f"{out}: already holds weights; choose another folder")
    with plan.open() as files:
        if files.packings and not dequantize:
            raise TinylaneError(f"{folder} is quantized; give --dequantize to write it dense")
        raw, notes = _config(read_json(folder / "config.json"), files.config, found)
        values = _Merged(files, found)
        make_folder(out)
        write_text(mark, "This merge was not finished; the same command begins it again.\n")
        for left in out.glob("model*.safetensors*"):
            left.unlink()
        _save_lanes(out, parse_config(dict(raw)), found)
        write_checkpoint(out, raw, values, dtype or files.float_dtype, folder)
    mark.unlink(missing_ok=True)
    return notes


def _save_lanes(out: Path, config: ModelConfig, adapter: Adapter) -> None:
    """What a checkpoint has no place for: Omega, and how lanes read each other."""
    rope = adapter.lane_rope
    if rope is None and adapter.visibility is None:
        return
    settings: dict[str, Any] = {
        key: adapter.settings[key]
        for key in ("visibility", "lag", "lanes", "task")
        if adapter.settings.get(key) is not None
    }
    tensors = {}
    if rope is not None:
        settings["prompt_lane"] = rope.prompt_lane
        tensors[OMEGA] = rope.omega
    make_folder(out / "adapter")
    save_adapter(out / "adapter", config, tensors, settings)


class _Merged:
    """name -> the merged tensor, float32 in file layout."""

    def __init__(self, files: WeightFiles, adapter: Adapter) -> None:
        self.files, self.updates = files, adapter.tensors

    def __call__(self, name: str) -> np.ndarray:
        if name in self.updates:  # an adapter's bias takes the place of the checkpoint's
            return self.updates[name]
        if not self.files.has(name):  # asked for by the new config only: a bias
            rows = self.files.config.tensors()[name.removesuffix(".bias") + ".weight"][0]
            return np.zeros(rows, dtype=np.float32)
        value = np.concatenate([np.asarray(c, np.float32) for _, c in self.files.chunks(name)])
        path = name.removesuffix(".weight")
        if path + ".lora_a" in self.updates:
            a, b = (self.updates[f"{path}.lora_{x}"].astype(np.float64) for x in "ab")
            value = (value + (a @ b).T).astype(np.float32)
        return value


def _config(
    raw: dict[str, Any], config: ModelConfig, adapter: Adapter
) -> tuple[dict[str, Any], list[str]]:
    """config.json of the merged checkpoint, and what there is to say about it."""
    notes: list[str] = []
    raw = dict(raw)
    for key in ("quantization", "quantization_config"):
        raw.pop(key, None)
    raw["tie_word_embeddings"] = config.tied
    new = [n for n in adapter.tensors if n.endswith(".bias") and n not in config.tensors()]
    if not new:
        return raw, notes
    if config.family == "mistral":
        raw = _as_llama(raw, config)
        notes.append("a Mistral has no attention biases: written as the Llama that is the same")
    raw["attention_bias"] = True
    if config.family == "qwen3":
        notes.append("Qwen3 with attention biases: transformers reads it, mlx-lm does not")
    return raw, notes


def _as_llama(raw: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """A Mistral's config.json as a Llama's; what either would read as a default is spelled out."""
    plain = config_to_dict(replace(config, family="llama", quantization=None))
    rope = plain.pop("rope_parameters")
    if "rope_parameters" not in raw:
        plain["rope_theta"] = rope["rope_theta"]
    del plain["dtype"]
    for key, value in raw.items():  # its own words, where it has any
        if value is not None and key not in ("model_type", "architectures", "layer_types"):
            plain[key] = value
    plain.pop("sliding_window", None)  # at least the context, or it would not have been read
    return plain
