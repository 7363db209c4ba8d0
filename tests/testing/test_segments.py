"""Laws 14 to 18, 22, 24 and 25 where somebody else's decoder breaks them, and in decodings.

`test_laws.py` has the same laws on random models, `test_law_controls.py` bugs planted in the core.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding
from tinylane.testing import (
    LawViolation,
    Sample,
    assert_chain_rule,
    assert_fork_join,
    assert_moved_cache,
    assert_one_path,
    assert_permuted_paths,
    assert_reread,
    assert_rollout,
    assert_seal,
    fork_join,
    reuse_gap,
    transcript,
)
from tinylane.testing.samples import depths, random_weights, segments
from tinylane.testing.segments import ancestors, predecessors, reread
from tinylane.testing.subjects import bound, plain

SMALL = ModelConfig("llama", vocab=11, width=16, layers=2, heads=2, kv_heads=1, head_dim=8,
                    mlp_width=24, context=1 << 16, eos_ids=())  # fmt: skip


def small(seed: int = 0, **changes: Any) -> Model:
    """A random decoder in float64."""
    config = replace(SMALL, **changes)
    params = {k: w.astype(np.float64) for k, w in random_weights(config, seed).items()}
    return Model(config, params, "numpy", "float64")


MODEL = small()
NONE = LaneRoPE.none(MODEL.theta)
PATHS = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
JOINED = fork_join([3, 1, 4], PATHS, [5, 9], 11, NONE)


# ----------------------------------------------------------------------------------- the chain rule


@pytest.fixture(scope="module")
def tiny() -> tuple[Model, Sample]:
    """A vocabulary of three, two lanes of three steps: 729 continuations."""
    model = small(4, vocab=3)
    rows = [(0, 0, SHARED), (2, 1, SHARED)] + [(0, 2 + k, m) for k in range(3) for m in range(2)]
    tokens, positions, lanes = np.array(rows).T.copy()
    rope = LaneRoPE.ntk(model.theta, 4, 2)
    return model, Sample(tokens, positions, lanes, LaneMask.joint(2), rope, 3)


class Early(LaneMask):
    """Lag -1: a row sees the token that another lane draws in the same step."""

    def visible(self, i: Any, m: Any, j: Any, n: Any) -> Any:
        soon = (m[:, None] != n[None, :]) & (m[:, None] >= 0) & (j[None, :] <= i[:, None] + 1)
        return super().visible(i, m, j, n) | soon & (n[None, :] >= 0)


def test_729_joint_continuations_add_up_to_1(tiny: tuple[Model, Sample]) -> None:
    model, sample = tiny
    report = assert_chain_rule(bound(model, sample), sample, range(2, 8), range(3))
    assert report.worst < 1e-13 and report.compared == 6


def test_with_lag_minus_1_they_do_not(tiny: tuple[Model, Sample]) -> None:
    model, sample = tiny
    f = bound(model, sample.with_mask(Early(np.ones((2, 2)))))
    with pytest.raises(LawViolation, match=r"of 729 continuations add up to \d\.\d+, not 1"):
        assert_chain_rule(f, sample, range(2, 8), range(3))


def test_the_row_that_a_token_is_drawn_from() -> None:
    """The one before it in its lane, with gaps; else the prompt's last; late shared rows too."""
    rows = [(0, 0, SHARED), (0, 1, SHARED), (0, 2, 1), (0, 5, 1), (0, 3, 0), (0, 9, SHARED)]
    tokens, positions, lanes = np.array(rows).T.copy()
    sample = Sample(tokens, positions, lanes, LaneMask.joint(2), NONE, 11)
    assert predecessors(sample).tolist() == [-1, 0, 1, 2, 1, 1]


# -------------------------------------------------------------------------------- forks and joins


