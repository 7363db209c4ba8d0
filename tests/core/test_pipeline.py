"""MLX's pass that is built early: the same decoding, whatever happens between two steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers_lanes import EOS, FREE, ids, model_of, omega, small
from hypothesis import given
from hypothesis import strategies as st

from tinylane.core import decoder, pipeline
from tinylane.core import model as core_model
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding

mx = pytest.importorskip("mlx.core")
ENDING = Sampler(logit_bias={EOS: 1.5})
EARLY = lambda model: True  # as on a GPU


class Both:
    """One script run twice: with passes built early, and without."""

    def __init__(self, seed: int, sampler: Sampler, limits: list[int], **more: Any) -> None:
        model = model_of("mlx", "float32")
        self.decodings = [
            Decoding(
                model, ids(4), lanes=len(limits), max_tokens=limits, seed=seed, sampler=sampler,
                lane_rope=omega(model), lane_mask=LaneMask.joint(8), **more,
            )
            for _ in range(2)
        ]  # fmt: skip
        self.taken = 0

    def each(self, do: Callable[[Decoding], Any]) -> list[Any]:
        results = []
        for is_early, decoding in zip((True, False), self.decodings, strict=True):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline, "pays", lambda model, is_early=is_early: is_early)
                early = decoding._ahead
                if early is not None and is_early:
                    patch.setattr(early, "logits_of", self._counted(early.logits_of))
                try:
                    results.append(do(decoding))
                except TinylaneError as error:
                    results.append(str(error))
        return results

    def _counted(self, logits_of: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            logits = logits_of(*args)
            self.taken += logits is not None
            return logits

        return counted

    def agree(self) -> None:
        early, late = self.decodings
        for a, b in zip(early.lanes, late.lanes, strict=True):
            assert (a.tokens, a.finish_reason, a.text) == (b.tokens, b.finish_reason, b.text)
            np.testing.assert_allclose(a.logprobs, b.logprobs, rtol=0, atol=1e-5)
        assert np.array_equal(early.cache.positions, late.cache.positions)
        assert np.array_equal(early.cache.lanes, late.cache.lanes)
        for layer in range(2):
            for a, b in zip(early.cache.rows(layer), late.cache.rows(layer), strict=True):
                np.testing.assert_allclose(np.array(a), np.array(b), rtol=0, atol=1e-5)


OPERATIONS = (
    "step",
    "step",
    "step",
    "join",
    "join with a prompt",
    "fork",
    "drop",
    "finish",
    "trim",
)


@given(seed=st.integers(0, 999), script=st.lists(st.sampled_from(OPERATIONS), max_size=14))
def test_any_script_decodes_as_without(seed: int, script: list[str]) -> None:
    """Lanes join, fork, end and are dropped between a pass that was begun and its step."""
    both = Both(seed, ENDING if seed % 2 else FREE, [5, 20, 9])
    rng = np.random.default_rng(seed)
    for operation in script:
        lane = int(rng.integers(0, 6))
        do: dict[str, Callable[[Decoding], Any]] = {
            "step": lambda d: d.step().tokens,
            "join": lambda d: d.join(max_tokens=6).index,
            "join with a prompt": lambda d: d.join([7, 8], max_tokens=6).index,
            "fork": lambda d, lane=lane: d.fork(lane).index,
            "drop": lambda d, lane=lane: d.drop(lane),
            "finish": lambda d, lane=lane: d.finish(lane),
            "trim": lambda d: d.cache.trim(d.clock - 1),
        }
        early, late = both.each(do[operation])
        assert early == late, operation
        both.agree()


def test_a_decoding_takes_its_passes_early_and_makes_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many passes as steps: none is made twice, and none for nothing while nobody ends."""
    both, passes = Both(0, FREE, [9, 9]), []
    forward = decoder.forward
    for module in (pipeline, core_model):
        monkeypatch.setattr(module, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    for _ in range(9):
        both.each(lambda d: d.step().tokens)
    both.agree()
    assert both.taken == 8  # the first step draws from the prompt's logits
    assert len(passes) == 2 * 8


def test_a_wrong_guess_is_made_good() -> None:
    """A lane ends by itself, again and again: the pass that fed it must leave no trace."""
    ended = 0
    for seed in range(12):
        both = Both(seed, ENDING, [12, 12, 12])
        while both.decodings[0].live:
            early, late = both.each(lambda d: d.step())
            assert early.tokens == late.tokens and early.finished == late.finished
            ended += bool(early.finished) and bool(both.decodings[0].live)
        both.agree()
    assert ended > 5


@pytest.mark.parametrize("change", ["positions", "mask", "rope", "feed"])
def test_a_pass_is_not_taken_once_anything_it_was_built_on_has_changed(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "pays", EARLY)
    decoding = Both(0, FREE, [9, 9]).decodings[0]
    decoding.step()
    early = decoding._ahead
    assert early is not None
    rows = len(decoding.cache)
    if change == "positions":
        decoding.cache.positions = decoding.cache.positions.copy()
    elif change == "mask":
        decoding.cache.lane_mask = LaneMask.joint(8)
    elif change == "rope":
        decoding.cache.lane_rope = omega(decoding.model)
    else:
        decoding._feed[0] = (decoding._feed[0][0] ^ 1, *decoding._feed[0][1:])
    assert early.logits_of(decoding._feed, decoding.cache) is None and len(decoding.cache) == rows


def test_an_interrupted_step_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the pass is built early, in any layer: the decoding goes on as it was."""
    for calls in range(1, 5):
        both = Both(3, FREE, [8, 8])
        for _ in range(3):
            both.each(lambda d: d.step().tokens)
        cache, put = both.decodings[0].cache, both.decodings[0].cache.put
        left = [calls]

        def broken(*args: Any, put: Any = put, left: list[int] = left) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return put(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "pays", EARLY)
            patch.setattr(cache, "put", broken)
            stopped = False
            for _ in range(3):
                try:
                    both.decodings[0].step()
                except KeyboardInterrupt:
                    stopped = True
                    break
        assert stopped
        while both.decodings[1].live:
            both.each(lambda d: d.step() if d.live else None)
        while both.decodings[0].live:
            both.decodings[0].step()
        both.agree()


def test_what_was_built_is_handed_to_the_device_whether_it_counts_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another thread could not compute it: a wrong guess too is what the next pass is built on."""
    monkeypatch.setattr(pipeline, "pays", EARLY)
    begun: list[Any] = []
    decoding = Decoding(model_of("mlx", "float32"), ids(3), lanes=2, max_tokens=9, sampler=FREE)
    decoding.step()
    early = decoding._ahead
    assert early is not None
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: begun.append(arrays))
    early.fed = None
    early.start(decoding._feed[:1])  # a lane has ended
    assert len(begun) == 1 and early.fed is None
    early.start(decoding._feed)
    assert len(begun) == 2 and early.fed == decoding._feed


