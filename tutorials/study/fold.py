"""Games whose lanes do not need other lanes: the fold (table 1's baseline) and table 2's shares.

N lanes that share the work write K/N + log2 N arrangements each. A lane that reads no other must do
all K swaps in as many tokens. So it folds: each token is the result of two to four swaps. That is
possible, because the product of swaps is one of few arrangements, but it is harder to learn.

    B problems   K swaps   n lanes of a run, of which training takes one a problem   L its rows
"""

from __future__ import annotations

import numpy as np

from tinylane.core.lanes import SHARED
from tinylane.evaluate.tasks.shell_game import END, ShellGame


class LoneGame(ShellGame):
    """A shell game that is trained with one lane for each problem, with each tag in turn.

    Lanes do not see each other, so more problems are a better use of the rows than more lanes.
    """

    def rows(self, moves: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """As `ShellGame.rows`, of one lane of each problem: tokens (B, P + L), follows (B, L)."""
        words, which = self.ids, np.arange(len(moves)) % n
        prompt = head(self, moves)
        tags = np.array([words[t] for t in self.lane_prompts(n)])[which]
        written = self.write(moves, n)[np.arange(len(moves)), which]
        written = written + words[self.arrangements[0]]
        end = np.full((len(moves), 1), words[END])
        fed = np.concatenate([prompt, tags[:, None], written], axis=1)
        return fed, np.concatenate([written, end], axis=1)

    def coordinates(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the tokens of `rows`: the prompt, then a lane, called 0 (law 7: it makes none)."""
        P, L = self.swaps + 7, 1 + self.steps(n)
        lanes = np.concatenate([np.full(P, SHARED), np.zeros(L, dtype=int)])
        return np.arange(P + L), lanes


def head(game: ShellGame, moves: np.ndarray) -> np.ndarray:
    """(B, K) moves -> the tokens (B, P) of the prompts."""
    words = game.ids
    before = [words[w] for w in ("cups", game.arrangements[0], ",", "swap")]
    after = [words[w] for w in (":", "where", "?")]
    fixed = lambda ids: np.tile(np.array(ids), (len(moves), 1))
    return np.concatenate([fixed(before), moves + words[game.moves[0]], fixed(after)], axis=1)


class SharesGame(LoneGame):
    """Each lane follows its own share of the list and stops. A lane can learn this without other
    lanes. With one lane it is the whole game."""

    def steps(self, n: int) -> int:
        """Arrangements of a share."""
        return self.swaps // n

    def write(self, moves: np.ndarray, n: int) -> np.ndarray:
        """(B, K) moves -> (B, n, K/n) arrangement numbers: the beginning of the shared game's."""
        return super().write(moves, n)[:, :, : self.steps(n)]


class FoldedGame(LoneGame):
    """The shell game in which every lane writes the running arrangement of the whole list."""

    def counts(self, n: int) -> list[int]:
        """How many swaps each token of a lane covers, larger counts first: 16 swaps in 9 tokens are
        2 2 2 2 2 2 2 1 1."""
        each, more = divmod(self.swaps, self.steps(n))
        return [each + (k < more) for k in range(self.steps(n))]

    def write(self, moves: np.ndarray, n: int) -> np.ndarray:
        """(B, K) moves -> (B, n, steps) arrangement numbers, the same for every lane."""
        single = self.move_numbers[moves]
        running = [single[:, 0]]
        for k in range(1, self.swaps):
            running.append(self.compose[running[-1], single[:, k]])
        ends = np.cumsum(self.counts(n)) - 1
        return np.repeat(np.stack(running, axis=-1)[:, None, ends], n, axis=1)
