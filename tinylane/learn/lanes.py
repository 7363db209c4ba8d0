"""Exercises of pages 5 to 8: who sees whom, LaneRoPE, the shell game, laws.

T rows   D channels   N lanes   V vocab
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.learn.checking import Exercise, Wrong, call, compare, spell
from tinylane.learn.encoding import with_turn
from tinylane.learn.numbers import turned_by, vectors_and_places
from tinylane.testing import laws
from tinylane.testing.checks import bound, plain
from tinylane.testing.reference import visible_by_definition
from tinylane.testing.samples import Case, Sample, example_case
from tinylane.testing.strategies import cases, masks

Answer = Callable[..., Any]


# Page 5.


@st.composite
def _pairs(draw: Any) -> tuple[Any, ...]:
    mask = draw(masks())
    places = [(draw(st.integers(0, 4)), draw(st.integers(SHARED, mask.n - 1))) for _ in "qk"]
    return mask, *places


def _sees(answer: Answer, given: tuple[LaneMask, tuple[int, int], tuple[int, int]]) -> None:
    mask, (i, m), (j, n) = given
    of = (
        f"query at ({i}, {_lane(m)}), key at ({j}, {_lane(n)}), visibility = "
        f"{spell(mask.visibility)}, lag = {mask.lag}"
    )
    got = call(answer, i, m, j, n, mask.visibility.copy(), mask.lag, of=of)
    expected = visible_by_definition(np.array([i, j]), np.array([m, n]), mask)[0, 1]
    compare(bool(got), expected, of)


def _lane(m: int) -> str:
    return "SHARED" if m == SHARED else str(m)


def _reaches(answer: Answer, mask: LaneMask) -> None:
    of = f"visibility = {spell(mask.visibility)}"
    compare(call(answer, mask.visibility.copy(), of=of), mask.reaches(), of)


# Page 6.


def _turned(answer: Answer, given: tuple[Any, ...]) -> None:
    x, i, m, theta, omega = given
    of = spell({"x": x, "i": i, "m": m, "theta": theta, "omega": omega})
    got = call(answer, x.copy(), i, m, theta.copy(), omega.copy(), of=of)
    compare(got, turned_by(x, i * theta + m * omega), of)


def _group_think(answer: Answer, given: tuple[Case, int]) -> None:
    """Law 11, with the reader's Omega."""
    case, slot = given
    model, sample = case.model(), case.sample
    omega = call(answer, model.theta.copy(), slot, of=f"theta = {spell(model.theta)}, {slot = }")
    try:
        rope = LaneRoPE(np.asarray(omega, dtype=np.float64), prompt_lane=0)
        f = lambda *rows, lane_rope: bound(model, sample.with_rope(rope))(*rows)  # not the law's
        laws.assert_group_think(f, plain(model), sample, model.theta, slot)
    except (laws.LawViolation, TinylaneError, TypeError, ValueError) as error:
        got = f"theta = {spell(model.theta)}, {slot = }: Omega = {spell(np.asarray(omega))}"
        raise Wrong(f"{got}; {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


# Page 7.


@st.composite
def _two_arrangements(draw: Any) -> tuple[ShellGame, int, int]:
    game = ShellGame(draw(st.integers(2, 4)), 1, (1,))
    last = len(game.arrangements) - 1
    return game, draw(st.integers(0, last)), draw(st.integers(0, last))


def _compose(answer: Answer, given: tuple[ShellGame, int, int]) -> None:
    game, a, b = given
    first, then = game.arrangements[a], game.arrangements[b]
    of = f"first {first!r}, then {then!r}"
    _same_text(call(answer, first, then, of=of), game.arrangements[game.compose[a, b]], of)


@st.composite
def _swaps_and_lanes(draw: Any) -> tuple[ShellGame, list[int], int]:
    lanes = draw(st.sampled_from((1, 2, 4)))
    game = ShellGame(draw(st.integers(2, 4)), lanes * draw(st.integers(1, 3)), (lanes,))
    move = st.integers(0, len(game.moves) - 2)  # the last one is `--`
    moves = draw(st.lists(move, min_size=game.swaps, max_size=game.swaps))
    return game, moves, draw(st.integers(0, lanes - 1))


def _lane_words(answer: Answer, given: tuple[ShellGame, list[int], int]) -> None:
    game, moves, m = given
    cups, n = game.arrangements[0], game.lanes[0]
    swaps = [game.moves[k] for k in moves]
    of = f"cups = {cups!r}, swaps = {swaps}, m = {m}, n = {n}"
    expected = [game.arrangements[k] for k in game.write(np.array([moves]), n)[0, m]]
    _same_text(call(answer, cups, list(swaps), m, n, of=of), expected, of)


def _same_text(got: Any, expected: Any, of: str) -> None:
    if got != expected:
        raise Wrong(f"{of}: got {got!r}, expected {expected!r}")


# Page 8.


def _encoding(answer: Answer, case: Case) -> None:
    """Laws 1, 2, 6 and 9 of a decoder that turns queries and keys by the reader's function."""
    model, sample = case.model(), case.sample
    f = _decoder_of(answer, model, sample.mask)
    checks = (
        partial(laws.assert_token_shift, f, sample, 7),
        partial(laws.assert_lane_shift, f, sample, 1),
        partial(laws.assert_one_lane, f, plain(model), sample),
        partial(laws.assert_shared_prompt, f, sample),
    )
    for law in checks:
        try:
            law()
        except laws.LawViolation as violation:
            raise Wrong(f"breaks a law: {_first_line(violation)}") from violation


def _decoder_of(answer: Answer, model: Model, mask: LaneMask) -> Callable[..., np.ndarray]:
    """The model with `answer(x, i, m, theta)` as its encoding."""

    def turn(x: np.ndarray, i: int, m: int) -> np.ndarray:
        of = spell({"x": x, "i": i, "m": m, "theta": model.theta})
        turned = np.asarray(call(answer, x.copy(), i, m, model.theta.copy(), of=of), dtype=float)
        if turned.shape != x.shape or not np.isfinite(turned).all():
            raise Wrong(f"{of}: got {spell(turned)}, expected {len(x)} finite numbers")
        return turned

    return with_turn(model, turn, mask)


def _tells_lanes_apart(answer: Answer) -> None:
    """A vector of ones must be turned by its lane."""
    theta = np.array([1.0, 0.1])
    x, here = np.ones(4), call(answer, np.ones(4), 3, 0, theta)
    if np.allclose(here, call(answer, x, 3, 1, theta)):
        raise Wrong("keeps all laws, but lanes 1 and 2 are turned alike: it tells no lanes apart")


@dataclass(frozen=True, eq=False)
class Early(LaneMask):
    """A planted bug: keys of other lanes can be seen one step too early."""

    def visible(self, positions: Any, lanes: Any, key_positions: Any, key_lanes: Any) -> Any:
        seen = super().visible(positions, lanes, key_positions, key_lanes)
        soon = super().visible(positions + 1, lanes, key_positions, key_lanes)
        return seen | (soon & (lanes[:, None] != key_lanes[None, :]))


def _causality(answer: Answer, case: Case) -> None:
    """The reader's law holds for a decoder that keeps causality."""
    sample = case.sample
    if not _holds(answer, bound(case.model(), sample), sample):
        raise Wrong(f"says False of a decoder that keeps the law; {sample!r}")


def _notices_early(answer: Answer) -> None:
    """And fails for a decoder that does not, in one of many samples."""
    for seed in range(60):
        case = example_case(seed, ("default",))
        mask = Early(np.ones((case.sample.mask.n,) * 2, dtype=bool), lag=1)
        planted = bound(case.model(), case.sample.with_mask(mask))
        said = case.sample.with_mask(LaneMask(mask.visibility, mask.lag))
        if not _holds(answer, planted, said):
            return
    raise Wrong(
        "says True, in 60 samples, of a decoder in which lanes see one another's tokens one step "
        "too early (at i - j = 0, where lag = 1 asks for 1)"
    )


def _holds(answer: Answer, f: Callable[..., Any], sample: Sample) -> bool:
    return bool(call(answer, f, sample, of=f"{sample!r}"))


EXERCISES = (
    Exercise(
        "05.1",
        "may the query at (i, m) see the key at (j, n)? -> True or False",
        ("i", "m", "j", "n", "visibility", "lag"),
        _pairs(),
        _sees,
        tries=300,
    ),
    Exercise(
        "05.2",
        "which lane can influence which, also through others: visibility (N, N) -> (N, N)",
        ("visibility",),
        masks(),
        _reaches,
    ),
    Exercise(
        "06.1",
        "LaneRoPE of one vector x (D,) at (i, m), theta and Omega (D/2,) -> (D,)",
        ("x", "i", "m", "theta", "omega"),
        vectors_and_places(lanes=True),
        _turned,
    ),
    Exercise(
        "06.2",
        "the Omega of Group Think: theta (D/2,), slot -> (D/2,)",
        ("theta", "slot"),
        st.tuples(cases(kinds=("default",)), st.integers(1, 100)),
        _group_think,
        tries=30,
    ),
    Exercise(
        "07.1",
        "two arrangements as one: first, then (words such as 'BACD') -> a word",
        ("first", "then"),
        _two_arrangements(),
        _compose,
    ),
    Exercise(
        "07.2",
        "all words that lane m of n lanes is to write: cups 'ABCD', swaps ['1-3', ...] -> a list",
        ("cups", "swaps", "m", "n"),
        _swaps_and_lanes(),
        _lane_words,
    ),
    Exercise(
        "08.1",
        "an encoding of your own: x (D,) at (i, m), theta (D/2,) -> (D,)",
        ("x", "i", "m", "theta"),
        cases(kinds=("default",)),
        _encoding,
        tries=20,
        whole=_tells_lanes_apart,
    ),
    Exercise(
        "08.2",
        "causality as a law: does f(tokens, positions, lanes) keep it in this sample? -> a bool",
        ("f", "sample"),
        cases(kinds=("default",)),
        _causality,
        tries=40,
        whole=_notices_early,
    ),
)