@pytest.mark.parametrize(
    "device, many, early",
    [(mx.gpu, 1 << 24, False), (mx.gpu, 0, True), (mx.cpu, 0, False)],
    ids=["a small model", "a large one", "on a CPU"],
)
def test_who_builds_early(
    device: Any, many: int, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("mlx", "float32")
    monkeypatch.setattr(pipeline, "SMALL", many)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(device))
    assert pipeline.pays(model) is early


@pytest.mark.parametrize("kind", ["mlx", "numpy"])
def test_nobody_builds_early_for_the_last_token(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "pays", EARLY)
    decoding = Decoding(model_of(kind, "float32"), ids(3), lanes=2, max_tokens=3, sampler=FREE)
    decoding.step()
    assert (decoding._ahead is not None) is (kind == "mlx")
    decoding.step()
    decoding.step()
    assert decoding._ahead is None  # nobody goes on


def test_a_sampler_that_looks_at_its_draws_is_asked_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "pays", EARLY)
    seen: list[Any] = []

    class Looking(Sampler):
        def __call__(self, *args: Any) -> Any:
            drawn = super().__call__(*args)
            seen.append(drawn)
            return drawn

    decoding = Decoding(model_of("mlx", "float32"), ids(3), max_tokens=4, sampler=Looking())
    decoding.step()
    assert len(seen) == 1 and decoding._ahead is None


def test_no_buffer_of_the_cache_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the early pass must not do: write to a buffer that the running pass still holds."""
    monkeypatch.setattr(pipeline, "pays", EARLY)
    model = small("mlx", "float32", layers=4, context=100_000)
    decoding = Decoding(model, ids(5), lanes=2, max_tokens=60, sampler=FREE)
    rows, (K, D) = 1 << 15, (model.config.kv_heads, model.config.head_dim)
    for layer in range(4):
        decoding.cache.put(layer, *(mx.zeros((K, rows, D)),) * 2)
    decoding.cache.settle()
    one_layer = decoding.cache.nbytes / 4
    for _ in range(5):
        decoding.step()
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    for _ in range(20):
        decoding.step()
    assert mx.get_peak_memory() - held < one_layer / 2
