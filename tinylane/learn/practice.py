"""Exercises of pages 9 to 11: weights in a file, memory, a loss, what can be won, intervals."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.evaluate.measures import wilson
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.files.safetensors import write_tensors
from tinylane.learn.checking import Exercise, call, compare, spell
from tinylane.learn.numbers import arrays
from tinylane.testing.samples import Case
from tinylane.testing.strategies import cases

Answer = Callable[..., Any]


# Page 9.


@st.composite
def _tensors(draw: Any) -> tuple[dict[str, tuple[np.ndarray, str]], str]:
    """Tensors by name, in float32 and in bfloat16, and the name to read."""
    tensors = {}
    for name in draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True)):
        (values,) = draw(arrays((draw(st.integers(1, 2)), draw(st.integers(1, 3)))))
        tensors[name] = values.astype(np.float32), draw(st.sampled_from(("F32", "BF16")))
    return tensors, draw(st.sampled_from(sorted(tensors)))


def _read_tensor(answer: Answer, given: tuple[dict[str, tuple[np.ndarray, str]], str]) -> None:
    """Halves of small whole numbers are exact in bfloat16."""
    tensors, name = given
    held = {
        key: values if dtype == "F32" else ((values.view(np.uint32) >> 16).astype(np.uint16), dtype)
        for key, (values, dtype) in tensors.items()
    }
    inside = ", ".join(f"{key} {x.shape} {dtype}" for key, (x, dtype) in sorted(tensors.items()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_tensors(path, held)
        of = f"a file of {inside}; name = {name!r}"
        compare(np.array(call(answer, path, name, of=of)), tensors[name][0], of)


def _cache_bytes(answer: Answer, given: tuple[Case, int, int, int]) -> None:
    """What a cache really holds after a prompt and some steps of the lanes."""
    case, prompt, lanes, steps = given
    model, c = case.model(), case.config
    cache = model.new_cache(LaneRoPE.none(model.theta), LaneMask.joint(lanes))
    rows = np.array(
        [(k, -1) for k in range(prompt)]
        + [(prompt + k, m) for k in range(steps) for m in range(lanes)]
    )
    model(np.zeros(len(rows), dtype=int), rows[:, 0], rows[:, 1], cache=cache)
    expected = sum(part.nbytes for layer in range(c.layers) for part in cache.rows(layer))
    sizes = {"layers": c.layers, "kv_heads": c.kv_heads, "head_dim": c.head_dim}
    of = f"{spell(sizes)}, prompt = {prompt}, lanes = {lanes}, steps = {steps}, 8 bytes a number"
    got = call(answer, c.layers, c.kv_heads, c.head_dim, prompt, lanes, steps, 8, of=of)
    compare(got, expected, of)


# Page 10.


@st.composite
def _logits(draw: Any) -> tuple[np.ndarray, np.ndarray]:
    B, V = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    (logits,) = draw(arrays((B, V)))
    right = draw(st.lists(st.integers(0, V - 1), min_size=B, max_size=B))
    return logits * draw(st.sampled_from((1, 1000))), np.array(right)


def _loss(answer: Answer, given: tuple[np.ndarray, np.ndarray]) -> None:
    logits, right = given
    of = spell({"logits": logits, "right": right})
    top = logits.max(axis=1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    expected = (total - logits[np.arange(len(right)), right]).mean()
    compare(call(answer, logits.copy(), right.copy(), of=of), expected, of)


def most_won(numbers: int) -> int:
    """How many games two unturned lanes can win at most, by trying all they could say.

    A lane with the number x that reads y says f(x, y), whichever lane it is. For two numbers u and
    v there are two games: u - v is wanted of both lanes, or v - u.
    """
    won = 0
    for u in range(numbers):
        for v in range(u, numbers):
            wanted = {u - v, v - u}  # one, where u == v
            won += max(
                sum(first == w and second == w for w in wanted)
                for first, second in product(wanted, repeat=2)
            )
    return won


def _most_won(answer: Answer, numbers: int) -> None:
    of = f"numbers = {numbers}, {numbers**2} games"
    compare(call(answer, numbers, of=of), most_won(numbers), of)


# Page 11.


def _wilson(answer: Answer, given: tuple[int, int]) -> None:
    k, n = given
    known = wilson(k, n)
    of = f"k = {k}, n = {n}"
    compare(call(answer, k, n, of=of), (known.low, known.high), of, close=1e-6)


def _chance(answer: Answer, given: tuple[int, int]) -> None:
    cups, swaps = given
    of = f"cups = {cups}, swaps = {swaps}"
    compare(call(answer, cups, swaps, of=of), float(chance(cups, swaps)), of)


def chance(cups: int, swaps: int) -> Fraction:
    """The share of games that the best fixed guess wins, by counting where all games end."""
    game = ShellGame(cups, 1, (1,))
    moves = game.move_numbers[:-1]  # all swaps; not `--`
    ends = np.zeros(len(game.arrangements), dtype=object)
    ends[0] = 1
    for _ in range(swaps):
        after = np.zeros_like(ends)
        for move in moves:
            for a, ways in enumerate(ends):
                after[game.compose[a, move]] += ways
        ends = after
    return Fraction(max(ends), len(moves) ** swaps)


EXERCISES = (
    Exercise(
        "09.1",
        "a tensor of a .safetensors file, F32 or BF16, by its name -> float32",
        ("path", "name"),
        _tensors(),
        _read_tensor,
        tries=40,
    ),
    Exercise(
        "09.2",
        "bytes of the keys and values after a prompt and `steps` tokens of every lane -> a number",
        ("layers", "kv_heads", "head_dim", "prompt", "lanes", "steps", "item"),
        st.tuples(
            cases(kinds=("default",)), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3)
        ),
        _cache_bytes,
        tries=40,
    ),
    Exercise(
        "10.1",
        "minus the log-probability of the right words, averaged: logits (B, V), right (B,)",
        ("logits", "right"),
        _logits(),
        _loss,
    ),
    Exercise(
        "10.2",
        "how many of numbers * numbers games two unturned lanes can win at most -> a number",
        ("numbers",),
        st.integers(1, 7),
        _most_won,
        tries=20,
    ),
    Exercise(
        "11.1",
        "Wilson's 95% interval of k right answers in n -> (low, high)",
        ("k", "n"),
        st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
        _wilson,
    ),
    Exercise(
        "11.2",
        "the share of games that the best guess wins, after so many swaps of so many cups",
        ("cups", "swaps"),
        st.tuples(st.integers(2, 4), st.integers(1, 20)),
        _chance,
        tries=40,
    ),
)
