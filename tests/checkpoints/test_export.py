"""Merged checkpoints: what `transformers` computes from them (recorded), tinylane computes too."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import helpers_checkpoint as checkpoints
import helpers_cli
import numpy as np
import pytest
from parity_cases import BOUND
from parity_files import tokens
from record_fuse import CASES, DATA, RANK, ROWS, adapter, logits_with_adapter, merged
from record_parity import distance
from safetensors.numpy import load_file

import tinylane
from tinylane.checkpoints.adapter import OMEGA, load_adapter, save_adapter
from tinylane.checkpoints.config_json import read_config
from tinylane.checkpoints.export import encoded, fuse, write_checkpoint
from tinylane.core.errors import TinylaneError
from tinylane.files.safetensors import TensorFile, widen_bfloat16

ask, game = helpers_cli.ask, helpers_cli.game  # fixtures
EXPECTED = load_file(DATA)
FAMILY = pytest.mark.parametrize("family", list(CASES))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, Path]]:
    """(base, adapter, merged) by family."""
    root = tmp_path_factory.mktemp("fuse")
    return {family: merged(case, root) for family, case in CASES.items()}


def logits(model: Any, case: Any) -> np.ndarray:
    ids = tokens(case)[: ROWS[-1] + 1]
    shared = np.full(len(ids), tinylane.SHARED)
    return np.asarray(model(ids, np.arange(len(ids)), shared))[ROWS]


@FAMILY
def test_the_merged_checkpoint_computes_what_transformers_recorded(
    family: str, folders: dict[str, tuple[Path, Path, Path]]
) -> None:
    """transformers read the merged folder alone; tinylane reads it, and base and adapter apart."""
    base, tuned, out = folders[family]
    case = CASES[family]
    plain = tinylane.load(out, "numpy", adapter=False)
    assert distance(logits(plain, case), EXPECTED[family]) < BOUND
    assert distance(logits_with_adapter(case, base, tuned), EXPECTED[family]) < BOUND


@FAMILY
def test_lanes_of_the_merged_checkpoint_are_those_of_base_and_adapter(
    family: str, folders: dict[str, tuple[Path, Path, Path]]
) -> None:
    """Omega, visibility and lanes are in its adapter/, which is found by itself."""
    base, tuned, out = folders[family]
    one, other = tinylane.load(base, "numpy", adapter=tuned), tinylane.load(out, "numpy")
    assert other.visibility == "joint" and other.report is not None
    ids = tokens(CASES[family])[:24]
    positions = np.array([*range(8), *range(8, 16), *range(8, 16)])
    lanes = np.array([-1] * 8 + [0] * 8 + [1] * 8)
    a, b = (np.asarray(m(ids, positions, lanes)) for m in (one, other))
    assert distance(a, b) < BOUND
    plain = np.asarray(tinylane.load(out, "numpy", adapter=False)(ids, positions, lanes))
    assert distance(plain, b) > 100 * BOUND  # Omega and the mask do matter here


@FAMILY
def test_a_merge_that_leaves_something_out_is_caught(
    family: str, folders: dict[str, tuple[Path, Path, Path]], tmp_path: Path
) -> None:
    """The negative control: without biases, updates, their scale, or one projection."""
    base, tuned, _ = folders[family]
    config = read_config(base)
    whole = load_adapter(tuned, config).tensors
    lesser = {
        "biases": {k: v for k, v in whole.items() if not k.endswith(".bias")},
        "updates": {k: v for k, v in whole.items() if ".lora_" not in k},
        "scale": {k: v / 2 if k.endswith("lora_b") else v for k, v in whole.items()},
        "o_proj": {k: v for k, v in whole.items() if "o_proj" not in k},
    }
    for name, tensors in lesser.items():
        save_adapter(tmp_path / name, config, tensors)
        fuse(base, tmp_path / f"{name}-out", tmp_path / name)
        model = tinylane.load(tmp_path / f"{name}-out", "numpy")
        assert distance(logits(model, CASES[family]), EXPECTED[family]) > 20 * BOUND, name


@FAMILY
def test_the_config_says_where_the_biases_are(
    family: str, folders: dict[str, tuple[Path, Path, Path]]
) -> None:
    base, _, out = folders[family]
    before, after = (json.loads((f / "config.json").read_text()) for f in (base, out))
    with TensorFile(out / "model.safetensors") as file:
        biased = [name for name in file.tensors if name.endswith("o_proj.bias")]
        if family == "qwen2":
            assert not biased and before.get("attention_bias") == after.get("attention_bias")
        else:
            assert after["attention_bias"] is True and len(biased) == 2
            assert all((file[name].read() == 0).all() for name in biased)
    expected = "llama" if family == "mistral" else family
    assert after["model_type"] == expected
    assert after["architectures"][0].lower().startswith(expected)
    for key in ("vocab_size", "hidden_size", "rope_theta", "rms_norm_eps", "eos_token_id"):
        assert after[key] == before[key]


def test_a_mistral_becomes_the_llama_with_the_same_defaults(tmp_path: Path) -> None:
    """What Mistral's config leaves to its defaults (context, ...) is spelled out for Llama."""
    raw = checkpoints.small("mistral", max_position_embeddings=None, rms_norm_eps=None)
    raw = {k: v for k, v in raw.items() if v is not None or k == "sliding_window"}
    base = checkpoints.write_checkpoint(tmp_path / "base", raw)
    config = read_config(base)
    bias = {"model.layers.1.self_attn.k_proj.bias": np.full(64, 0.25)}
    save_adapter(tmp_path / "a", config, bias)
    notes = fuse(base, tmp_path / "out", tmp_path / "a")
    assert any("Mistral" in note for note in notes)
    after = read_config(tmp_path / "out")
    assert (after.family, after.context, after.norm_eps) == ("llama", 131072, config.norm_eps)
    model = tinylane.load(tmp_path / "out", "numpy")
    assert (model.params["model.layers.1.self_attn.k_proj.bias"] == 0.25).all()
    assert (model.params["model.layers.0.self_attn.k_proj.bias"] == 0).all()


