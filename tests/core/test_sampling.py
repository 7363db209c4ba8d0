"""Sampling: each lane's draw is its own, and the filters are those of transformers."""

from __future__ import annotations

import importlib.util
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinylane.core import sampling
from tinylane.core.errors import TinylaneError
from tinylane.core.sampling import Sampler, check, uniform

try:
    import mlx.core as mx
except ImportError:
    mx = None

needs_mlx = pytest.mark.skipif(mx is None, reason="mlx is not installed")
GOLDEN = [
    0.011546754286331673,
    0.24154919656271823,
    0.21185954403345753,
    0.3035680343067587,
    0.8457443418608761,
    0.8133540609793565,
]
LIBRARIES = ["numpy", pytest.param("mlx", marks=needs_mlx)]
INF = math.inf
HERE = Path(__file__).parent
RECORDED = np.load(HERE.parent / "data" / "sampling.npz")
CASES = [json.loads(str(case)) for case in RECORDED["cases"]]


def array(x: Any, library: str, dtype: Any = np.float32) -> Any:
    return mx.array(np.asarray(x, dtype)) if library == "mlx" else np.asarray(x, dtype)


def sampler_of(case: dict[str, Any]) -> Sampler:
    case = dict(case)
    if case.get("logit_bias"):
        case["logit_bias"] = {int(token): bias for token, bias in case["logit_bias"].items()}
    return Sampler(**case)


def probabilities(sampler: Sampler, logits: Any, history: Any) -> np.ndarray:
    """(N, V) float64: what the sampler draws from, before any draw."""
    weights = np.array(sampler._weights(sampler._scores(logits, history)), dtype=np.float64)
    return weights / weights.sum(axis=-1, keepdims=True)


def draws(sampler: Sampler, row: Any, count: int, library: str, index: int = 0) -> np.ndarray:
    """`count` tokens of one row of logits, as `count` lanes of one step."""
    logits = array(np.tile(np.asarray(row, np.float32), (count, 1)), library)
    u = uniform(7, np.arange(count), index)
    return np.array(sampler(logits, u, [[]] * count)[0])


def chi_square_z(counts: np.ndarray, expected: np.ndarray) -> float:
    """How many standard deviations the statistic lies above its mean (Wilson and Hilferty)."""
    df = len(expected) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(((statistic / df) ** (1 / 3) - (1 - 2 / (9 * df))) / math.sqrt(2 / (9 * df)))


# --- the random numbers ---------------------------------------------------------------------


def test_a_uniform_depends_on_seed_lane_and_index_only():
    """Guards against a hidden generator: order, company and repetition change nothing."""
    together = uniform(3, np.arange(50), 8)
    alone = [uniform(3, lane, 8) for lane in reversed(range(50))]
    assert together.tolist() == alone[::-1]
    assert uniform(3, [9, 2, 9], 8).tolist() == [alone[-10], alone[-3], alone[-10]]


def philox4x64(key: int, counter: int) -> list[int]:
    """Salmon et al. 2011, ten rounds, straight from the paper."""
    mask = 2**64 - 1
    k0, k1 = key & mask, key >> 64
    c0, c1, c2, c3 = ((counter >> 64 * word) & mask for word in range(4))
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (b >> 64) ^ c1 ^ k0, b & mask, (a >> 64) ^ c3 ^ k1, a & mask
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return [c0, c1, c2, c3]


