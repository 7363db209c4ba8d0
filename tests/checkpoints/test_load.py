"""Loading: every layout gives the same weights, bad ones one line, and the peak stays small."""

from __future__ import annotations

import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers_checkpoint import encoded, logits, quantized, refusal, small, weights, write_checkpoint

import tinylane
from tinylane.checkpoints.load import choose_backend, inspect, load
from tinylane.checkpoints.quantized import Packing, dequantize
from tinylane.core.errors import TinylaneError
from tinylane.files.safetensors import write_tensors

BACKENDS = ["numpy", "mlx"]
FAMILIES = {
    "llama": small("llama", attention_bias=True, mlp_bias=True),
    "mistral": small("mistral"),
    "qwen2": small("qwen2", head_dim=None, tie_word_embeddings=True),
    "qwen3": small("qwen3"),
}


def need(backend: str) -> None:
    if backend == "mlx":
        pytest.importorskip("mlx.core")


def plain(model: tinylane.Model) -> dict[str, np.ndarray]:
    """The weights in file layout again, whatever the backend."""
    found = {}
    for name, value in model.params.items():
        array = np.asarray(value)
        turn = array.ndim == 2 and name != "model.embed_tokens.weight"
        found[name] = array.T if turn else array
    return found


# ------------------------------------------------------------------------- what a good folder gives


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_every_dtype_is_widened_exactly(tmp_path, family, dtype, backend):
    need(backend)
    raw = FAMILIES[family]
    tensors = weights(raw)
    if dtype == "F16":
        tensors = {n: v.astype(np.float16).astype(np.float32) for n, v in tensors.items()}
    model = load(write_checkpoint(tmp_path, raw, tensors, dtype=dtype), backend, "float32")
    found = plain(model)
    if raw.get("tie_word_embeddings"):
        assert np.array_equal(found.pop("lm_head.weight"), tensors["model.embed_tokens.weight"])
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    assert np.isfinite(logits(model)).all()


