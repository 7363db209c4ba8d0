"""The draws: each lane's is its own, and follows the distribution that the filters leave."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from helpers_sampling import (
    INF,
    LIBRARIES,
    array,
    chi_square_z,
    draws,
    mx,
    needs_mlx,
    probabilities,
    problem,
    sampler_of,
    samplers,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.core.sampling import Sampler, check, uniform

# The draw.

SHAPED = Sampler(temperature=0.8, top_k=12, top_p=0.9, min_p=0.02)


@pytest.mark.parametrize("sampler", [Sampler(), Sampler(temperature=1.6), SHAPED], ids=str)
@pytest.mark.parametrize("library", LIBRARIES)
def test_draws_follow_the_distribution(library, sampler):
    row = np.random.default_rng(1).standard_normal(20) * 1.5
    p = probabilities(sampler, row[None], [[]])[0]
    counts = np.bincount(draws(sampler, row, 20000, library), minlength=20)
    assert (counts[p == 0] == 0).all()
    assert abs(chi_square_z(counts[p > 0], 20000 * p[p > 0])) < 4


def test_the_chi_square_rejects_a_wrong_temperature():
    """Negative control of the test above."""
    row = np.random.default_rng(1).standard_normal(20) * 1.5
    p = probabilities(Sampler(), row[None], [[]])[0]
    counts = np.bincount(draws(Sampler(temperature=1.15), row, 20000, "numpy"), minlength=20)
    assert chi_square_z(counts, 20000 * p) > 8


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_draw_is_the_inverse_of_the_distribution(library):
    """Probabilities 1/8, 1/2, 0, 3/8 in the order of the vocabulary."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.array([[1.0, 4.0, 0.0, 3.0]]))
    for u, token in [(1e-9, 0), (0.124, 0), (0.126, 1), (0.624, 1), (0.626, 3), (1.0, 3)]:
        tokens, logprobs = Sampler()(array(logits, library), [u], [[]])
        assert tokens.tolist() == [token]
        assert logprobs.tolist() == pytest.approx([math.log([1, 4, 0, 3][token] / 8)], abs=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
@settings(deadline=None, max_examples=60)
@given(
    case=samplers,
    seed=st.integers(0, 2**32),
    u=st.sampled_from([1.0, 1 - 2.0**-24, 0.5, 2.0**-24, 2.0**-53]),
)
def test_a_token_of_weight_zero_is_never_drawn(library, case, seed, u):
    logits, history = problem(seed, 3, 40)
    logits[:, ::3] = -INF
    logits[:, -1] = -INF
    sampler, logits = sampler_of(case), array(logits, library)
    tokens = np.array(sampler(logits, np.full(3, u), history)[0])
    assert (probabilities(sampler, logits, history)[np.arange(3), tokens] > 0).all()


def test_the_many_unlikely_tokens_behind_a_likely_one_can_be_drawn():
    """In float32 the sum would stay at 1: 4096 tokens of weight 2**-25 each, 1 in 8000 in all."""
    logits = np.full((1, 4097), -25 * math.log(2), dtype=np.float32)
    logits[0, 0] = 0
    for u, token in [(1.0, 4096), (1 - 2.0**-14, 2048), (0.5, 0)]:
        assert abs(int(Sampler()(logits, [u], [[]])[0][0]) - token) <= 1


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("sampler", [Sampler(), Sampler(0.0), SHAPED], ids=str)
def test_one_possible_token_is_drawn_with_certainty(library, sampler):
    logits = np.full((2, 9), -INF)
    logits[0, 0], logits[1, 8] = 3.0, -1e30
    tokens, logprobs = sampler(array(logits, library), [1.0, 2.0**-53], [[], []])
    assert tokens.tolist() == [0, 8] and logprobs.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("library", LIBRARIES)
def test_greedy_takes_the_largest_logit_and_of_equals_the_lowest_id(library):
    logits = array([[1, 5, 5, 0], [2, 2, 2, 2], [-INF, -3, -3, -9]], library)
    tokens, logprobs = Sampler(temperature=0)(logits, [1.0] * 3, [[]] * 3)
    assert tokens.tolist() == [1, 0, 1]
    assert logprobs.tolist() == pytest.approx([-0.70560, -1.38629, -0.69439], abs=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_greedy_still_obeys_penalty_and_bias(library):
    logits = array([[4.0, 3.9, 0.0]], library)
    assert Sampler(0, repetition_penalty=1.1)(logits, [1.0], [[0]])[0].tolist() == [1]
    assert Sampler(0, logit_bias={2: 5.0})(logits, [1.0], [[]])[0].tolist() == [2]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-8])
