"""KTO (Ethayarajh et al. 2024, arXiv:2402.01306): the formula by hand, the reference, the pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import mlx.core as mx
from helpers_tune import (
    disturb,
    oracle_loss,
    oracle_score,
    oracle_z0,
    refer,
    several,
    transcript,
    tuner,
    wide,
)

from tinylane.core.errors import TinylaneError
from tinylane.train.data import rows
from tinylane.train.parameters import Choice
from tinylane.train.recipe import Order
from tinylane.train.step import Tuner, kl_estimate, kto_losses


def kto(**recipe: Any) -> Tuner:
    return refer(tuner(several(), objective="kto", **{"batch_size": 3, **recipe}))


def moved(t: Tuner) -> Tuner:
    """Tuned a little, and with mismatched pairs that have become likelier: z_0 is not 0."""
    disturb(t, 0.02)
    t.reference = {i: (own, pair - 3.0) for i, (own, pair) in t.reference.items()}
    return t


# ------------------------------------------------------------------------------------ by hand

# beta 0.5, lambda_D 1, lambda_U 1.5; three examples, good bad good, with r = 1, -1, 2.
# Mismatched pairs have r = 0.5, -0.1, 0.2: z_0 = 0.6 / 3 = 0.2.
#   good  0.5 ( 1 - 0.2) = 0.4   sigmoid 0.598687660   1   - 0.598687660        = 0.401312340
#   bad   0.5 (0.2 + 1)  = 0.6   sigmoid 0.645656306   1.5 - 1.5 * 0.645656306  = 0.531515541
#   good  0.5 ( 2 - 0.2) = 0.9   sigmoid 0.710949503   1   - 0.710949503        = 0.289050497
# Their mean: 1.221878378 / 3 = 0.407292793.
RATIOS, GOOD = np.array([1.0, -1.0, 2.0]), np.array([True, False, True])
BY_HAND = [0.401312340, 0.531515541, 0.289050497]


@pytest.mark.parametrize("library", ["numpy", "mlx"])
def test_a_case_by_hand(library: str) -> None:
    z0 = kl_estimate(np.array([0.5, -0.1, 0.2]))
    assert z0 == pytest.approx(0.2, abs=1e-12)
    convert = np.asarray if library == "numpy" else lambda x: mx.array(x, dtype=mx.float32)
    good = GOOD if library == "numpy" else mx.array(GOOD)
    losses = np.asarray(kto_losses(convert(RATIOS), good, z0, 0.5, 1.0, 1.5))
    assert np.abs(losses - BY_HAND).max() < (1e-9 if library == "numpy" else 1e-7)
    assert losses.mean() == pytest.approx(0.407292793, abs=1e-7)


@pytest.mark.parametrize(
    ("wrong", "ratios", "good", "settings"),
    [
        ("z_0 left out", RATIOS, GOOD, (0.0, 0.5, 1.0, 1.5)),
        ("labels swapped", RATIOS, ~GOOD, (0.2, 0.5, 1.0, 1.5)),
        ("lambdas swapped", RATIOS, GOOD, (0.2, 0.5, 1.5, 1.0)),
        ("beta 1", RATIOS, GOOD, (0.2, 1.0, 1.0, 1.5)),
        ("policy and reference swapped", -RATIOS, GOOD, (0.2, 0.5, 1.0, 1.5)),
    ],
)
def test_another_formula_misses_the_case_by_hand(
    wrong: str, ratios: np.ndarray, good: np.ndarray, settings: tuple[float, ...]
) -> None:
    """The negative control."""
    assert np.abs(kto_losses(ratios, good, *settings) - BY_HAND).max() > 0.03, wrong


def test_the_kl_estimate_is_clamped_at_zero() -> None:
    assert kl_estimate(np.array([-3.0, 1.0])) == 0.0
    assert kl_estimate(np.array([])) == 0.0


def test_a_ratio_beyond_the_floats_saturates() -> None:
    """exp would overflow at 1e3; the loss goes to 0 and to lambda, never to NaN."""
    far = np.array([1e4, -1e4, 1e4, -1e4])
    losses = kto_losses(far, np.array([True, True, False, False]), 0.0, 1.0, 2.0, 3.0)
    assert np.allclose(losses, [0.0, 2.0, 3.0, 0.0], atol=1e-12)


# ----------------------------------------------------------------------------- of a whole step


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_a_step_is_the_formula_over_the_numpy_decoder(reduce: str) -> None:
    """Loss, z_0 and rewards of a disturbed model by MLX, against float64 by other code."""
    t = moved(kto(beta=0.3, desirable=1.2, undesirable=0.7, reduce=reduce, accumulate=2))
    found = t.outcome(0)
    groups = {name: wide(group) for name, group in t.groups.items()}
    assert found.loss == pytest.approx(oracle_loss(t, 0)(groups), abs=2e-5)
    z0s = [oracle_z0(t, t.order(k)) for k in range(2)]
    assert max(z0s) > 0 and found.kl == pytest.approx(np.mean(z0s), abs=1e-4)
    for label, mean in ((True, found.good), (False, found.bad)):
        ratios = [
            oracle_score(t, one) - t.reference[i][0]
            for i, one in enumerate(t.transcripts)
            if one.label is label
        ]
        assert mean == pytest.approx(np.mean(ratios), abs=1e-4)


def test_one_transcript_of_several_lanes_is_one_example() -> None:
    """Its log-probability is the sum over all lanes' tokens: of what decoding would have drawn."""
    t = kto()
    one = t.transcripts[1]
    assert len(one.lanes) == 3
    assert t.scores([one])[0] == pytest.approx(oracle_score(t, one), abs=1e-4)
    mean = kto(reduce="mean").scores([one])[0]
    assert mean == pytest.approx(oracle_score(t, one) / one.targets, abs=1e-5)


