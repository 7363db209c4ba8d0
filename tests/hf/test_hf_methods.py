"""Every method on a model of transformers: the tokens are those of tinylane's own decoder."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from helpers_methods import PROMPT, WARM, small

from tinylane import hf
from tinylane.core.errors import TinylaneError
from tinylane.core.model import Model
from tinylane.methods import NAMES, generate

LEFT_OUT = {  # and what is said
    "beam": "has no steps of lanes",
    "bridge": "method bridge needs bridge, for which a model of transformers has no place",
    "lace": "method lace needs lace, for which a model of transformers has no place",
}


@pytest.fixture(scope="module")
def both() -> tuple[Model, Any]:
    """A small Llama of transformers, and the same weights in tinylane."""
    ours = small(layers=2)
    c = ours.config
    config = transformers.LlamaConfig(
        vocab_size=c.vocab, hidden_size=c.width, intermediate_size=c.mlp_width,
        num_hidden_layers=c.layers, num_attention_heads=c.heads, head_dim=c.head_dim,
        num_key_value_heads=c.kv_heads, rms_norm_eps=c.norm_eps, rope_theta=c.rope.base,
        max_position_embeddings=c.context, tie_word_embeddings=False,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).double().eval()
    flat = {
        name: torch.tensor(w.T.copy() if w.ndim == 2 and "embed" not in name else w)
        for name, w in ours.params.items()
    }
    missing, unexpected = theirs.load_state_dict(flat, strict=False)
    assert not unexpected and all("rotary" in name for name in missing)
    return ours, hf.lanes(theirs, ours.tokenizer)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LEFT_OUT])
def test_the_tokens_of_a_method_are_tinylanes(name: str, both: tuple[Model, Any]) -> None:
    ours, theirs = both
    how = {"lanes": 3, "max_tokens": 10, "seed": 4, "sampler": WARM}
    expected = generate(ours, PROMPT, name, **how)
    got = hf.generate(theirs, None, PROMPT, method=name, **how)
    assert [lane.tokens for lane in got.lanes] == [lane.tokens for lane in expected.lanes]
    assert got.settings.get("events") == expected.settings.get("events")


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_method_that_it_cannot_have_is_refused_by_name(
    name: str, both: tuple[Model, Any]
) -> None:
    with pytest.raises(TinylaneError, match=LEFT_OUT[name]):
        hf.generate(both[1], None, PROMPT, method=name)
