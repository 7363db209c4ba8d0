"""Every cache class of the installed transformers: the same tokens, or refused by name."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from test_architectures import tiny
from transformers import cache_utils

import tinylane
import tinylane.hf as hf
from tinylane.core.errors import TinylaneError
from tinylane.hf.cache import croppable
from tinylane.hf.check import check_cache

PROMPT = [5, 9, 23, 7, 61, 3]
CONFIG = tiny("qwen3", head_dim=16).config
LAYERS = CONFIG.num_hidden_layers


def static(length: int = 64, **more: Any) -> Any:
    return transformers.StaticCache(config=CONFIG, max_cache_len=length, **more)


def quantized(backend: str, **more: Any) -> Any:
    return transformers.QuantizedCache(backend, CONFIG, **more)


def of(layer: str, *numbers: int) -> Any:
    return cache_utils.Cache(layers=[getattr(cache_utils, layer)(*numbers) for _ in range(LAYERS)])


# Caches that keep keys and values as they are.
EXACT: dict[str, Any] = {
    "DynamicCache": transformers.DynamicCache,
    "DynamicCache of the config": lambda: transformers.DynamicCache(config=CONFIG),
    "StaticCache": static,
    "SlidingWindowCache": lambda: cache_utils.SlidingWindowCache(CONFIG, 64),  # CONFIG has none
    "MtpCache": lambda: cache_utils.MtpCache(),
    "DFlashCache": lambda: cache_utils.DFlashCache(),
    "DynamicIndexedLayer": lambda: of("DynamicIndexedLayer"),
    "StaticIndexedLayer": lambda: of("StaticIndexedLayer", 64),
    "hybrid": lambda: of("LinearAttentionAndFullAttentionLayer"),
    "hybrid, static": lambda: of("LinearAttentionAndStaticFullAttentionLayer", 64),
}
GROUPS = {"q_group_size": 16, "residual_length": 4}
# Caches that round keys and values, and what each needs.
ROUNDED: dict[str, tuple[str, Any]] = {
    "fp8": ("torch", lambda: quantized("fp8")),
    "quanto": ("optimum.quanto", lambda: quantized("quanto", **GROUPS)),
    "hqq": ("hqq", lambda: quantized("hqq", axis_key=1, axis_value=1, **GROUPS)),
}
WINDOW = "forgets rows behind a window, and lanes need all"
REFUSED: dict[str, tuple[Any, str]] = {
    "sliding": (lambda: of("DynamicSlidingWindowLayer", 16), WINDOW),
    "sliding, static": (lambda: of("StaticSlidingWindowLayer", 64, 16), WINDOW),
    "sliding, hybrid": (lambda: of("LinearAttentionAndSlidingWindowAttentionLayer", 16), WINDOW),
    "sliding, hybrid, static": (
        lambda: of("LinearAttentionAndStaticSlidingWindowAttentionLayer", 64, 16),
        WINDOW,
    ),
    "linear": (lambda: of("LinearAttentionLayer"), "Cache cannot hold lanes: .*no attribute"),
    "dummy": (lambda: of("DummyLayer"), "Cache cannot hold lanes: .*Dummy layer"),
    "EncoderDecoderCache": (
        lambda: transformers.EncoderDecoderCache(*[transformers.DynamicCache()] * 2),
        "EncoderDecoderCache cannot hold lanes: .*layers",
    ),
    "no cache": (dict, "dict cannot hold lanes"),
    "a cache, made already": (transformers.DynamicCache(), "expected a function that makes"),
}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("qwen3", head_dim=16)


@pytest.mark.parametrize("kind", EXACT)
def test_a_cache_that_keeps_its_rows_gives_the_same_tokens(model: Any, kind: str) -> None:
    wrapped = hf.lanes(model, cache=EXACT[kind])
    settings: dict[str, Any] = {"lanes": 3, "method": "joint", "omega": "ntk", "max_tokens": 9}
    settings |= {"seed": 2, "sampler": tinylane.Sampler(temperature=1.0)}
    one, two = (hf.generate(m, None, PROMPT, **settings) for m in (model, wrapped))
    assert [lane.tokens for lane in one.lanes] == [lane.tokens for lane in two.lanes]
    logprobs = ([lane.logprobs for lane in x.lanes] for x in (one, two))
    assert np.allclose(*logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ROUNDED)
def test_a_quantized_cache_gives_the_tokens_of_transformers(
    model: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rounded rows are those that `generate` of transformers has, one token at a time."""
    beside = str(Path(sys.executable).parent)  # where pip has put the ninja that quanto builds with
    monkeypatch.setenv("PATH", beside, prepend=os.pathsep)
    needs, make = ROUNDED[kind]
    if find_spec(needs.partition(".")[0]) is None or find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    wrapped = hf.lanes(model, cache=make)
    (lane,) = hf.generate(wrapped, None, PROMPT, lanes=1, max_tokens=12).lanes
    with torch.no_grad():
        theirs = model.generate(
            torch.tensor([PROMPT]), past_key_values=make(), max_new_tokens=12, do_sample=False
        )
    assert lane.tokens == theirs[0, len(PROMPT) :].tolist()
    exact = hf.generate(model, None, PROMPT, lanes=1, max_tokens=12).lanes[0]
    assert not np.allclose(lane.logprobs, exact.logprobs, atol=1e-4)  # else nothing was rounded