def test_before_the_first_step_the_loss_is_half_of_lambda() -> None:
    """pi = pi_ref: r = 0 and z_0 = 0, so v = lambda / 2, exactly."""
    t = kto(desirable=1.0, undesirable=1.0, batch_size=6)
    found = t.outcome(0)
    assert found.loss == pytest.approx(0.5, abs=1e-7)
    assert found.kl == 0 and found.good == 0 and found.bad == 0


def test_the_reference_is_of_the_untuned_model() -> None:
    """The negative control: were it of the tuned model, the loss could never move."""
    t = kto(batch_size=6)
    untuned = dict(t.reference)
    disturb(t, 0.02)
    assert abs(t.outcome(0).loss - 0.5) > 0.01
    refer(t)
    assert t.reference != untuned
    assert t.outcome(0).loss == pytest.approx(0.5, abs=1e-6)


def test_no_gradient_flows_through_z0() -> None:
    """The gradient is that of the loss with z_0 held; with z_0 moving it would be another."""
    t = moved(kto(batch_size=6, beta=0.5))
    chunk = t.order(0)
    z0 = t.z0(chunk)
    assert z0 > 0
    found = t.outcome(0).grads
    key = "lane_rope.omega"
    base = t.groups["omega"][key]
    rng = np.random.default_rng(0)
    d = rng.standard_normal(base.shape).astype(np.float32)
    held, moving, h = [], [], 0.02
    for sign in (h, -h):
        t.groups["omega"][key] = base + sign * mx.array(d)
        moving.append(t.outcome(0, gradients=False).loss)
        t.z0 = lambda chunk: z0  # type: ignore[method-assign]
        held.append(t.outcome(0, gradients=False).loss)
        del t.z0
    assert found is not None
    slope = float((np.asarray(found["omega"][key]) * d).sum())
    assert (held[0] - held[1]) / (2 * h) == pytest.approx(slope, rel=0.01)
    assert abs((moving[0] - moving[1]) / (2 * h) - slope) > 0.05 * abs(slope)


def test_kto_raises_good_transcripts_and_lowers_bad_ones() -> None:
    t = kto(batch_size=6, lr=3e-3, steps=30, beta=0.3)
    first = t.outcome(0)
    for _ in range(12):
        t.apply(t.outcome(t.step).grads or {})
    last = t.outcome(t.step)
    assert last.loss < first.loss - 0.05
    assert last.good is not None and last.bad is not None and last.good > last.bad + 1


