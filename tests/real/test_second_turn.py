"""Law 8 on a real conversation: the second turn feeds what is new, and says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers_real
import numpy as np
import pytest

import tinylane
from tinylane.core.cache import LaneCache

smollm2 = helpers_real.smollm2  # fixture
pytestmark = pytest.mark.real


def test_a_second_turn_feeds_only_what_is_new(
    smollm2: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    """On NumPy; `tests/methods/test_prefix.py` has both backends. The cache goes through a file."""
    model, fed, put = tinylane.load(smollm2, backend="numpy"), [0], LaneCache.put

    def counted(cache: LaneCache, layer: int, keys: Any, values: Any) -> Any:
        fed[0] += keys.shape[-2] if layer == 0 else 0
        return put(cache, layer, keys, values)

    monkeypatch.setattr(LaneCache, "put", counted)
    greedy = {"sampler": tinylane.Sampler(temperature=0), "max_tokens": 24}
    talk = [{"role": "user", "content": "Why does the tide come and go twice a day?"}]
    first = tinylane.Decoding(model, talk, **greedy)
    list(first)
    first.cache.save(tmp_path / "cache.safetensors")
    said = first.lanes[0]
    prompt = [*first.prompt, *said.tokens, *model.tokenizer.encode("<|im_end|>\nIn one word?")]
    runs = []
    for cache in (None, LaneCache.load(tmp_path / "cache.safetensors", model)):
        fed[0] = 0
        second = tinylane.Decoding(model, prompt, cache=cache, **greedy)
        runs.append((second, fed[0]))
        list(second)
    (without, all_of_it), (with_it, new) = runs
    assert all_of_it == len(prompt) and new == len(prompt) - with_it.reused
    assert with_it.reused == len(first.prompt) + len(said.tokens) - 1  # the last token ended it
    assert with_it.lanes[0].tokens == without.lanes[0].tokens
    np.testing.assert_allclose(with_it.lanes[0].logprobs, without.lanes[0].logprobs, atol=2e-4)
