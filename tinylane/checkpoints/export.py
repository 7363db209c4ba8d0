"""Write a Hugging Face checkpoint folder, or one with an adapter merged into it.

`write_checkpoint` writes config.json, weights in shards and the small files beside them.
config.json is written last: a folder that was not finished is not taken for a checkpoint. Not
handled: packing (quantization) and formats other than safetensors.

`fuse` adds an adapter's low-rank updates to their matrices (a tied head that has one becomes a head
of its own) and makes its attention biases the checkpoint's. Omega has no place in a checkpoint: it
stays in the new folder's `adapter/`, which tinylane reads and plain loaders (one lane, plain RoPE)
ignore. Where a family has no such bias, its config says so: `attention_bias` of Llama and Qwen3
brings a bias to o_proj as well, which is written as zeros. Mistral has no such key, and becomes
the Llama that computes the same. mlx-lm (0.32) reads no biases of a Qwen3; transformers does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinylane.checkpoints.adapter import OMEGA, Adapter, lengths, save_adapter, updated
from tinylane.checkpoints.config_json import ARCHITECTURES, YARN, parse_config
from tinylane.checkpoints.extras import is_extra, summary
from tinylane.checkpoints.hub import MORE_TEMPLATES, SMALL_FILES
from tinylane.checkpoints.load import planned
from tinylane.checkpoints.peft_adapter import check_copies
from tinylane.checkpoints.weights import WeightFiles, read_extra
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import inside, read_bytes, read_json
from tinylane.files.safetensors import write_tensors
from tinylane.files.writing import make_folder, replacing, write_json, write_text

DTYPES = ("float32", "float16", "bfloat16")
SHARD = 4 << 30  # bytes
UNFINISHED = ".unfinished"  # marks a folder until its merge is complete
LARGEST_BESIDE = 64 << 20
BESIDE = (*SMALL_FILES, "vocab.json", "merges.txt", "tokenizer.model")


def write_checkpoint(
    out: Path,
    raw: Mapping[str, Any],
    tensor: Callable[[str], np.ndarray],
    dtype: str,
    beside: Path,
    shard: int = SHARD,
) -> None:
    """Write config.json `raw`, the tensors that it calls for, and copies of the small files.

    tensor: name -> float32 array in file layout (out, in); called once for each, shard by shard.
    dtype: of the file. beside: the folder whose tokenizer and settings are copied. Raises
    TinylaneError when something cannot be written.
    """
    if dtype not in DTYPES:
        raise TinylaneError(f"dtype {show(dtype)}; expected {', '.join(DTYPES)}")
    raw = {**raw, "dtype" if "dtype" in raw else "torch_dtype": dtype}
    config = parse_config(dict(raw), str(out / "config.json"))
    make_folder(out)
    for small in ("config.json", "model.safetensors.index.json", *BESIDE):
        inside(out, small)  # no link is written through to a file outside
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
        write_tensors(inside(out, file), tensors, {"format": "pt"})
        placed |= dict.fromkeys(names, file)
    if len(parts) > 1:
        total = sum(math.prod(shape) * width for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        write_json(out / "model.safetensors.index.json", index)
    copy_beside(beside, out)
    write_json(out / "config.json", dict(raw))


def copy_beside(source: Path, out: Path) -> None:
    """Copy the tokenizer, chat template and generation settings that `source` has."""
    if os.path.realpath(source) == os.path.realpath(out):
        return
    more = inside(source, MORE_TEMPLATES)
    templates = [n for n in os.listdir(more) if n.endswith(".jinja")] if more.is_dir() else []
    if templates:
        (out / MORE_TEMPLATES).mkdir(exist_ok=True)
    for folder, names in ((Path(), BESIDE), (Path(MORE_TEMPLATES), templates)):
        for name in names:
            if os.path.exists(inside(source / folder, name)):
                data = read_bytes(source / folder / name, LARGEST_BESIDE)
                with replacing(inside(out / folder, name)) as file:
                    file.write(data)


def encoded(name: str, value: np.ndarray, dtype: str) -> Any:
    """A float array as `write_tensors` takes it, rounded to nearest even.

    Raises TinylaneError for values that are not finite, or not in the dtype's range.
    """
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
    out = Path(out)
    with planned(source, "numpy", adapter=adapter, revision=revision) as plan:
        folder, files = plan.folder, plan.files
        tuned = plan.adapter()
        if tuned is None and not dequantize:
            raise TinylaneError(f"{folder}: has no adapter; give --adapter-path")
        tuned = tuned or Adapter(folder)
        mark = inside(out, UNFINISHED)
        if list(out.glob("*.safetensors")) and not mark.exists():
            raise TinylaneError(f"{out}: already holds weights; choose another folder")
        if files.packings and not dequantize:
            raise TinylaneError(f"{folder} is quantized; give --dequantize to write it dense")
        check_copies(tuned.folder, tuned.copies, files)
        raw, notes = _merged_config(read_json(folder / "config.json"), files.config, tuned)
        make_folder(out)
        write_text(mark, "This merge was not finished; the same command begins it again.\n")
        for half in out.glob("model*.safetensors*"):
            half.unlink()
        kept = {**read_extra(files, []), **tuned.tensors}
        kept = {name: value for name, value in kept.items() if is_extra(name)}
        _save_lanes(out, parse_config(dict(raw)), tuned, kept)
        if kept:
            names = ", ".join(summary({name: value.shape for name, value in kept.items()}))
            notes.append(f"other programs have no place for {names}: kept in {out / 'adapter'}")
        write_checkpoint(
            out, raw, partial(_merged, files, tuned), dtype or files.float_dtype, folder
        )
    mark.unlink(missing_ok=True)
    return notes


def _save_lanes(
    out: Path, config: ModelConfig, adapter: Adapter, tensors: dict[str, np.ndarray]
) -> None:
    """Write what a checkpoint of the field has no place for: Omega, `tensors`, and how lanes read
    each other."""
    rope = adapter.lane_rope
    if rope is None and adapter.visibility is None and not tensors:
        return
    settings: dict[str, Any] = {
        key: adapter.settings[key]
        for key in ("visibility", "lag", "lanes", "raw", "lane_prompt", "task")
        if adapter.settings.get(key) is not None
    }
    if rope is not None:
        settings["prompt_lane"] = rope.prompt_lane
        tensors = {**tensors, OMEGA: rope.omega}
    make_folder(out / "adapter")
    save_adapter(out / "adapter", config, tensors, settings)


def _merged(files: WeightFiles, adapter: Adapter, name: str) -> np.ndarray:
    """One merged tensor, float32 in file layout."""
    updates = adapter.tensors
    if name in updates:  # an adapter's bias replaces the checkpoint's
        return updates[name]
    source = "model.embed_tokens.weight" if name == "lm_head.weight" else name
    source = name if name in files.tensors else source  # a tied head, which the merge makes its own
    if source not in files.tensors:  # only the new config asks for it: a bias
        outputs = files.config.tensors()[name.removesuffix(".bias") + ".weight"][0]
        return np.zeros(outputs, dtype=np.float32)
    path, parts = name.removesuffix(".weight"), []
    for start, rows in files.chunks(source):
        if path + ".lora_a" in updates:
            rows = updated(adapter, path, start, rows)
        if path + ".m" in updates:
            some = updates[path + ".m"][start : start + len(rows)]
            rows = rows * (some / lengths(adapter, path, rows))[:, None]
        parts.append(rows.astype(np.float32))
    return np.concatenate(parts)


def _merged_config(
    raw: dict[str, Any], config: ModelConfig, adapter: Adapter
) -> tuple[dict[str, Any], list[str]]:
    """config.json of the merged checkpoint, and notes for people."""
    notes: list[str] = []
    raw = dict(raw)
    for key in ("quantization", "quantization_config"):
        raw.pop(key, None)
    raw["tie_word_embeddings"] = config.tied and "lm_head.lora_a" not in adapter.tensors
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
    """A Mistral's config.json as a Llama's, with every default written out."""
    plain = config_to_dict(replace(config, family="llama", quantization=None))
    rope = plain.pop("rope_parameters")
    if "rope_parameters" not in raw:
        plain["rope_theta"] = rope["rope_theta"]
    del plain["dtype"]
    for key, value in raw.items():  # what the file says wins
        if value is not None and key not in ("model_type", "architectures", "layer_types"):
            plain[key] = value
    plain.pop("sliding_window", None)  # at least the context, or it would not have been read
    return plain


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` object of this model, in the spelling that transformers 5 writes.

    The rotation is written in the older spelling too. Loaders that do not know `rope_parameters`
    (mlx-lm) would use their defaults, and compute something else without a warning.
    `parse_config(config_to_dict(config))` equals `config` up to `source`.
    """
    rope: dict[str, Any] = {"rope_type": config.rope.kind, "rope_theta": config.rope.base}
    if config.rope.kind != "default":
        rope["factor"] = config.rope.factor
    context, original = config.context, config.rope.original_context
    if config.rope.kind == "linear":
        original = int(context / config.rope.factor)
        if int(original * config.rope.factor) == context:
            context, original = original, 0  # as such files say it
    if original:
        rope["original_max_position_embeddings"] = original
    names = {"llama3": ("low_freq_factor", "high_freq_factor"), "yarn": YARN}
    for name in names.get(config.rope.kind, ()):
        if getattr(config.rope, name) is not None:
            rope[name] = getattr(config.rope, name)
    raw: dict[str, Any] = {
        "architectures": [ARCHITECTURES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.eos_ids) or None,
        "dtype": config.dtype,
    }
    raw["rope_theta"] = config.rope.base
    if config.rope.kind != "default":
        raw["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    if config.family in ("llama", "qwen3"):
        raw["attention_bias"] = config.qkv_bias
    if config.family == "llama":
        raw["mlp_bias"] = config.mlp_bias
    if config.family == "mistral":
        raw["sliding_window"] = None
    if config.quantization is not None:
        raw["quantization"] = config.quantization
    return raw