def test_a_freezing_temperature_is_greedy(library, temperature):
    """Guards against logits / temperature overflowing to inf - inf."""
    logits = array([[1.0, 30.0, 29.99], [-1.0, -2.0, -INF]], library)
    assert Sampler(temperature)(logits, [1.0, 1.0], [[], []])[0].tolist() == [1, 0]


@pytest.mark.parametrize("library", LIBRARIES)
def test_log_probabilities_are_those_of_the_raw_logits(library):
    """A user compares them across settings; filters, temperature and bias do not count."""
    logits, history = problem(4, 5, 30)
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=-1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    for sampler in (Sampler(), Sampler(0), SHAPED, Sampler(0.5, logit_bias={3: 9.0})):
        tokens, logprobs = sampler(array(logits, library), uniform(0, np.arange(5), 0), history)
        drawn = np.array(logprobs)
        assert drawn.dtype == np.float32
        np.testing.assert_allclose(drawn, exact[np.arange(5), np.array(tokens)], atol=2e-5)


def test_float64_logits_give_float64_log_probabilities():
    assert SHAPED(np.zeros((1, 4)), [0.5], [[]])[1].dtype == np.float64


@pytest.mark.parametrize("library", LIBRARIES)
def test_half_precision_logits_are_sampled_in_float32(library):
    logits = array([[1.0, 2.0, 3.0]], library)
    half = logits.astype(np.float16) if library == "numpy" else logits.astype(mx.bfloat16)
    tokens, logprobs = SHAPED(half, [0.4], [[]])
    assert tokens.tolist() == SHAPED(logits, [0.4], [[]])[0].tolist()
    assert np.array(logprobs) == np.array(SHAPED(logits, [0.4], [[]])[1])


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_callers_logits_stay_as_they_are(library):
    logits, history = problem(4, 3, 30)
    given_logits = array(logits.copy(), library)
    Sampler(0.7, 0.9, 5, 0.1, 1.3, {2: -INF, 4: 1.0})(given_logits, [0.5] * 3, history)
    assert (np.array(given_logits) == logits).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_token_seen_twice_is_penalised_once(library):
    logits = array([[2.0, 1.0, -1.0]], library)
    sampler = Sampler(repetition_penalty=2.0)
    expected = probabilities(sampler, logits, [[0, 2]])
    assert (probabilities(sampler, logits, [[2, 0, 0, 2, 0]]) == expected).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_history_may_be_empty_ragged_an_array_or_hold_ids_beyond_the_head(library):
    """An embedding padded to a multiple of 64 has ids that the output head has not."""
    logits = array([[2.0, 1.0, -1.0]] * 4, library)
    sampler = Sampler(repetition_penalty=2.0)
    history = [[], [0, 3, 99], np.array([0]), (2,)]
    scores = np.array(sampler._scores(logits, history))
    assert scores.tolist() == [[2, 1, -1], [1, 1, -1], [1, 1, -1], [2, 1, -2]]
    assert (np.array(sampler._scores(logits, [[], [], [], []])) == np.array(logits)).all()


@needs_mlx
def test_numpy_and_mlx_add_a_bias_to_the_bit():
    """It is rounded to the dtype of the logits first: added in float64 the last bit can differ."""
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((5, 400)).astype(np.float32)
    sampler = Sampler(logit_bias=dict(enumerate(rng.standard_normal(400).tolist())))
    expected = logits + np.array([*sampler.logit_bias.values()], dtype=np.float32)
    for library in ("numpy", "mlx"):
        scores = np.array(sampler._scores(array(logits, library), []))
        assert scores.dtype == np.float32 and (scores == expected).all()


