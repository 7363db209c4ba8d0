"""Rows of one lane in order need no matrix of who sees whom: the same results without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_lanes import BACKENDS, TOLERANCE, ids, small
from hypothesis import given
from hypothesis import strategies as st

from tinylane.core import decoder, numpy_ops
from tinylane.core.decoder import make_plan
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Places
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding
from tinylane.methods.modes import MODES, mode
from tinylane.testing.reference import visible_by_definition
from tinylane.testing.strategies import coordinates, masks


class ByMatrix(LaneMask):
    """The same mask; the decoder asks it for the matrix, as it does any subclass."""


@given(coordinates(), masks(4), st.integers(0, 50))
def test_what_a_pass_is_told_is_who_sees_whom(
    rows: tuple[np.ndarray, np.ndarray], mask: LaneMask, cut: int
) -> None:
    """None, "causal" or a matrix: always the definition. The rows may be the last keys only."""
    positions, lanes = rows
    cut = min(cut, len(positions) - 1)
    seen = mask.seen(Places(positions[cut:], lanes[cut:], positions, lanes))
    T, S = len(positions) - cut, len(positions)
    told = np.ones((T, S), bool) if seen is None else decoder.matrix(seen, T, S, np)
    assert np.array_equal(told, visible_by_definition(positions, lanes, mask)[cut:])


def seen_by(i: list[int], m: list[int], cached: int = 0, mask: LaneMask | None = None) -> Any:
    positions, lanes = np.array(i), np.array(m)
    mask = mask or LaneMask.joint(3)
    return mask.seen(Places(positions[cached:], lanes[cached:], positions, lanes))


def test_a_prefill_does_not_even_ask_for_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took 142 ms of the host for 512 rows behind 32,000, while a GPU waited."""
    monkeypatch.setattr(LaneMask, "visible", None)
    S, N = SHARED, 2
    assert seen_by([0, 1, 2, 3], [S] * 4) == "causal"
    assert seen_by([0, 1, 2, 3], [S] * 4, 2) == "causal"  # behind a cache
    assert seen_by([0, 2, 5, 9], [S] * 4, 1) == "causal"  # with gaps
    assert seen_by([0, 1, 2, 3], [S, S, N, N], 2) == "causal"  # a lane's own prompt
    assert seen_by([0, 1, 2, 3], [S, N, N, N], 2, LaneMask.star(3, 4)) == "causal"
    assert seen_by([0, 1, 2], [S] * 3, 2) is None  # one row sees every key
    i = np.arange(9)
    places = Places(i[4:], np.full(5, S), i, np.full(9, S))
    for rotation in (LaneRoPE.none(np.ones(4)), Hogwild()):
        assert make_plan(small().config, rotation, LaneMask.joint(3), places).mask == "causal"


@pytest.mark.parametrize(
    "i, m, cached",
    [
        ([0, 2, 1], [SHARED] * 3, 0),
        ([0, 1, 1], [0, 0, 0], 0),  # both see each other
        ([0, 5, 2, 3], [SHARED] * 4, 2),  # a cached key is younger
        ([0, 1, 2, 3], [SHARED, SHARED, 0, 1], 2),
        ([0, 1, 2, 3], [SHARED, 0, 1, 1], 2),  # of another lane is read as the mask says
        ([0, 1, 2, 3], [0, 1, SHARED, SHARED], 2),  # the prompt reads no lane
    ],
)
def test_what_is_not_in_order_gets_the_matrix(i: list[int], m: list[int], cached: int) -> None:
    assert isinstance(seen_by(i, m, cached, LaneMask.star(3)), np.ndarray)


def test_a_subclass_decides_row_by_row() -> None:
    assert isinstance(seen_by([0, 1, 2], [SHARED] * 3, 0, ByMatrix(np.ones((3, 3)))), np.ndarray)


