"""Claims about weight files: which are read, and that each tensor fits the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers_checkpoint import logits, refusal, small, weights, write_checkpoint

from tinylane.checkpoints.load import load


def changed(**tensors: object) -> dict:
    found = {**weights(small()), **{n.replace("__", "."): v for n, v in tensors.items()}}
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    "tensors, words",
    [
        (changed(model__norm__weight=None), "missing model.norm.weight (64,)"),
        (
            changed(model__norm__weight=np.ones(65, np.float32)),
            "model.norm.weight is (65,); expected (64,)",
        ),
        (
            changed(model__embed_tokens__weight=np.ones((64, 96), np.float32)),
            "model.embed_tokens.weight is (64, 96); expected (96, 64)",
        ),
        (changed(model__layers__2__mlp__up_proj__weight=np.ones((96, 64), np.float32)), "layers.2"),
        (changed(model__norm__bias=np.ones(64, np.float32)), "model.norm.bias (64,)"),
        (changed(model__norm__weight=np.ones(64, np.int32)), "model.norm.weight is I32"),
        (changed(norm__weight=np.ones(64, np.float32)), "is also in"),
        ({}, "missing model.embed_tokens.weight (96, 64)"),
    ],
)
def test_missing_extra_and_mis_shaped_tensors_are_named_with_both_shapes(tmp_path, tensors, words):
    assert words in refusal(write_checkpoint(tmp_path, tensors=tensors))


def test_empty_and_missing_folders(tmp_path):
    assert "no config.json" in refusal(tmp_path)
    assert "no such folder" in refusal(tmp_path / "a" / "absent")
    (tmp_path / "config.json").write_text(json.dumps(small()))
    assert "no weights" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "only *.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize(
    "shard, words",
    [
        ("../model.safetensors", "not a plain file name"),
        ("/etc/model.safetensors", "not a plain file name"),
        ("sub/model.safetensors", "not a plain file name"),
        ("..\\model.safetensors", "not a plain file name"),
        ("model.bin", "expected a *.safetensors name"),
        (3, "expected a *.safetensors name"),
        ("model-9.safetensors", "1 of 3 shards missing: model-9.safetensors"),
        ("m" * 300 + ".safetensors", "1 of 3 shards missing"),
    ],
)
def test_an_index_cannot_point_outside_its_folder_or_at_missing_shards(tmp_path, shard, words):
    folder = write_checkpoint(tmp_path / "model", shards=2)
    (tmp_path / "model.safetensors").write_bytes(b"{}")
    index = folder / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    raw["weight_map"]["model.norm.weight"] = shard
    index.write_text(json.dumps(raw))
    assert words in refusal(folder)


def test_links_may_lead_to_the_hub_cache_and_nowhere_else(tmp_path):
    real = write_checkpoint(tmp_path / "real")
    home = tmp_path / "models--owner--name"
    snapshot = home / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    for name in ("config.json", "model.safetensors"):
        (home / "blobs" / name).write_bytes((real / name).read_bytes())
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert np.isfinite(logits(load(snapshot))).all()
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(real / name)
        assert "outside its folder" in refusal(snapshot)
        (snapshot / name).unlink()
        (snapshot / name).symlink_to(Path("../../blobs") / name)


def test_a_loop_of_links_is_a_missing_file(tmp_path):
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    assert "safetensors" in refusal(tmp_path)
