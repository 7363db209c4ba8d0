"""The shell game: cups, a list of swaps, "where is everything?". A task that lanes can share.

    cups ABCD , swap 1-3 2-4 1-2 -- 3-4 ... : where ?

A swap i-j exchanges what stands at places i and j; `--` leaves everything where it is. The answer
is the arrangement, read from place 1 on. Composing swaps depends on their order but is associative:
alone it takes a step for each swap; N lanes take an equal share of the list each, write their own
running arrangement (starting from ABCD), and then compose in pairs, log2 N more steps:

    lane 1/2:  CBAD CDAB ...          | the whole
    lane 2/2:  BACD BADC ...          | the whole

Every lane begins with its tag `m/N`, so that it knows its share. All in NumPy, one token a word.

    B problems   K swaps of a problem   N lanes   L rows of a lane: its tag and what it writes
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import SHARED

if TYPE_CHECKING:
    from tinylane.core.model import Model

LANES = (1, 2, 4, 8)
WORDS = ("<unk>", "<end>", "cups", ",", "swap", ":", "where", "?")
END = "<end>"
STAY = "--"


@dataclass(frozen=True)
class ShellGame:
    """cups: how many places (2 to 5). swaps: K, the length of every list (shorter ones are padded).

    lanes: the numbers of lanes that share the work; each divides `swaps`. lag: how many steps late
    lanes read each other; before each composition they write theirs again so many times.
    """

    cups: int = 4
    swaps: int = 16
    lanes: tuple[int, ...] = field(default=LANES)
    lag: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.cups <= 5:
            raise TinylaneError(f"{self.cups} cups; expected 2 to 5")
        if self.swaps < 1 or any(n & (n - 1) or self.swaps % n for n in self.lanes):
            raise TinylaneError(
                f"{self.swaps} swaps for {self.lanes} lanes; expected powers of two that divide it"
            )

    # The group: arrangements by number, and their composition table.

    @cached_property
    def arrangements(self) -> list[str]:
        """Every arrangement as a word; number 0 is the one in which nothing has moved."""
        return list(map("".join, itertools.permutations("ABCDE"[: self.cups])))

    @cached_property
    def moves(self) -> list[str]:
        """Every swap as a word, and `--`."""
        return [*map("-".join, itertools.combinations("12345"[: self.cups], 2)), STAY]

    @cached_property
    def compose(self) -> np.ndarray:
        """(A, A) numbers: first arrangement a, then b, as one arrangement."""
        places = np.array([["ABCDE".index(c) for c in a] for a in self.arrangements])
        then = places[:, places]  # [a, b, place]: where a puts what b takes from
        weights = self.cups ** np.arange(self.cups)
        code = {int(p @ weights): k for k, p in enumerate(places)}
        return np.vectorize(code.__getitem__)(then @ weights)

    @cached_property
    def move_numbers(self) -> np.ndarray:
        """The arrangement number of every move."""
        one_each = [self.answer([k]) for k in range(len(self.moves))]
        return np.array([self.arrangements.index(word) for word in one_each])

    def answer(self, moves: Iterable[int]) -> str:
        """Where everything is after some moves, by doing the swaps one after another."""
        letters = list(self.arrangements[0])
        for move in (self.moves[k] for k in moves):
            if move != STAY:
                i, j = (int(x) - 1 for x in move.split("-"))
                letters[i], letters[j] = letters[j], letters[i]
        return "".join(letters)

    # Words and token ids.

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every token's word, by id."""
        tags = [f"{m + 1}/{n}" for n in self.lanes for m in range(n)]
        return [*WORDS, *self.moves, *tags, *self.arrangements]

    @cached_property
    def ids(self) -> dict[str, int]:
        """word -> token id."""
        return {word: k for k, word in enumerate(self.vocabulary)}

    def tokenizer_json(self) -> str:
        """The word-level tokenizer, as the text of a tokenizer.json."""
        from tinylane.evaluate.tasks.words import word_level

        return word_level(self.ids, "[,:?]")

    @property
    def settings(self) -> dict[str, Any]:
        """What an adapter says of its task."""
        return {"name": "shell-game", "cups": self.cups, "swaps": self.swaps}

    @property
    def prompt_rows(self) -> int:
        """P: how many tokens a prompt has."""
        return self.swaps + 7

    # Problems.

    def draw(self, count: int, rng: np.random.Generator, stay: float = 0.0) -> np.ndarray:
        """(count, K) move numbers, uniform over the swaps; a share `stay` of them is `--`."""
        moves = rng.integers(0, len(self.moves) - 1, (count, self.swaps))
        moves[rng.random((count, self.swaps)) < stay] = len(self.moves) - 1
        return moves

    def prompt(self, moves: np.ndarray) -> str:
        """The text of one problem."""
        words = " ".join(map(self.moves.__getitem__, moves))
        return f"cups {self.arrangements[0]}, swap {words}: where?"

    def parse(self, text: str) -> np.ndarray:
        """(K,) move numbers from a user's text, such as "1-3, 2-4 1-2"; shorter lists are padded.

        Raises TinylaneError for a swap that does not exist, none at all, or too many.
        """
        words = re.finditer(r"[0-9]+\s*-\s*[0-9]+|--", text)
        moves = []
        for word in (match[0] for match in itertools.islice(words, self.swaps + 1)):
            move = word
            if word != STAY:
                places = [x.strip() for x in word.split("-")]
                move = "{}-{}".format(*sorted(int(x) if len(x) < 5 else 0 for x in places))
            if move not in self.moves:
                raise TinylaneError(
                    f"swap {show(word)}; "
                    f"expected two different places from 1 to {self.cups}, like 1-3"
                )
            moves.append(self.moves.index(move))
        if not moves:
            raise TinylaneError(f"no swap in {show(text)}; expected swaps like 1-3 2-4")
        if len(moves) > self.swaps:
            raise TinylaneError(
                f"too many swaps; this model was trained for lists of up to {self.swaps}"
            )
        stay = len(self.moves) - 1
        return np.array(moves + [stay] * (self.swaps - len(moves)))

    # What the lanes are to write.

    def lane_prompts(self, n: int) -> list[str]:
        """The tag of each of n lanes."""
        if n not in self.lanes:
            raise TinylaneError(
                f"{n} lanes; the shell game is shared by {', '.join(map(str, self.lanes))} lanes"
            )
        return [f"{m + 1}/{n}" for m in range(n)]

    def steps(self, n: int) -> int:
        """Arrangements that each of n lanes writes: its share, then log2 n compositions."""
        return self.swaps // n + (n.bit_length() - 1) * (1 + self.lag)

    def write(self, moves: np.ndarray, n: int) -> np.ndarray:
        """(B, K) moves -> (B, n, steps) arrangement numbers: what every lane should write."""
        shares = self.move_numbers[moves].reshape(len(moves), n, -1)
        out = [shares[:, :, 0]]
        for k in range(1, shares.shape[2]):
            out.append(self.compose[out[-1], shares[:, :, k]])
        width = 1
        while width < n:  # lanes 2g*width .. have the left product, the next `width` the right
            out += [out[-1]] * self.lag
            left = (np.arange(n) // (2 * width)) * 2 * width
            out.append(self.compose[out[-1][:, left], out[-1][:, left + width]])
            width *= 2
        return np.stack(out, axis=-1)

    def rows(self, moves: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, K) moves -> the tokens (B, P + n*L) of a whole run, and (B, n*L) what follows each
        lane row. Lane by lane; `coordinates` says where they stand."""
        words = self.ids
        batch = len(moves)
        head = [words[w] for w in ("cups", self.arrangements[0], ",", "swap")]
        tail = [words[w] for w in (":", "where", "?")]
        swaps = moves + words[self.moves[0]]
        fixed = lambda ids: np.tile(np.array(ids), (batch, 1))
        prompt = np.concatenate([fixed(head), swaps, fixed(tail)], axis=1)
        tags = np.array([words[t] for t in self.lane_prompts(n)])
        tags = np.tile(tags[None, :, None], (batch, 1, 1))
        written = self.write(moves, n) + words[self.arrangements[0]]
        end = np.full_like(tags, words[END])
        fed = np.concatenate([tags, written], axis=2).reshape(batch, -1)
        follows = np.concatenate([written, end], axis=2).reshape(batch, -1)
        return np.concatenate([prompt, fed], axis=1), follows

    def coordinates(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """positions and lanes of the tokens of `rows`: the prompt, then lane by lane."""
        P, L = self.prompt_rows, 1 + self.steps(n)
        positions = np.concatenate([np.arange(P), np.tile(np.arange(P, P + L), n)])
        lanes = np.concatenate([np.full(P, SHARED), np.repeat(np.arange(n), L)])
        return positions, lanes


def game_of(model: Model) -> ShellGame | None:
    """The shell game that a model was trained on, None if it was not.

    Raises TinylaneError where the adapter's `task` does not say what it should.
    """
    task = getattr(model, "task", None)
    if not isinstance(task, dict) or task.get("name") != "shell-game":
        return None
    lanes = task.get("lanes", LANES)
    counts = [task.get("cups"), task.get("swaps")]
    counts += lanes if isinstance(lanes, (list, tuple)) else [None]
    if any(type(k) is not int or not 1 <= k <= 1024 for k in counts):
        raise TinylaneError(
            f"the adapter's task is {show(task)}; expected whole numbers for cups, swaps and lanes"
        )
    return ShellGame(task["cups"], task["swaps"], tuple(lanes))


def last_word(text: str) -> str | None:
    """The answer of a lane of the shell game."""
    words = text.split()
    return words[-1] if words else None
