"""The checks behind `tinylane.config`: typed access, families, and what is refused by name."""

from __future__ import annotations

from typing import Any, NoReturn

from tinylane.errors import TinylaneError
from tinylane.files import show

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# Keys of other mathematics, by the value at which they do nothing (absent and null always do).
_NEUTRAL: tuple[tuple[Any, str], ...] = (
    (0, "num_experts num_local_experts n_routed_experts n_shared_experts num_experts_per_tok"),
    (0, "moe_intermediate_size kv_lora_rank q_lora_rank no_rope_layer_interval"),
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


class Reader:
    """Typed access to the raw object; null counts as absent; every failure names key and value."""

    def __init__(self, raw: dict[str, Any], source: str) -> None:
        if not isinstance(raw, dict):
            raise TinylaneError(f"{source}: expected an object, found {show(raw, 40)}")
        self.raw, self.source = raw, source

    def fail(self, key: str, expected: str) -> NoReturn:
        raise TinylaneError(f"{self.source}: {key} {show(self.raw.get(key))}, expected {expected}")

    def get(self, key: str, default: Any = None) -> Any:
        """A key that is absent has its default; one that is null has none."""
        return self.raw.get(key, default)

    def size(self, key: str, limit: int, default: int | None = None) -> int:
        value = self.raw.get(key)
        if value is None:
            if default is None:
                raise TinylaneError(f"{self.source}: {key} is missing")
            return default
        if type(value) is not int or not 1 <= value <= limit:
            self.fail(key, f"a whole number from 1 to {limit}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw.get(key)
        if value is not None and not isinstance(value, bool):
            self.fail(key, "true or false")
        return default if value is None else value

    def real(self, key: str, default: float | None, *, above: float, below: float) -> float:
        value = self.raw.get(key)
        if value is None:
            if default is None:
                raise TinylaneError(f"{self.source}: {key} is missing")
            return default
        if type(value) not in (int, float) or not above < value < below:  # NaN compares false
            self.fail(key, f"a number above {above:g} and below {below:g}")
        return float(value)


def token_ids(value: Any, vocab: int, source: str, key: str) -> tuple[int, ...]:
    """`eos_token_id` and its like: null, an id or a list of ids, as a sorted tuple.

    Raises TinylaneError for what is not an id of the vocabulary: generation would not stop.
    """
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for one in ids:
        if type(one) is not int or not 0 <= one < vocab:
            raise TinylaneError(
                f"{source}: {key} {show(value)}, expected ids from 0 to {vocab - 1} (vocab_size)"
            )
    return tuple(sorted(set(ids)))


def family_of(read: Reader) -> str:
    kind = read.get("model_type")
    architectures = read.get("architectures") or []
    if not isinstance(architectures, list):
        read.fail("architectures", "a list of names")
    by_class = {name: family for family, name in ARCHITECTURES.items()}
    known = f"tinylane reads {', '.join(ARCHITECTURES)}"
    for name in architectures:
        if not isinstance(name, str) or name not in by_class:
            raise TinylaneError(
                f"{read.source}: architecture {show(name)} is not implemented; {known}"
            )
    families = {by_class[name] for name in architectures}
    if kind is None and len(families) == 1:
        return families.pop()
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise TinylaneError(f"{read.source}: model_type {show(kind)} is not implemented; {known}")
    if families - {kind}:
        read.fail("architectures", f"{ARCHITECTURES[kind]}, since model_type is {kind!r}")
    return kind


def refuse_other_mathematics(read: Reader, family: str) -> None:
    def neutral(value: Any, harmless: Any) -> bool:
        # 0 == False in Python: compare numbers and flags separately
        return value is None or (
            value == harmless and isinstance(value, bool) == isinstance(harmless, bool)
        )

    for harmless, keys in _NEUTRAL:
        for key in keys.split():
            if not neutral(read.get(key), harmless):
                raise TinylaneError(
                    f"{read.source}: {key} {show(read.get(key))} is not implemented: "
                    "it changes the mathematics"
                )
    if read.get("hidden_act", "silu") not in ("silu", "swish"):
        raise TinylaneError(
            f"{read.source}: hidden_act {show(read.get('hidden_act'))} is not implemented; "
            "expected 'silu'"
        )
    unused = {"llama": (), "mistral": ("attention_bias", "mlp_bias", "qkv_bias")}
    for key in unused.get(family, ("mlp_bias",)):
        if not neutral(read.get(key), False):
            raise TinylaneError(
                f"{read.source}: {key} {show(read.get(key))} is not implemented for {family}"
            )


def refuse_sliding_window(read: Reader, family: str, layers: int, context: int) -> None:
    """A window that is at least the context, or that no layer uses, is no window."""
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
                raise TinylaneError(f"{read.source}: layer type {show(name)} is not implemented")
            if name == "sliding_attention" and window is None:
                read.fail("layer_types", "only 'full_attention', since no sliding window is on")
        if "sliding_attention" not in types:
            window = None
    elif family in ("qwen2", "qwen3") and window is not None:
        first = read.get("max_window_layers", 28)
        if type(first) is not int or first < 0:
            read.fail("max_window_layers", "a whole number")
        window = None if first >= layers else window
    if window is not None and window < context:
        raise TinylaneError(
            f"{read.source}: sliding_window {window} is active (max_position_embeddings {context}) "
            "and not implemented; set it to null only if the model was trained without it"
        )


def dtype_of(read: Reader) -> str:
    named = [read.get(key) for key in ("dtype", "torch_dtype") if read.get(key) is not None]
    for name in named:
        plain = name.removeprefix("torch.") if isinstance(name, str) else name
        if plain not in ("float32", "float16", "bfloat16", "float64"):
            key = "dtype" if name is read.get("dtype") else "torch_dtype"
            read.fail(key, "float32, float16, bfloat16 or float64")
    return named[0].removeprefix("torch.") if named else "float32"


def quantization_of(read: Reader) -> dict | None:
    """MLX's own record; other methods (GPTQ, AWQ, bitsandbytes, fp8) are refused by name."""
    theirs, ours = read.get("quantization_config"), read.get("quantization")
    for key, value in (("quantization_config", theirs), ("quantization", ours)):
        if value is not None and not isinstance(value, dict):
            read.fail(key, "an object")
        if value and "quant_method" in value:
            raise TinylaneError(
                f"{read.source}: quantization method {show(value['quant_method'])} is not "
                "implemented; tinylane reads MLX-quantized and unquantized checkpoints"
            )
    if ours and theirs and ours != theirs:
        read.fail("quantization_config", "the same as quantization")
    return ours or theirs or None
