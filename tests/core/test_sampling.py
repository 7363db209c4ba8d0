"""The settings of sampling, and its filters: those of transformers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers_sampling import (
    CASES,
    INF,
    LIBRARIES,
    RECORDED,
    array,
    mx,
    needs_mlx,
    probabilities,
    problem,
    sampler_of,
    samplers,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinylane.core import distribution
from tinylane.core.errors import TinylaneError
from tinylane.core.sampling import Sampler, uniform

# The settings.


SAID = {
    "temperature": "a number in [0, 1e6] (0 is greedy)",
    "top_p": "a number in (0, 1] (1 keeps every token)",
    "top_k": "an integer >= 0 (0 is off)",
    "min_p": "a number in [0, 1] (0 keeps every token)",
    "repetition_penalty": "a number in (0, 1e6] (1 is none)",
}


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": 1e6 + 0.5},
        {"temperature": INF},
        {"temperature": "0.5"},
        {"temperature": None},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": math.nan},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_k": None},
        {"min_p": -0.01},
        {"min_p": 1.01},
        {"min_p": math.nan},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -1.0},
        {"repetition_penalty": 1e6 + 0.5},
        {"repetition_penalty": INF},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_with_its_name_value_and_range(bad):
    ((name, value),) = bad.items()
    with pytest.raises(TinylaneError) as error:
        Sampler(**bad)
    assert str(error.value) == f"{name} {value!r}: expected {SAID[name]}"


@pytest.mark.parametrize("token, bias", [(-1, 1.0), ("3", 1.0), (3, math.nan), (3, INF), (3, None)])
def test_a_bias_out_of_range_is_refused(token, bias):
    with pytest.raises(TinylaneError) as error:
        Sampler(logit_bias={5: 1.0, token: bias})
    assert str(error.value) == f"logit_bias {token!r}: {bias!r}: expected an id and a number"


def test_the_ends_of_every_range_are_allowed():
    Sampler(temperature=0, top_p=1, top_k=0, min_p=0, repetition_penalty=1, logit_bias={})
    Sampler(temperature=5e-324, top_p=5e-324, min_p=1, logit_bias={0: -INF})
    Sampler(temperature=1e6, repetition_penalty=1e6)
    Sampler(repetition_penalty=5e-324)


def test_a_checkpoints_defaults_are_taken_and_what_is_not_sampling_is_left():
    defaults = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": 3}
    assert Sampler.from_config(defaults) == Sampler(0.6, 0.95, 20)
    assert Sampler.from_config({}) == Sampler.from_config(None) == Sampler(temperature=0)
    with pytest.raises(TinylaneError, match=r"top_p 1\.5"):
        Sampler.from_config({"top_p": 1.5})


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_biased_token_outside_the_vocabulary_is_refused(library):
    """Guards against an index that is dropped, wraps around, or ends the process on a GPU."""
    with pytest.raises(TinylaneError, match="logit_bias token 5: expected an id below 5"):
        Sampler(logit_bias={5: 1.0})(array(np.zeros((1, 5)), library), [0.5], [[]])


def test_numpy_scalars_do_not_promote_the_logits():
    """np.float64(0.7) as a temperature turns a float32 array into float64."""
    sampler = Sampler(np.float64(0.7), np.float64(0.9), np.int64(3), np.float64(0.1))
    scores = np.zeros((1, 5), np.float32)
    weigh = distribution.weights(scores, sampler)[2]
    assert weigh(scores).dtype == np.float32 and type(sampler.temperature) is float
    assert type(sampler.top_k) is int


# The filters are those of transformers.


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("i", range(len(CASES)), ids=[str(case) for case in CASES])
def test_filters_equal_what_transformers_recorded(i, library):
    logits = array(RECORDED["logits"], library)
    probable = probabilities(sampler_of(CASES[i]), logits, RECORDED["history"].tolist())
    expected = RECORDED["probabilities"][i]
    assert ((probable > 0) == (expected > 0)).all()
    np.testing.assert_allclose(probable, expected, rtol=2e-5, atol=1e-7)


def test_the_record_tells_the_cases_apart():
    """Negative control: an ignored setting would be seen, since no two cases agree."""
    tables = RECORDED["probabilities"]
    for i in range(len(CASES)):
        for j in range(i):
            assert np.abs(tables[i] - tables[j]).max() > 1e-3, (CASES[i], CASES[j])


def test_the_order_is_that_of_transformers():
    """Temperature before top-p, penalty before temperature: another order gives other tokens."""
    logits, history = RECORDED["logits"], RECORDED["history"].tolist()
    i = CASES.index(next(c for c in CASES if c.get("min_p") == 0.2))
    kept = RECORDED["probabilities"][i] > 0
    late = {name: CASES[i][name] for name in ("top_k", "top_p", "min_p", "repetition_penalty")}
    assert ((probabilities(Sampler(**late), logits, history) > 0) != kept).any()


def recorder() -> Any:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import record_sampling

    return record_sampling


def test_the_record_is_what_the_installed_transformers_says():
    again = recorder().record()
    assert set(again) == set(RECORDED.files)
    for name in ("logits", "history", "cases"):
        assert (again[name] == RECORDED[name]).all()
    np.testing.assert_allclose(again["probabilities"], RECORDED["probabilities"], rtol=1e-5)


@settings(deadline=None, max_examples=200)
@given(samplers, st.integers(0, 2**32), st.integers(1, 4), st.integers(7, 40))
def test_filters_equal_transformers_live(case, seed, lanes, vocab):
    """In float64, where no two cumulative sums meet a threshold by rounding."""
    logits, history = problem(seed, lanes, vocab, np.float64)
    expected = recorder().expected(case, logits, history)
    probable = probabilities(sampler_of(case), logits, history)
    # MinPLogitsWarper compares rounded probabilities: at min_p = 1 equals can fall out.
    assume(case.get("min_p", 0) < 0.999)
    assert ((probable > 0) == (expected > 0)).all()
    np.testing.assert_allclose(probable, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("library", LIBRARIES)
def test_tokens_of_equal_weight_stand_or_fall_together(library):
    """The one documented difference: in a tie the top-p of transformers keeps an arbitrary part."""
    logits = array([[1.0, 3.0, 1.0, 3.0, 1.0, -5.0]], library)
    assert (probabilities(Sampler(top_k=1), logits, [[]])[0] > 0).tolist() == [0, 1, 0, 1, 0, 0]
    assert (probabilities(Sampler(top_k=3), logits, [[]])[0] > 0).tolist() == [1, 1, 1, 1, 1, 0]
    assert (probabilities(Sampler(top_p=0.4), logits, [[]])[0] > 0).tolist() == [0, 1, 0, 1, 0, 0]
    assert (probabilities(Sampler(top_p=0.9), logits, [[]])[0] > 0).tolist() == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_smallest_top_p_keeps_the_likeliest_token(library):
    """1 - top_p is 1: no token lies above it, and without a floor token 0 would be drawn."""
    logits = array([[1.0, 3.0, 2.0, 3.0]], library)
    assert probabilities(Sampler(top_p=5e-324), logits, [[]]).tolist() == [[0, 0.5, 0, 0.5]]


def test_top_p_stops_at_the_token_that_reaches_it_exactly(monkeypatch):
    """Probabilities 1/2, 1/4, 1/8, 1/8, exact in base 2: the first alone is a half."""
    monkeypatch.setattr(np, "exp", np.exp2)
    logits = np.array([[3.0, 2.0, 1.0, 1.0]])
    for top_p, kept in [(0.5, 1), (0.5001, 2), (0.75, 2), (0.7501, 4), (0.875, 4)]:
        assert (probabilities(Sampler(top_p=top_p), logits, [[]]) > 0).sum() == kept


@needs_mlx
@settings(deadline=None, max_examples=60)
@given(samplers, st.integers(0, 2**32), st.integers(1, 4), st.integers(7, 40))
def test_numpy_and_mlx_draw_the_same_tokens(case, seed, lanes, vocab):
    sampler = sampler_of(case)
    logits, history = problem(seed, lanes, vocab)
    exact = probabilities(sampler, logits.astype(np.float64), history)
    kept = [probabilities(sampler, x, history) > 0 for x in (logits, mx.array(logits))]
    assume(all((k == (exact > 0)).all() for k in kept))  # no filter decides by rounding
    u = uniform(seed, np.arange(lanes), 0)
    gap = np.abs(exact.cumsum(-1) - u[:, None]).min()
    assume(gap > 1e-5)  # nor does the draw
    tokens, logprobs = sampler(logits, u, history)
    tokens_mx, logprobs_mx = sampler(mx.array(logits), u, history)
    assert tokens.tolist() == tokens_mx.tolist()
    np.testing.assert_allclose(logprobs, np.array(logprobs_mx), rtol=1e-5, atol=1e-5)
