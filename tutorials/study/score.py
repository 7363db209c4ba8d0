"""Greedy decoding of many problems at once, and what it scores: the study's `tinylane eval`.

Problems of one shape share their coordinates, so they are one batch. Instead of step by step all
steps are guessed, and every pass puts right at least one more (Jacobi's iteration): by causality
(law 4) tokens that a pass returns unchanged are those of greedy decoding, and where the model knows
the answer, one pass is enough. Problems in which a lane would end early are decoded one by one.
`tests/tutorials/test_study.py` holds it against `tasks.evaluate`.

    B problems   n lanes   L rows of a lane   V vocab
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinylane.core.decoder import Plan, forward, make_plan
from tinylane.core.decoding import generate
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Places
from tinylane.core.model import Model
from tinylane.core.sampling import Sampler
from tinylane.evaluate.answers import vote
from tinylane.evaluate.tasks.shell_game import END, ShellGame
from tutorials.study.fold import head
from tutorials.study.score_one import EVALUATION, Score, last_word

BATCH = 64  # problems of a pass


@dataclass(frozen=True)
class Written:
    """A lane's text and the log-probabilities of its tokens: what `select.vote` needs of it."""

    index: int
    text: str
    logprobs: list[float]


def greedy(
    model: Model,
    game: ShellGame,
    moves: np.ndarray,
    n: int,
    mask: LaneMask,
    rope: LaneRoPE | None = None,
) -> list[list[Written]]:
    """What every lane writes for each of B problems, as `tinylane.generate` has it.

    moves: (B, K). rope: None takes the model's.
    """
    logits = batched(model, game, n, mask, rope)
    found: list[list[Written]] = []
    for at in range(0, len(moves), BATCH):
        found += _some(model, game, moves[at : at + BATCH], n, mask, rope, logits)
    return found


def lane_rows(game: ShellGame, n: int) -> tuple[np.ndarray, np.ndarray]:
    """positions and lanes of the prompt and n lanes, of 1 + steps rows each, lane by lane."""
    P, L = game.swaps + 7, 1 + game.steps(n)
    positions = np.concatenate([np.arange(P), np.tile(np.arange(P, P + L), n)])
    return positions, np.concatenate([np.full(P, SHARED), np.repeat(np.arange(n), L)])


def batched(
    model: Model, game: ShellGame, n: int, mask: LaneMask, rope: LaneRoPE | None = None
) -> Any:
    """A function of tokens (B, P + n*L) that gives the logits (B, n*L, V) of the lanes' rows."""
    i, m = lane_rows(game, n)
    plan = make_plan(model.config, model.rope(rope), mask, Places(i, m, i, m))
    move = lambda table: tuple(model.array(part) for part in table)
    plan = Plan(
        [move(t) for t in plan.keys],
        [tuple(move(t) for t in ts) for ts in plan.queries],
        plan.block_of,
        None if plan.mask is None else model.array(plan.mask),
    )
    P = game.swaps + 7
    rows = model.array(np.arange(P, len(i), dtype=np.int32))

    def logits(tokens: np.ndarray) -> np.ndarray:
        fed = model.array(tokens.astype(np.int32))
        return np.asarray(forward(model.params, model.config, fed, plan, model.ops, rows=rows))

    return logits


def prompts(game: ShellGame, moves: np.ndarray, n: int) -> np.ndarray:
    """(B, P + n*L) tokens: prompt and tags, and `--` where the lanes will write."""
    lanes = np.full((len(moves), n, 1 + game.steps(n)), game.ids["--"])
    lanes[:, :, 0] = [game.ids[tag] for tag in game.lane_prompts(n)]
    return np.concatenate([head(game, moves), lanes.reshape(len(moves), -1)], axis=1)


def _some(
    model: Model,
    game: ShellGame,
    moves: np.ndarray,
    n: int,
    mask: LaneMask,
    rope: LaneRoPE | None,
    logits: Any,
) -> list[list[Written]]:
    B, P, L = len(moves), game.swaps + 7, 1 + game.steps(n)
    fed = prompts(game, moves, n)
    lanes = fed[:, P:].reshape(B, n, L)  # a view
    # any guess will do: this is the right one, so it takes the fewest passes
    lanes[:, :, 1:] = game.write(moves, n) + game.ids[game.arrangements[0]]
    written = np.zeros((B, n, L), dtype=int)
    logprobs = np.zeros((B, n, L))
    left = np.arange(B)
    for _ in range(L + 1):
        found = logits(fed[left]).astype(np.float64)
        out = found.argmax(axis=-1).reshape(-1, n, L)
        top = found.max(axis=-1)
        written[left] = out
        logprobs[left] = -np.log(np.exp(found - top[..., None]).sum(axis=-1)).reshape(-1, n, L)
        same = (lanes[left, :, 1:] == out[:, :, :-1]).all(axis=(1, 2))
        lanes[left, :, 1:] = out[:, :, :-1]
        left = left[~same]
        if not len(left):
            break
    assert not len(left), "a pass puts right one more step, so L passes are enough"
    early = (written[:, :, :-1] == game.ids[END]).any(axis=(1, 2))
    every = []
    for b in range(B):
        if early[b]:
            every.append(_alone(model, game, moves[b], n, mask, rope))
            continue
        texts = [" ".join(game.vocabulary[t] for t in lane if t > 1) for lane in written[b]]
        every.append([Written(m, text, logprobs[b, m].tolist()) for m, text in enumerate(texts)])
    return every


def _alone(
    model: Model,
    game: ShellGame,
    moves: np.ndarray,
    n: int,
    mask: LaneMask,
    rope: LaneRoPE | None,
) -> list[Written]:
    result = generate(
        model,
        game.prompt(moves),
        lanes=n,
        lane_prompts=game.lane_prompts(n),
        lane_mask=mask,
        lane_rope=rope,
        max_tokens=game.steps(n) + 1,
        sampler=Sampler(temperature=0.0),
    )
    return [Written(lane.index, lane.text, lane.logprobs) for lane in result.lanes]


def score(
    model: Model,
    game: ShellGame,
    n: int,
    visibility: str,
    *,
    count: int = 500,
    seed: int = 0,
    rope: LaneRoPE | None = None,
) -> Score:
    """As `tasks.evaluate.evaluate`, on the same problems, many at once."""
    mask = LaneMask.named(visibility, n, model.lag)
    moves = game.draw(count, np.random.default_rng([seed, EVALUATION]))
    began = time.perf_counter()
    right, per_lane, tokens = 0, np.zeros(n, dtype=int), game.steps(n) + 1
    for problem, lanes in zip(moves, greedy(model, game, moves, n, mask, rope), strict=True):
        truth = game.answer(problem)
        right += vote(SimpleNamespace(lanes=lanes), extract=last_word).text == truth
        per_lane += np.array([last_word(lane.text) == truth for lane in lanes])
    seconds = time.perf_counter() - began
    each = tuple(int(k) for k in per_lane)
    return Score(n, visibility, count, right, each, tokens, tokens * count, seconds)
