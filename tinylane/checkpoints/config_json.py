"""`config.json` of a Hugging Face checkpoint, as the few numbers the decoder needs.

Families: llama, mistral, qwen2, qwen3. An absent key has the default of transformers' configuration
classes, with two exceptions: the five sizes that decide every shape are required, and
`num_key_value_heads` is the number of heads. A setting that changes the mathematics and is not
implemented is refused by name, never ignored.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, NoReturn

from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, show
from tinylane.core.rope import RopeConfig
from tinylane.files.io import LARGEST, Fields, inside, read_json


def read_raw(folder: Path) -> dict[str, Any]:
    """The object in a checkpoint folder's `config.json`. Raises TinylaneError."""
    file = inside(folder, "config.json")
    if not os.path.exists(file):
        raise TinylaneError(f"{folder}: no config.json; expected a Hugging Face checkpoint folder")
    return read_json(file)


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """Read a checkpoint folder's `config.json`. Raises TinylaneError: file, key and value."""
    return parse_config(read_raw(Path(folder)), str(Path(folder) / "config.json"))


def parse_config(raw: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """Check and convert the object in `config.json`. Raises TinylaneError: key and value."""
    read = Fields(raw, source)
    family = family_of(read)
    refuse_other_mathematics(read, family)
    vocab = read.whole("vocab_size", 1, 1 << 24)
    width = read.whole("hidden_size", 1, 1 << 17)
    layers = read.whole("num_hidden_layers", 1, 1024)
    heads = read.whole("num_attention_heads", 1, 2048)
    kv_heads = read.whole("num_key_value_heads", 1, 2048, default=heads)
    context = read.whole("max_position_embeddings", 1, 1 << 31, default=_CONTEXT[family])
    rope, context = _rope(read, context)
    head_dim = read.get("head_dim")
    if head_dim is not None or family == "qwen3":
        head_dim = read.whole("head_dim", 1, 1024, default=128)
    elif width % heads:
        read.fail("hidden_size", f"a multiple of num_attention_heads ({heads}) or a head_dim")
    else:
        head_dim = width // heads
    if heads % kv_heads:
        read.fail("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    if head_dim % 2 or head_dim > 1024:
        raise TinylaneError(
            f"{source}: head_dim {head_dim}; expected an even number up to 1024: RoPE rotates "
            "pairs of channels"
        )
    refuse_sliding_window(read, family, layers, context)
    attention_bias = read.flag("attention_bias", False)
    eos = read.get("eos_token_id", 2 if family in ("llama", "mistral") and vocab > 2 else None)
    bos = read.get("bos_token_id", 1 if family in ("llama", "mistral") and vocab > 1 else None)
    first = bos[0] if isinstance(bos, list) and bos else bos  # prompts take the tokenizer's
    return ModelConfig(
        family=family,
        vocab=vocab,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_width=read.whole("intermediate_size", 1, 1 << 20),
        context=context,
        norm_eps=read.real("rms_norm_eps", 1e-6, above=0.0, below=1.0),
        rope=rope,
        tied=read.flag("tie_word_embeddings", False),
        qkv_bias=family == "qwen2" or attention_bias,
        out_bias=family in ("llama", "qwen3") and attention_bias,
        mlp_bias=read.flag("mlp_bias", False),
        qk_norm=family == "qwen3",
        eos_ids=token_ids(eos, vocab, source, "eos_token_id"),
        bos_id=first if type(first) is int and 0 <= first < vocab else None,
        dtype=dtype_of(read),
        quantization=quantization_of(read),
        source=source,
    )


ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# Keys of other mathematics, by the value at which they do nothing (absent and null always do).
_NEUTRAL: tuple[tuple[Any, str], ...] = (
    (0, "num_experts num_local_experts n_routed_experts n_shared_experts"),
    (0, "kv_lora_rank q_lora_rank no_rope_layer_interval"),
    (0, "attn_logit_softcapping final_logit_softcapping attention_logit_softcapping"),
    (0, "logit_softcapping logits_soft_cap softcap clip_qkv"),
    (1, "partial_rotary_factor rotary_pct logits_scaling logit_scale mup_width_multiplier"),
    (1, "embedding_multiplier residual_multiplier embedding_scale scale_emb"),
    (None, "query_pre_attn_scalar attention_multiplier attention_scale scale_depth dim_model_base"),
    (None, "text_config vision_config"),
    (False, "alibi use_alibi is_encoder_decoder add_cross_attention use_bidirectional_attention"),
    (False, "parallel_residual use_parallel_residual use_qk_norm qk_norm qk_layernorm"),
    (False, "rope_interleaved rope_interleave rope_traditional attn_temperature_tuning"),
    (False, "attn_output_gate attention_sink_bias use_mrope"),
    ([], "no_rope_layers"),
    (True, "is_causal"),
)


def token_ids(value: Any, vocab: int, source: str, key: str) -> tuple[int, ...]:
    """`eos_token_id`: null, an id or a list of ids, as a sorted tuple of those that can be drawn.

    Warns of others: they end nothing. Raises TinylaneError for what is no whole number.
    """
    ids = [] if value is None else value if isinstance(value, list) else [value]
    drawn = set()
    for one in ids:
        if type(one) is not int:
            raise TinylaneError(f"{source}: {key} is {show(value)}; expected ids (whole numbers)")
        if 0 <= one < vocab:
            drawn.add(one)
    if len(drawn) < len(set(ids)):
        what = f"is {show(value)}, which names ids outside of 0 .. {vocab - 1}: they end nothing"
        warnings.warn(f"{source}: {key} {what}", stacklevel=2)
    return tuple(sorted(drawn))


def sampling_defaults(
    generation: dict[str, Any], source: str = "generation_config.json"
) -> dict[str, Any]:
    """generation_config.json's sampling, as `Sampler.from_config` takes it. Raises TinylaneError.

    As in transformers, decoding is greedy (temperature 0) without `do_sample: true`, whatever
    temperature the file gives. Only the file's settings are returned: transformers' default of
    top_k 50 is not applied.
    """
    read = Fields(generation, source)
    sample = read.flag("do_sample", False)
    top_k = read.real("top_k", None, least=-1, most=LARGEST)
    if top_k is not None and top_k != int(top_k):
        read.fail("top_k", "a whole number")
    given = {
        "do_sample": sample,
        "temperature": read.real("temperature", 1.0, least=0, most=1e6) if sample else 0.0,
        "top_p": read.real("top_p", None, least=0, most=1),
        "top_k": None if top_k is None else max(int(top_k), 0),  # -1 is vLLM's spelling of off
        "min_p": read.real("min_p", None, least=0, most=1),
        "repetition_penalty": read.real("repetition_penalty", None, above=0, most=1e6),
    }
    if given["top_p"] == 0:  # transformers then keeps the likeliest token
        given["top_p"] = 1e-9
    for name in ("top_p", "top_k", "min_p", "repetition_penalty"):
        if given[name] is None:
            del given[name]
    return given


def _unknown(read: Fields, what: str, more: str = "") -> NoReturn:
    raise TinylaneError(f"{read.source}: {what} is not implemented{more}")


def family_of(read: Fields) -> str:
    """The family by model_type and architectures, which must agree."""
    kind = read.get("model_type")
    architectures = read.get("architectures") or []
    if not isinstance(architectures, list):
        read.fail("architectures", "a list of names")
    by_class = dict(zip(ARCHITECTURES.values(), ARCHITECTURES, strict=True))
    known = f"tinylane reads {', '.join(ARCHITECTURES)}"
    families: set[str] = set()
    for name in architectures:
        if not isinstance(name, str) or name not in by_class:
            _unknown(read, f"architecture {show(name)}", f"; {known}")
        families.add(by_class[name])
    if kind is None and len(families) == 1:
        return families.pop()
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        _unknown(read, f"model_type {show(kind)}", f"; {known}")
    if families - {kind}:
        read.fail("architectures", f"{ARCHITECTURES[kind]}, since model_type is {kind!r}")
    return kind


def refuse_other_mathematics(read: Fields, family: str) -> None:
    """Raise TinylaneError for a setting that the decoder would have to follow and does not."""
    if read.get("hidden_act", "silu") not in ("silu", "swish"):
        _unknown(read, f"hidden_act {show(read.get('hidden_act'))}", "; expected 'silu'")
    unused = {"llama": "", "mistral": "attention_bias mlp_bias qkv_bias"}.get(family, "mlp_bias")
    for harmless, keys in (*_NEUTRAL, (False, unused)):
        for key in keys.split():
            value = read.get(key)
            # 0 == False in Python: compare numbers and flags separately
            flags = isinstance(value, bool) == isinstance(harmless, bool)
            if value is not None and not (flags and value == harmless):
                why = f" for {family}" if keys is unused else ": it changes the mathematics"
                _unknown(read, f"{key} {show(value)}", why)


def refuse_sliding_window(read: Fields, family: str, layers: int, context: int) -> None:
    """Refuse a sliding window that is shorter than the context and that some layer uses."""
    window = read.get("sliding_window", 4096 if family in ("mistral", "qwen2", "qwen3") else None)
    types = read.get("layer_types")
    if family in ("qwen2", "qwen3") and not read.flag("use_sliding_window", False):
        window = None
    if window is not None and (type(window) is not int or window < 1):
        read.fail("sliding_window", "null or a positive whole number")
    if types is not None:
        if not isinstance(types, list) or len(types) != layers:
            read.fail("layer_types", f"a list of {layers} names (num_hidden_layers)")
        for name in types:
            if name not in ("full_attention", "sliding_attention"):
                _unknown(read, f"layer type {show(name)}")
            if name == "sliding_attention" and window is None:
                read.fail("layer_types", "only 'full_attention', since no sliding window is on")
        if "sliding_attention" not in types:
            window = None
    elif family in ("qwen2", "qwen3") and window is not None:
        window = None if read.whole("max_window_layers", default=28) >= layers else window
    if window is not None and window < context:
        raise TinylaneError(
            f"{read.source}: sliding_window {window} is active (max_position_embeddings {context}) "
            "and not implemented; set it to null only if the model was trained without it"
        )


def dtype_of(read: Fields) -> str:
    """The dtype that the file names in either spelling; float32 if it names none ("auto")."""
    for key in ("dtype", "torch_dtype"):
        name = read.get(key)
        if name is not None and not isinstance(name, str):
            read.fail(key, "a text")
        name = (name or "").removeprefix("torch.")
        if name in ("float32", "float16", "bfloat16", "float64"):
            return name
    return "float32"  # the tensors say what they are


def quantization_of(read: Fields) -> dict | None:
    """MLX's settings. Other methods (GPTQ, AWQ, bitsandbytes, fp8) are refused by name, but beside
    MLX's own they say how the weights were packed before MLX packed them."""
    keys = ("quantization", "quantization_config")
    settings = [read.fields(key).raw for key in keys if read.get(key) not in (None, {})]
    if not settings:
        return None
    usual = [record for record in settings if "quant_method" not in record]
    if not usual:
        what = f"quantization method {show(settings[0]['quant_method'])}"
        _unknown(read, what, "; tinylane reads MLX-quantized and unquantized checkpoints")
    if usual[1:] and usual[1] != usual[0]:
        read.fail("quantization_config", "the same as quantization")
    return usual[0]


_CONTEXT = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}
YARN = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate")


def _rope_settings(read: Fields) -> dict[str, Any]:
    """All three spellings as one flat dict; refuses values that contradict each other."""
    said: list[tuple[str, str, Any]] = []  # where, which key, what
    for key in ("rope_theta", "original_max_position_embeddings"):
        said.append(("config", key, read.get(key)))
    for where in ("rope_scaling", "rope_parameters"):
        given = read.get(where)
        if isinstance(given, dict) and isinstance(given.get("full_attention"), dict):
            given = given["full_attention"]  # by layer type; only full attention gets this far
        if given is None or given == {}:
            continue
        if not isinstance(given, dict):
            read.fail(where, "null or an object")
        for key, value in given.items():
            said.append((where, "rope_type" if key == "type" else key, value))
    merged: dict[str, Any] = {}
    for where, key, value in said:
        if value is not None and merged.setdefault(key, value) != value:
            raise TinylaneError(
                f"{read.source}: {where} {key} {show(value)} contradicts {show(merged[key])}"
            )
    return merged


def _rope(read: Fields, context: int) -> tuple[RopeConfig, int]:
    """The rotation, and the context that it reaches. context: max_position_embeddings.

    Linear scaling and YaRN reach `factor` times the original context, where many files leave
    max_position_embeddings at the original one (Qwen's recipe for long texts). With llama3 that
    number says all: Llama 3.2 has a factor that would give twice of what it was trained for.
    """
    inner = Fields(_rope_settings(read), f"{read.source}: RoPE")
    kind = inner.raw.pop("rope_type", "default")
    if kind not in ("default", "linear", "llama3", "yarn"):
        _unknown(read, f"RoPE scaling {show(kind)}", "; expected default, linear, llama3 or yarn")
    # a setting that the kind does not use must have the value at which it changes nothing
    neutral = {"partial_rotary_factor": 1, "attn_factor": 1, "extrapolation_factor": 1}
    used = {"rope_theta", "original_max_position_embeddings", "finetuned"}
    used |= {"factor"} if kind != "default" else set()
    used |= {"low_freq_factor", "high_freq_factor"} if kind == "llama3" else set()
    used |= set(YARN) if kind == "yarn" else set()
    neutral |= {"factor": 1, "attention_factor": 1, "low_freq_factor": 1}
    ignored = {"high_freq_factor", *YARN} - {"attention_factor"}
    for key, value in inner.raw.items():
        if key in used or (key in neutral and value == neutral[key]) or key in ignored:
            continue
        _unknown(read, f"RoPE setting {show(key)} = {show(value)}", f" for kind {kind!r}")
    base = inner.real("rope_theta", 10000.0, above=1.0, below=1e15)
    if kind == "default":
        return RopeConfig(base=base), context
    original = inner.whole("original_max_position_embeddings", 1, 1 << 31, default=context)
    if kind == "yarn" and inner.get("factor") is None:
        if inner.get("original_max_position_embeddings") is None or context < original:
            raise TinylaneError(f"{inner.source}: factor is missing")
        factor = context / original  # as transformers does
    else:
        factor = inner.real("factor", least=1.0, below=1e6)
    longest = max(context, min(int(factor * original), 1 << 31))
    if kind == "linear":
        return RopeConfig(kind=kind, base=base, factor=factor), longest
    if kind == "llama3":
        low = inner.real("low_freq_factor", above=0.0, below=1e6)
        high = inner.real("high_freq_factor", above=0.0, below=1e6)
        if not low < high:
            inner.fail("high_freq_factor", f"more than low_freq_factor ({low:g})")
        return RopeConfig(kind, base, factor, original, low, high), context

    def positive(key: str) -> float | None:  # transformers reads 0 as "not given" for all of these
        return inner.real(key, above=0.0, below=1e6) if inner.get(key) else None

    fast, slow = positive("beta_fast") or 32.0, positive("beta_slow") or 1.0
    if fast < slow:
        inner.fail("beta_fast", f"at least beta_slow ({slow:g})")
    rope = RopeConfig(
        kind=kind,
        base=base,
        factor=factor,
        original_context=original,
        beta_fast=fast,
        beta_slow=slow,
        attention_factor=inner.real("attention_factor", None, above=0.0, below=1e3),
        mscale=positive("mscale"),
        mscale_all_dim=positive("mscale_all_dim"),
        truncate=inner.flag("truncate", True),
    )
    return rope, longest
