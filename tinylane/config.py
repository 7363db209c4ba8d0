"""`config.json` of a Hugging Face checkpoint, as the few numbers the decoder needs.

Families: llama, mistral, qwen2, qwen3. Absent keys mean what they mean in transformers'
configuration classes, except that the five sizes which decide every shape must be there and that
`num_key_value_heads` is the number of heads. What changes the mathematics and is not implemented is
refused by name, never ignored.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinylane.configcheck import (
    ARCHITECTURES,
    Reader,
    dtype_of,
    family_of,
    quantization_of,
    refuse_other_mathematics,
    refuse_sliding_window,
    token_ids,
)
from tinylane.errors import TinylaneError
from tinylane.files import read_json, show


@dataclass(frozen=True)
class RopeConfig:
    """Which angular frequencies the checkpoint was trained with (see `tinylane.rope`)."""

    kind: str = "default"  # default, linear, llama3, yarn
    base: float = 10000.0
    factor: float = 1.0
    original_context: int = 0  # llama3, yarn: the context before it was stretched
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn: None means 0.1 ln(factor) + 1
    mscale: float | None = None  # yarn, DeepSeek's spelling of the attention factor
    mscale_all_dim: float | None = None
    truncate: bool = True  # yarn: round the correction range to whole planes


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's sizes. Names of the field; `source` says which file they came from."""

    family: str = "llama"  # llama, qwen2, qwen3, mistral
    vocab: int = 256
    width: int = 64  # hidden_size
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    mlp_width: int = 128  # intermediate_size
    context: int = 2048  # max_position_embeddings
    norm_eps: float = 1e-6
    rope: RopeConfig = field(default_factory=RopeConfig)
    tied: bool = False  # the output head is the embedding
    qkv_bias: bool = False
    out_bias: bool = False  # o_proj
    mlp_bias: bool = False
    qk_norm: bool = False  # Qwen3: RMSNorm over each query's and key's head_dim
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    dtype: str = "float32"  # what the checkpoint says of itself
    quantization: dict | None = None  # MLX-quantized: group_size, bits, mode, overrides by path
    source: str = "config.json"

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str]) -> ModelConfig:
        """Read a checkpoint folder's `config.json`. Raises TinylaneError: file, key and value."""
        file = Path(path) / "config.json"
        if not os.path.exists(file):
            raise TinylaneError(
                f"{Path(path)}: no config.json; expected a Hugging Face checkpoint folder"
            )
        return cls.from_dict(read_json(file), source=str(file))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], source: str = "config.json") -> ModelConfig:
        """Check and convert the object in `config.json`. Raises TinylaneError: key and value."""
        read = Reader(raw, source)
        family = family_of(read)
        refuse_other_mathematics(read, family)
        vocab = read.size("vocab_size", 1 << 24)
        width = read.size("hidden_size", 1 << 17)
        layers = read.size("num_hidden_layers", 1024)
        heads = read.size("num_attention_heads", 2048)
        kv_heads = read.size("num_key_value_heads", 2048, default=heads)
        context = read.size("max_position_embeddings", 1 << 31, default=_CONTEXT[family])
        head_dim = read.get("head_dim")
        if head_dim is not None or family == "qwen3":
            head_dim = read.size("head_dim", 1024, default=128)
        elif width % heads:
            read.fail("hidden_size", f"a multiple of num_attention_heads ({heads}) or a head_dim")
        else:
            head_dim = width // heads
        if heads % kv_heads:
            read.fail("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
        if head_dim % 2 or head_dim > 1024:
            raise TinylaneError(
                f"{source}: head_dim {head_dim}, expected an even number up to 1024: "
                "rotation pairs channels"
            )
        refuse_sliding_window(read, family, layers, context)
        attention_bias = read.flag("attention_bias", False)
        eos = read.get("eos_token_id", 2 if family in ("llama", "mistral") and vocab > 2 else None)
        bos = read.get("bos_token_id", 1 if family in ("llama", "mistral") and vocab > 1 else None)
        bos_ids = token_ids(bos, vocab, source, "bos_token_id")
        return cls(
            family=family,
            vocab=vocab,
            width=width,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            mlp_width=read.size("intermediate_size", 1 << 20),
            context=context,
            norm_eps=read.real("rms_norm_eps", 1e-6, above=0.0, below=1.0),
            rope=_rope(read, context),
            tied=read.flag("tie_word_embeddings", False),
            qkv_bias=family == "qwen2" or attention_bias,
            out_bias=family in ("llama", "qwen3") and attention_bias,
            mlp_bias=read.flag("mlp_bias", False),
            qk_norm=family == "qwen3",
            eos_ids=token_ids(eos, vocab, source, "eos_token_id"),
            bos_id=bos_ids[0] if bos_ids else None,
            dtype=dtype_of(read),
            quantization=quantization_of(read),
            source=source,
        )

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` object of this model, in the spelling that transformers 5 writes.

        The rotation stands there in the older spelling too: loaders that do not know
        `rope_parameters` (mlx-lm) would take their own defaults, and be wrong without a word.
        `from_dict(config.to_dict())` equals `config` up to `source`.
        """
        rope: dict[str, Any] = {"rope_type": self.rope.kind, "rope_theta": self.rope.base}
        if self.rope.kind != "default":
            rope["factor"] = self.rope.factor
        if self.rope.kind in ("llama3", "yarn"):
            rope["original_max_position_embeddings"] = self.rope.original_context
        names = {"llama3": ("low_freq_factor", "high_freq_factor"), "yarn": _YARN}
        for name in names.get(self.rope.kind, ()):
            if getattr(self.rope, name) is not None:
                rope[name] = getattr(self.rope, name)
        raw: dict[str, Any] = {
            "architectures": [ARCHITECTURES[self.family]],
            "model_type": self.family,
            "vocab_size": self.vocab,
            "hidden_size": self.width,
            "intermediate_size": self.mlp_width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tied,
            "bos_token_id": self.bos_id,
            "eos_token_id": list(self.eos_ids) or None,
            "dtype": self.dtype,
        }
        raw["rope_theta"] = self.rope.base
        if self.rope.kind != "default":
            raw["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
        if self.family in ("llama", "qwen3"):
            raw["attention_bias"] = self.qkv_bias
        if self.family == "llama":
            raw["mlp_bias"] = self.mlp_bias
        if self.family == "mistral":
            raw["sliding_window"] = None
        if self.quantization is not None:
            raw["quantization"] = self.quantization
        return raw

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a dense file, in file layout (out, in); no `lm_head` when tied."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.width)}
        for i in range(self.layers):
            at = f"model.layers.{i}."
            found[at + "input_layernorm.weight"] = (self.width,)
            for name, out, into, bias in (
                ("self_attn.q_proj", q, self.width, self.qkv_bias),
                ("self_attn.k_proj", kv, self.width, self.qkv_bias),
                ("self_attn.v_proj", kv, self.width, self.qkv_bias),
                ("self_attn.o_proj", self.width, q, self.out_bias),
                ("mlp.gate_proj", self.mlp_width, self.width, self.mlp_bias),
                ("mlp.up_proj", self.mlp_width, self.width, self.mlp_bias),
                ("mlp.down_proj", self.width, self.mlp_width, self.mlp_bias),
            ):
                found[at + name + ".weight"] = (out, into)
                if bias:
                    found[at + name + ".bias"] = (out,)
            if self.qk_norm:
                found[at + "self_attn.q_norm.weight"] = (self.head_dim,)
                found[at + "self_attn.k_norm.weight"] = (self.head_dim,)
            found[at + "post_attention_layernorm.weight"] = (self.width,)
        found["model.norm.weight"] = (self.width,)
        if not self.tied:
            found["lm_head.weight"] = (self.vocab, self.width)
        return found


_CONTEXT = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}
_YARN = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate")


def _rope_settings(read: Reader) -> dict[str, Any]:
    """All three spellings as one flat dict; values that contradict each other are refused."""
    merged: dict[str, Any] = {}

    def put(key: str, value: Any, where: str) -> None:
        if value is None:
            return
        if key in merged and merged[key] != value:
            raise TinylaneError(
                f"{read.source}: {where} {key} {show(value)} contradicts {show(merged[key])}"
            )
        merged[key] = value

    put("rope_theta", read.get("rope_theta"), "config")
    put(
        "original_max_position_embeddings",
        read.get("original_max_position_embeddings"),
        "config",
    )
    for where in ("rope_scaling", "rope_parameters"):
        given = read.get(where)
        if isinstance(given, dict) and isinstance(given.get("full_attention"), dict):
            given = given["full_attention"]  # by layer type; only full attention gets this far
        if given is None or given == {}:
            continue
        if not isinstance(given, dict):
            read.fail(where, "null or an object")
        for key, value in given.items():
            put("rope_type" if key == "type" else key, value, where)
    return merged


def _rope(read: Reader, context: int) -> RopeConfig:
    inner = Reader(_rope_settings(read), f"{read.source}: RoPE")
    kind = inner.raw.pop("rope_type", "default")
    if kind not in ("default", "linear", "llama3", "yarn"):
        raise TinylaneError(
            f"{read.source}: RoPE scaling {show(kind)} is not implemented; "
            "expected default, linear, llama3 or yarn"
        )
    # what a kind does not use may stand there only at the value at which it does nothing
    neutral = {"partial_rotary_factor": 1, "attn_factor": 1, "extrapolation_factor": 1}
    used = {"rope_theta", "original_max_position_embeddings", "finetuned"}
    used |= {"factor"} if kind != "default" else set()
    used |= {"low_freq_factor", "high_freq_factor"} if kind == "llama3" else set()
    used |= set(_YARN) if kind == "yarn" else set()
    neutral |= {"factor": 1, "attention_factor": 1, "low_freq_factor": 1}
    ignored = {"high_freq_factor", *_YARN} - {"attention_factor"}
    for key, value in inner.raw.items():
        if key in used or (key in neutral and value == neutral[key]) or key in ignored:
            continue
        raise TinylaneError(
            f"{read.source}: RoPE setting {show(key)} = {show(value)} is not implemented "
            f"for kind {kind!r}"
        )
    base = inner.real("rope_theta", 10000.0, above=1.0, below=1e15)
    if kind == "default":
        return RopeConfig(base=base)
    original = inner.size("original_max_position_embeddings", 1 << 31, default=context)
    if kind == "yarn" and inner.get("factor") is None:
        if inner.get("original_max_position_embeddings") is None or context < original:
            raise TinylaneError(f"{inner.source}: factor is missing")
        factor = context / original  # as transformers does
    else:
        factor = inner.real("factor", None, above=math.nextafter(1.0, 0.0), below=1e6)
    if kind == "linear":
        return RopeConfig(kind=kind, base=base, factor=factor)
    if kind == "llama3":
        low = inner.real("low_freq_factor", None, above=0.0, below=1e6)
        high = inner.real("high_freq_factor", None, above=0.0, below=1e6)
        if not low < high:
            inner.fail("high_freq_factor", f"more than low_freq_factor ({low:g})")
        return RopeConfig(kind, base, factor, original, low, high)

    def positive(key: str) -> float | None:  # transformers reads 0 as "not given" for all of these
        return inner.real(key, None, above=0.0, below=1e6) if inner.get(key) else None

    fast, slow = positive("beta_fast") or 32.0, positive("beta_slow") or 1.0
    if fast < slow:
        inner.fail("beta_fast", f"at least beta_slow ({slow:g})")
    attention = inner.get("attention_factor")
    return RopeConfig(
        kind=kind,
        base=base,
        factor=factor,
        original_context=original,
        beta_fast=fast,
        beta_slow=slow,
        attention_factor=None
        if attention is None
        else inner.real("attention_factor", None, above=0.0, below=1e3),
        mscale=positive("mscale"),
        mscale_all_dim=positive("mscale_all_dim"),
        truncate=inner.flag("truncate", True),
    )