# ------------------------------------------------------------------- microbatches and their pairs


def test_pairs_stay_within_a_microbatch_and_never_match() -> None:
    """(x, y') of the paper: the prompt of one with what stands after the next, the last's after
    the first; the same in every epoch, so that each needs its reference once."""
    t = tuner(several(count=8), objective="kto", batch_size=3)
    for chunk in t.order.epoch(0):
        pairs = t.pairs(chunk)
        for k, i in enumerate(chunk):
            j = chunk[(k + 1) % len(chunk)]
            assert i != j
            assert pairs[k].prompt == t.transcripts[i].prompt
            assert pairs[k].lanes == t.transcripts[j].lanes
    seen = [[tuple(t.order(n)) for n in range(e * 2, e * 2 + 2)] for e in range(4)]
    assert all(sorted(epoch) == sorted(seen[0]) for epoch in seen)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize(("count", "size"), [(10, 3), (3, 8), (7, 2), (64, 8)])
def test_an_epoch_holds_every_transcript_once(count: int, size: int, fixed: bool) -> None:
    """From (seed, number) alone: asked in any order, the same; another seed gives another."""
    order = Order(count, size, 5, fixed)
    epochs = [[order(e * order.chunks + k) for k in range(order.chunks)] for e in range(3)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch).tolist()) == list(range(count))
        assert min(map(len, epoch)) >= min(2, size, count)
    again = Order(count, size, 5, fixed)
    for number in (2 * again.chunks, 0, again.chunks):
        assert np.array_equal(again(number), epochs[number // again.chunks][0])
    together = [np.concatenate(epoch).tolist() for epoch in epochs]
    if order.chunks > 3 or not fixed:
        assert together[0] != together[1]
    assert np.concatenate(Order(count, size, 6, fixed).epoch(0)).tolist() != np.concatenate(
        order.epoch(0)
    ).tolist()  # fmt: skip


def test_a_microbatch_is_of_one_kind_where_kinds_are_given() -> None:
    """Every transcript once an epoch; a kind of few transcripts is not left out."""
    kinds = ["short"] * 7 + ["long"] * 10 + ["rare"]
    kinds = [kinds[k] for k in np.random.default_rng(1).permutation(len(kinds))]
    order = Order(len(kinds), 4, 5, False, kinds)
    assert order.chunks == 1 + 2 + 1
    for epoch in range(3):
        chunks = [order(epoch * order.chunks + k) for k in range(order.chunks)]
        assert sorted(np.concatenate(chunks).tolist()) == list(range(len(kinds)))
        assert all(len({kinds[i] for i in chunk}) == 1 for chunk in chunks)
    mixed = Order(len(kinds), 4, 5, False)
    assert any(len({kinds[i] for i in mixed(k)}) > 1 for k in range(mixed.chunks))


def test_group_by_shape_makes_one_pass_a_microbatch_and_the_same_loss() -> None:
    """The loss of a step is that of its transcripts, however they are put together."""
    grouped = tuner(several(), Choice(), group_by_shape=True, batch_size=3)
    plain = tuner(several(), Choice(), batch_size=3)
    for number in range(grouped.order.chunks):
        chunk = grouped.order(number)
        assert len({rows(grouped.transcripts[i]).shape for i in chunk}) == 1
        losses = [plain.nll([plain.transcripts[i]]) for i in chunk]
        weights = [plain.transcripts[i].targets for i in chunk]
        assert grouped.outcome(number, gradients=False).loss == pytest.approx(
            np.average(losses, weights=weights), rel=1e-5
        )
    with pytest.raises(TinylaneError, match="--group-by-shape is for sft"):
        tuner(several(), Choice(), objective="kto", group_by_shape=True)


def test_kto_of_one_transcript_is_refused() -> None:
    one = [transcript(np.random.default_rng(0), label=True)]
    with pytest.raises(TinylaneError, match="two transcripts or more"):
        tuner(one, objective="kto")
    with pytest.raises(TinylaneError, match="batch-size is 1"):
        tuner(several(), Choice(), objective="kto", batch_size=1)
