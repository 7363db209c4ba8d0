"""`tinylane.hf` follows a lane adapter: Omega, who reads whom, how lanes begin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_architectures import tiny

import tinylane
import tinylane.hf as hf
from tinylane.checkpoints.adapter import save_adapter
from tinylane.checkpoints.config_json import read_config
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneRoPE


def test_an_adapter_is_followed_as_tinylane_follows_it(tmp_path: Path) -> None:
    """The same tokens as `tinylane.generate` with that adapter, and others without it."""
    model = tiny("qwen3", head_dim=16).double()
    model.save_pretrained(tmp_path)
    config = read_config(tmp_path)
    omega = {"lane_rope.omega": LaneRoPE.ntk(np.geomspace(1, 0.01, 8), 8, 3).omega}
    save_adapter(tmp_path / "a", config, omega, {"visibility": "joint", "lag": 1, "raw": True})
    ours = tinylane.load(tmp_path, "numpy", "float64", adapter=tmp_path / "a")
    wrapped = hf.lanes(model, adapter=tmp_path / "a")
    common = {"seed": 3, "max_tokens": 10, "sampler": tinylane.Sampler(1.0)}
    prompt, begin = [5, 9, 23, 7], [[1], [2], [3]]
    expected = tinylane.generate(ours, prompt, lanes=3, lane_prompts=begin, **common)  # type: ignore[arg-type]
    got = hf.generate(wrapped, None, prompt, lanes=3, lane_prompts=begin, **common)  # type: ignore[arg-type]
    assert [lane.tokens for lane in got.lanes] == [lane.tokens for lane in expected.lanes]
    plain = hf.generate(hf.lanes(model), None, prompt, lanes=3, lane_prompts=begin, **common)  # type: ignore[arg-type]
    assert [lane.tokens for lane in plain.lanes] != [lane.tokens for lane in got.lanes]
    said = {"visibility": "joint", "lane_prompt": "{lane}/{lanes}:"}
    save_adapter(tmp_path / "b", config, omega, said)
    assert hf.lanes(model, adapter=tmp_path / "b").lane_prompts(2) == ["1/2:", "2/2:"]


def test_an_adapter_that_changes_weights_is_refused(tmp_path: Path) -> None:
    model = tiny("qwen3", head_dim=16)
    model.save_pretrained(tmp_path)
    config = read_config(tmp_path)
    bias = {"model.layers.0.self_attn.k_proj.bias": np.ones(config.kv_heads * config.head_dim)}
    save_adapter(tmp_path / "a", config, bias, {"visibility": "joint"})
    with pytest.raises(TinylaneError, match=r"changes weights \(1 tensors\); merge them"):
        hf.lanes(model, adapter=tmp_path / "a")