@pytest.mark.parametrize("kind", ["DynamicCache", "StaticCache", "fp8", "hybrid"])
def test_a_peek_changes_nothing(model: Any, kind: str) -> None:
    """Rows are taken back; a cache that cannot forget keeps them, and nobody sees them."""
    wrapped = hf.lanes(model, cache=EXACT[kind] if kind in EXACT else ROUNDED[kind][1])
    rope, mask = tinylane.mode("joint", wrapped, 2, omega="ntk", slot=8)
    d, calm = (
        tinylane.Decoding(wrapped, PROMPT, 2, lane_rope=rope, lane_mask=mask, max_tokens=8)
        for _ in range(2)
    )
    d.step()
    calm.step()
    before, forgets = d.cache.used, croppable(d.cache.past.layers[0])
    first = d.peek(0, [3, 4])
    for _ in range(20):  # of 3 rows each: more than the static cache has room for
        assert np.array_equal(d.peek(0, [3, 4]), first)
    assert d.cache.nbytes > 0 and forgets == (kind in ("DynamicCache", "StaticCache"))
    assert d.cache.used == int(d.cache.past.get_seq_length()) == before + (0 if forgets else 84)
    for _ in range(4):
        one, two = d.step(), calm.step()
        assert one.tokens == two.tokens and np.allclose(one.logprobs, two.logprobs, atol=1e-5)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_cache_that_loses_rows_is_refused_by_name(model: Any, kind: str) -> None:
    make, says = REFUSED[kind]
    with pytest.raises(TinylaneError, match=says) as refused:
        hf.lanes(model, cache=make)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it works")
@pytest.mark.parametrize("make", [transformers.DynamicCache, static])
def test_an_offloaded_cache_needs_a_gpu(model: Any, make: Any) -> None:
    with pytest.raises(TinylaneError, match=r"Cache cannot hold lanes: .*CUDA"):
        hf.lanes(model, cache=lambda: make(offloading=True))


def test_every_class_of_transformers_is_one_of_these() -> None:
    """A new version may bring a class that nobody tried."""
    known = {"Cache", "EncoderDecoderCache", "QuantizedCache", *EXACT}
    classes = {
        name
        for name, x in vars(cache_utils).items()
        if isinstance(x, type) and issubclass(x, cache_utils.Cache)
    }
    assert classes <= known, f"not tried: {sorted(classes - known)}"


def test_a_static_cache_that_is_full_says_so(model: Any) -> None:
    wrapped = hf.lanes(model, cache=lambda: static(16))
    with pytest.raises(TinylaneError, match=r"StaticCache has room for 16 rows, .* 18 are needed"):
        hf.generate(wrapped, None, PROMPT, lanes=3, max_tokens=9)


def test_a_cache_that_gives_other_rows_is_found(model: Any) -> None:
    """Negative control of `check_cache`."""

    class Shifted(transformers.DynamicCache):
        def update(self, keys: Any, values: Any, *where: Any, **more: Any) -> Any:
            keys, values = super().update(keys, values, *where, **more)
            return keys.roll(1, dims=2), values.roll(1, dims=2)

    wrapped = hf.lanes(model)
    check_cache(wrapped)
    wrapped.new_past = Shifted
    with pytest.raises(TinylaneError, match="Shifted does not keep the rows that it is given"):
        check_cache(wrapped)
