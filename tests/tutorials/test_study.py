"""The study: its games, its decoding of many problems at once, its training and measures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import tinylane
from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.random_weights import random_params
from tinylane.core.sampling import Sampler
from tinylane.evaluate.tasks.shell_game import END, ShellGame
from tutorials.study.base import BaseRecipe, alone
from tutorials.study.cells import CELLS, StudyRecipe
from tutorials.study.finetune import corrupted
from tutorials.study.fold import FoldedGame, SharesGame, head
from tutorials.study.score import batched, greedy, prompts, score
from tutorials.study.score_one import evaluate
from tutorials.study.scratch import compare
from tutorials.study.starts import company, omegas, together
from tutorials.study.trainer import StudyTrainer

TINY = StudyRecipe(
    swaps=4,
    lanes=(1, 2),
    shares=(0.5, 0.5),
    width=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    mlp_width=32,
    steps=6,
    warmup=2,
    rows=128,
    stage=2,
)
QUIET = lambda line: None


def random_model(tmp_path: Path, recipe: StudyRecipe, louder: float = 30.0) -> Model:
    """A model that writes all sorts of things: random weights, large enough to disagree."""
    game, config = recipe.game, recipe.config
    (tmp_path / "tokenizer.json").write_text(game.tokenizer_json())
    params = random_params(config, seed=3)
    params = {k: w * louder if w.ndim == 2 else w for k, w in params.items()}
    out = params["model.embed_tokens.weight"].T.copy()
    out[:, game.ids[END]] *= 2.0  # so that some lanes end early
    params["lm_head.weight"] = out
    tokenizer = Tokenizer.from_folder(tmp_path, config_eos=config.eos_ids, vocab=config.vocab)
    rope = LaneRoPE(np.linspace(0.3, 2.0, config.head_dim // 2))
    return Model(config, params, tokenizer=tokenizer, lane_rope=rope, visibility="joint")


# The games.


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_a_folded_lane_writes_the_whole_list_in_the_tokens_of_a_shared_one(n: int) -> None:
    """Guards the baseline's fairness: as many tokens, each swap in one of them, the true answer."""
    shared, folded = ShellGame(3), FoldedGame(3)
    moves = folded.draw(20, np.random.default_rng(n), stay=0.2)
    assert folded.steps(n) == shared.steps(n)
    assert sum(folded.counts(n)) == 16 and min(folded.counts(n)) >= 1
    written = folded.write(moves, n)
    assert written.shape == (20, n, shared.steps(n))
    for problem, lanes in zip(moves, written, strict=True):
        assert {shared.arrangements[a] for a in lanes[:, -1]} == {shared.answer(problem)}
        done = np.cumsum(folded.counts(n))
        for k, a in zip(done, lanes[0], strict=True):  # each token: so many swaps, done one by one
            stay = np.full(16 - k, len(shared.moves) - 1)
            assert shared.arrangements[a] == shared.answer(np.concatenate([problem[:k], stay]))


def test_a_share_is_the_beginning_of_what_a_lane_of_the_shared_game_writes() -> None:
    shared, shares = ShellGame(3, 16, (1, 2, 4)), SharesGame(3, 16, (1, 2, 4))
    moves = shared.draw(8, np.random.default_rng(0))
    assert np.array_equal(shares.write(moves, 4), shared.write(moves, 4)[:, :, :4])
    tokens, follows = shares.rows(moves, 4)
    whole, after = shared.rows(moves, 4)
    for b in range(8):  # lane b % 4 of the shared run, which goes on where this one ends
        at = 23 + (b % 4) * 7
        assert np.array_equal(tokens[b], np.concatenate([whole[b, :23], whole[b, at : at + 5]]))
        assert np.array_equal(follows[b, :4], after[b, at - 23 : at - 19])
        assert follows[b, 4] == shares.ids[END]
    assert np.array_equal(head(shared, moves), whole[:, :23])


def test_a_corrupted_transcript_is_wrong_in_one_lane_from_one_step_on() -> None:
    game, n = ShellGame(3, 16, (1, 4)), 4
    moves = game.draw(30, np.random.default_rng(0))
    right = [[game.arrangements[a] for a in lane] for p in game.write(moves, n) for lane in p]
    wrong = [x.split() for p in corrupted(game, moves, n, np.random.default_rng(1)) for x in p]
    for b in range(30):
        differ = [
            [x != y for x, y in zip(right[4 * b + m], wrong[4 * b + m], strict=True)]
            for m in range(n)
        ]
        assert sum(map(any, differ)) == 1
        lane = next(lane for lane in differ if any(lane))
        assert lane == sorted(lane)  # right, then wrong to the end


# Decoding of many problems at once.


@pytest.mark.parametrize("visibility", ["joint", "independent"])
@pytest.mark.parametrize("n", [1, 2])
def test_batched_greedy_decoding_writes_what_generate_writes(
    tmp_path: Path, visibility: str, n: int
) -> None:
    """Guards the study's scores: text for text the decoder's, also of lanes that end early."""
    model, game = random_model(tmp_path, TINY), TINY.game
    moves = game.draw(40, np.random.default_rng(0))
    mask = LaneMask.named(visibility, n)
    ours = greedy(model, game, moves, n, mask)
    early = 0
    for problem, lanes in zip(moves, ours, strict=True):
        result = tinylane.generate(
            model,
            game.prompt(problem),
            lanes=n,
            lane_prompts=game.lane_prompts(n),
            lane_mask=mask,
            max_tokens=game.steps(n) + 1,
            sampler=Sampler(temperature=0.0),
        )
        assert [x.text.split() for x in lanes] == [text.split() for text in result.texts]
        for mine, theirs in zip(lanes, result.lanes, strict=True):
            assert np.allclose(mine.logprobs, theirs.logprobs, atol=1e-4)
        early += any(len(lane.tokens) <= game.steps(n) for lane in result.lanes)
    assert 0 < early < 40, "both ways of decoding are to be tried"


