"""Table 7: the shell game by schedules, for models that are trained for each.

Who reads whom, and when, with one of these:

    joint    every lane reads every other, from its first token on
    late     nobody reads until all have written their own part; then every lane reads every other
    tree     the same, but each composition lets only the two groups read each other that it joins
    reuse    lanes write their own part alone and end; one more lane reads their rows, and composes
    reread   the same, but this lane has all their texts in its prompt, and reads nobody

With `-copy` the one more lane first writes what the first lane ended with, and then composes: a
word more, and every composition is of its own last word with one other, as in other schedules.

`joint`, `late` and `tree` are masks over time (`LaneMask.since`) with the same rows. `reuse` and
`reread` are what `tinylane.methods.schedules.go_on` does.

    B problems   n lanes   P prompt rows   R rows after the prompt   S swaps of a share
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from tinylane.core.lanes import NEVER, SHARED, LaneMask
from tinylane.evaluate.tasks.shell_game import END, ShellGame

JOINING = ("reuse", "reread", "reuse-copy", "reread-copy")  # one more lane composes
SCHEDULES = ("joint", "late", "tree", *JOINING)
ALL = ","  # the first token of the lane that composes: a word that no lane has as its tag


@dataclass(frozen=True)
class ScheduledGame(ShellGame):
    """The shell game by one of SCHEDULES."""

    schedule: str = "joint"

    def joins(self, n: int) -> bool:
        """Whether one more lane composes what n lanes have written."""
        return n > 1 and self.schedule in JOINING

    def composed(self, n: int) -> int:
        """Words of the lane that joins n lanes."""
        return n - 1 + self.schedule.endswith("-copy")

    def steps(self, n: int) -> int:
        """Passes until the answer is there. A prompt of a lane that joins costs no pass more."""
        return self.swaps // n + self.composed(n) if self.joins(n) else super().steps(n)

    def tokens(self, n: int) -> int:
        """Tokens that all lanes write together."""
        return self.swaps + self.composed(n) if self.joins(n) else n * super().steps(n)

    def mask(self, n: int) -> LaneMask:
        """Who reads whom: n lanes, and the one more."""
        if self.joins(n):
            reads = np.eye(n + 1, dtype=bool)
            reads[n] = reads[n] | self.schedule.startswith("reuse")
            return LaneMask(reads)
        if n == 1 or self.schedule == "joint":
            return LaneMask.joint(n)
        lanes = np.arange(n)
        level = np.array([[int(a ^ b).bit_length() for b in lanes] for a in lanes])  # that joins
        since = np.maximum(level if self.schedule == "tree" else np.minimum(level, 1), 1) - 1
        since = np.where(level > 0, since + self.prompt_rows + self.swaps // n, 0)
        return LaneMask(np.ones((n, n), bool), since=since, until=np.full((n, n), NEVER))

    def rows(self, moves: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """As `ShellGame.rows`, (B, P + R) and (B, R); the rows of the lane that joins are last."""
        tokens, follows = super().rows(moves, n)
        if not self.joins(n):
            return tokens, follows
        B, P, S = len(moves), self.prompt_rows, self.swaps // n
        first = self.ids[self.arrangements[0]]
        own = tokens[:, P:].reshape(B, n, -1)[:, :, : S + 1]
        ends = np.full((B, n, 1), self.ids[END])
        whole = own[:, 0, -1] - first
        written = [whole + first] if self.composed(n) == n else []
        for k in range(1, n):
            whole = self.compose[whole, own[:, k, -1] - first]
            written.append(whole + first)
        texts = own.reshape(B, -1)
        tag, more = np.full((B, 1), self.ids[ALL]), np.stack(written, axis=1)
        again = texts if self.schedule.startswith("reread") else texts[:, :0]
        nothing = np.full_like(again, -1)
        return (
            np.concatenate([tokens[:, :P], texts, again, tag, more], axis=1),
            np.concatenate(
                [
                    np.concatenate([own[:, :, 1:], ends], axis=2).reshape(B, -1),
                    nothing, more, ends[:, 0],
                ],
                axis=1,
            ),
        )  # fmt: skip

    def coordinates(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """As `ShellGame.coordinates`."""
        if not self.joins(n):
            return super().coordinates(n)
        P, L = self.prompt_rows, 1 + self.swaps // n
        reread = self.schedule.startswith("reread")
        more, at = 1 + self.composed(n) + n * L * reread, P + L * (not reread)
        positions = np.concatenate([np.arange(P), np.tile(np.arange(P, P + L), n)])
        lanes = np.concatenate([np.full(P, SHARED), np.repeat(np.arange(n), L)])
        return (
            np.concatenate([positions, np.arange(at, at + more)]),
            np.concatenate([lanes, np.full(more, n)]),
        )

    def sources(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each of R rows, the row whose prediction it is, and the row that it is a copy of; -1
        where it is none."""
        lanes = self.coordinates(n)[1][self.prompt_rows :]
        R = len(lanes)
        drawn = np.where(lanes == np.roll(lanes, 1), np.arange(R) - 1, -1)
        drawn[0] = -1  # also if there is one lane
        copied = np.full(R, -1)
        if self.joins(n):
            own = n * (1 + self.swaps // n)
            tag = R - 1 - self.composed(n)  # the row of the tag of the lane that joins
            copied[own:tag] = np.arange(tag - own)
            drawn[own : tag + 1] = -1
        return drawn, copied


def answers(trainer: Any, moves: np.ndarray, n: int) -> list[list[str]]:
    """(B, K) moves -> for each problem, the last words of the lanes that have the answer.

    Greedy, by Jacobi's iteration as in `games_score`. Every lane writes as many words as the
    schedule gives it; an end that comes too early is a wrong word.
    """
    game: ScheduledGame = trainer.game
    tokens, P = game.rows(moves, n)[0], game.prompt_rows  # the true texts: a guess like any other
    drawn, copied = game.sources(n)
    weights, omega = trainer.state["weights"], trainer.state["omega"]
    rows = tokens[:, P:]  # a view
    for _ in range(rows.shape[1] + 1):
        logits = trainer.logits(weights, omega, mx.array(tokens), n)
        out = np.array(mx.argmax(logits, axis=-1))
        now = np.where(drawn >= 0, out[:, drawn], rows)
        now = np.where(copied >= 0, now[:, copied], now)
        same = np.array_equal(now, rows)
        rows[:] = now
        if same:
            break
    assert same, "every pass corrects one more step, so these passes are enough"
    lanes = game.coordinates(n)[1][P:]
    last = [np.flatnonzero(lanes == m)[-1] for m in ([n] if game.joins(n) else range(n))]
    return [[game.vocabulary[t] for t in problem[last]] for problem in rows]