def test_numpy_matrices_are_contiguous_the_way_they_multiply(tmp_path):
    """Tall ones as in the file, wide ones by columns, side by side: see `core/numpy_ops.py`."""
    tied = load(write_checkpoint(tmp_path / "tied", FAMILIES["qwen2"])).params
    untied = load(write_checkpoint(tmp_path / "untied")).params
    stacks = (("self_attn.q", "self_attn.k", "self_attn.v"), ("mlp.gate", "mlp.up"))
    for params in (tied, untied):
        for value in params.values():
            assert value.flags.aligned and value.dtype == np.float32
        at = "model.layers.0."
        for tall in ("self_attn.o", "mlp.down"):
            assert params[f"{at}{tall}_proj.weight"].T.flags.c_contiguous
        for names in stacks:
            weights = [params[f"{at}{name}_proj.weight"] for name in names]
            assert all(w.base is weights[0].base for w in weights)
            assert weights[0].base.flags.c_contiguous
            assert np.array_equal(np.concatenate(weights, axis=1), weights[0].base)
        assert params["lm_head.weight"].flags.c_contiguous
    assert tied["model.embed_tokens.weight"].base is tied["lm_head.weight"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_shards_bare_names_and_odd_file_names_give_the_same_weights(tmp_path, backend):
    need(backend)
    expected = logits(load(write_checkpoint(tmp_path / "one"), backend))
    variants = {
        "shards": {"shards": 3},
        "bare": {"prefix": False},
        "bare-shards": {"prefix": False, "shards": 2},
        "named": {"name": "weights"},
    }
    for name, how in variants.items():
        model = load(write_checkpoint(tmp_path / name, **how), backend)  # type: ignore[arg-type]
        assert np.array_equal(logits(model), expected), name


def test_other_weight_files_beside_the_model_are_left_alone(tmp_path):
    write_checkpoint(tmp_path, name="weights")
    write_tensors(tmp_path / "consolidated.safetensors", {"tok_embeddings.weight": np.zeros(2)})
    write_tensors(tmp_path / "adapters.safetensors", {"x": np.zeros(2)})
    assert np.isfinite(logits(load(tmp_path))).all()


def test_harmless_extras_of_old_exports_are_ignored(tmp_path):
    tensors = weights(small())
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(16, np.float32)
    assert np.isfinite(logits(load(write_checkpoint(tmp_path, tensors=tensors)))).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tied_head_in_every_file_layout(tmp_path, backend):
    """Elsewhere a copied head was an unknown tensor, and a missing one forced a wrong tying."""
    need(backend)
    raw = small(tie_word_embeddings=True)
    tensors = weights(raw)
    embed = tensors["model.embed_tokens.weight"]
    expected = logits(load(write_checkpoint(tmp_path / "plain", raw, tensors), backend))
    both = {**tensors, "lm_head.weight": embed.copy()}
    only = {("lm_head.weight" if "embed" in n else n): v for n, v in tensors.items()}
    for name, layout in (("both", both), ("only", only)):
        model = load(write_checkpoint(tmp_path / name, raw, layout), backend)
        assert model.config.tied and np.array_equal(logits(model), expected)
    other = {**tensors, "lm_head.weight": -embed}
    with pytest.warns(UserWarning, match=r"lm_head\.weight differs") as warned:
        model = load(write_checkpoint(tmp_path / "other", raw, other), backend)
    assert not model.config.tied and "\n" not in str(warned[0].message)
    assert np.abs(logits(model) + expected).max() < 1e-5


def test_an_untied_config_without_a_head_is_refused(tmp_path):
    tensors = weights(small())
    del tensors["lm_head.weight"]
    assert "missing lm_head.weight (96, 64)" in refusal(write_checkpoint(tmp_path, tensors=tensors))


@pytest.mark.parametrize("backend", BACKENDS)
def test_eos_ids_are_joined_and_sampling_defaults_kept(tmp_path, backend):
    """An id from generation_config that replaced the others made generation endless elsewhere."""
    need(backend)
    generation = {"eos_token_id": [7, 9], "do_sample": True, "temperature": 0.6, "top_p": 0.95}
    model = load(write_checkpoint(tmp_path, generation=generation), backend)
    assert model.config.eos_ids == (2, 7, 9)
    assert model.sampling == {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
    assert model.tokenizer is None


# -------------------------------------------------------------------------------- quantized layers


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_quantized_checkpoints_on_both_backends(tmp_path, bits, tied):
    mx = pytest.importorskip("mlx.core")
    default = {"bits": bits, "group_size": 32}
    raw = small(tie_word_embeddings=tied, quantization=default)
    how = {
        "model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 32},
        "model.layers.1.self_attn.q_proj": {"bits": 4, "group_size": 64},
        "model.layers.1.self_attn.o_proj": None,
    }
    raw["quantization"] = {**default, **{path: s or False for path, s in how.items()}}
    packed = quantized(weights(small(tie_word_embeddings=tied)), how, default)
    folder = write_checkpoint(tmp_path, raw, packed)
    here, there = load(folder, "numpy"), load(folder, "mlx", "float32")
    path = "model.layers.1.self_attn.q_proj"
    assert there.params[f"{path}.weight"].dtype == mx.uint32
    assert f"{path}.scales" not in here.params
    theirs = mx.dequantize(
        *(packed[f"{path}.{p}"] for p in ("weight",)),
        *(packed[f"{path}.{p}"].astype(mx.float32) for p in ("scales", "biases")),
        group_size=64,
        bits=4,
    )
    assert np.array_equal(here.params[f"{path}.weight"].T, np.asarray(theirs))
    assert np.abs(logits(here) - logits(there)).max() < 1e-4
    report = inspect(folder)["quantization"]["value"]
    assert any(f"affine {bits} bits, groups of 32" in line for line in report)


@pytest.mark.parametrize("tied", [True, False])
def test_mxfp4_on_both_backends(tmp_path, tied):
    pytest.importorskip("mlx.core")
    how = {"bits": 4, "group_size": 32, "mode": "mxfp4"}
    raw = small(tie_word_embeddings=tied)
    folder = write_checkpoint(
        tmp_path, {**raw, "quantization": how}, quantized(weights(raw), {}, how)
    )
    assert np.abs(logits(load(folder)) - logits(load(folder, "mlx", "float32"))).max() < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_size_without_kernels_is_dequantized_at_load(tmp_path, backend):
    need(backend)
    raw = small(quantization={"bits": 4, "group_size": 16})
    tensors: dict = weights(raw)
    rng = np.random.default_rng(1)
    path = "model.layers.0.mlp.up_proj"
    parts = {
        "weight": rng.integers(0, 1 << 32, (96, 8), dtype=np.uint32),
        "scales": rng.normal(0, 0.01, (96, 4)).astype(np.float32),
        "biases": rng.normal(0, 0.01, (96, 4)).astype(np.float32),
    }
    tensors |= {f"{path}.{part}": value for part, value in parts.items()}
    model = load(write_checkpoint(tmp_path, raw, tensors), backend)
    expected = dequantize(*parts.values(), Packing("affine", 4, 16))  # type: ignore[call-arg]
    assert np.array_equal(np.asarray(model.params[f"{path}.weight"]).T, expected)


def test_damaged_quantized_layers_are_refused_by_name(tmp_path):
    pytest.importorskip("mlx.core")
    raw, default = small(), {"bits": 4, "group_size": 32}
    packed = quantized(weights(raw), {}, default)
    path = "model.layers.0.mlp.up_proj"
    for name, change, words in (
        ("none", {}, "config.json has no quantization"),
        ("scales", {f"{path}.scales": np.ones((96, 3), np.float16)}, "scales (96, 3)"),
        ("biases", {f"{path}.biases": None}, "biases are missing"),
        ("weight", {f"{path}.weight": np.ones((96, 8), np.float16)}, "weight F16"),
    ):
        tensors = {n: v for n, v in {**packed, **change}.items() if v is not None}
        config = raw if name == "none" else {**raw, "quantization": default}
        line = refusal(write_checkpoint(tmp_path / name, config, tensors))
        assert words in line and (name == "none" or path in line)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_nan_and_infinite_weights_are_warned_of_by_name(tmp_path, backend, value, dtype):
    need(backend)
    tensors = weights(small())
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    folder = write_checkpoint(tmp_path, tensors=tensors, dtype=dtype)
    with pytest.warns(UserWarning) as warned:
        load(folder, backend)
    assert len(warned) == 1
    line = str(warned[0].message)
    assert "NaN or infinite weights in model.layers.1.mlp.up_proj.weight" in line
    assert "\n" not in line


def test_sound_weights_warn_of_nothing_and_float16_overflow_is_warned_of(tmp_path):
    pytest.importorskip("mlx.core")
    tensors = weights(small())
    tensors["model.norm.weight"][0] = 1e5
    folder = write_checkpoint(tmp_path, tensors=tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder, "numpy")
        load(folder, "mlx")
    with pytest.warns(UserWarning, match=r"model\.norm\.weight"):
        load(folder, "mlx", "float16")


def test_backends_and_dtypes_that_do_not_exist_are_named(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path)
    assert "backend 'torch'; expected numpy, mlx or auto" in refusal(folder, backend="torch")
    assert "dtype 'float16'" in refusal(folder, backend="numpy", dtype="float16")
    monkeypatch.setitem(sys.modules, "mlx", None)
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    assert 'pip install "tinylane[mlx]"' in refusal(folder, backend="mlx")
    assert choose_backend("auto") == "numpy"


def test_auto_is_mlx_on_apple_silicon_only(monkeypatch):
    need("mlx")
    for system, machine, expected in (
        ("Darwin", "arm64", "mlx"),
        ("Darwin", "x86_64", "numpy"),
        ("Linux", "aarch64", "numpy"),
    ):
        monkeypatch.setattr("platform.system", lambda value=system: value)
        monkeypatch.setattr("platform.machine", lambda value=machine: value)
        assert choose_backend("auto") == expected


def test_float64_and_the_16_bit_types(tmp_path):
    mx = pytest.importorskip("mlx.core")
    folder = write_checkpoint(tmp_path, dtype="BF16")
    assert logits(load(folder, "numpy", "float64")).dtype == np.float64
    for name in ("float16", "bfloat16"):
        model = load(folder, "mlx", name)
        assert {v.dtype for v in model.params.values()} == {getattr(mx, name)}
    assert load(folder, "mlx").dtype in ("float32", "bfloat16")  # by device


def test_mutated_files_give_one_line_or_a_model(tmp_path):
    rng = random.Random(5)
    folder = write_checkpoint(tmp_path / "m", shards=2, generation={"eos_token_id": 3})
    files = sorted(p for p in folder.iterdir())
    whole = {path: path.read_bytes() for path in files}
    refused = 0
    for _ in range(150):
        path = rng.choice(files)
        data = bytearray(whole[path])
        for _ in range(rng.choice((1, 2, 4))):
            where = rng.randrange(min(len(data), 3000))
            data[where : where + rng.randrange(3)] = bytes(rng.choices(range(256), k=1))
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load(folder)
        except TinylaneError as error:
            refused += 1
            assert "\n" not in str(error)
        path.write_bytes(whole[path])
    assert refused > 50


def test_encoded_is_exact_for_bfloat16():
    """The control of the exactness tests: their weights do survive 16 bits."""
    value = weights(small())["model.embed_tokens.weight"]
    bits, _ = encoded(value, "BF16")
    assert np.array_equal((bits.astype(np.uint32) << 16).view(np.float32), value)


def test_ops_are_chosen_by_name_and_all_give_the_same_logits(tmp_path):
    folder = write_checkpoint(tmp_path)
    rows = np.arange(3), np.arange(3), np.full(3, -1)
    logits = {}
    for ops in ("auto", "plain", "fast"):
        model = load(folder, "numpy", ops=ops)
        assert model.ops_name == ("plain" if ops == "auto" else ops)  # a small model
        logits[ops] = np.asarray(model(*rows))
    assert np.array_equal(logits["auto"], logits["plain"])
    assert np.allclose(logits["fast"], logits["plain"], atol=1e-5)
    with pytest.raises(TinylaneError, match="ops is 'quick'; expected auto, plain, fast"):
        load(folder, "numpy", ops="quick")


def test_loading_the_model_inside_goes_through_few_files(tmp_path):
    """A reader who follows `load` has to open these; what is imported on the way is not counted."""
    package = Path(tinylane.__file__).parent
    folder = package.parent / "weights" / "shell-game"
    load(folder, "numpy")
    entered: set[str] = set()

    def note(frame, event, argument) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and frame.f_code.co_name != "<module>" and package in path.parents:
            entered.add(str(path.relative_to(package)))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        load(folder, "numpy")
    finally:
        sys.setprofile(before)
    assert {"checkpoints/load.py", "checkpoints/weights.py"} <= entered
    assert len(entered) <= 14, sorted(entered)
