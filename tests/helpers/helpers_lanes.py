"""Small random models, on both backends, for the tests of cache, decoding, run files and beams."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from tinylane.checkpoints.load import fast_ops
from tinylane.checkpoints.side import Side
from tinylane.core.config import ModelConfig
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.random_weights import random_params
from tinylane.core.sampling import Sampler

VOCAB = 29
TOLERANCE = {"float64": 1e-10, "float32": 2e-4}  # of a log-probability
BACKENDS = [("numpy", "float64"), ("numpy", "float32"), ("mlx", "float32")]
TWO = pytest.mark.parametrize("kind", [BACKENDS[0], BACKENDS[2]], ids=["numpy-float64", "mlx"])
EOS = 3
WARM = Sampler(temperature=1.0)
FREE = Sampler(temperature=1.0, logit_bias={EOS: -np.inf})  # never ends by itself


def small(
    backend: str = "numpy",
    dtype: str = "float64",
    seed: int = 0,
    identity: str = "small",
    tokenizer: Any = None,
    **changes: Any,
) -> Model:
    """A model of two layers whose logits differ enough from token to token to be worth testing."""
    sizes = {
        "vocab": VOCAB,
        "width": 32,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "mlp_width": 48,
        "context": 512,
        "qkv_bias": True,
    }
    config = ModelConfig(**{**sizes, **changes})
    rng = np.random.default_rng(seed)
    params: dict[str, Any] = random_params(config, seed, std=0.3)
    for name, value in params.items():
        if name.endswith(".bias"):  # with biases, a lane as such can be heard (method, section 2)
            params[name] = rng.standard_normal(value.shape) * 0.5
    if backend == "numpy":
        params = {name: np.ascontiguousarray(w, dtype=dtype) for name, w in params.items()}
    else:
        mx = pytest.importorskip("mlx.core")
        kind = getattr(mx, dtype)
        params = {name: mx.array(w.astype(np.float32)).astype(kind) for name, w in params.items()}
    return Model(
        config,
        params,
        backend,
        dtype,
        tokenizer=tokenizer,
        identity=identity,
        ops=fast_ops(backend),
        side=Side,
    )


@functools.cache
def model_of(backend: str, dtype: str) -> Model:
    """One model for all tests that only run it; its end token is EOS."""
    return small(backend, dtype, eos_ids=(EOS,))


def omega(model: Model, kind: str = "layers", prompt_lane: Any = "own", seed: int = 7) -> LaneRoPE:
    """A LaneRoPE of each kind: none, group_think, ntk, random, or random for each layer."""
    theta = model.theta
    if kind == "none":
        return LaneRoPE.none(theta, prompt_lane)
    if kind == "group_think":
        return LaneRoPE.group_think(theta, 40, prompt_lane)
    if kind == "ntk":
        return LaneRoPE.ntk(theta, 40, 4, prompt_lane)
    shape = (len(theta),) if kind == "random" else (model.config.layers, len(theta))
    return LaneRoPE(np.random.default_rng(seed).normal(0, 1.5, shape), prompt_lane)


OMEGAS = ("none", "group_think", "ntk", "random", "layers")


def ids(count: int, seed: int = 0, vocab: int = VOCAB) -> list[int]:
    """Random token ids."""
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


def log_softmax(logits: Any) -> np.ndarray:
    """(..., V) float64 log-probabilities of either library's logits."""
    x = np.asarray(logits).astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def one_pass(
    model: Model,
    rows: list[tuple[int, int, int]],
    rope: LaneRoPE | None = None,
    mask: LaneMask | None = None,
) -> np.ndarray:
    """(T, V) log-probabilities of one uncached pass over (token, position, lane) rows."""
    tokens, positions, lanes = (np.array(column) for column in zip(*rows, strict=True))
    return log_softmax(model(tokens, positions, lanes, rope, mask))


def same(lanes: Any, expected: Any, tolerance: float) -> None:
    """Lanes with equal tokens and reasons, and equal log-probabilities within the tolerance."""
    assert [lane.tokens for lane in lanes] == [lane.tokens for lane in expected]
    assert [lane.finish_reason for lane in lanes] == [lane.finish_reason for lane in expected]
    for a, b in zip(lanes, expected, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, rtol=0, atol=tolerance)


def rows_of(run: Any, with_last: set[int]) -> list[tuple[int, int, int]]:
    """All rows of a run; a lane's last token only for the lanes in `with_last`."""
    rows = [(token, i, SHARED) for i, token in enumerate(run.prompt)]
    for lane in run.lanes:
        begin = lane.start - len(lane.prompt)
        fed = lane.prompt + (lane.tokens if lane.index in with_last else lane.tokens[:-1])
        rows += [(token, begin + k, lane.index) for k, token in enumerate(fed)]
    return rows


def scored(model: Any, run: Any, lane: int, rows: list, rope: Any, mask: Any) -> np.ndarray:
    """Log-probabilities of a lane's tokens out of one pass over `rows`."""
    logprobs = one_pass(model, rows, rope, mask)
    mine = [k for k, row in enumerate(rows) if row[2] == lane]
    own = run.lanes[lane]
    before = mine[len(own.prompt) - 1] if own.prompt else len(run.prompt) - 1
    after = mine[len(own.prompt) :]
    places = [before, *after][: len(own.tokens)]
    return logprobs[places, own.tokens]
