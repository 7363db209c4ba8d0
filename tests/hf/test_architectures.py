"""Lanes for models of transformers: law 11 on thirteen architectures, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tinylane.hf as hf
from tinylane.core.errors import TinylaneError
from tinylane.hf.check import check_law

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
# Architecture -> what its config needs beside SIZES.
KEPT: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16, **EXPERTS},
    "mixtral": {"num_local_experts": 4, "sliding_window": None},
    "olmo2": {},
    "smollm3": {"no_rope_layers": [1, 1, 1, 1], "pad_token_id": 0},
    "granite": {},
    "phi3": {"pad_token_id": 0, "sliding_window": None},
    "gemma": {"head_dim": 16},
    "starcoder2": {"sliding_window": None},
    "seed_oss": {"head_dim": 16},
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "rotation of a part of the head": ("phi", {"partial_rotary_factor": 0.5}, "partial rotation"),
    "interleaved rotation": ("cohere", {"pad_token_id": 0}, "does not keep law 11"),
    "interleaved and partial": ("glm", {"head_dim": 16, "pad_token_id": 0}, "partial rotation"),
    "two tables of frequencies": (
        "gemma3_text",
        {"head_dim": 16, "num_hidden_layers": 6},
        "two tables",
    ),
    "layers without rotation": ("smollm3", {"pad_token_id": 0}, "layers without rotation"),
    "capped scores": ("gemma2", {"head_dim": 16}, "softcap"),
    "no rotation at all": ("gpt2", {}, "no rotation of positions"),
}


def tiny(name: str, **more: Any) -> Any:
    """A random float32 model of an architecture, its weights large enough to matter."""
    config = transformers.AutoConfig.for_model(name, **{**SIZES, **more})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.2)
    return model


@pytest.mark.parametrize("name", KEPT)
def test_law_11_holds_on_every_architecture(name: str) -> None:
    """Group Think's lanes are the model itself at the virtual positions, to rounding."""
    model = tiny(name, **KEPT[name])
    before = model.config._attn_implementation
    wrapped = hf.lanes(model)
    assert check_law(wrapped) < 2e-5
    assert model.config._attn_implementation == before
    result = hf.generate(wrapped, None, [1, 2, 3, 4], lanes=3, max_tokens=4, method="joint")
    assert all(len(lane.tokens) == 4 or lane.finish_reason == "stop" for lane in result.lanes)


@pytest.mark.parametrize("why", REFUSED)
def test_what_lanes_would_be_wrong_in_is_refused_by_name(why: str) -> None:
    name, more, says = REFUSED[why]
    with pytest.raises(TinylaneError, match=says):
        hf.lanes(tiny(name, **more))


def test_a_window_is_the_context() -> None:
    """A layer that sees 16 positions cannot serve a longer text."""
    wrapped = hf.lanes(tiny("mistral", sliding_window=16))
    assert wrapped.config.context == 16
    with pytest.raises(TinylaneError, match="context is 16"):
        hf.generate(wrapped, None, list(range(1, 20)), lanes=2)


def test_other_things_are_refused() -> None:
    with pytest.raises(TinylaneError, match="expected one of transformers"):
        hf.lanes(torch.nn.Linear(2, 2))
    with pytest.raises(TinylaneError, match="without a method"):
        hf.generate(tiny("llama"), None, [1, 2], lanes=2, slot=3)
    with pytest.raises(TinylaneError, match="method 'jiont'; expected one of"):
        hf.generate(tiny("llama"), None, [1, 2], lanes=2, method="jiont")


def test_the_check_finds_a_wrong_turn() -> None:
    """Negative control: lanes turned by twice Omega do not keep law 11."""
    wrapped = hf.lanes(tiny("llama"))
    wrapped.rotary = 2 * wrapped.rotary
    with pytest.raises(TinylaneError, match="does not keep law 11"):
        check_law(wrapped)
    wrapped.rotary = np.zeros_like(wrapped.rotary)
    with pytest.raises(TinylaneError, match="does not keep law 11"):
        check_law(wrapped)
