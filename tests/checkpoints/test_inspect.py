"""What is known before loading: identity, forecast, report; and the peak while loading."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_checkpoint import refusal, small, weights, write_checkpoint
from helpers_methods import small as small_model
from helpers_text import EOS, byte_level, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

import tinylane
from tinylane.checkpoints.config_json import parse_config
from tinylane.checkpoints.load import inspect, load, sampling_defaults
from tinylane.commands.inspect import format_report
from tinylane.core.errors import TinylaneError
from tinylane.core.sampling import Sampler
from tinylane.files.memory import available_memory, forecast, forecast_rows, lace_channels
from tinylane.methods.decoding import Decoding


def test_identity_sees_any_change_that_matters_and_no_other(tmp_path):
    folder = write_checkpoint(tmp_path / "a")
    first = inspect(folder)["identity"]["value"]
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dict(reversed(raw.items())), indent=3))
    (folder / "README.md").write_text("x")
    assert inspect(folder)["identity"]["value"] == first and load(folder).identity == first
    weight = folder / "model.safetensors"
    data = weight.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for at in (header, (header + len(data)) // 2, len(data) - 1, 40):
        weight.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        if at >= header:
            assert inspect(folder)["identity"]["value"] != first
    weight.write_bytes(data)
    (folder / "config.json").write_text(json.dumps({**raw, "rope_theta": 5e5}))
    assert inspect(folder)["identity"]["value"] != first


def test_the_forecast_counts_the_prompt_once_and_every_lane():
    config = parse_config(small())
    one = forecast(config, "float32", 1, 100, 10)
    per_token = 2 * 2 * 2 * 32 * 4  # keys and values, layers, kv heads, head_dim, bytes
    assert one.kv_per_token == per_token
    assert (one.prompt_kv, one.lane_kv) == (100 * per_token, 10 * per_token)
    assert one.weights == 4 * sum(v.size for v in weights(small()).values())
    eight = forecast(config, "bfloat16", 8, 100, 10)
    assert (eight.prompt_kv * 2, eight.lane_kv * 2) == (one.prompt_kv, 8 * one.lane_kv)
    assert one.total == one.weights + one.prompt_kv + one.lane_kv
    for arguments in ((0, 1, 1), (1, -1, 0), (1, 0, -1), (10_000, 1, 1), (True, 1, 1), (1.5, 1, 1)):
        with pytest.raises(TinylaneError):
            forecast(config, "float32", *arguments)  # type: ignore[arg-type]
    with pytest.raises(TinylaneError, match="int3"):
        forecast(config, "int3")


@pytest.mark.parametrize("extra", ["", "lace"])
def test_a_row_is_counted_as_the_cache_holds_it(extra: str) -> None:
    """With LACE's keys and values, which are cached behind those of the layers."""
    model = small_model(dtype="float32", layers=5, extra=extra)
    decoding = Decoding(model, [1, 2, 3], 2, max_tokens=4)
    list(decoding)
    cache, row = decoding.cache, forecast_rows(model).kv_per_token
    held = sum(part.nbytes for k in range(len(cache.keys)) for part in cache.rows(k))
    assert len(cache.keys) == (7 if extra else 5) and held == row * len(cache)
    needs = forecast(model.config, "float32", 2, 3, 4, lace=lace_channels(model.params))
    assert needs.prompt_kv + needs.lane_kv == row * (3 + 8)


def test_what_cannot_fit_is_refused_with_the_figures_before_loading(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path, small(max_position_embeddings=1 << 31))
    monkeypatch.setattr(
        "tinylane.checkpoints.load.read_numpy", lambda *a: pytest.fail("read weights")
    )
    planned = {"lanes": 1024, "prompt_tokens": 10, "max_tokens": 10**9}
    with pytest.raises(TinylaneError) as caught:
        load(folder, "numpy", **planned)
    line = str(caught.value)
    assert "needs" in line and "TiB for 1,024 lanes of 1,000,000,000" in line
    monkeypatch.setattr("tinylane.files.memory.available_memory", lambda: 1000)
    with pytest.raises(TinylaneError, match="1000 B are available"):
        load(folder, "numpy")
    assert inspect(folder)["forecast"]["value"]["fits"] is False