def test_one_pass_over_the_right_text_is_not_greedy_decoding(tmp_path: Path) -> None:
    """The control of the test above: without the iteration the texts differ."""
    model, game, n = random_model(tmp_path, TINY), TINY.game, 2
    moves = game.draw(40, np.random.default_rng(0))
    fed = prompts(game, moves, n)
    lanes = fed[:, game.swaps + 7 :].reshape(40, n, -1)
    lanes[:, :, 1:] = game.write(moves, n) + game.ids[game.arrangements[0]]
    once = batched(model, game, n, LaneMask.joint(n))(fed).argmax(axis=-1).reshape(40, n, -1)
    words = [[game.vocabulary[t] for t in lane if t > 1] for p in once for lane in p]
    ours = greedy(model, game, moves, n, LaneMask.joint(n))
    right = [lane.text.split() for lanes in ours for lane in lanes]
    assert words != right


def test_scores_are_those_of_eval(tmp_path: Path) -> None:
    model = random_model(tmp_path, TINY)
    for visibility in ("joint", "independent"):
        ours = score(model, TINY.game, 2, visibility, count=60, seed=5)
        theirs = evaluate(model, TINY.game, 2, visibility, count=60, seed=5)
        assert (ours.right, ours.per_lane, ours.tokens) == (
            theirs.right,
            theirs.per_lane,
            theirs.tokens,
        )
    assert theirs.right + sum(theirs.per_lane) > 0, "some answers are right by chance"


# Training.


def test_numbers_of_lanes_join_by_stages() -> None:
    trainer = StudyTrainer(dataclasses.replace(TINY, lanes=(1, 2, 4), shares=(0.2, 0.3, 0.5)))
    assert np.allclose(trainer.chances(0), [1, 0, 0])
    assert np.allclose(trainer.chances(2), np.array([0.2, 0.6, 0]) / 0.8)
    assert np.allclose(trainer.chances(99), np.array([0.2, 0.3, 1.0]) / 1.5)
    flat = StudyTrainer(dataclasses.replace(TINY, stage=0))
    assert np.allclose(flat.chances(0), [0.5, 0.5])


def test_all_cells_see_the_same_problems() -> None:
    """Guards "the same steps and data"; the fold's runs are shorter, so a step has more of them."""
    batches = []
    for name in ("joint-none", "joint-learned", "independent"):
        trainer = StudyTrainer(CELLS[name].recipe(TINY, 4))
        batches.append([trainer.batch(step) for step in range(6)])
    for other in batches[1:]:
        for (n, tokens, follows), (m, t, f) in zip(batches[0], other, strict=True):
            assert n == m and np.array_equal(tokens, t) and np.array_equal(follows, f)
    fold = StudyTrainer(CELLS["fold"].recipe(TINY, 4))
    for step in range(6):
        n, tokens, _ = fold.batch(step)
        assert n == batches[0][step][0] and tokens.size <= TINY.rows


def test_independent_cells_are_one_cell() -> None:
    """Law 7 in training: Omega changes no logit where lanes do not meet; where they do, it does."""
    found = compare(TINY, 0, 3, QUIET)["cells"]
    assert [row["logits_gap_same_weights"] < 1e-5 for row in found] == [True] * 4
    assert found[0]["loss_gap_largest"] == 0.0 and found[1]["loss_gap_first_step"] < 1e-5
    import mlx.core as mx

    none, some = (StudyTrainer(CELLS[name].recipe(TINY, 0)) for name in ("joint-none", "joint-ntk"))
    tokens = mx.array(none.game.rows(none.game.draw(4, np.random.default_rng(0)), 2)[0])
    weights = {k: w * 12 if w.ndim == 2 else w for k, w in none.state["weights"].items()}
    a, b = (t.logits(weights, t.state["omega"], tokens, 2) for t in (none, some))
    assert mx.abs(a - b).max().item() > 1e-3


# Before tuning.


def test_company_of_a_lane_that_is_not_seen_changes_nothing(tmp_path: Path) -> None:
    """Guards table 3's reference row; and joint lanes do change what a random model writes."""
    recipe = BaseRecipe(**{f.name: getattr(TINY, f.name) for f in dataclasses.fields(TINY)})
    model, game = random_model(tmp_path, recipe), recipe.shared_game
    rows = omegas(model.theta, slots=(8.0,))
    for row in rows.values():
        row["found"] = [company(model, game, row, which, 64)["nll"] for which in (0, 1)]
    lone = rows["independent"]["found"]
    assert lone[0] == lone[1]
    assert all(abs(rows[k]["found"][1] - lone[1]) > 1e-3 for k in rows if k != "independent")
    shares = together(model, recipe.game, rows["independent"], 2, 64)
    assert shares["count"] == 128
    assert alone(model, recipe.game, 1, 64)["count"] == 64