def test_depths_of_nested_forks() -> None:
    """Lane 1 forks into 2 and 3, which 4 joins; 5 joins 0 and 4. Written by hand."""
    sees = np.zeros((6, 6), dtype=int)
    sees[2, 1] = sees[3, 1] = sees[4, [1, 2, 3]] = sees[5, [0, 1, 2, 3, 4]] = 1
    texts = [[1] * 9, [1], [1] * 2, [1] * 4, [1], [1, 1]]
    sample = segments([0, 0], texts, sees, 11, NONE, origin=100)
    begin = [int(sample.positions[sample.lanes == m].min()) - 100 for m in range(6)]
    assert begin == [2, 2, 3, 3, 7, 11]
    assert sample.positions.min() == 100 and (np.diff(sample.positions) >= 0).all()
    assert np.array_equal(depths(sample), sample.positions)
    assert_fork_join(bound(MODEL, sample), plain(MODEL), sample)


def test_a_summary_where_the_paths_lengths_add_up_is_a_violation() -> None:
    """Behind the sum of the paths, not behind the longest."""
    later = JOINED.positions + np.where(JOINED.lanes == 3, 5, 0)
    moved = replace(JOINED, positions=later)
    assert_fork_join(bound(MODEL, JOINED), plain(MODEL), JOINED)
    with pytest.raises(LawViolation, match="fork join"):
        assert_fork_join(bound(MODEL, moved), plain(MODEL), moved)


def test_one_path_is_no_path_and_two_are() -> None:
    one = fork_join([3, 1, 4], PATHS[:1], [5, 9], 11, NONE)
    report = assert_one_path(bound(MODEL, one), plain(MODEL), one)
    assert report.compared == 8
    late = replace(one, positions=one.positions + (one.lanes == 1))
    for wrong in (late, fork_join([3, 1, 4], PATHS[:2], [5, 9], 11, NONE)):
        with pytest.raises(LawViolation, match="one path"):
            assert_one_path(bound(MODEL, wrong), plain(MODEL), wrong)


def test_paths_are_told_apart_by_an_omega_with_the_prompt_at_lane_0() -> None:
    order = [2, 0, 1, 3]
    assert_permuted_paths(bound(MODEL, JOINED), JOINED, order)
    turned = JOINED.with_rope(LaneRoPE.ntk(MODEL.theta, 4, 4, prompt_lane=0))
    with pytest.raises(LawViolation, match="permuted paths"):
        assert_permuted_paths(bound(MODEL, turned), turned, order)


def test_reading_texts_again_is_not_reading_rows_but_for_one_path() -> None:
    """No law: two methods, and how far they are apart on this model."""
    f = partial(MODEL, lane_rope=NONE)
    report = assert_reread(f, plain(MODEL), JOINED, 3)
    assert report.worst < 1e-12
    one = fork_join([3, 1, 4], PATHS[:1], [5, 9], 11, NONE)
    deviation = np.asarray(f(*JOINED.rows, lane_mask=JOINED.mask)).std()
    assert reuse_gap(f, one, 1) < 1e-12 < 0.1 * deviation < reuse_gap(f, JOINED, 3)


def test_a_reader_that_also_reads_the_rows_is_a_violation() -> None:
    def both(tokens: Any, positions: Any, lanes: Any, lane_mask: LaneMask) -> Any:
        return MODEL(tokens, positions, lanes, NONE, LaneMask.joint(lane_mask.n))

    with pytest.raises(LawViolation, match="texts that are read again"):
        assert_reread(both, plain(MODEL), JOINED, 3)


# ------------------------------------------------------------------------------------- decodings


def forked(rope: Any = NONE) -> Decoding:
    """Three paths that end when they have written so much, and a summary that reads them."""
    decoding = Decoding(
        MODEL, [3, 1, 4], 3, max_tokens=[3, 2, 4], lane_rope=rope, schedule=lambda d: None,
        lane_mask=LaneMask.independent(3), sampler=Sampler(), seed=2,
    )  # fmt: skip
    for _ in decoding:
        pass
    return decoding