def test_what_lies_beyond_the_context_takes_no_memory():
    """Keys and values of tokens that no lane can hold were counted: `--max-tokens` "large enough to
    reach the end" was refused (mlx-examples 273)."""
    config = parse_config(small(max_position_embeddings=512))
    for prompt, asked, counted in ((0, 10**8, 512), (500, 20, 12), (500, 12, 12), (600, 5, 0)):
        one = forecast(config, "float32", 8, prompt, asked)
        assert (one.max_tokens, one.lane_kv) == (counted, 8 * counted * one.kv_per_token)


def test_available_memory_is_a_plausible_number():
    found = available_memory()
    assert found is not None and 1 << 20 < found < 1 << 60


def test_a_control_group_limit_counts_less_what_it_cannot_give_back(tmp_path):
    from tinylane.files.memory import _control_group

    assert _control_group(str(tmp_path)) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    assert _control_group(str(tmp_path)) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert _control_group(str(tmp_path)) == 800


def test_the_report_says_what_was_chosen_and_from_which_file(tmp_path):
    raw = small(
        "qwen2",
        head_dim=None,
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    )
    generation = {"eos_token_id": 5, "do_sample": True, "temperature": 0.6}
    folder = write_checkpoint(tmp_path, raw, dtype="BF16", shards=3, generation=generation)
    report = inspect(folder, lanes=4, prompt_tokens=100, max_tokens=50, backend="numpy")
    assert json.loads(json.dumps(report)) == report
    assert report["family"] == {"value": "qwen2", "from": "config.json"}
    assert report["dtype"]["value"] == {"files": "bfloat16", "config": "float32", "used": "float32"}
    assert "(3)" in report["dtype"]["from"]
    assert report["rope"]["value"] == {
        "kind": "yarn",
        "base": 10000.0,
        "factor": 4.0,
        "original_context": 128,
    }
    assert report["eos_ids"] == {"value": [2, 5], "from": "config.json, generation_config.json"}
    assert report["sampling"]["value"]["temperature"] == 0.6
    assert report["optional"]["value"] == ["qkv_bias"]
    assert report["forecast"]["value"]["lanes"] == 4
    lines = format_report(report)
    assert all("\n" not in line for line in lines)
    text = "\n".join(lines)
    for words in ("qwen2", "yarn", "bfloat16", "temperature 0.6", "4 lanes of 50", "fits"):
        assert words in text
    model = load(folder, "numpy", lanes=4, prompt_tokens=100, max_tokens=50)
    for entry in (report["forecast"]["value"], model.report["forecast"]["value"]):
        entry.pop("available")  # measured anew each time
    assert model.report == report


def test_the_tokenizer_s_own_end_and_template_are_in_the_report(tmp_path):
    core = byte_level()
    eos = json.loads(core)["added_tokens"]
    own = next(token["id"] for token in eos if token["content"] == EOS)
    size = 1 + max(token["id"] for token in eos)
    folder = write_checkpoint(tmp_path, small(vocab_size=size), generation={"eos_token_id": 3})
    template = "{{ messages[0].content }}"
    write_folder(folder, core, {"eos_token": EOS}, chat_template__jinja=template)
    report = inspect(folder)
    assert report["eos_ids"]["value"] == sorted({2, 3, own})
    assert report["eos_ids"]["from"].endswith("(3)") and "tokenizer" in report["eos_ids"]["from"]
    assert report["chat_template"] == {"value": True, "from": "chat_template.jinja"}
    assert report["tokenizer"]["value"] == size
    model = load(folder)
    assert model.tokenizer is not None and model.config.eos_ids == tuple(sorted({2, 3, own}))


# ------------------------------------------------------------------------------------- peak memory