def test_without_biases_the_config_keeps_its_words(tmp_path: Path) -> None:
    raw = checkpoints.small("mistral", rope_theta=12345.0, my_note="kept")
    base = checkpoints.write_checkpoint(tmp_path / "base", raw)
    save_adapter(tmp_path / "a", read_config(base), {OMEGA: np.ones(16)})
    assert fuse(base, tmp_path / "out", tmp_path / "a") == []
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {k: after[k] for k in raw} == raw
    model = tinylane.load(tmp_path / "out", "numpy")
    assert model.lane_rope is not None and (model.lane_rope.omega == 1).all()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_the_dtype_of_the_checkpoint_is_kept(dtype: str, tmp_path: Path) -> None:
    base = checkpoints.write_checkpoint(tmp_path / "base", dtype=dtype)
    config = read_config(base)
    path = "model.layers.0.self_attn.q_proj"
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(64, RANK)), rng.normal(size=(RANK, 128))
    save_adapter(tmp_path / "a", config, {f"{path}.lora_a": a, f"{path}.lora_b": b})
    fuse(base, tmp_path / "same", tmp_path / "a")
    fuse(base, tmp_path / "wide", tmp_path / "a", dtype="float32")
    with TensorFile(tmp_path / "same" / "model.safetensors") as file:
        assert {file[name].dtype for name in file.tensors} == {dtype}
        raw = file[f"{path}.weight"].read()
    with TensorFile(tmp_path / "wide" / "model.safetensors") as file:
        exact = file[f"{path}.weight"].read()
    narrow = widen_bfloat16(raw) if dtype == "BF16" else raw.astype(np.float32)
    step = 2.0**-8 if dtype == "BF16" else 2.0**-11
    assert (np.abs(narrow - exact) <= step * np.abs(exact) + 1e-7).all()
    assert np.abs(exact).max() > 0.5  # the update is in it


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    mx = pytest.importorskip("mlx.core", exc_type=ImportError)
    rng = np.random.default_rng(0)
    values = rng.normal(size=4000).astype(np.float32)
    halves = (np.arange(4000, dtype=np.uint32) << 16 | 0x8000 | 0x3F800000).view(np.float32)
    values = np.concatenate([values, halves[np.isfinite(halves)]])
    bits, kind = encoded("x", values, "bfloat16")
    expected = np.asarray(mx.array(values).astype(mx.bfloat16).view(mx.uint16))
    assert kind == "BF16" and np.array_equal(bits, expected)


def test_what_a_dtype_cannot_hold_is_refused() -> None:
    with pytest.raises(TinylaneError, match="beyond float16"):
        encoded("x", np.array([1e6]), "float16")
    with pytest.raises(TinylaneError, match="NaN or infinite"):
        encoded("x", np.array([np.nan]), "bfloat16")


