"""Adapters: saved, read back, applied; those of another model refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_checkpoint import small, weights, write_checkpoint

import tinylane
from tinylane.checkpoints.adapter import load_adapter, save_adapter
from tinylane.checkpoints.config_json import parse_config
from tinylane.checkpoints.load import inspect, load
from tinylane.commands.inspect import format_report
from tinylane.core.errors import TinylaneError
from tinylane.files.safetensors import write_tensors

CONFIG = parse_config(small())
RNG = np.random.default_rng(0)
OMEGA = RNG.normal(size=16)
Q = "model.layers.1.self_attn.q_proj"
DOWN = "model.layers.0.mlp.down_proj"
UPDATES = {
    f"{Q}.bias": RNG.normal(size=128).astype(np.float32),
    f"{DOWN}.lora_a": RNG.normal(size=(96, 3)).astype(np.float32),
    f"{DOWN}.lora_b": RNG.normal(size=(3, 64)).astype(np.float32),
}
LANES: dict[str, Any] = {"visibility": "joint", "lag": 1, "lanes": [2, 4], "prompt_lane": 0}


def write(folder: Path, tensors: dict | None = None, **record: Any) -> Path:
    """An adapter folder with nothing checked."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "adapters.safetensors", {"lane_rope.omega": OMEGA, **(tensors or {})})
    (folder / "adapter_config.json").write_text(json.dumps(record))
    return folder


def refusal(folder: Path, identity: str | None = None) -> str:
    with pytest.raises(TinylaneError) as caught:
        load_adapter(folder, CONFIG, identity)
    line = str(caught.value)
    assert "\n" not in line and str(folder) in line
    return line


def test_what_is_saved_is_what_is_read(tmp_path):
    save_adapter(
        tmp_path / "a",
        CONFIG,
        {"lane_rope.omega": OMEGA, **UPDATES},
        {**LANES, "scale": 2.0, "task": {"name": "shell-game"}},
    )
    adapter = load_adapter(tmp_path / "a", CONFIG)
    assert adapter.lane_rope is not None and np.array_equal(adapter.lane_rope.omega, OMEGA)
    assert adapter.lane_rope.prompt_lane == 0
    assert (adapter.visibility, adapter.lag, adapter.lanes) == ("joint", 1, (2, 4))
    assert adapter.settings["task"] == {"name": "shell-game"}
    assert np.array_equal(adapter.tensors[f"{Q}.bias"], UPDATES[f"{Q}.bias"])
    assert np.array_equal(adapter.tensors[f"{DOWN}.lora_a"], UPDATES[f"{DOWN}.lora_a"])
    assert np.array_equal(adapter.tensors[f"{DOWN}.lora_b"], 2 * UPDATES[f"{DOWN}.lora_b"])


def test_omega_per_layer_and_a_visibility_matrix(tmp_path):
    omega = RNG.normal(size=(2, 16))
    matrix = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1]], dtype=bool)
    save_adapter(tmp_path, CONFIG, {"lane_rope.omega": omega}, {"visibility": matrix, "lag": 0})
    adapter = load_adapter(tmp_path, CONFIG)
    assert adapter.lane_rope is not None and np.array_equal(adapter.lane_rope.omega, omega)
    assert np.array_equal(np.array(adapter.visibility, dtype=bool), matrix)


def test_mlx_arrays_are_saved_as_they_are(tmp_path):
    mx = pytest.importorskip("mlx.core")
    bias = mx.array(UPDATES[f"{Q}.bias"])
    save_adapter(tmp_path / "f", CONFIG, {f"{Q}.bias": bias})
    found = load_adapter(tmp_path / "f", CONFIG).tensors[f"{Q}.bias"]
    assert np.array_equal(found, UPDATES[f"{Q}.bias"])
    save_adapter(tmp_path / "b", CONFIG, {f"{Q}.bias": bias.astype(mx.bfloat16)})
    found = load_adapter(tmp_path / "b", CONFIG).tensors[f"{Q}.bias"]
    assert np.array_equal(found, np.asarray(bias.astype(mx.bfloat16).astype(mx.float32)))


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_an_adapter_does_to_the_model_what_its_parts_say(tmp_path, backend):
    """Against the same change made to the weights by hand."""
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    raw = small("qwen2", head_dim=32)  # has biases, which the adapter's take the place of
    config, tensors = parse_config(raw), weights(small("qwen2", head_dim=32))
    base = write_checkpoint(tmp_path / "base", raw, tensors)
    save_adapter(tmp_path / "a", config, {"lane_rope.omega": OMEGA, **UPDATES}, {"scale": 0.5})
    by_hand = dict(tensors)
    by_hand[f"{Q}.bias"] = UPDATES[f"{Q}.bias"]
    change = 0.5 * UPDATES[f"{DOWN}.lora_a"] @ UPDATES[f"{DOWN}.lora_b"]
    by_hand[f"{DOWN}.weight"] = tensors[f"{DOWN}.weight"] + change.T
    expected = load(write_checkpoint(tmp_path / "hand", raw, by_hand), backend)
    model = load(base, backend, adapter=tmp_path / "a")
    rows = (np.arange(6), np.arange(6), np.full(6, tinylane.SHARED))
    difference = np.asarray(model(*rows)) - np.asarray(expected(*rows))
    assert np.abs(difference).max() < 1e-3
    unlike = np.asarray(load(base, backend)(*rows)) - np.asarray(expected(*rows))
    assert np.abs(unlike).max() > 0.1  # the control: the adapter does something


