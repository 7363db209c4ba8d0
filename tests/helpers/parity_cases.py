"""Random checkpoints that are the same bytes on every machine, and what they are meant to cover.

A case is a Hugging Face folder (`config.json`, `*.safetensors`) written from integers of a
counter-based generator, so the repository holds only the logits that were recorded from it
(`record_parity.py`) and not the checkpoint. `parity_files.py` writes the files byte by byte with
NumPy alone: another version of a library may lay out the same tensors differently.

Covered: four families x every RoPE kind x every spelling of it in `config.json`; head layouts,
head tying and file layouts in turn; then the odd corners by name; then MLX-quantized layouts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

LENGTH = 128  # tokens of every case
ROWS = np.arange(3, LENGTH, 4)  # the rows whose logits are recorded; the last one is among them
BOUND = 1e-4  # of max |difference| over the standard deviation of the logits
DROP = "(absent)"  # as a config value: leave the key out

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
}
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 96,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# What real files of the family carry besides, and what must not disturb.
ALSO: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1},
    "qwen2": {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1},
    "qwen3": {"attention_bias": False, "use_sliding_window": False, "max_window_layers": 2},
    "mistral": {"sliding_window": None, "attention_dropout": 0.0},
}


@dataclass(frozen=True)
class Case:
    """One checkpoint. `controls` are wrong readings of its config that must miss the bound."""

    name: str
    family: str = "llama"
    rope: dict[str, Any] = field(default_factory=lambda: {"rope_type": "default"})
    spellings: tuple[str, ...] = ("rope_parameters",)  # the first one is recorded
    config: dict[str, Any] = field(default_factory=dict)  # fields over SIZES and ALSO
    dtype: str = "F32"  # of the file: F32, F16, BF16
    shards: int = 1
    # untied, tied (not in the file), copied (tied, and in the file), only (tied, and the file has
    # no embedding), disputed (the config says tied, the file has another head)
    head: str = "untied"
    far: bool = False  # positions up to 30,000 with gaps, instead of 0..127
    controls: dict[str, dict[str, Any]] = field(default_factory=dict)
    quant: dict[str, Any] | None = None  # the config's `quantization`, for MLX's packed layouts
    dense: tuple[str, ...] = ()  # with quant: paths that have no scales and are not listed
    unsaid: dict[str, Any] = field(default_factory=dict)  # path: how it is packed


# ---------------------------------------------------------------------------------------- RoPE

KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "yarn-attention-factor": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 32,
        "attention_factor": 0.85,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
    },
    "yarn-mscale": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 0.707,
    },
    "yarn-mscale-alone": {  # without its partner mscale is not used
        "rope_type": "yarn",
        "factor": 16.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.5,
    },
    "yarn-no-truncate": {
        "rope_type": "yarn",
        "factor": 32.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 3.0,
        "truncate": False,
    },
}
WRONG: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"another base": {"rope_theta": 20000.0}},
    "linear": {"factor ignored": {"rope_type": "default", "factor": DROP}},
    "llama3": {
        "no smooth band": {"high_freq_factor": 1.0001},
        "context not read": {"original_max_position_embeddings": 4096},
    },
    "yarn": {"attention factor ignored": {"attention_factor": 1.0}},
    "yarn-attention-factor": {
        "attention factor not read": {"attention_factor": DROP},
        "betas not read": {"beta_fast": DROP, "beta_slow": DROP},
    },
    "yarn-mscale": {"mscale not read": {"mscale": DROP, "mscale_all_dim": DROP}},
    "yarn-mscale-alone": {"mscale taken alone": {"attention_factor": 1.1386294361119891}},
    "yarn-no-truncate": {"truncated": {"truncate": DROP}},
}
SPELLINGS = (
    "rope_parameters",
    "rope_scaling.type",
    "rope_scaling.rope_type",
    "rope_scaling.both",
    "rope_parameters.type",
    "rope_parameters+rope_theta",
)
PLAIN_SPELLINGS = ("rope_theta", "rope_scaling.null", *SPELLINGS)


def rope_of(kind: str, base: float = 10000.0, **over: Any) -> dict[str, Any]:
    """The settings of `kind` with a base, in the names of transformers 5."""
    return {**KINDS[kind], "rope_theta": base, **over}


def spell(rope: dict[str, Any], spelling: str) -> dict[str, Any]:
    """`rope` as fields of config.json, in one of the ways found in the wild."""
    rest = {k: v for k, v in rope.items() if v is not DROP and k not in ("rope_type", "rope_theta")}
    kind, base = {"rope_type": rope["rope_type"]}, {}
    if rope.get("rope_theta", DROP) is not DROP:
        base = {"rope_theta": rope["rope_theta"]}
    old = {"type": rope["rope_type"]}
    return {
        "rope_parameters": {"rope_parameters": {**kind, **base, **rest}},
        "rope_parameters.type": {"rope_parameters": {**old, **base, **rest}},
        "rope_parameters+rope_theta": {**base, "rope_parameters": {**kind, **rest}},
        "rope_scaling.type": {**base, "rope_scaling": {**old, **rest}},
        "rope_scaling.rope_type": {**base, "rope_scaling": {**kind, **rest}},
        "rope_scaling.both": {**base, "rope_scaling": {**old, **kind, **rest}},
        "rope_scaling.null": {**base, "rope_scaling": None},
        "rope_theta": base,
    }[spelling]


# --------------------------------------------------------------------------------------- cases


def grid() -> list[Case]:
    """Every family x every RoPE kind; spellings all, the other choices in turn (4, 5 and 3 of
    them: each family meets each choice, and no two choices always meet)."""
    heads: list[dict[str, Any]] = [
        {"num_key_value_heads": 6},
        {"num_key_value_heads": 2},
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 3, "head_dim": 24},  # not hidden_size / heads, which is 16
    ]
    files = [("F32", 1), ("BF16", 1), ("F16", 1), ("BF16", 3), ("F32", 2)]
    out = []
    for f, family in enumerate(FAMILIES):
        for k, kind in enumerate(KINDS):
            layout = dict(heads[(f + k) % 4])
            if family == "qwen3":
                layout.setdefault("head_dim", 16)
            dtype, shards = files[(2 * f + k) % 5]
            spellings = PLAIN_SPELLINGS if kind == "default" else SPELLINGS
            turn = (f + k) % len(spellings)
            out.append(
                Case(
                    f"{family}-{kind}",
                    family,
                    rope_of(kind, [10000.0, 500000.0, 1000000.0][k % 3] if f % 2 else 10000.0),
                    spellings[turn:] + spellings[:turn],
                    {**layout, "torch_dtype" if k % 2 else "dtype": "bfloat16"},
                    dtype,
                    shards,
                    ("untied", "tied", "copied")[(f + k) % 3],
                    controls=WRONG[kind],
                )
            )
    return out


def corners() -> list[Case]:
    """Head biases, absent keys, far positions, and files as they are found."""
    far = {"max_position_embeddings": 32768}
    return [
        Case("llama-attention-bias", config={"attention_bias": True}, dtype="F16"),
        Case("llama-mlp-bias", config={"mlp_bias": True}, head="tied"),
        Case("llama-all-biases", config={"attention_bias": True, "mlp_bias": True}, shards=2),
        Case("qwen3-attention-bias", "qwen3", config={"attention_bias": True, "head_dim": 24}),
        Case("qwen2-head-dim-of-its-own", "qwen2", config={"head_dim": 24}, dtype="BF16"),
        Case(
            "llama-large-eps",
            config={"rms_norm_eps": 0.05},
            controls={"eps not read": {"rms_norm_eps": 1e-6}},
        ),
        # Keys left out, as old files do: each has the default of its family in transformers.
        Case(
            "llama-absent-keys",
            spellings=("rope_theta",),
            config=dict.fromkeys(
                ("num_key_value_heads", "attention_bias", "mlp_bias", "tie_word_embeddings"), DROP
            ),
            dtype="F16",
        ),
        Case("llama-null-keys", config={"num_key_value_heads": None, "head_dim": None}),
        Case(
            "mistral-absent-keys",
            "mistral",
            spellings=("rope_theta",),
            config={"tie_word_embeddings": DROP, "head_dim": None},
        ),
        Case("qwen2-absent-keys", "qwen2", spellings=("rope_theta",), config={"head_dim": DROP}),
        # Qwen3's head_dim is 128 unless the file says otherwise, whatever width / heads is.
        Case(
            "qwen3-absent-head-dim",
            "qwen3",
            config={"num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 64},
            dtype="BF16",
            head="tied",
        ),
        Case(
            "llama-yarn-context-from-max",  # the original context is max_position_embeddings
            rope={**rope_of("yarn"), "original_max_position_embeddings": DROP},
            spellings=SPELLINGS,
            config={"max_position_embeddings": 64},
            controls={"context not read": {"max_position_embeddings": 4096}},
        ),
        Case(
            "qwen2-yarn-context-beside",  # the original context outside of the RoPE settings
            "qwen2",
            {**rope_of("yarn", 1e6), "original_max_position_embeddings": DROP},
            SPELLINGS,
            {"original_max_position_embeddings": 64},
            controls={"context not read": {"original_max_position_embeddings": DROP}},
        ),
        # transformers 5 believes the file: mlx-lm and older versions use the embedding.
        Case("llama-disputed-head", head="disputed", dtype="BF16"),
        Case("qwen3-head-only", "qwen3", config={"head_dim": 16}, head="only"),
        # As `save_pretrained` of transformers 5 writes it.
        Case(
            "qwen3-transformers-5",
            "qwen3",
            rope_of("default", 1e6),
            config={
                "head_dim": 24,
                "dtype": "float32",
                "layer_types": ["full_attention"] * 2,
                "sliding_window": None,
                "pad_token_id": None,
                "eos_token_id": [2, 3],
                "initializer_range": 0.02,
                "transformers_version": "5.0.0",
                "use_cache": True,
                "attention_dropout": 0.0,
            },
            head="tied",
            controls=WRONG["default"],
        ),
        # Angles of thousands of turns. Recorded with the reference's angles in float64: its own
        # float32 angles are wrong by more than the bound here.
        *(
            Case(
                f"{family}-{kind}-far",
                family,
                rope_of(kind, base, **long),
                config={**far, "head_dim": 24},
                far=True,
                controls={"another base": {"rope_theta": base * 1.001}},
            )
            for family, kind, base, long in (
                ("llama", "default", 1e4, {}),
                ("qwen3", "default", 1e6, {}),
                ("llama", "llama3", 5e5, {"original_max_position_embeddings": 8192}),
                ("qwen2", "yarn", 1e6, {"original_max_position_embeddings": 8192}),
                ("mistral", "linear", 1e4, {}),
            )
        ),
    ]


def quantized() -> list[Case]:
    """MLX's packed layouts; expected logits come from mlx-lm's own model."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "head_dim": 32}

    def case(
        name: str, family: str, bits: int, group: int, dtype: str, head: str = "untied", **more: Any
    ) -> Case:
        quant: dict[str, Any] = {"group_size": group, "bits": bits, "mode": "affine"}
        quant |= more.pop("quant", {})
        quant = {k: v for k, v in quant.items() if v is not DROP}
        shards, dense = more.pop("shards", 1), more.pop("dense", ())
        unsaid = more.pop("unsaid", {})
        own = DROP if family == "qwen2" else sizes["head_dim"]
        return Case(
            f"{name}",
            family,
            rope_of("default", 1e4),
            ("rope_theta",),
            {**sizes, "head_dim": own, **more},
            dtype,
            shards,
            head,
            quant=quant,
            dense=dense,
            unsaid=unsaid,
        )

    layer = "model.layers.1"
    mixed = {
        f"{layer}.self_attn.v_proj": {"group_size": 32, "bits": 8},
        f"{layer}.mlp.down_proj": {"group_size": 128, "bits": 6, "mode": "affine"},
        "model.embed_tokens": {"group_size": 64, "bits": 8},
        f"{layer}.mlp.up_proj": False,
        "lm_head": False,
    }
    unsaid = {
        f"{layer}.mlp.down_proj": {"group_size": 32, "bits": 8},
        "model.embed_tokens": {"group_size": 128, "bits": 6},
    }
    mxfp4 = {"mode": "mxfp4"}
    eight = {"model.embed_tokens": {"group_size": 64, "bits": 8, "mode": "affine"}}
    return [
        case("quantized-2-bits", "llama", 2, 32, "F16"),
        case("quantized-3-bits", "qwen2", 3, 64, "BF16"),
        case("quantized-4-bits-tied", "qwen3", 4, 64, "BF16", "tied"),
        case("quantized-5-bits", "llama", 5, 128, "F32", mlp_bias=True, attention_bias=True),
        case("quantized-6-bits", "mistral", 6, 64, "F16", shards=2),
        case("quantized-8-bits-tied", "qwen2", 8, 128, "BF16", "tied"),
        case("quantized-2-bits-tied", "qwen3", 2, 128, "F32", "tied"),
        case("quantized-3-bits-narrow", "mistral", 3, 32, "BF16"),
        case("quantized-by-path", "qwen3", 4, 64, "BF16", quant=mixed),
        case("quantized-partly", "llama", 4, 32, "F16", "tied", dense=("model.embed_tokens",)),
        case("quantized-no-mode", "qwen2", 4, 64, "BF16", quant={"mode": DROP}),
        # Some converters mix bits without a word in the config: the shapes say it.
        case("quantized-unsaid", "llama", 4, 64, "BF16", unsaid=unsaid),
        # No kernel of MLX has this group size: expected logits come from transformers, dequantized.
        case("quantized-group-of-16", "qwen3", 4, 16, "BF16", "tied"),
        case("quantized-mxfp4", "llama", 4, 32, "BF16", quant=mxfp4),
        case("quantized-mxfp4-mixed", "qwen3", 4, 32, "BF16", "tied", quant={**mxfp4, **eight}),
        case("quantized-mxfp4-tied", "qwen2", 4, 32, "F32", "tied", quant=mxfp4),
    ]


DENSE = [*grid(), *corners()]
QUANTIZED = quantized()
CASES = {case.name: case for case in [*DENSE, *QUANTIZED]}