PEAK = """
import sys
import numpy as np
import tinylane
from tinylane.core.sampling import Sampler
from tinylane.files.memory import memory
if sys.argv[2] == "mlx":
    import mlx.core
model = tinylane.load(sys.argv[1], sys.argv[2], sys.argv[3])
held = sum(v.nbytes for k, v in model.params.items() if k != "model.embed_tokens.weight")
print(held, memory())
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A tied BF16 checkpoint of about 300 MiB whose largest tensor is 64 MiB (128 in float32)."""
    raw = small(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=64,
        vocab_size=32768,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("large")
    one = np.random.default_rng(0).integers(0x3C00, 0x3D00, 1 << 26, dtype=np.uint16)
    tensors = {
        name: (one[: int(np.prod(shape))].reshape(shape), "BF16")
        for name, shape in parse_config(raw).tensors().items()
    }
    return write_checkpoint(folder, raw, tensors), 32768 * 1024


@pytest.mark.parametrize(
    "backend, dtype", [("numpy", "float32"), ("mlx", "float32"), ("mlx", "bfloat16")]
)
def test_the_peak_is_the_weights_plus_the_largest_tensor_plus_150_mib(large, backend, dtype):
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    folder, count = large
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder), backend, dtype],
        env={**os.environ, "PYTHONPATH": str(Path(tinylane.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    held, peak = map(int, done.stdout.split())
    itemsize = 4 if dtype == "float32" else 2
    print(f"{backend} {dtype}: {held >> 20} MiB held, peak {peak >> 20} MiB")
    assert held > (280 << 20) * itemsize // 2
    assert peak <= held + count * itemsize + (150 << 20)


@pytest.mark.parametrize(
    "generation, expected",
    [
        ({}, {"do_sample": False, "temperature": 0.0}),
        ({"temperature": 0.6}, {"do_sample": False, "temperature": 0.0}),
        ({"do_sample": False, "top_k": 5}, {"do_sample": False, "temperature": 0.0, "top_k": 5}),
        ({"do_sample": True}, {"do_sample": True, "temperature": 1.0}),
        (
            {"do_sample": True, "min_p": 0.1, "repetition_penalty": 1.1, "top_p": None},
            {"do_sample": True, "temperature": 1.0, "min_p": 0.1, "repetition_penalty": 1.1},
        ),
        ({"top_k": -1}, {"do_sample": False, "temperature": 0.0, "top_k": 0}),
        ({"top_k": 50.0}, {"do_sample": False, "temperature": 0.0, "top_k": 50}),
        ({"top_p": 0}, {"do_sample": False, "temperature": 0.0, "top_p": 1e-9}),
    ],
)
def test_sampling_defaults_mean_what_transformers_means(generation, expected):
    assert sampling_defaults(generation) == expected


@pytest.mark.parametrize(
    "generation, words",
    [
        ({"do_sample": 1}, "do_sample is 1"),
        ({"do_sample": True, "temperature": -1}, "temperature"),
        ({"do_sample": True, "temperature": float("nan")}, "NaN"),
        ({"do_sample": True, "top_p": 2}, "top_p"),
        ({"do_sample": True, "top_k": 1.5}, "top_k"),
        ({"do_sample": True, "top_k": True}, "top_k is True"),
        ({"repetition_penalty": "1"}, "repetition_penalty"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
        ({"top_k": -2}, "top_k is -2"),
    ],
)
def test_bad_generation_settings_are_refused_with_their_file(tmp_path, generation, words):
    line = refusal(write_checkpoint(tmp_path, generation=generation))
    assert words in line and "generation_config.json" in line


@given(
    name=st.sampled_from(["temperature", "top_p", "top_k", "min_p", "repetition_penalty"]),
    value=st.sampled_from([-1, -1e-9, 0, 1e-9, 0.5, 1, 1 + 1e-9, 2, 1e6, 1e6 + 1, 1.5]),
)
@settings(max_examples=200, deadline=None)
def test_the_file_s_sampling_is_refused_exactly_where_the_sampler_refuses_it(name, value):
    """The ranges stand in both places: the loader names the file, and imports no sampler. What
    other programs spell in their own way is the loader's alone."""
    if (name, value) in (("top_k", -1), ("top_k", 1e6), ("top_k", 1e6 + 1), ("top_p", 0)):
        value = 1

    def refuses(make) -> bool:
        try:
            make()
        except TinylaneError:
            return True
        return False

    by_loader = refuses(lambda: sampling_defaults({"do_sample": True, name: value}))
    assert by_loader == refuses(lambda: Sampler(**{name: value}))