def flat(decoding: Decoding) -> Any:
    """The unmodified model over a decoding's rows, as law 16 says: positions are not asked for."""

    def f(tokens: Any, positions: Any, lanes: Any) -> Any:
        sample = Sample(tokens, positions, lanes, decoding.mask, NONE, 11)
        return plain(MODEL)(tokens, depths(sample), ancestors(sample))

    return f


def test_a_decoded_fork_join_is_one_flat_pass() -> None:
    """`join(sees="all", at="end")` against the unmodified model: positions, log-probabilities."""
    decoding = forked()
    decoding.join([5], sees="all", max_tokens=3)
    for _ in decoding:
        pass
    done = transcript(decoding)
    assert np.array_equal(depths(done.sample), done.sample.positions)
    report = assert_rollout(flat(decoding), done)
    assert report.compared == 3 + 2 + 4 + 3 and report.worst < 1e-12


def test_a_summary_in_the_wrong_place_is_a_violation_of_law_16() -> None:
    decoding = forked()
    decoding.clock += 2
    decoding.join([5], sees="all", max_tokens=3)
    for _ in decoding:
        pass
    with pytest.raises(LawViolation):
        assert_rollout(flat(decoding), transcript(decoding))


def test_a_decoding_that_rereads_is_the_plain_model_on_the_texts() -> None:
    decoding = forked()
    text = decoding.reread(range(3))
    lane = decoding.join([*text, 5], sees="none", at=3, max_tokens=3)
    for _ in decoding:
        pass
    whole = np.array([3, 1, 4, *text, 5, *lane.tokens])
    logits = plain(MODEL)(whole, np.arange(len(whole)))[-4:-1]
    expected = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    assert np.allclose(lane.logprobs, expected[range(3), lane.tokens], atol=1e-12)


def test_a_rollout_that_rereads_trained_as_if_it_read_rows_is_a_violation() -> None:
    """Decoded: paths' texts encoded again. Trained: one pass, paths that do not see each other at
    positions of their own, the summary behind the longest. (Read so in a published program.)"""
    decoding = forked()
    lane = decoding.join([*decoding.reread(range(3)), 5], sees="none", at=3, max_tokens=3)
    for _ in decoding:
        pass
    paths = [x.tokens for x in decoding.lanes[:3]]
    rows = fork_join([3, 1, 4], paths, [5, *lane.tokens], 11, NONE)
    mine = np.flatnonzero(rows.lanes == 3)[:-1]
    done = replace(
        transcript(decoding), sample=rows, asked=mine, tokens=np.array(lane.tokens),
        logprobs=np.array(lane.logprobs),
    )  # fmt: skip
    with pytest.raises(LawViolation, match="rollout: row"):
        assert_rollout(bound(MODEL, rows), done)
    whole, again = reread(rows, 3)  # trained as it was decoded, it is kept
    last = again[-4:-1]
    assert_rollout(bound(MODEL, whole), replace(done, sample=whole, asked=last))


@pytest.mark.parametrize("omega", [False, True])
def test_the_trainer_s_pass_keeps_law_24(omega: bool) -> None:
    """A rollout on MLX against the forward pass of `tinylane train`."""
    mx = pytest.importorskip("mlx.core")
    from tinylane.core.lanes import Places
    from tinylane.train.forward import hidden

    params = {k: mx.array(w) for k, w in random_weights(SMALL, 0).items()}
    model = Model(SMALL, params, "mlx", "float32")
    rope = LaneRoPE.ntk(model.theta, 8, 3) if omega else LaneRoPE.none(model.theta)
    mask = LaneMask.joint(3)
    decoding = Decoding(model, [3, 1, 4], 3, max_tokens=5, lane_rope=rope, lane_mask=mask,
                        lane_prompts=[[1], [2, 2], []], sampler=Sampler(), seed=1)  # fmt: skip
    for _ in decoding:
        pass

    def f(tokens: Any, positions: Any, lanes: Any) -> Any:
        plan = model.plan(rope, mask, Places(positions, lanes, positions, lanes))
        x = hidden(params, SMALL, mx.array(tokens.astype(np.int32)), plan)
        return x @ params["lm_head.weight"]

    report = assert_rollout(f, transcript(decoding), dtype="float32")
    assert report.compared == 15