@given(st.integers(0, 2**128 - 1), st.integers(0, 200), st.integers(0, 2**64 - 1))
def test_a_uniform_is_an_output_of_philox_under_the_documented_key_and_counter(seed, lane, index):
    """Guards against a seed or index of 2**63 and more that loses its low bits in float64."""
    bits = philox4x64(seed, (index << 64) + lane // 4 + 1)[lane % 4]
    assert uniform(seed, lane, index) == ((bits >> 11) + 1) * 2.0**-53


def test_a_uniform_is_the_same_for_ever():
    """A saved run replays only while these numbers stand."""
    assert [uniform(0, 0, 0), uniform(0, 1, 0), uniform(0, 0, 1), uniform(1, 0, 0)] == GOLDEN[:4]
    assert [uniform(2**128 - 1, 9999, 2**64 - 1), uniform(2**64, 0, 0)] == GOLDEN[4:]


def test_seed_lane_and_index_each_change_the_number():
    """Guards against seeds that are folded: 2**64 must not be seed 0."""
    seeds = [0, 1, 2, 2**32, 2**64 - 1, 2**64, 2**64 + 1, 2**127, 2**128 - 1]
    found = {uniform(s, lane, i) for s in seeds for lane in (0, 1, 2, 9999) for i in range(5)}
    assert len(found) == len(seeds) * 4 * 5


@pytest.mark.parametrize("axis", ["seed", "lane", "index"])
def test_uniforms_are_uniform_and_uncorrelated_along_every_axis(axis):
    n = 3000
    if axis == "lane":
        u = uniform(5, np.arange(n), 11)
    else:
        u = np.array([uniform(i, 2, 3) if axis == "seed" else uniform(3, 2, i) for i in range(n)])
    counts = np.bincount((u * 20).astype(int).clip(max=19), minlength=20)
    assert abs(chi_square_z(counts, np.full(20, n / 20))) < 4
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / math.sqrt(n)


def test_the_smallest_uniform_is_not_zero_and_the_largest_is_one(monkeypatch):
    """At 0 the inverse of the distribution is no token; 53 bits and a half would round to it."""
    for bits, u in ((0, 2.0**-53), (2**64 - 1, 1.0)):
        stream = type("Philox", (), {"random_raw": lambda self, n, b=bits: np.full(n, b, "u8")})
        monkeypatch.setattr(np.random, "Philox", lambda s=stream, **_: s())
        assert uniform(0, 0, 0) == u
        assert np.float32(uniform(0, 0, 0)) > 0


@pytest.mark.parametrize("seed", [-1, 2**128, 1.5, "1", None, math.nan])
def test_a_seed_out_of_range_is_refused_with_its_range(seed):
    with pytest.raises(TinylaneError, match=r"seed .*0 to 2\*\*128 - 1"):
        uniform(seed, 0, 0)


def test_numpy_integers_are_seeds_lanes_and_indices():
    assert uniform(np.int64(4), np.int32(2), np.uint8(3)) == uniform(4, 2, 3)


def test_one_lane_gives_a_float_and_no_lanes_give_none():
    """np.float64 would promote a float32 array that it meets."""
    assert type(uniform(4, 2, 3)) is type(uniform(4, np.int64(2), 3)) is float
    assert uniform(4, np.zeros(0, dtype=int), 3).shape == (0,)


def test_no_more_random_numbers_are_made_than_the_last_lane_needs(monkeypatch):
    asked: list[int] = []
    raw = lambda self, count: asked.append(count) or np.zeros(count, "u8")
    monkeypatch.setattr(np.random, "Philox", lambda **_: type("Philox", (), {"random_raw": raw})())
    for lanes in (0, [4, 1], np.arange(3)):
        uniform(0, lanes, 0)
    assert asked == [1, 5, 3]


# --- the settings ---------------------------------------------------------------------------


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
    weights = sampler._weights(np.zeros((1, 5), np.float32))
    assert weights.dtype == np.float32 and type(sampler.temperature) is float
    assert type(sampler.top_k) is int


# --- the filters are those of transformers --------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("i", range(len(CASES)), ids=[str(case) for case in CASES])
def test_filters_equal_what_transformers_recorded(i, library):
    logits = array(RECORDED["logits"], library)
    found = probabilities(sampler_of(CASES[i]), logits, RECORDED["history"].tolist())
    expected = RECORDED["probabilities"][i]
    assert ((found > 0) == (expected > 0)).all()
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


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
    spec = importlib.util.spec_from_file_location(
        "recorder", HERE.parent / "record" / "record_sampling.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_record_is_what_the_installed_transformers_says():
    again = recorder().record()
    assert set(again) == set(RECORDED.files)
    for name in ("logits", "history", "cases"):
        assert (again[name] == RECORDED[name]).all()
    np.testing.assert_allclose(again["probabilities"], RECORDED["probabilities"], rtol=1e-5)


biases = st.floats(-9.0, 9.0, width=32)  # transformers holds them in float32
samplers = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0.05, 3.0),
        "top_k": st.integers(0, 40),
        "top_p": st.floats(0.05, 1.0),
        "min_p": st.floats(0.0, 1.0),
        "repetition_penalty": st.floats(0.5, 2.0),
        "logit_bias": st.dictionaries(st.integers(0, 6).map(str), biases, max_size=3),
    },
)


def problem(seed: int, lanes: int, vocab: int, dtype: Any = np.float32) -> tuple[Any, Any]:
    """Random logits (lanes, vocab) and histories, of mixed sharpness."""
    rng = np.random.default_rng(seed)
    scale = rng.choice([0.3, 2.0, 8.0], (lanes, 1))
    logits = (rng.standard_normal((lanes, vocab)) * scale + rng.normal(0, 9)).astype(dtype)
    return logits, [rng.integers(0, vocab, 6).tolist() for _ in range(lanes)]


@settings(deadline=None, max_examples=200)
@given(samplers, st.integers(0, 2**32), st.integers(1, 4), st.integers(7, 40))
def test_filters_equal_transformers_live(case, seed, lanes, vocab):
    """In float64, where no two cumulative sums meet a threshold by rounding."""
    logits, history = problem(seed, lanes, vocab, np.float64)
    expected = recorder().expected(case, logits, history)
    found = probabilities(sampler_of(case), logits, history)
    # MinPLogitsWarper compares rounded probabilities: at min_p = 1 equals can fall out.
    assume(case.get("min_p", 0) < 0.999)
    assert ((found > 0) == (expected > 0)).all()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


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


# --- the draw -------------------------------------------------------------------------------

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


SCAN = [[0.6, 1.1, 1.0, 2.1, 2.0, 2.2]]  # of these weights, as a parallel scan may round it
SCANNED = [[0.5, 0.0, 0.5, 0.0, 1.0, 0.0]]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("u, token", [(1.0, 4), (0.75, 4), (0.5, 2), (2.0**-53, 0)])
def test_a_scan_that_is_not_monotone_draws_no_removed_token(monkeypatch, library, u, token):
    """A GPU's parallel float32 scan may dip, and peak where the weight is zero."""
    monkeypatch.setattr(sampling, "_cumsum", lambda x: array(SCAN, library))
    reached = sampling._reaching(array(SCANNED, library), [u])
    assert int(reached.argmax(axis=-1)[0]) == token


def test_without_the_guard_such_a_scan_draws_a_removed_token():
    """Negative control: the plain inverse, and the guard with the wrong total (2.2, not 2.0)."""
    scan, weights = np.array(SCAN), np.array(SCANNED)
    assert (scan >= 0.5 * scan[:, -1:]).argmax() == 1
    assert (scan >= 1.0 * scan[:, -1:]).argmax() == 5
    assert not ((scan >= 1.0 * scan.max()) & (weights > 0)).any()


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
        found = np.array(logprobs)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, exact[np.arange(5), np.array(tokens)], atol=2e-5)


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


# --- lanes do not meet ----------------------------------------------------------------------


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
        for found, expected in zip(
            SHAPED(layout, u, history), SHAPED(logits, u, history), strict=True
        ):
            assert (found == expected).all()


# --- logits that are no distribution --------------------------------------------------------


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
