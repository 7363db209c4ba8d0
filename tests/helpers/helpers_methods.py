"""A small model that writes bytes, and an oracle for what any method decodes with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_text import byte_level
from tokenizers import Tokenizer as Core

from tinylane.checkpoints.side import Side
from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.config import ModelConfig
from tinylane.core.lanes import SHARED
from tinylane.core.model import Model
from tinylane.core.random_weights import random_params
from tinylane.core.sampling import Sampler
from tinylane.methods import decode
from tinylane.methods.decoding import Decoding
from tinylane.testing.reference import (
    reference,
    same_step_by_definition,
    visible_by_definition,
)
from tinylane.testing.samples import random_extras
from tinylane.testing.tolerances import tolerance

WARM = Sampler(temperature=1.0)
PROMPT = "12+34=?"


def small(
    backend: str = "numpy", dtype: str = "float64", layers: int = 1, extra: str = "", **config: Any
) -> Model:
    """A random model with a tokenizer of bytes, whose attention weighs more than in a fresh one.

    extra: a kind of `tinylane.checkpoints.extras` that it has, for eight lanes.
    """
    tokenizer = Tokenizer(Core.from_str(byte_level()), {"eos_token": "</s>"})
    shape = {
        "width": 32,
        "layers": layers,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "mlp_width": 32,
    }
    settings = {"vocab": tokenizer.vocab_size, "context": 2048, **shape, **config}
    made = ModelConfig(**settings)
    params: dict[str, Any] = random_params(made, seed=3, std=0.4)
    params |= random_extras(made, [extra] if extra else [], 8, seed=1)
    if backend == "mlx":
        mx = pytest.importorskip("mlx.core")
        params = {name: mx.array(w.astype(np.float32)) for name, w in params.items()}
        dtype = "float32"
    else:
        params = {name: w.astype(dtype) for name, w in params.items()}
    return Model(made, params, backend, dtype, tokenizer=tokenizer, identity="small", side=Side)


def run(method: str, model: Model, lanes: int = 3, **more: Any) -> Decoding:
    """A decoding to its end; every step is compared with a pass over all rows, without a cache."""
    settings = {"sampler": WARM, "seed": 1, "max_tokens": 12, **more}
    d = decode(model, settings.pop("prompt", PROMPT), method, lanes, **settings)
    for _ in range(400):
        if d.schedule is not None:
            d.schedule(d)
        if not d.live:
            by_definition(d)
            return d
        check(d)
        d.step()
    raise AssertionError(f"{method} does not end")


def check(d: Decoding) -> None:
    """Every live lane's logits are those of an uncached pass over the rows that there are."""
    rows = list(
        zip(*(x.tolist() for x in (d.cache.tokens, d.cache.positions, d.cache.lanes)), strict=True)
    )
    rows += d._feed
    tokens, positions, lanes = np.array(rows).T
    fresh = d.model(tokens, positions, lanes, lane_rope=d.cache.lane_rope, lane_mask=d.mask)
    fresh = np.asarray(fresh, dtype=np.float64)
    allowed = tolerance(d.model.dtype, float(np.abs(fresh).max()), 1000.0)
    for lane in d.live:
        error = np.abs(d.peek(lane.index) - fresh[last_row(d, rows, lane.index)]).max()
        assert error <= allowed, f"lane {lane.index} at step {d.steps}: off by {error:.2g}"


def by_definition(d: Decoding) -> None:
    """Who sees whom, where the tokens stand, and the logits of all rows in one pass: by the
    definition in `tinylane.testing.reference`, which shares nothing with the decoder."""
    i, m, tokens = d.cache.positions, d.cache.lanes, d.cache.tokens
    rope: Any = d.cache.lane_rope
    seen = visible_by_definition(i, m, d.mask)
    assert np.array_equal(d.mask.visible(i, m, i, m), seen)
    for lane in d.lanes:
        stood = sorted(i[m == lane.index].tolist())
        first = lane.start - len(lane.prompt)
        assert stood == [*range(first, lane.start), *lane.positions][: len(stood)], lane.index
    side: Any = {"same": same_step_by_definition(i, m, d.mask)}
    side["across"] = visible_by_definition(i, m, d.mask, across=True)
    expected = reference(d.model.config, d.model.params, tokens, i, m, rope, seen, **side)
    got = np.asarray(d.model(tokens, i, m, lane_rope=rope, lane_mask=d.mask), dtype=np.float64)
    allowed = tolerance(d.model.dtype, float(np.abs(expected).max()), 1000.0)
    assert np.abs(got - expected).max() <= allowed


def last_row(d: Decoding, rows: list[tuple[int, int, int]], lane: int) -> int:
    """The row that a lane's next token is drawn from."""
    mine = [k for k, row in enumerate(rows) if row[2] == lane]
    if mine:
        return max(mine, key=lambda k: rows[k][1])
    follows = d.lanes[lane].follows
    if follows is not None:
        return last_row(d, rows, follows)
    return max((k for k, row in enumerate(rows) if row[2] == SHARED), key=lambda k: rows[k][1])