# ------------------------------------------------------------------------------- seals and moves


def test_views_are_read_in_the_order_that_is_given() -> None:
    model, hogwild = small(3, layers=1), Hogwild((2, 0))
    rows = [(k, 3 + k // 3, k % 3) for k in range(9)]
    tokens, positions, lanes = np.array([(7, 0, SHARED), (8, 1, SHARED), *rows]).T.copy()
    sample = Sample(tokens, positions, lanes, LaneMask.joint(3), hogwild, 11)
    f = bound(model, sample)
    assert assert_seal(f, plain(model), sample, [[2, 0, 1]] * 3).compared == 3
    with pytest.raises(LawViolation, match="the view of lane"):
        assert_seal(f, plain(model), sample)  # by index: not where they stand


def moved_by_hand(values: bool = False, factor: float = 1.0) -> Any:
    """A foreign cache: keys turned on by a shift; `values`: these too."""
    from tinylane.core.rope import rotate, table

    def moved(rows: Any, shift: int, further: Any) -> Any:
        cache = MODEL.new_cache(NONE, LaneMask.independent(1))
        MODEL(*rows, np.zeros_like(rows[0]), cache=cache)
        turn = table((shift * MODEL.theta)[None], factor, np.float64)
        cache.keys = [rotate(x, *turn) for x in cache.keys]
        if values:
            cache.values = [rotate(x, *turn) for x in cache.values]
        cache.positions = cache.positions + shift
        return MODEL(*further, np.zeros_like(further[0]), cache=cache)

    return moved


def text(count: int) -> Sample:
    tokens = np.random.default_rng(5).integers(11, size=count)
    zeros = np.zeros(count, dtype=np.int64)
    return Sample(tokens, np.arange(count), zeros, LaneMask.independent(1), NONE, 11)


@pytest.mark.parametrize("shift", [1, 50, -2])
def test_a_cache_moved_by_hand_keeps_law_25(shift: int) -> None:
    rows = replace(text(9), positions=np.arange(9) + 10)
    assert_moved_cache(moved_by_hand(), plain(MODEL), rows, 6, shift)
    for wrong in (moved_by_hand(values=True), moved_by_hand(factor=1.1)):
        with pytest.raises(LawViolation, match="moved cache"):
            assert_moved_cache(wrong, plain(MODEL), rows, 6, shift)


def test_a_segment_that_is_moved_into_a_longer_context_is_not_recomputed() -> None:
    """No law: rows that were cached alone have not seen the text before them."""
    rows, before = text(8), np.array([9, 2, 7])
    tokens = np.concatenate([before, rows.tokens])
    recomputed = plain(MODEL)(tokens, np.arange(11))[-2:]
    apart = np.tril(np.ones((11, 11), dtype=bool))
    apart[3:9, :3] = False  # six rows of the segment were cached without the text before them
    joined = plain(MODEL)(tokens, np.arange(11), apart)[-2:]
    assert np.abs(joined - recomputed).max() > 0.1 * recomputed.std()


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: segments([0], [[1], [2]], [[0, 1], [1, 0]], 11, NONE),
            "lanes [0, 1] read each other",
        ),
        (
            lambda: assert_fork_join(
                MODEL, plain(MODEL), JOINED.with_mask(LaneMask(JOINED.mask.visibility, 2))
            ),
            "lag 2; expected 0 or 1",
        ),
        (
            lambda: assert_permuted_paths(MODEL, JOINED, [3, 0, 1, 2]),
            "order [3, 0, 1, 2] changes who sees whom",
        ),
        (lambda: assert_chain_rule(MODEL, JOINED, [0], [1, 2]), "no row comes before row 0"),
        (
            lambda: assert_chain_rule(MODEL, JOINED, range(1, 9), range(11)),
            "214358881 passes; give fewer",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_line(call: Any, words: str) -> None:
    with pytest.raises(TinylaneError) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)
