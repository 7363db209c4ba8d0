"""Exercises of pages 1 to 4: attention, RoPE, a block, the cache.

T rows   S keys   D channels   H heads   K kv heads   C width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinylane.core.decoder import attention, rms_norm
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.oracle import naive
from tinylane.core.rope import RopeConfig, frequencies, rotate, table
from tinylane.core.sampling import Sampler
from tinylane.learn.checking import Exercise, Wrong, call, compare, spell
from tinylane.testing.strategies import cases

Answer = Callable[..., Any]


def arrays(*shapes: Sequence[int]) -> Any:
    """A strategy for a list of arrays of these shapes, of small whole numbers and halves.

    The structure is small and the numbers shrink to 0, so a counterexample can be read.
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    numbers = st.lists(st.integers(-6, 6), min_size=sum(sizes), max_size=sum(sizes))

    def cut(drawn: list[int]) -> list[np.ndarray]:
        parts = np.split(np.array(drawn, dtype=np.float64) / 2, np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    return numbers.map(cut)


# Page 1.


@st.composite
def _some_heads(draw: Any, grouped: bool) -> tuple[np.ndarray, ...]:
    """q, k, v and visible; every row sees a key. Sometimes the scores are large."""
    T, S, D = (draw(st.integers(1, 3)) for _ in "TSD")
    K = draw(st.integers(1, 2)) if grouped else 1
    H = K * draw(st.integers(1, 2)) if grouped else 1
    q, k, v = draw(arrays((H, T, D), (K, S, D), (K, S, D)))
    hidden = draw(st.lists(st.integers(0, T * S - 1), max_size=T * S))
    visible = np.ones(T * S, dtype=bool)
    visible[hidden] = False
    visible = visible.reshape(T, S)
    visible[:, 0] |= ~visible.any(axis=1)
    q = q * draw(st.sampled_from((1, 1000)))
    return (q, k, v, visible) if grouped else (q[0], k[0], v[0], visible)


def _attention(answer: Answer, given: tuple[np.ndarray, ...]) -> None:
    """Of one head (T, D), or of several (H, T, D)."""
    *rows, visible = given
    of = spell(dict(zip(("q", "k", "v", "visible"), given, strict=True)))
    got = call(answer, *(x.copy() for x in given), of=of)
    q, k, v = (x if x.ndim == 3 else x[None] for x in rows)
    compare(got, attention((q,), k, v, visible, None).reshape(rows[0].shape), of)


# Page 2.


@st.composite
def vectors_and_places(draw: Any, lanes: bool = False) -> tuple[Any, ...]:
    """x, i, theta; with lanes also m and Omega, in the order of the exercise."""
    half = draw(st.integers(1, 3))
    (x,) = draw(arrays((2 * half,)))
    theta, _ = frequencies(RopeConfig(base=draw(st.sampled_from((100.0, 10000.0)))), 2 * half)
    i = draw(st.integers(0, 2000))
    if not lanes:
        return x, i, theta
    (omega,) = draw(arrays((half,)))
    return x, i, draw(st.integers(0, 7)), theta, omega


def turned_by(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """x (D,) with plane d turned by angles[d], by the package's own rotation."""
    return rotate(x[None], *table(angles[None], dtype=np.float64))[0]


def _rope(answer: Answer, given: tuple[np.ndarray, int, np.ndarray]) -> None:
    x, i, theta = given
    of = spell({"x": x, "i": i, "theta": theta})
    compare(call(answer, x.copy(), i, theta.copy(), of=of), turned_by(x, i * theta), of)


@st.composite
def _two_vectors(draw: Any) -> tuple[Any, ...]:
    half = draw(st.integers(1, 3))
    q, k = draw(arrays((2 * half,), (2 * half,)))
    theta, _ = frequencies(RopeConfig(), 2 * half)
    return q, k, draw(st.integers(-50, 50)), theta


def _score_at(answer: Answer, given: tuple[Any, ...]) -> None:
    q, k, distance, theta = given
    of = spell({"q": q, "k": k, "distance": distance, "theta": theta})
    expected = turned_by(q, 60 * theta) @ turned_by(k, (60 + distance) * theta)
    compare(call(answer, q.copy(), k.copy(), distance, theta.copy(), of=of), expected, of)


# Page 3.


@st.composite
def _rows_and_weight(draw: Any) -> tuple[Any, ...]:
    T, C = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x, weight = draw(arrays((T, C), (C,)))
    return x, weight, draw(st.sampled_from((0.5, 1e-6)))


def _norm(answer: Answer, given: tuple[np.ndarray, np.ndarray, float]) -> None:
    x, weight, eps = given
    of = spell({"x": x, "weight": weight, "eps": eps})
    compare(call(answer, x.copy(), weight.copy(), eps, of=of), rms_norm(x, weight, eps), of)


@st.composite
def _block_parts(draw: Any) -> list[np.ndarray]:
    T, C = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    return draw(arrays((T, C), (C, C), (C, C), (C,), (C,)))


def _block(answer: Answer, given: list[np.ndarray]) -> None:
    """The parts are matrices here, so that a wrong order or a missing sum shows."""
    x, a, b, first, second = given
    mix, work = (lambda y: y @ a + 1), (lambda y: y @ b + 2)
    norm_1, norm_2 = (lambda y: y * first + 3), (lambda y: y * second + 4)
    of = (
        f"x = {spell(x)}, attend(y) = y @ {spell(a)} + 1, mlp(y) = y @ {spell(b)} + 2, "
        f"norm_1(y) = y * {spell(first)} + 3, norm_2(y) = y * {spell(second)} + 4"
    )
    got = call(answer, x.copy(), mix, work, norm_1, norm_2, of=of)
    between = x + mix(norm_1(x))
    compare(got, between + work(norm_2(between)), of)


# Page 4.


@st.composite
def _row_by_row(draw: Any) -> list[np.ndarray]:
    T, D = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    return draw(arrays((T, D), (T, D), (T, D)))


def _step(answer: Answer, given: list[np.ndarray]) -> None:
    """Law 8, steps equal one pass, for one head."""
    q, k, v = given
    T, kept = len(q), None
    causal = np.tri(T, dtype=bool)
    expected = attention((q[None],), k[None], v[None], causal, None)[0]
    for t in range(T):
        of = f"row {t} of q = {spell(q)}, k = {spell(k)}, v = {spell(v)}"
        returned = call(answer, q[t].copy(), k[t].copy(), v[t].copy(), kept, of=of)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise Wrong(f"{of}: got {spell(returned)}, expected a pair (average, kept)")
        mixed, kept = returned
        compare(mixed, expected[t], of)


class Counting(Model):
    """A model that counts the rows it is fed."""

    rows = 0

    def __call__(self, tokens: Any, *rest: Any, **more: Any) -> Any:
        self.rows += len(tokens)
        return super().__call__(tokens, *rest, **more)


def _write(answer: Answer, given: tuple[Any, list[int], int]) -> None:
    """What the slow path writes, with every row fed once."""
    case, prompt, count = given
    config = replace(case.config, eos_ids=())
    plain = case.model()
    model = Counting(config, plain.params, "numpy", "float64")
    of = f"prompt {prompt}, count {count}, a random model of {config.layers} layers"
    got = call(answer, model, list(prompt), count, of=of)
    slow = Model(config, plain.params, "numpy", "float64")
    rope, alone = LaneRoPE.none(slow.theta), LaneMask.independent(1)
    expected = naive(slow, prompt, [[]], count, Sampler(temperature=0), rope, alone)[0].tokens
    if [int(token) for token in got] != expected:
        raise Wrong(f"{of}: wrote {spell(got)}, expected {expected}")
    if model.rows > len(prompt) + count:
        raise Wrong(
            f"{of}: the right tokens, but {model.rows} rows went through the model; with a cache "
            f"{len(prompt) + count - 1} are enough"
        )


EXERCISES = (
    Exercise(
        "01.1",
        "masked attention of one head; q (T, D), k and v (S, D), visible (T, S) -> (T, D)",
        ("q", "k", "v", "visible"),
        _some_heads(grouped=False),
        _attention,
    ),
    Exercise(
        "01.2",
        "grouped attention; q (H, T, D), k and v (K, S, D), visible (T, S) -> (H, T, D)",
        ("q", "k", "v", "visible"),
        _some_heads(grouped=True),
        _attention,
    ),
    Exercise(
        "02.1",
        "RoPE of one vector x (D,) at position i, theta (D/2,) -> (D,)",
        ("x", "i", "theta"),
        vectors_and_places(),
        _rope,
    ),
    Exercise(
        "02.2",
        "the score of q and k (D,) when the key stands `distance` after the query",
        ("q", "k", "distance", "theta"),
        _two_vectors(),
        _score_at,
    ),
    Exercise(
        "03.1",
        "RMSNorm of the rows of x (T, C), weight (C,) -> (T, C)",
        ("x", "weight", "eps"),
        _rows_and_weight(),
        _norm,
    ),
    Exercise(
        "03.2",
        "one block: x (T, C) and its four parts, which are functions -> (T, C)",
        ("x", "attend", "mlp", "norm_1", "norm_2"),
        _block_parts(),
        _block,
    ),
    Exercise(
        "04.1",
        "one step of a head with a cache: q, k, v (D,) and what was kept -> (average (D,), kept)",
        ("q", "k", "v", "kept"),
        _row_by_row(),
        _step,
    ),
    Exercise(
        "04.2",
        "write `count` tokens, each the likeliest, and feed every row once -> a list of ids",
        ("model", "prompt", "count"),
        st.tuples(
            cases(kinds=("default",)),
            st.lists(st.integers(0, 10), min_size=1, max_size=4),
            st.integers(1, 4),
        ),
        _write,
        tries=25,
    ),
)