def test_a_checkpoint_s_own_adapter_is_used_and_reported(tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    save_adapter(folder / "adapter", CONFIG, {"lane_rope.omega": OMEGA}, LANES)
    model = load(folder)
    assert model.lane_rope is not None and np.array_equal(model.lane_rope.omega, OMEGA)
    assert (model.visibility, model.lag) == ("joint", 1) and model.trained_for_lanes
    entry = inspect(folder)["adapter"]
    assert entry["from"] == str(folder / "adapter") and entry["value"]["visibility"] == "joint"
    assert any("joint" in line for line in format_report(inspect(folder)))
    bare = load(folder, adapter=False)
    assert bare.lane_rope is None and not bare.trained_for_lanes
    other = tmp_path / "other"
    save_adapter(other, CONFIG, {"lane_rope.omega": 2 * OMEGA}, LANES)
    given = load(folder, adapter=other)
    assert given.lane_rope is not None and np.array_equal(given.lane_rope.omega, 2 * OMEGA)


def test_updates_make_another_model_and_omega_alone_does_not(tmp_path):
    """A saved cache depends on the weights; its Omega is checked beside them."""
    folder = write_checkpoint(tmp_path / "model")
    first = load(folder).identity
    save_adapter(tmp_path / "omega", CONFIG, {"lane_rope.omega": OMEGA})
    assert load(folder, adapter=tmp_path / "omega").identity == first
    save_adapter(tmp_path / "bias", CONFIG, UPDATES)
    tuned = load(folder, adapter=tmp_path / "bias").identity
    save_adapter(tmp_path / "more", CONFIG, {**UPDATES, f"{Q}.bias": np.ones(128, np.float32)})
    assert len({first, tuned, load(folder, adapter=tmp_path / "more").identity}) == 3


def test_an_adapter_of_another_model_is_refused(tmp_path):
    wide = parse_config(small(num_hidden_layers=3, vocab_size=100))
    save_adapter(tmp_path / "sizes", wide, {"lane_rope.omega": OMEGA})
    line = refusal(tmp_path / "sizes")
    assert "another model: vocab 100 instead of 96, layers 3 instead of 2" in line
    save_adapter(tmp_path / "named", CONFIG, {"lane_rope.omega": OMEGA}, {"identity": "a" * 64})
    assert load_adapter(tmp_path / "named", CONFIG, "a" * 64).lane_rope is not None
    line = refusal(tmp_path / "named", "b" * 64)
    assert "another model" in line and "bbbb" in line
    folder = write_checkpoint(tmp_path / "model")
    with pytest.raises(TinylaneError, match="another model"):
        load(folder, adapter=tmp_path / "named")


@pytest.mark.parametrize(
    "tensors, record, words",
    [
        ({"lane_rope.omega": np.ones(15)}, {}, "Omega has shape (15,); expected (16,) or (2, 16)"),
        ({"lane_rope.omega": np.ones((3, 16))}, {}, "Omega has shape (3, 16)"),
        ({"lane_rope.omega": np.full(16, np.nan)}, {}, "NaN"),
        ({f"{Q}.bias": np.ones(127, np.float32)}, {}, "(127,); expected (128,)"),
        ({f"{Q}.bias": np.full(128, np.inf, np.float32)}, {}, "NaN or infinite"),
        ({f"{Q}.bias": np.ones(128, np.int32)}, {}, "not floats"),
        ({f"{DOWN}.bias": np.ones(64, np.float32)}, {}, "is not a tensor this model can take"),
        ({"model.norm.weight": np.ones(64, np.float32)}, {}, "is not a tensor"),
        ({"model.layers.7.self_attn.q_proj.bias": np.ones(128, np.float32)}, {}, "layers.7"),
        ({f"{Q}.lora_a": np.ones((64, 2), np.float32)}, {}, "without the other half"),
        (
            {f"{Q}.lora_a": np.ones((64, 2), np.float32), f"{Q}.lora_b": np.ones((3, 128))},
            {},
            "expected (64, r) and (r, 128)",
        ),
        (
            {f"{Q}.lora_a": np.ones(64, np.float32), f"{Q}.lora_b": np.ones((1, 128))},
            {},
            "expected (64, r)",
        ),
        ({}, {"scale": "2"}, "scale is '2'"),
        ({}, {"scale": 1e9}, "scale"),
        ({}, {"visibility": "all"}, "visibility 'all'"),
        ({}, {"visibility": [[1, 0]]}, "square matrix"),
        ({}, {"visibility": [[1, 2], [0, 1]]}, "other than 0 and 1"),
        ({}, {"visibility": [[1, [0]], [0, 1]]}, "other than 0 and 1"),
        ({}, {"visibility": []}, "square matrix"),
        ({}, {"visibility": "joint", "lag": -1}, "lag"),
        ({}, {"lag": 1.5}, "lag is 1.5"),
        ({}, {"lag": None}, "lag is missing"),
        ({}, {"lag": 2}, "without a visibility"),
        ({}, {"prompt_lane": "shared"}, "prompt_lane"),
        ({}, {"lanes": [0]}, "lanes is [0]"),
        ({}, {"lanes": 10_000}, "10000"),
        ({}, {"base": [1]}, "base is [1]"),
        ({}, {"base": {"depth": 3}}, "depth 3 instead of None"),
        ({}, {"fine_tune_type": "full"}, "full"),
    ],
)
def test_damaged_adapters_are_refused_in_one_line(tmp_path, tensors, record, words):
    assert words in refusal(write(tmp_path, tensors, **record))


def test_missing_files_are_named(tmp_path):
    assert "no adapter_config.json" in refusal(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "no adapters.safetensors" in refusal(tmp_path)
    (tmp_path / "adapters.safetensors").write_bytes(b"\0" * 7)
    assert "too short" in refusal(tmp_path)
    folder = write_checkpoint(tmp_path / "model")
    with pytest.raises(TinylaneError, match="no such folder"):
        load(folder, adapter=tmp_path / "absent" / "x" / "y")
    with pytest.raises(TinylaneError, match="adapter True"):
        load(folder, adapter=True)


@pytest.mark.parametrize(
    ("lost", "left"),
    [
        ("adapter_config.json", "adapters.safetensors"),
        ("adapters.safetensors", "adapter_config.json"),
    ],
)
def test_a_model_that_lost_a_file_of_its_adapter_is_refused(tmp_path, lost, left):
    """It would write otherwise than it was trained to, and nothing would say so."""
    folder = write_checkpoint(tmp_path / "model")
    write(folder / "adapter")
    (folder / "adapter" / lost).unlink()
    for read in (load, inspect):
        with pytest.raises(TinylaneError, match=f"no {lost}; expected an adapter folder"):
            read(folder)
    assert load(folder, adapter=False).lane_rope is None
    (folder / "adapter" / left).unlink()
    assert load(folder).lane_rope is None  # a folder of that name with neither is none


def test_an_adapter_that_nobody_may_look_into_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the loader its files seem not to be there (as root, who may look, this is played)."""
    folder = write_checkpoint(tmp_path / "model")
    (folder / "adapter").mkdir()
    assert load(folder).lane_rope is None  # an empty folder is no adapter
    access = os.access
    closed = lambda path, how: Path(path).name != "adapter" and access(path, how)
    monkeypatch.setattr(os, "access", closed)
    with pytest.raises(TinylaneError, match=r"adapter: no adapter_config\.json; expected"):
        load(folder)


def test_mlx_lm_s_own_lora_adapters_are_read(tmp_path):
    folder = tmp_path / "lora"
    folder.mkdir()
    parts = {k: v for k, v in UPDATES.items() if "lora" in k}
    write_tensors(folder / "adapters.safetensors", parts)
    record = {"fine_tune_type": "lora", "lora_parameters": {"rank": 3, "scale": 20.0}}
    (folder / "adapter_config.json").write_text(json.dumps(record))
    adapter = load_adapter(folder, CONFIG)
    expected = np.float32(20) * parts[f"{DOWN}.lora_b"]
    assert np.array_equal(adapter.tensors[f"{DOWN}.lora_b"], expected)
    assert adapter.lane_rope is None and adapter.visibility is None


def test_saving_refuses_what_could_not_be_read_and_leaves_nothing(tmp_path):
    with pytest.raises(TinylaneError, match="Omega has shape"):
        save_adapter(tmp_path / "a", CONFIG, {"lane_rope.omega": np.ones(3)})
    with pytest.raises(TinylaneError, match="visibility"):
        save_adapter(tmp_path / "a", CONFIG, {}, {"visibility": "everyone"})
    assert not os.listdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(TinylaneError, match="cannot be made"):
        save_adapter(tmp_path / "file" / "a", CONFIG, {"lane_rope.omega": OMEGA})
