"""config.json: every spelling in the wild means one thing; everything else is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylane.checkpoints.config_json import parse_config
from tinylane.checkpoints.export import config_to_dict
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError
from tinylane.core.rope import RopeConfig

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def raw(family: str = "llama", **changes: object) -> dict:
    return {"model_type": family, **SIZES, **changes}


def read(family: str = "llama", **changes: object) -> ModelConfig:
    return parse_config(raw(family, **changes))


def refusal(config: dict) -> str:
    with pytest.raises(TinylaneError) as caught:
        parse_config(config)
    line = str(caught.value)
    assert "\n" not in line and line.startswith("config.json: ")
    return line


def test_absent_keys_mean_what_transformers_means_by_family():
    llama, mistral = read("llama"), read("mistral", max_position_embeddings=4096)
    qwen2, qwen3 = read("qwen2"), read("qwen3")
    assert (llama.kv_heads, llama.head_dim, llama.context) == (4, 16, 2048)
    assert (llama.eos_ids, llama.bos_id, llama.norm_eps) == ((2,), 1, 1e-6)
    assert (qwen2.eos_ids, qwen2.bos_id, qwen2.context) == ((), None, 32768)
    assert qwen3.head_dim == 128 and qwen3.qk_norm and not qwen3.qkv_bias
    assert qwen2.qkv_bias and not qwen2.out_bias and qwen2.head_dim == 16
    assert not mistral.qkv_bias and not mistral.qk_norm
    for config in (llama, mistral, qwen2, qwen3):
        assert not config.tied and config.rope == RopeConfig() and config.dtype == "float32"


def test_biases_follow_the_family():
    llama = read("llama", attention_bias=True, mlp_bias=True)
    assert llama.qkv_bias and llama.out_bias and llama.mlp_bias
    qwen3 = read("qwen3", attention_bias=True)
    assert qwen3.qkv_bias and qwen3.out_bias and not qwen3.mlp_bias
    for family, key in (
        ("mistral", "attention_bias"),
        ("qwen2", "mlp_bias"),
        ("qwen3", "mlp_bias"),
    ):
        line = refusal(raw(family, sliding_window=None, **{key: True}))
        assert key in line and family in line


def test_expected_tensors_have_file_shapes_and_biases():
    found = read("qwen2", num_key_value_heads=2, tie_word_embeddings=True).tensors()
    assert found["model.layers.1.self_attn.k_proj.weight"] == (32, 64)
    assert found["model.layers.1.self_attn.k_proj.bias"] == (32,)
    assert "model.layers.0.self_attn.o_proj.bias" not in found
    assert "lm_head.weight" not in found
    assert found["model.layers.0.mlp.down_proj.weight"] == (64, 96)
    found = read("qwen3", head_dim=32).tensors()
    assert found["model.layers.0.self_attn.q_norm.weight"] == (32,)
    assert found["model.layers.0.self_attn.o_proj.weight"] == (64, 128)
    assert found["lm_head.weight"] == (96, 64)


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_scaling": {"type": "llama3", "rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "llama3", **LLAMA3}},
        {"rope_parameters": {"full_attention": {"rope_theta": 5e5, "type": "llama3", **LLAMA3}}},
    ],
)
def test_every_spelling_of_rope_is_the_same_rope(spelling):
    """A base nested in rope_parameters was missed elsewhere and 10000 used without a word."""
    assert read(**spelling).rope == RopeConfig("llama3", 5e5, 8.0, 8192, 1.0, 4.0)


def test_default_and_linear_rope():
    assert read(rope_theta=1e6, rope_scaling=None).rope == RopeConfig(base=1e6)
    assert read(rope_parameters={"rope_theta": 1e6, "rope_type": "default"}).rope.base == 1e6
    assert read(rope_scaling={"type": "linear", "factor": 2}).rope == RopeConfig(
        "linear", factor=2.0
    )


def test_yarn_defaults_and_options():
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert read(rope_scaling=scaling).rope == RopeConfig("yarn", 1e4, 4.0, 32768)
    full = {**scaling, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.5, "truncate": False}
    rope = read(rope_scaling={**full, "mscale": 1.0, "mscale_all_dim": 0.5}).rope
    assert (rope.beta_fast, rope.beta_slow, rope.attention_factor) == (16.0, 2.0, 1.5)
    assert (rope.mscale, rope.mscale_all_dim, rope.truncate) == (1.0, 0.5, False)
    # no factor: the ratio of the two contexts; no original context: the context
    ratio = read(
        rope_scaling={"type": "yarn", "original_max_position_embeddings": 1024},
        max_position_embeddings=4096,
    ).rope
    assert ratio.factor == 4.0 and ratio.original_context == 1024
    alone = read(rope_scaling={"type": "yarn", "factor": 2.0}, max_position_embeddings=512).rope
    assert alone.original_context == 512
    assert "factor is missing" in refusal(raw(rope_scaling={"type": "yarn"}))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0]}}, "longrope"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, "contradicts"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}, "contradicts"),
        ({"rope_scaling": {"type": "default", "mrope_section": [1, 2]}}, "mrope_section"),
        ({"rope_scaling": {"factor": 8.0}}, "factor"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "0.5"),
        ({"rope_scaling": {"type": "linear", "factor": True}}, "True"),
        ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, "low_freq_factor is missing"),
        ({"rope_scaling": {"type": "llama3", **LLAMA3, "high_freq_factor": 1.0}}, "high_freq"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"rope_scaling": {"type": ["yarn"]}}, "yarn"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rope_theta": -1e4}, "rope_theta"),
        ({"rope_theta": float("nan")}, "nan"),
        ({"rope_theta": "10000"}, "'10000'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"num_local_experts": 8}, "num_local_experts 8"),
        ({"num_experts": True}, "num_experts True"),
        ({"clip_qkv": 8.0}, "clip_qkv 8.0"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"query_pre_attn_scalar": 256}, "query_pre_attn_scalar"),
        ({"is_causal": False}, "is_causal"),
        ({"model_type": "mixtral"}, "mixtral"),
        ({"model_type": None}, "None"),
        ({"model_type": ["llama"]}, "llama"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "SequenceClassification"),
        ({"architectures": ["Qwen2ForCausalLM"]}, "LlamaForCausalLM"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization": {"bits": 4}, "quantization_config": {"bits": 8}}, "quantization_config"),
        ({"quantization": 4}, "quantization is 4"),
        ({"sliding_window": 512}, "sliding_window 512"),
        ({"torch_dtype": 16}, "torch_dtype is 16"),
    ],
)
def test_other_mathematics_is_refused_by_name(changes, words):
    assert words in refusal(raw(**changes))


@pytest.mark.parametrize(
    "changes, words",
    [
        *(
            ({key: bad}, key)
            for key in (*SIZES, "num_key_value_heads", "head_dim", "max_position_embeddings")
            for bad in (0, -1, 1.5, 4.0, float("nan"), "4", True, [4], 1 << 40, 10**5000)
        ),
        *(({key: None}, f"{key} is missing") for key in SIZES),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"num_attention_heads": 5}, "hidden_size is 64"),
        ({"head_dim": 15}, "head_dim 15"),
        ({"hidden_size": 60}, "head_dim 15"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
        ({"eos_token_id": "2"}, "eos_token_id is '2'"),
        ({"eos_token_id": [2, 3.0]}, "eos_token_id is [2, 3.0]"),
    ],
)
def test_absurd_or_contradictory_sizes_are_refused_with_their_value(changes, words):
    assert words in refusal(raw(**changes))


@pytest.mark.parametrize(
    "family, changes, active",
    [
        ("qwen2", {"use_sliding_window": False, "sliding_window": 8}, False),
        ("qwen2", {"sliding_window": 8}, False),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}, False),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, True),
        ("qwen3", {"layer_types": ["full_attention"] * 2}, False),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, True),
        ("qwen3", {"layer_types": ["full_attention", "linear_attention"]}, True),
        ("qwen3", {"layer_types": ["full_attention"]}, True),
        ("mistral", {"sliding_window": None}, False),
        ("mistral", {"sliding_window": 4096, "max_position_embeddings": 4096}, False),
        ("mistral", {"sliding_window": 4096, "max_position_embeddings": 32768}, True),
        ("mistral", {}, True),  # transformers' default is a window of 4096
    ],
)
def test_only_an_active_sliding_window_is_refused(family, changes, active):
    if active:
        assert "sliding_window" in (line := refusal(raw(family, **changes))) or "layer" in line
    else:
        assert read(family, **changes).family == family


def test_family_may_come_from_the_architecture():
    config = {**SIZES, "architectures": ["Qwen3ForCausalLM"]}
    assert parse_config(config).family == "qwen3"


def test_eos_ids_are_one_or_many():
    assert read(eos_token_id=7).eos_ids == (7,)
    assert read(eos_token_id=[9, 7, 9]).eos_ids == (7, 9)
    assert read(eos_token_id=None).eos_ids == ()


def test_dtype_in_both_spellings():
    assert read(torch_dtype="bfloat16").dtype == "bfloat16"
    assert read(dtype="torch.float16").dtype == "float16"


def test_mlx_quantization_is_kept_and_may_be_written_twice():
    record = {"group_size": 64, "bits": 4}
    assert read(quantization=record, quantization_config=record).quantization == record
    assert read(quantization_config=record).quantization == record


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_to_dict_reads_back_as_the_same_config(data):
    rope = data.draw(
        st.sampled_from(
            [
                RopeConfig(base=5e5),
                RopeConfig("linear", factor=3.0),
                RopeConfig("llama3", 5e5, 8.0, 128),
                RopeConfig("yarn", 1e6, 4.0, 64, mscale=1.0, mscale_all_dim=0.5, truncate=False),
                RopeConfig("yarn", 1e6, 4.0, 64, attention_factor=1.25, beta_fast=16.0),
            ]
        )
    )
    family = data.draw(st.sampled_from(["llama", "mistral", "qwen2", "qwen3"]))
    bias = data.draw(st.booleans())
    config = ModelConfig(
        family=family,
        rope=rope,
        tied=data.draw(st.booleans()),
        qkv_bias=family == "qwen2" or (family in ("llama", "qwen3") and bias),
        out_bias=family in ("llama", "qwen3") and bias,
        mlp_bias=family == "llama" and data.draw(st.booleans()),
        qk_norm=family == "qwen3",
        eos_ids=tuple(sorted(data.draw(st.sets(st.integers(0, 255), max_size=3)))),
        bos_id=data.draw(st.none() | st.integers(0, 255)),
        dtype=data.draw(st.sampled_from(["float32", "bfloat16"])),
        quantization=data.draw(st.none() | st.just({"bits": 4, "group_size": 32})),
    )
    assert parse_config(config_to_dict(config)) == config


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([4, 64, "yarn", "llama3", "linear", "silu", "full_attention"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
KEYS = [*SIZES, "head_dim", "num_key_value_heads", "rope_theta", "rope_scaling", "sliding_window"]
KEYS += ["rope_parameters", "layer_types", "architectures", "model_type", "eos_token_id", "dtype"]
KEYS += ["quantization", "quantization_config", "use_sliding_window", "max_window_layers"]
ROPE = ["rope_type", "type", "factor", "rope_theta", "original_max_position_embeddings"]
ROPE += ["beta_fast", "mscale", "attention_factor", "low_freq_factor", "high_freq_factor"]


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=3),
    st.dictionaries(st.sampled_from(ROPE), JUNK, max_size=4),
    st.sampled_from(["llama", "mistral", "qwen2", "qwen3"]),
)
def test_any_junk_is_read_or_refused_in_one_line(changes, rope, family):
    config = {"model_type": family, **SIZES, "rope_scaling": rope, **changes}
    try:
        parse_config(config)
    except TinylaneError as error:
        assert "\n" not in str(error)


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
CONTEXTS = {  # rope_scaling, max_position_embeddings -> the longest text
    "no scaling": (None, 512, 512),
    "YaRN as Qwen writes it": (YARN, 512, 2048),
    "YaRN, no original context": ({"type": "yarn", "factor": 4.0}, 512, 2048),
    "YaRN, the longer context written too (DeepSeek)": (
        {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}, 163840, 163840
    ),
    "YaRN, no factor": ({"type": "yarn", "original_max_position_embeddings": 512}, 2048, 2048),
    "YaRN, a factor that is not whole": (
        {"type": "yarn", "factor": 2.5, "original_max_position_embeddings": 511}, 511, 1277
    ),
    "linear (Vicuna 16k)": ({"type": "linear", "factor": 4.0}, 4096, 16384),
    "linear, the longer context written too": (
        {"type": "linear", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384, 16384
    ),
    "linear, odd numbers": (
        {"type": "linear", "factor": 1.5, "original_max_position_embeddings": 7}, 11, 11
    ),
    "Llama 3.1": ({"rope_type": "llama3", **LLAMA3}, 131072, 131072),
    "Llama 3.2": ({"rope_type": "llama3", **LLAMA3, "factor": 32.0}, 131072, 131072),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTEXTS)
def test_the_context_is_what_the_rotation_reaches(case: str) -> None:
    """Factor times the original context, or what the file says if that is more; as written back."""
    scaling, given_, longest = CONTEXTS[case]
    config = read("qwen2", rope_scaling=scaling, max_position_embeddings=given_)
    assert config.context == longest
    again = parse_config(config_to_dict(config))
    assert again == config


def test_an_active_window_shorter_than_the_context_that_yarn_reaches_is_refused() -> None:
    """Within the original context it changed nothing; beyond it it would."""
    window = {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 0}
    plain = {**window, "max_position_embeddings": 512}
    assert read("qwen2", **plain).context == 512
    scaled = {**plain, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    assert "sliding_window 512 is active" in refusal(raw("qwen2", **scaled))


@pytest.mark.parametrize("kind", ["default", "linear", "llama3", "yarn"])
def test_the_rotation_is_written_in_the_older_spelling_too(kind: str) -> None:
    """A loader that does not know `rope_parameters` would take its own default, and say nothing."""
    factor = {} if kind == "default" else {"factor": 4.0}
    original = {"original_context": 512} if kind in ("llama3", "yarn") else {}
    rope = RopeConfig(kind, 123456.0, **factor, **original)
    config = ModelConfig(
        vocab=8, width=8, layers=1, heads=1, kv_heads=1, head_dim=8, mlp_width=8, rope=rope
    )
    raw = config_to_dict(config)
    assert parse_config(raw) == config
    del raw["rope_parameters"]
    assert raw["rope_theta"] == 123456.0 and ("rope_scaling" in raw) == (kind != "default")
    assert parse_config(raw) == config


UNUSED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"bos_token_id": 1000}, {"bos_id": None}),  # prompts take the tokenizer's
    ({"bos_token_id": [3, 5]}, {"bos_id": 3}),
    ({"bos_token_id": "<s>"}, {"bos_id": None}),
    ({"pad_token_id": -1, "decoder_start_token_id": "x"}, {}),
    ({"torch_dtype": "auto"}, {"dtype": "float32"}),  # the tensors say what they are
    ({"dtype": "float8_e4m3fn", "torch_dtype": "torch.bfloat16"}, {"dtype": "bfloat16"}),
    ({"num_experts_per_tok": 8, "moe_intermediate_size": 64}, {}),  # of no experts
    (
        {
            "quantization": {"group_size": 64, "bits": 4},
            "quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"},
        },
        {"quantization": {"group_size": 64, "bits": 4}},  # how it was packed before MLX did
    ),
]


@pytest.mark.parametrize("changes, expected", UNUSED, ids=[" ".join(one) for one, _ in UNUSED])
def test_what_nothing_depends_on_is_not_refused(
    changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    """transformers and mlx-lm read each of these."""
    config = parse_config(raw(**changes))
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize("ids, drawn", [(96, ()), ([2, -1], (2,)), (-1, ()), ([96, 5, 7], (5, 7))])
def test_an_end_token_that_cannot_be_drawn_is_a_warning(ids: Any, drawn: tuple[int, ...]) -> None:
    with pytest.warns(UserWarning, match="eos_token_id is .* they end nothing"):
        assert parse_config(raw(eos_token_id=ids)).eos_ids == drawn