def test_shards_are_indexed_and_read_back(tmp_path: Path) -> None:
    raw = checkpoints.small()
    held = checkpoints.weights(raw)
    base = checkpoints.write_checkpoint(tmp_path / "base", raw, held)
    write_checkpoint(tmp_path / "out", raw, held.__getitem__, "float32", base, shard=40_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 3
    one, other = tinylane.load(base, "numpy"), tinylane.load(tmp_path / "out", "numpy")
    assert all(np.array_equal(one.params[k], other.params[k]) for k in one.params)


def test_a_folder_that_was_not_finished_is_no_checkpoint(tmp_path: Path) -> None:
    """config.json comes last."""
    raw = checkpoints.small()
    held = checkpoints.weights(raw)
    base = checkpoints.write_checkpoint(tmp_path / "base", raw, held)

    def broken(name: str) -> np.ndarray:
        if name == "lm_head.weight":
            raise KeyboardInterrupt
        return held[name]

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "out", raw, broken, "float32", base, shard=40_000)
    with pytest.raises(TinylaneError, match=r"no config\.json"):
        tinylane.load(tmp_path / "out", "numpy")


def test_a_packed_checkpoint_is_merged_dense_on_request(tmp_path: Path) -> None:
    """The update is added to dequantized weights: as the packed model with the adapter beside."""
    pytest.importorskip("mlx.core", exc_type=ImportError)
    how = {"group_size": 32, "bits": 8}
    raw = checkpoints.small("qwen2", quantization={**how, "mode": "affine"})
    packed = checkpoints.quantized(checkpoints.weights(raw), {}, how)
    base = checkpoints.write_checkpoint(tmp_path / "base", raw, packed)
    config = read_config(base)
    rng = np.random.default_rng(0)
    path = "model.layers.1.mlp.down_proj"
    tensors = {
        f"{path}.lora_a": rng.normal(size=(96, RANK)),
        f"{path}.lora_b": rng.normal(size=(RANK, 64)),
    }
    save_adapter(tmp_path / "a", config, tensors)
    with pytest.raises(TinylaneError, match="give --dequantize"):
        fuse(base, tmp_path / "out", tmp_path / "a")
    fuse(base, tmp_path / "out", tmp_path / "a", dequantize=True, dtype="float32")
    assert "quantization" not in json.loads((tmp_path / "out" / "config.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = tinylane.load(base, "numpy", adapter=tmp_path / "a")
        other = tinylane.load(tmp_path / "out", "numpy")
    fuse(base, tmp_path / "plain", dequantize=True)  # needs no adapter
    assert not (tmp_path / "plain" / "adapter").exists()
    ids, lanes = np.arange(3, 13), np.full(10, -1)
    a, b = (np.asarray(m(ids, np.arange(10), lanes)) for m in (one, other))
    assert distance(a, b) < BOUND


def test_the_command_merges_and_says_where(ask: Any, game: str, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    code, said, _ = ask("fuse", "--model", game, "--save-path", out)
    assert code == 0 and str(out) in said and "Omega is in its adapter/" in said
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (Path(game) / name).read_bytes()
    code, text, _ = ask("generate", "--model", out, "--json", "--seed", 1)
    assert code == 0
    _, before, _ = ask("generate", "--model", game, "--json", "--seed", 1)
    same = [json.loads(x)["lanes"] for x in (text, before)]
    assert [lane["text"] for lane in same[0]] == [lane["text"] for lane in same[1]]


def test_what_cannot_be_merged_is_one_line(ask: Any, game: str, tmp_path: Path) -> None:
    bare = helpers_cli.write_checkpoint(tmp_path / "bare", adapter=False)
    full = tmp_path / "full"
    full.mkdir()
    (full / "other.safetensors").write_bytes(b"x")
    (tmp_path / "file").write_text("x")
    for argv, expected in (
        (("--model", bare, "--save-path", tmp_path / "a"), "has no adapter; give --adapter-path"),
        (("--model", game, "--save-path", full), "already holds weights"),
        (("--model", game, "--save-path", tmp_path / "file" / "x"), "cannot be made"),
        (("--model", game, "--adapter-path", bare, "--save-path", full), "no adapter_config.json"),
        (("--model", game), "--save-path"),
    ):
        code, _, err = ask("fuse", *argv)
        assert code == 2 and expected in err and err.count("\n") == 1


def test_an_adapter_is_of_this_case(tmp_path: Path) -> None:
    """The recorder's adapter holds everything there is: Omega by layer, 6 biases, 8 updates."""
    base = checkpoints.write_checkpoint(tmp_path / "base", checkpoints.small("llama"))
    folder = adapter(CASES["llama"], read_config(base), tmp_path / "a")
    found = load_adapter(folder, read_config(base))
    assert len(found.tensors) == 6 + 16 and found.lane_rope is not None
    assert found.lane_rope.omega.shape == (2, 16)
