"""`tinylane.hf` follows a lane adapter: Omega, who reads whom, how lanes begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.testing.samples import random_extras


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


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize("kinds", [("lane_embed",), ("lane_kv",), ("lane_embed", "lane_kv")])
@pytest.mark.parametrize("more", [{}, {"rope_parameters": {"rope_theta": 1e4, **YARN}}])
def test_embeddings_of_lanes_are_added_as_tinylane_adds_them(
    tmp_path: Path, kinds: tuple[str, ...], more: dict[str, Any]
) -> None:
    """Logits of one pass, and tokens with a lane that joins, a fork and a lane that is dropped."""
    model = tiny("qwen3", head_dim=16, max_position_embeddings=256, **more).double()
    model.save_pretrained(tmp_path)
    made = random_extras(read_config(tmp_path), kinds, 5, 1)
    save_adapter(tmp_path / "a", read_config(tmp_path), made, {"visibility": "joint"})
    ours = tinylane.load(tmp_path, "numpy", "float64", adapter=tmp_path / "a")
    theirs = hf.lanes(model, adapter=tmp_path / "a")
    i, m = np.array([0, 1, 2, 2, 3, 3]), np.array([SHARED, SHARED, 0, 1, 0, 1])
    how = {"lane_rope": LaneRoPE.ntk(ours.theta, 8, 2), "lane_mask": LaneMask.joint(2)}
    expected = ours([5, 9, 23, 7, 1, 2], i, m, **how)
    got = theirs([5, 9, 23, 7, 1, 2], i, m, **how)
    scale = np.abs(expected).max()
    assert np.abs(got - expected).max() < 1e-5 * scale  # transformers' angles are float32
    bare = hf.lanes(model)([5, 9, 23, 7, 1, 2], i, m, **how)
    assert np.abs(bare - expected).max() > 1e-2 * scale  # the control

    def written(wrapped: tinylane.Model) -> list[list[int]]:
        d = tinylane.Decoding(
            wrapped, [5, 9, 23], 2, max_tokens=9, seed=3, sampler=tinylane.Sampler(1.0),
            lane_mask=LaneMask.joint(5), lane_rope=how["lane_rope"],
        )  # fmt: skip
        for act in (lambda: d.fork(1), lambda: d.join([4, 6]), lambda: d.drop(0), lambda: None):
            d.step()
            d.step()
            act()
        list(d)
        return [lane.tokens for lane in d.lanes]

    assert written(theirs) == written(ours)
    with pytest.raises(TinylaneError, match=r"lane 5 has no row in \S+, which is for 5 lanes"):
        theirs([1, 2], [0, 1], [SHARED, 5], lane_mask=LaneMask.joint(6))


def test_an_embedding_at_the_input_of_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    """Gemma multiplies its embeddings: what was added would be multiplied, too."""
    model = tiny("gemma", head_dim=16)
    save_adapter(
        tmp_path,
        hf.lanes(model).config,
        random_extras(hf.lanes(model).config, ("lane_embed",), 2, 0),
    )
    with pytest.raises(
        TinylaneError, match="has lane_embed; gemma may change embeddings behind it"
    ):
        hf.lanes(model, adapter=tmp_path)
