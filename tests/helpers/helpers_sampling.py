"""What the tests of sampling share: samplers, logits, and what transformers recorded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from tinylane.core import distribution
from tinylane.core.sampling import Sampler, uniform

try:
    import mlx.core as mx
except ImportError:
    mx = None

needs_mlx = pytest.mark.skipif(mx is None, reason="mlx is not installed")
LIBRARIES = ["numpy", pytest.param("mlx", marks=needs_mlx)]
INF = math.inf
RECORDED = np.load(Path(__file__).parents[1] / "data" / "sampling.npz")
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
    scores = sampler._scores(logits, history)
    _, _, weigh = distribution.weights(scores, sampler)
    weights = np.array(weigh(scores), dtype=np.float64)
    return weights / weights.sum(axis=-1, keepdims=True)


def slow_weights(sampler: Sampler, scores: np.ndarray) -> np.ndarray:
    """(N, V): the filters over the whole vocabulary, in the order of transformers. NumPy only."""
    V = scores.shape[-1]
    w = np.exp((scores - scores.max(axis=-1, keepdims=True)) / sampler.temperature)
    if 0 < sampler.top_k < V:
        w = w * (w >= np.sort(w, axis=-1)[:, [V - sampler.top_k]])
    if sampler.top_p < 1:
        ranked = np.sort(w, axis=-1)
        below = np.cumsum(ranked, axis=-1, dtype=np.float64)
        nucleus = below > (1 - sampler.top_p) * below[:, -1:]
        w = w * (w >= np.where(nucleus, ranked, 1).min(axis=-1, keepdims=True))
    return w * (w >= sampler.min_p)


def slow(sampler: Sampler, logits: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """(N,) tokens: the running sum of all weights in float64, searched from the left."""
    running = np.cumsum(slow_weights(sampler, logits), axis=-1, dtype=np.float64)
    return (running >= uniforms[:, None] * running[:, -1:]).argmax(axis=-1)


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