@pytest.mark.parametrize("kind", BACKENDS, ids="-".join)
@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("one", [False, True], ids=["lanes", "one lane"])
def test_every_mode_decodes_as_with_the_matrix(kind: tuple[str, str], name: str, one: bool) -> None:
    """Prefill in chunks, and a lane prompt behind it: caches, logits and tokens are the same."""
    model = small(*kind, seed=2)
    n = 1 if one else 3
    rotation, mask = mode(name, model, n, slot=8.0 if name == "group_think" else None)
    matrix = ByMatrix(mask.visibility, mask.lag)
    settings: dict[str, Any] = {
        "max_tokens": 5,
        "lane_rope": rotation,
        "lane_prompts": [[3, 4, 5], *[[]] * (n - 1)],
        "sampler": Sampler(1.0),
        "chunk": 7,
    }
    runs = [Decoding(model, ids(20), n, lane_mask=m, **settings) for m in (mask, matrix)]
    for _ in range(5):
        a, b = (run.step() for run in runs)
        assert a.tokens == b.tokens
    tolerance = TOLERANCE[kind[1]]
    for layer in range(2):
        for a, b in zip(*(run.cache.rows(layer) for run in runs), strict=True):
            np.testing.assert_allclose(np.array(a), np.array(b), rtol=0, atol=tolerance)


@pytest.mark.parametrize("ops", ["plain", "fast"])
@pytest.mark.parametrize("backend", ["numpy", "mlx"])
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("T, S", [(5, 5), (5, 9), (300, 300), (130, 700), (1, 4)])
def test_causal_is_the_triangle(T: int, S: int, blocks: int, backend: str, ops: str) -> None:
    """Each backend's attention, plain and fast; several blocks of keys; rows behind a cache."""
    rng = np.random.default_rng(T)
    q = [rng.standard_normal((4, T, 8)).astype(np.float32) for _ in range(blocks)]
    k, v = (rng.standard_normal((2, S, 8)).astype(np.float32) for _ in range(2))
    where = None if blocks == 1 else np.sort(rng.integers(blocks, size=S)).astype(np.int32)
    triangle = np.tri(T, S, S - T, dtype=bool)
    expected = decoder.attention(tuple(q), k, v, triangle, where)
    if backend == "mlx":
        mx = pytest.importorskip("mlx.core")
        from tinylane.core import mlx_ops

        fast, arrays = mlx_ops.attention, [mx.array(x) for x in (*q, k, v)]
    else:
        fast, arrays = numpy_ops.attention, [*q, k, v]
    attention = fast if ops == "fast" else decoder.attention
    got = np.array(attention(tuple(arrays[:-2]), *arrays[-2:], "causal", where))
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


def test_the_slices_of_training_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    mx = pytest.importorskip("mlx.core")
    from tinylane.train import forward

    rng = np.random.default_rng(0)
    q1, q2 = (mx.array(rng.standard_normal((1, 4, 9, 8)).astype(np.float32)) for _ in range(2))
    k, v = (mx.array(rng.standard_normal((1, 2, 9, 8)).astype(np.float32)) for _ in range(2))
    where = (np.arange(9) > 3).astype(np.int32)
    whole = forward.attention((q1, q2), k, v, "causal", where)
    monkeypatch.setattr(forward, "SCORES", 1)  # row by row
    parts = forward.attention((q1, q2), k, v, "causal", where)
    np.testing.assert_allclose(np.array(parts), np.array(whole), rtol=0, atol=1e-5)


def test_attention_weights_can_be_looked_at() -> None:
    from tinylane.view.attention import listening

    model, index = small(), np.arange(6)
    heard: list[np.ndarray] = []
    twin = listening(model, lambda layer, first, weights: heard.append(weights), block=4)
    twin(index, index, np.full(6, SHARED))
    rows = np.concatenate(heard[:2], axis=1)
    assert (rows.sum(axis=-1) - 1 < 1e-12).all() and (rows[:, ~np.tri(6, dtype=bool)] == 0).all()
    assert (rows[:, np.tri(6, dtype=bool)] > 0).all()
