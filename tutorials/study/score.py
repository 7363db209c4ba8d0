"""Greedy decoding of many problems at once, and their score: the study's `tinylane eval`.

Problems of one shape have the same coordinates, so they are one batch. All tokens are guessed at
once, and every pass corrects at least one more step (Jacobi's iteration). By causality (law 4),
tokens that a pass returns unchanged are those of greedy decoding; one pass is enough where the
model knows the answer. Problems in which a lane ends early are decoded one by one.
`tests/tutorials/test_study.py` compares it with `score_one.evaluate`.

    B problems   n lanes   P prompt rows   L rows of a lane   V vocab
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinylane.core.decoder import forward
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Places
from tinylane.core.model import Model
from tinylane.core.sampling import Sampler
from tinylane.evaluate.answers import vote
from tinylane.evaluate.tasks.shell_game import END, ShellGame, last_word
from tinylane.evaluate.tasks.task import EVALUATION
from tinylane.methods.decoding import generate
from tutorials.study.fold import head
from tutorials.study.score_one import Score

BATCH = 64  # problems of a pass


@dataclass(frozen=True)
class Written:
    """A lane's text and the log-probabilities of its tokens, for `vote`."""

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
    """What every lane writes for each of B problems, as by `tinylane.generate`.

    moves: (B, K). rope: None takes the model's.
    """
    logits = batched(model, game, n, mask, rope)
    written: list[list[Written]] = []
    for at in range(0, len(moves), BATCH):
        written += _batch(model, game, moves[at : at + BATCH], n, mask, rope, logits)
    return written


def batched(
    model: Model,
    game: ShellGame,
    n: int,
    mask: LaneMask,
    rope: LaneRoPE | None = None,
    steps: int | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """A function of tokens (B, P + n*L) that returns the logits (B, n*L, V) of the lanes' rows.

    The rows are those of the prompt, then lane by lane a tag and `steps` tokens. steps: default
    as many as the game has for n lanes.
    """
    P, L = game.swaps + 7, 1 + (game.steps(n) if steps is None else steps)
    i = np.concatenate([np.arange(P), np.tile(np.arange(P, P + L), n)])
    m = np.concatenate([np.full(P, SHARED), np.repeat(np.arange(n), L)])
    plan = model.plan(model.rope(rope), mask, Places(i, m, i, m))
    rows = model.array(np.arange(P, len(i), dtype=np.int32))

    def logits(tokens: np.ndarray) -> np.ndarray:
        fed = model.array(tokens.astype(np.int32))
        return np.asarray(forward(model.params, model.config, fed, plan, model.ops, rows=rows))

    return logits


def prompts(game: ShellGame, moves: np.ndarray, n: int) -> np.ndarray:
    """(B, P + n*L) tokens: prompt, tags, and `--` where the lanes will write."""
    lanes = np.full((len(moves), n, 1 + game.steps(n)), game.ids["--"])
    lanes[:, :, 0] = [game.ids[tag] for tag in game.lane_prompts(n)]
    return np.concatenate([head(game, moves), lanes.reshape(len(moves), -1)], axis=1)


def _batch(
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
    # any guess works; the right answer needs the fewest passes
    lanes[:, :, 1:] = game.write(moves, n) + game.ids[game.arrangements[0]]
    written = np.zeros((B, n, L), dtype=int)
    logprobs = np.zeros((B, n, L))
    left = np.arange(B)
    for _ in range(L + 1):
        values = logits(fed[left]).astype(np.float64)
        out = values.argmax(axis=-1).reshape(-1, n, L)
        top = values.max(axis=-1, keepdims=True)
        written[left] = out
        logprobs[left] = -np.log(np.exp(values - top).sum(axis=-1)).reshape(-1, n, L)
        same = (lanes[left, :, 1:] == out[:, :, :-1]).all(axis=(1, 2))
        lanes[left, :, 1:] = out[:, :, :-1]
        left = left[~same]
        if not len(left):
            break
    assert not len(left), "every pass corrects one more step, so L passes are enough"
    early = (written[:, :, :-1] == game.ids[END]).any(axis=(1, 2))
    every = []
    for b in range(B):
        if early[b]:
            every.append(_one(model, game, moves[b], n, mask, rope))
            continue
        texts = [" ".join(game.vocabulary[t] for t in lane if t > 1) for lane in written[b]]
        every.append([Written(m, text, logprobs[b, m].tolist()) for m, text in enumerate(texts)])
    return every


def _one(
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
    """As `score_one.evaluate`, on the same problems, many at once."""
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
