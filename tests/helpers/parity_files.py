"""Writes a case of `parity_cases` as a Hugging Face folder: the same bytes on every machine.

Weights are sums of four 16-bit integers of Philox's raw stream (whose bits NumPy promises to keep),
scaled once in float64: near-normal, and free of any library's `log` or `cos`. Scales are large, so
that attention is sharp and a wrong angle shows: with the customary 0.02 nothing would.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from parity_cases import ALSO, DROP, FAMILIES, LENGTH, SIZES, Case, spell

Tensor = tuple[str, tuple[int, ...], bytes]  # safetensors dtype, shape, little-endian bytes


def raw(key: str, n: int) -> np.ndarray:
    """(n,) uint64 of the stream that `key` names."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    return np.random.Philox(key=seed).random_raw(n)


def normal(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """float64, mean 0, standard deviation 1, at most 3.47 from it; exact on every platform."""
    words = raw(key, int(np.prod(shape)))
    four = sum((words >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4))
    return (four.astype(np.float64) - 131070.0).reshape(shape) * (3.0**0.5 / 65536.0)


def tokens(case: Case) -> np.ndarray:
    """(LENGTH,) int64."""
    vocab = np.uint64(config_of(case)["vocab_size"])
    return (raw(f"{case.name}/tokens", LENGTH) % vocab).astype(np.int64)


def positions(case: Case) -> np.ndarray:
    """(LENGTH,) int64, increasing: 0, 1, 2, ... or, for a far case, up to 30,000 with gaps."""
    if not case.far:
        return np.arange(LENGTH)
    gaps = (raw(f"{case.name}/positions", LENGTH) % np.uint64(400)).astype(np.int64) + 1
    steps = np.cumsum(gaps)
    return steps * 30_000 // steps[-1]


# -------------------------------------------------------------------------------------- config


def config_of(
    case: Case, spelling: str | None = None, edits: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The case's config.json; `edits` go to the RoPE settings where such a key belongs there."""
    edits = edits or {}
    inside = {k: v for k, v in edits.items() if k in ROPE_KEYS and k not in case.config}
    rope = {**case.rope, **inside}
    fields: dict[str, Any] = {
        "architectures": [FAMILIES[case.family]],
        "model_type": case.family,
        "tie_word_embeddings": case.head != "untied",
        **SIZES,
        **ALSO[case.family],
        **spell(rope, spelling or case.spellings[0]),
        **case.config,
        **{k: v for k, v in edits.items() if k not in inside},
    }
    if case.quant is not None:
        fields["quantization"] = fields["quantization_config"] = case.quant
    return {k: v for k, v in fields.items() if v is not DROP}


ROPE_KEYS = {
    "rope_type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
}


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Every tensor of the file with its dense (out, in) shape, from the config alone."""
    c = config_of(case)
    width, mlp, heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
    dim = c.get("head_dim") or (128 if case.family == "qwen3" else width // heads)
    q, kv = heads * dim, (c.get("num_key_value_heads") or heads) * dim
    biased = {"q", "k", "v"} if case.family == "qwen2" else set()
    if c.get("attention_bias"):
        biased = {"q", "k", "v", "o"}
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c["vocab_size"], width)}
    attention = {"q": (q, width), "k": (kv, width), "v": (kv, width), "o": (width, q)}
    feed = {"gate": (mlp, width), "up": (mlp, width), "down": (width, mlp)}
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for name, shape in attention.items():
            out[f"{layer}.self_attn.{name}_proj.weight"] = shape
            if name in biased:
                out[f"{layer}.self_attn.{name}_proj.bias"] = shape[:1]
        if case.family == "qwen3":
            out[f"{layer}.self_attn.q_norm.weight"] = (dim,)
            out[f"{layer}.self_attn.k_norm.weight"] = (dim,)
        for name, shape in feed.items():
            out[f"{layer}.mlp.{name}_proj.weight"] = shape
            if c.get("mlp_bias"):
                out[f"{layer}.mlp.{name}_proj.bias"] = shape[:1]
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"{layer}.{name}.weight"] = (width,)
    out["model.norm.weight"] = (width,)
    if case.head != "tied":
        out["lm_head.weight"] = (c["vocab_size"], width)
    if case.head == "only":
        del out["model.embed_tokens.weight"]
    return out


# ------------------------------------------------------------------------------------- tensors


def encoded(values: np.ndarray, dtype: str) -> Tensor:
    """Rounded to nearest even in the file's type."""
    single = values.astype("<f4")
    if dtype == "F32":
        data = single.tobytes()
    elif dtype == "F16":
        data = single.astype("<f2").tobytes()
    else:
        bits = single.view("<u4").astype(np.uint64)
        data = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return dtype, values.shape, data


def decoded(tensor: Tensor) -> np.ndarray:
    """float32 (uint8 and uint32 as they are): what the bytes of `encoded` stand for."""
    dtype, shape, data = tensor
    if dtype == "BF16":
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)
        return wide.view(np.float32).reshape(shape)
    code = {"F32": "<f4", "F16": "<f2", "U8": "u1", "U32": "<u4"}[dtype]
    values = np.frombuffer(data, code).reshape(shape)
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def spread(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of a tensor, such that attention is neither flat nor one-hot."""
    if len(shape) == 1:
        return 0.3
    return 1.0 if "embed" in name else 1.6 / shape[1] ** 0.5


def packed(q: np.ndarray, bits: int) -> Tensor:
    """(out, in) small integers as MLX stores them: one little-endian bit stream along each row."""
    stream = (q[..., None] >> np.arange(bits)) & 1
    words = np.packbits(stream.reshape(len(q), -1).astype(np.uint8), axis=1, bitorder="little")
    return "U32", (len(q), words.shape[1] // 4), words.tobytes()


def quantized_layer(
    key: str, path: str, shape: tuple[int, ...], how: dict[str, Any], dtype: str
) -> dict[str, Tensor]:
    """Random codes, scales and biases; nothing is quantized, so nothing depends on a quantizer."""
    bits, group = how["bits"], how["group_size"]
    groups = (shape[0], shape[1] // group)
    q = (raw(f"{key}/{path}/codes", shape[0] * shape[1]) >> np.uint64(20)) % np.uint64(2**bits)
    out = {f"{path}.weight": packed(q.reshape(shape).astype(np.int64), bits)}
    sigma = spread(f"{path}.weight", shape)
    if how.get("mode", "affine") == "mxfp4":
        power = round(float(np.log2(sigma / 2.9))) + 127
        s = power - 1 + raw(f"{key}/{path}/scales", groups[0] * groups[1]) % np.uint64(3)
        out[f"{path}.scales"] = ("U8", groups, s.astype(np.uint8).tobytes())
        return out
    step = sigma * 12**0.5 / 2**bits
    scales = step * (1.0 + 0.2 * normal(f"{key}/{path}/scales", groups))
    middle = -scales * (2**bits - 1) / 2 * (1.0 + 0.1 * normal(f"{key}/{path}/biases", groups))
    out[f"{path}.scales"] = encoded(scales, dtype)
    out[f"{path}.biases"] = encoded(middle, dtype)
    return out


def packing(case: Case, path: str) -> dict[str, Any] | None:
    """How a layer is packed: as said nowhere, as listed by path, or as all; None: dense."""
    if case.quant is None or path in case.dense or case.quant.get(path) is False:
        return None
    return case.unsaid.get(path) or case.quant.get(path) or case.quant


def tensors(case: Case) -> dict[str, Tensor]:
    """Every tensor of the file, by name."""
    out: dict[str, Tensor] = {}
    for name, shape in shapes(case).items():
        path, _, last = name.rpartition(".")
        how = packing(case, path)
        if how and last == "weight" and len(shape) == 2:
            out |= quantized_layer(case.name, path, shape, how, case.dtype)
            continue
        if name == "lm_head.weight" and case.head == "copied":
            out[name] = out["model.embed_tokens.weight"]
            continue
        values = spread(name, shape) * normal(f"{case.name}/{name}", shape)
        out[name] = encoded(values + ("norm" in name), case.dtype)
    return out


# --------------------------------------------------------------------------------------- files


def safetensors(held: dict[str, Tensor]) -> bytes:
    """The bytes of a `.safetensors` file. The header is not padded: data need not be aligned."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, data) in held.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in held.values())


def write(
    case: Case, folder: Path, spelling: str | None = None, edits: dict[str, Any] | None = None
) -> Path:
    """The whole folder: config.json, and one file or shards with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config_of(case, spelling, edits), indent=2)
    (folder / "config.json").write_bytes(text.encode())
    held = tensors(case)
    if case.shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors(held))
        return folder
    where = {
        name: f"model-{i * case.shards // len(held) + 1:05d}-of-{case.shards:05d}.safetensors"
        for i, name in enumerate(held)
    }
    for file in set(where.values()):
        part = {name: tensor for name, tensor in held.items() if where[name] == file}
        (folder / file).write_bytes(safetensors(part))
    size = sum(len(data) for _, _, data in held.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_bytes(json.dumps(index, indent=2).encode())
    return folder


def digest(folder: Path) -> str:
    """sha256 over the names and bytes of all files: what the recorded logits belong to."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()
