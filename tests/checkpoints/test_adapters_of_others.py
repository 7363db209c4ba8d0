"""Adapters of mlx-lm and PEFT: what those programs compute with them (recorded), tinylane does too;
what is not LoRA or DoRA is refused by name."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity_cases import BOUND
from record_adapters import CASES, DATA, Other, folders, ours, theirs
from record_parity import distance
from safetensors.numpy import load_file, save_file

import tinylane
from tinylane.checkpoints.adapter import load_adapter
from tinylane.checkpoints.config_json import read_config
from tinylane.checkpoints.export import fuse
from tinylane.core.errors import TinylaneError

EXPECTED = load_file(DATA)
EACH = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
BACKENDS = ["numpy"] + ["mlx"] * (importlib.util.find_spec("mlx") is not None)


@pytest.mark.parametrize("backend", BACKENDS)
@EACH
def test_logits_are_those_that_the_adapter_s_own_program_computed(
    case: Other, backend: str, tmp_path: Path
) -> None:
    base, tuned = folders(case, tmp_path)
    assert distance(ours(case, base, tuned, backend), EXPECTED[case.name]) < BOUND
    assert distance(ours(case, base, None, backend), EXPECTED[case.name]) > 1  # the control


@EACH
def test_a_merge_computes_the_same_without_the_adapter(case: Other, tmp_path: Path) -> None:
    base, tuned = folders(case, tmp_path)
    fuse(base, tmp_path / "merged", tuned, dtype="float32", dequantize=case.quant is not None)
    assert distance(ours(case, tmp_path / "merged", None), EXPECTED[case.name]) < BOUND
    tied = json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"]
    assert not tied  # a head that has an update of its own is no embedding any more


@EACH
def test_today_s_versions_compute_what_is_recorded(case: Other, tmp_path: Path) -> None:
    """Live, where those programs are installed."""
    pytest.importorskip("mlx_lm" if case.program == "mlx-lm" else "peft")
    base, tuned = folders(case, tmp_path)
    assert distance(theirs(case, base, tuned), EXPECTED[case.name]) < BOUND


@pytest.mark.parametrize(
    "name, settings",
    [
        ("mlx-lora", {"lora_parameters": {"scale": 1.4}}),
        ("peft-lora", {"lora_alpha": 9}),
        ("peft-rslora", {"use_rslora": False}),
        ("peft-patterns", {"alpha_pattern": {}}),
    ],
)
def test_a_scale_that_is_read_wrongly_is_seen(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    base, tuned = folders(CASES[name], tmp_path)
    change(tuned, settings)
    assert distance(ours(CASES[name], base, tuned), EXPECTED[name]) > 100 * BOUND


def change(
    folder: Path, settings: dict[str, Any], tensors: dict[str, np.ndarray] | None = None
) -> Path:
    """Settings (None leaves one out) and tensors of an adapter, beside what it has."""
    path = folder / "adapter_config.json"
    record = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))
    if tensors:
        file = next(folder.glob("*.safetensors"))
        save_file({**load_file(file), **tensors}, file)
    return folder


@pytest.mark.parametrize(
    "parameters, words",
    [
        ({"rank": 4, "alpha": 16, "dropout": 0.0}, "lora_parameters.scale is missing"),
        ({"rank": 4, "alpha": 16, "dropout": 0.0}, "alpha is another program's"),
        ({"rank": 4, "dropout": 0.0}, "lora_parameters.scale is missing"),
        (None, "lora_parameters.scale is missing"),
        ([1], "lora_parameters is [1]"),
        ({"scale": "20"}, "lora_parameters.scale is '20'"),
    ],
)
def test_mlx_lm_s_scale_must_be_there_as_in_mlx_lm(
    parameters: Any, words: str, tmp_path: Path
) -> None:
    """mlx-lm 0.32 refuses these too; a scale of 1 would all but undo the training."""
    base, tuned = folders(CASES["mlx-lora"], tmp_path)
    assert words in refusal(base, change(tuned, {"lora_parameters": parameters}))


def refusal(base: Path, tuned: Path) -> str:
    with pytest.raises(TinylaneError) as caught:
        tinylane.load(base, "numpy", adapter=tuned)
    assert "\n" not in str(caught.value) and str(tuned) in str(caught.value)
    return str(caught.value)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "settings, tensors, words",
    [
        ({"peft_type": "LOHA"}, {}, "peft_type is 'LOHA'"),
        ({"peft_type": 3}, {}, "peft_type is 3"),
        ({"init_lora_weights": "pissa_niter_4"}, {}, "init_lora_weights is 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, {}, "init_lora_weights is 'olora'"),
        ({"layer_replication": [[0, 2], [1, 2]]}, {}, "layer_replication is [[0, 2], [1, 2]]"),
        ({"trainable_token_indices": [7]}, {}, "trainable_token_indices is [7]"),
        ({"target_parameters": ["mlp.gate_proj.weight"]}, {}, "target_parameters"),
        ({"alora_invocation_tokens": [3]}, {}, "alora_invocation_tokens"),
        ({"use_qalora": True}, {}, "use_qalora is True"),
        ({"lora_bias": True}, {}, "lora_bias is True"),
        ({"megatron_config": {"a": 1}}, {}, "megatron_config"),
        ({"a_setting_of_tomorrow": 1}, {}, "a_setting_of_tomorrow is 1"),
        ({"r": 3}, {}, "rank of model.layers.0.self_attn.q_proj is 3; the file's 4"),
        ({"rank_pattern": {"q_proj": 2}}, {}, "rank of model.layers.0.self_attn.q_proj is 2"),
        ({"lora_alpha": "16"}, {}, "lora_alpha is '16'"),
        ({"alpha_pattern": {"q_proj": "x"}}, {}, "alpha of model.layers.0.self_attn.q_proj is 'x'"),
        ({"alpha_pattern": {"(a+)+$": 2}}, {}, "alpha_pattern '(a+)+$' is not implemented"),
        ({"alpha_pattern": {".*.*.*.*.*": 2}}, {}, "is not implemented"),
        ({"alpha_pattern": {"(q_proj": 2}}, {}, "alpha_pattern '(q_proj'"),
        ({"alpha_pattern": [1]}, {}, "alpha_pattern is [1]"),
        ({"use_rslora": 1}, {}, "use_rslora is 1"),
        ({"use_dora": True}, {}, "model.layers.0.self_attn.q_proj has no magnitude"),
        (
            {},
            {Q + ".lora_magnitude_vector": np.ones(96, np.float32)},
            "the settings do not say DoRA",
        ),
        (
            {"modules_to_save": ["lm_head"]},
            {"base_model.model.lm_head.weight": np.ones((97, 96), np.float32)},
            "'base_model.model.lm_head.weight' is a whole layer that was trained",
        ),
        (
            {},
            {"base_model.model.lm_head.base_layer.weight": np.ones((97, 96), np.float32)},
            "'base_model.model.lm_head.base_layer.weight' is a whole layer that was trained",
        ),
        (
            {},
            {"base_model.model.lm_head.base_layer.weight": np.ones((99, 96), np.float32)},
            "is (99, 96), not (97, 96): a vocabulary that was changed",
        ),
        (
            {"target_modules": ["embed_tokens"]},
            {"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((4, 97), np.float32)},
            "'model.embed_tokens.lora_embedding_A' is not plain LoRA",
        ),
        (
            {},
            {Q + ".lora_B.bias": np.ones(96, np.float32)},
            "lora_B.bias' is not plain LoRA",
        ),
        (
            {},
            {"base_model.model.model.layers.0.mlp.up_proj.base_layer.bias": np.ones(9, np.float32)},
            "'model.layers.0.mlp.up_proj.bias' is not a tensor this model can take",
        ),
        (
            {},
            {"base_model.model.score.lora_A.weight": np.ones((4, 96), np.float32)},
            "'score.lora_a' is not a tensor this model can take",
        ),
    ],
)
def test_what_peft_has_beside_lora_is_refused_by_name(
    settings: dict[str, Any], tensors: dict[str, np.ndarray], words: str, tmp_path: Path
) -> None:
    base, tuned = folders(CASES["peft-rslora"], tmp_path)
    assert words in refusal(base, change(tuned, settings, tensors))


@pytest.mark.parametrize("name", ["peft-head", "peft-head-tied"])
def test_copies_of_the_checkpoint_s_head_and_embedding_are_left_out(
    name: str, tmp_path: Path
) -> None:
    """PEFT writes them beside an adapter of the head, and for `modules_to_save`."""
    case = CASES[name]
    base, tuned = folders(case, tmp_path)
    held = load_file(base / "model.safetensors")
    table = held["model.embed_tokens.weight"]
    head = held.get("lm_head.weight", table)
    copies = {
        "base_model.model.lm_head.base_layer.weight": head,
        "base_model.model.model.embed_tokens.weight": table,
    }
    change(tuned, {"modules_to_save": ["embed_tokens"]}, copies)
    for backend in BACKENDS:
        assert distance(ours(case, base, tuned, backend), EXPECTED[name]) < BOUND
    fuse(base, tmp_path / "merged", tuned, dtype="float32")
    assert distance(ours(case, tmp_path / "merged", None), EXPECTED[name]) < BOUND
    trained = {"base_model.model.model.embed_tokens.weight": table + np.float32(0.1)}
    assert "embed_tokens.weight' is a whole layer that was trained" in refusal(
        base, change(tuned, {}, trained)
    )
    with pytest.raises(TinylaneError, match="a whole layer that was trained"):
        fuse(base, tmp_path / "again", tuned, dtype="float32")


def test_mlx_lm_s_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    base, tuned = folders(CASES["mlx-lora"], tmp_path)
    assert "fine_tune_type is 'full'" in refusal(base, change(tuned, {"fine_tune_type": "full"}))
    assert "has no magnitude m" in refusal(base, change(tuned, {"fine_tune_type": "dora"}))
    change(tuned, {"fine_tune_type": "lora"})
    table = {"model.embed_tokens.lora_a": np.ones((97, 4), np.float32)}
    assert "updates of embeddings are not implemented" in refusal(base, change(tuned, {}, table))


def test_peft_s_missing_and_pickled_tensors_are_named(tmp_path: Path) -> None:
    base, tuned = folders(CASES["peft-rslora"], tmp_path)
    (tuned / "adapter_model.safetensors").rename(tuned / "adapter_model.bin")
    assert "adapter_model.bin is not read: save it as safetensors" in refusal(base, tuned)
    (tuned / "adapter_model.bin").unlink()
    assert "no adapter_model.safetensors" in refusal(base, tuned)


def test_dora_of_what_cannot_be_scaled_is_refused(tmp_path: Path) -> None:
    """A row of zeros has no direction; mlx-lm gives NaN for it."""
    base, tuned = folders(CASES["mlx-dora"], tmp_path)
    file = base / "model.safetensors"
    held = load_file(file)
    held["model.layers.0.self_attn.q_proj.weight"][0] = 0
    save_file(held, file)
    name = "model.layers.0.self_attn.q_proj.lora_b"
    change(tuned, {}, {name: np.zeros((4, 96), np.float32)})
    with pytest.raises(TinylaneError, match="q_proj has a row of zeros, which DoRA cannot scale"):
        tinylane.load(base, "numpy", adapter=tuned)


def test_dora_keeps_packed_layers_packed_where_their_scales_are_numbers(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core")
    base, tuned = folders(CASES["mlx-dora-packed"], tmp_path)
    params = tinylane.load(base, "mlx", ops="fast", adapter=tuned).params
    assert "model.layers.0.self_attn.q_proj.scales" in params
    record = json.loads((base / "config.json").read_text())
    four = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    (base / "config.json").write_text(
        json.dumps({**record, "quantization": four} | {"quantization_config": four})
    )
    held = {k: v for k, v in load_file(base / "model.safetensors").items() if ".biases" not in k}
    for name in [name for name in held if name.endswith(".scales")]:
        held[name] = np.full(held[name].shape, 120, np.uint8)
    save_file(held, base / "model.safetensors")
    with pytest.raises(TinylaneError, match="DoRA of an mxfp4 layer"):
        tinylane.load(base, "mlx", ops="fast", adapter=tuned)
    assert np.isfinite(ours(CASES["mlx-dora-packed"], base, tuned)).all()


def test_training_goes_on_from_lora_of_others_and_not_from_dora(tmp_path: Path) -> None:
    """What is kept is written in our format and computes the same."""
    pytest.importorskip("mlx.core")
    from tinylane.checkpoints.adapter import save_adapter
    from tinylane.train.parameters import Choice, adapter_settings, trainable

    case = CASES["peft-head"]
    base, tuned = folders(case, tmp_path)
    config, adapter = read_config(base), load_adapter(tuned, read_config(base))
    model = tinylane.load(base, "mlx", adapter=tuned)
    start = trainable(model, Choice(biases=False), np.zeros(config.head_dim // 2), adapter)
    settings = adapter_settings(start, adapter)
    assert "lm_head" in settings["lora_parameters"]["keys"]
    save_adapter(tmp_path / "ours", config, start.adapter_tensors(start.groups), settings)
    assert distance(ours(case, base, tmp_path / "ours"), EXPECTED[case.name]) < BOUND
    case = CASES["mlx-dora"]
    base, tuned = folders(case, tmp_path)
    model, adapter = tinylane.load(base, "mlx", adapter=tuned), load_adapter(tuned, config)
    with pytest.raises(TinylaneError, match="on top of a DoRA adapter; merge it first"):
        trainable(model, Choice(), np.zeros(config.head_dim // 2), adapter)