@needs_mlx
def test_no_array_that_goes_to_mlx_has_eight_bytes(monkeypatch):
    """On a GPU there is no float64, and a 64-bit index is twice the work."""
    made: list[Any] = []
    real = mx.array
    monkeypatch.setattr(mx, "array", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    sampler = Sampler(0.8, 0.9, 5, 0.01, 1.3, {2: 1, 4: 0.5})
    sampler(real(np.zeros((3, 9), np.float32)), uniform(1, np.arange(3), 0), [[1, 2], [], [3]])
    assert len(made) == 6 and all(x.itemsize <= 4 for x in made)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_banned_token_is_never_drawn(library):
    sampler = Sampler(temperature=3.0, logit_bias={1: -INF})
    assert 1 not in draws(sampler, [0.0, 50.0, 0.0], 500, library)


def test_only_the_work_that_is_asked_for_is_done(monkeypatch):
    """A sort of 150,000 logits costs more than all the rest."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("sorted")

    monkeypatch.setattr(np, "sort", refuse)
    monkeypatch.setattr(np, "partition", refuse)
    logits = np.zeros((2, 9), np.float32)
    Sampler(0.7, min_p=0.1, repetition_penalty=1.2, logit_bias={1: 1.0})(
        logits, [1.0] * 2, [[]] * 2
    )
    Sampler(top_k=9)(logits, [1.0] * 2, [[]] * 2)
    Sampler(temperature=0, top_k=3, top_p=0.5)(logits, [1.0] * 2, [[]] * 2)
    with pytest.raises(AssertionError, match="sorted"):
        Sampler(top_k=3)(logits, [1.0] * 2, [[]] * 2)


# Lanes do not meet.


@pytest.mark.parametrize("library,dtype", [("numpy", "f4"), ("numpy", "f8"), ("mlx", "f4")])
@settings(deadline=None, max_examples=60)
@given(
    case=samplers,
    greedy=st.booleans(),
    seed=st.integers(0, 2**32),
    lanes=st.integers(1, 7),
    vocab=st.integers(7, 300),
)
def test_a_row_does_not_depend_on_the_other_rows(library, dtype, case, greedy, seed, lanes, vocab):
    """Bit for bit: the token and its log-probability, alone, in company, and in any order."""
    if library == "mlx":
        pytest.importorskip("mlx.core")
    sampler = sampler_of({**case, **({"temperature": 0.0} if greedy else {})})
    logits, history = problem(seed, lanes, vocab, dtype)
    u = uniform(seed, np.arange(lanes), 3)
    tokens, logprobs = (np.array(x) for x in sampler(array(logits, library, dtype), u, history))
    for n in range(lanes):
        row = array(logits[n : n + 1], library, dtype)
        alone = [np.array(x) for x in sampler(row, u[n : n + 1], history[n : n + 1])]
        assert alone[0][0] == tokens[n] and alone[1][0] == logprobs[n]
    order = np.random.default_rng(seed).permutation(lanes)
    mixed = sampler(array(logits[order], library, dtype), u[order], [history[n] for n in order])
    assert (np.array(mixed[0]) == tokens[order]).all()
    assert (np.array(mixed[1]) == logprobs[order]).all()


def test_one_uniform_for_all_rows_would_be_seen():
    """Negative control: the rows' draws differ, so a shared or swapped number is a failure."""
    logits = np.zeros((6, 1000), np.float32)
    tokens = Sampler()(logits, uniform(0, np.arange(6), 0), [[]] * 6)[0]
    assert len(set(tokens.tolist())) == 6


def test_the_memory_layout_of_the_logits_does_not_matter():
    """A sum over strided rows adds in another order."""
    logits, history = problem(0, 5, 1000)
    u = uniform(0, np.arange(5), 0)
    for layout in (np.asfortranarray(logits), np.repeat(logits, 2, axis=1)[:, ::2]):
        for drawn, expected in zip(
            SHAPED(layout, u, history), SHAPED(logits, u, history), strict=True
        ):
            assert (drawn == expected).all()


# Logits that are no distribution.


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("sampler", [Sampler(), Sampler(0), SHAPED], ids=str)
@pytest.mark.parametrize(
    "row", [[0, math.nan, 1], [math.nan] * 3, [INF, 0, 0], [INF, INF, 0], [-INF] * 3], ids=str
)
def test_a_row_without_a_distribution_is_an_error_that_names_it(library, sampler, row):
    logits = array([[0, 1, 2], row, [5, 5, 5]], library)
    with warnings.catch_warnings(), pytest.raises(TinylaneError) as error:
        warnings.simplefilter("error")  # the error says it; NumPy need not say it before
        sampler(logits, [0.5] * 3, [[]] * 3)
    assert str(error.value) == (
        "logits of row 1: no token can be drawn (NaN, +inf, or every token at -inf; "
        "look for bad weights or a logit_bias of -inf)"
    )


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_that_bans_everything_is_an_error(library, temperature):
    sampler = Sampler(temperature, logit_bias={0: -INF, 1: -INF})
    with pytest.raises(TinylaneError, match="row 0"):
        sampler(array([[1.0, 2.0]], library), [0.5], [[]])
    with pytest.raises(TinylaneError, match="row 0"):
        sampler(array([[1.0, 2.0, -INF]], library), [0.5], [[]])


@pytest.mark.parametrize("library", LIBRARIES)
def test_draw_marks_the_row_and_check_reports_it_later(library):
    """So that MLX can build the next step before this one's values exist."""
    logits = array([[0, 1, 2], [0, math.nan, 1]], library)
    _, logprobs = Sampler().draw(logits, [0.5, 0.5], [[], []])
    assert np.isnan(np.array(logprobs)).tolist() == [False, True]
    check(logprobs[:1])
    check([-1.0, -200.0])
    with pytest.raises(TinylaneError, match="row 1"):
        check(logprobs)
    with pytest.raises(TinylaneError, match="row 1"):
        check(logprobs.tolist())
