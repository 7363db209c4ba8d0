"""The shell game: its group, its transcripts, and what a user may type."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED
from tinylane.evaluate.tasks.shell_game import END, ShellGame

GAME = ShellGame()


def by_hand(game: ShellGame, moves: np.ndarray) -> str:
    """The swaps done one after another on a list: nothing of the composition table."""
    cups = list("ABCDE"[: game.cups])
    for word in (game.moves[k] for k in moves):
        if word != "--":
            i, j = (int(x) - 1 for x in word.split("-"))
            cups[i], cups[j] = cups[j], cups[i]
    return "".join(cups)


@given(st.integers(2, 5), st.sampled_from([1, 2, 4, 8]), st.integers(0, 10**6), st.booleans())
def test_every_lane_ends_on_what_the_swaps_do(cups: int, n: int, seed: int, stay: bool) -> None:
    """Guards the pairing of lanes and the order of composition, for every number of lanes."""
    game = ShellGame(cups=cups, swaps=16)
    moves = game.draw(5, np.random.default_rng(seed), 0.3 if stay else 0.0)
    written = game.write(moves, n)
    assert written.shape == (5, n, game.steps(n))
    for b in range(5):
        assert game.answer(moves[b]) == by_hand(game, moves[b])
        assert {game.arrangements[a] for a in written[b, :, -1]} == {by_hand(game, moves[b])}


@given(st.sampled_from([1, 2, 4, 8]), st.integers(0, 10**6))
def test_a_lane_first_writes_the_running_arrangement_of_its_share(n: int, seed: int) -> None:
    moves = GAME.draw(2, np.random.default_rng(seed), 0.2)
    written, share = GAME.write(moves, n), GAME.swaps // n
    for m in range(n):
        for k in range(share):
            done = moves[1, m * share : m * share + k + 1]
            assert GAME.arrangements[written[1, m, k]] == by_hand(GAME, done)


def test_composition_is_associative_and_depends_on_order() -> None:
    """What makes the task one that lanes can share, and one that they must share in order."""
    c, a = GAME.compose, np.arange(24)
    x, y, z = (v.ravel() for v in np.meshgrid(a, a, a))
    assert np.array_equal(c[c[x, y], z], c[x, c[y, z]])
    assert not np.array_equal(c, c.T)


def test_rows_are_what_the_tokenizer_makes_of_prompt_and_lane_prompts() -> None:
    """The trainer feeds what `generate` will feed: same ids, same places."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_str(GAME.tokenizer_json())
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    for n in GAME.lanes:
        moves = GAME.draw(3, np.random.default_rng(n), 0.2)
        tokens, follows = GAME.rows(moves, n)
        positions, lanes = GAME.coordinates(n)
        P, L = GAME.swaps + 7, 1 + GAME.steps(n)
        assert tokens.shape == (3, P + n * L) and len(positions) == len(lanes) == P + n * L
        assert tokens[1, :P].tolist() == encode(GAME.prompt(moves[1]))
        assert positions[:P].tolist() == list(range(P)) and set(lanes[:P]) == {SHARED}
        for m, tag in enumerate(GAME.lane_prompts(n)):
            mine = lanes == m
            assert positions[mine].tolist() == list(range(P, P + L))
            row = tokens[1, mine]
            assert encode(tag) == [row[0]]
            assert follows[1, m * L : (m + 1) * L].tolist() == [*row[1:], GAME.ids[END]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1-3 2-4", ["1-3", "2-4"]),
        ("swap 3-1, then 2 - 4!", ["1-3", "2-4"]),
        ("1-2 -- 3-4", ["1-2", "--", "3-4"]),
    ],
)
def test_a_users_swaps_are_read_and_padded(text: str, words: list[str]) -> None:
    moves = [GAME.moves[k] for k in GAME.parse(text)]
    assert moves == words + ["--"] * (16 - len(words))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hello", "no swap"),
        ("", "no swap"),
        ("1-5", "places from 1 to 4"),
        ("2-2", "places from 1 to 4"),
        ("0-1", "places from 1 to 4"),
        ("1-2 " * 17, "up to 16"),
        ("1-99999999999999999999", "places from 1 to 4"),
    ],
)
def test_swaps_that_cannot_be_are_refused(text: str, says: str) -> None:
    with pytest.raises(TinylaneError, match=says):
        GAME.parse(text)


def test_impossible_games_are_refused() -> None:
    for wrong in ({"cups": 1}, {"cups": 6}, {"swaps": 0}, {"swaps": 12}, {"lanes": (3,)}):
        with pytest.raises(TinylaneError, match="expected"):
            ShellGame(**wrong)
    with pytest.raises(TinylaneError, match="3 lanes"):
        GAME.lane_prompts(3)
