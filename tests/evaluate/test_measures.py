"""Measures of eval: scipy's intervals, and counting by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from helpers_eval import row
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import tinylane
from tinylane.core.errors import TinylaneError
from tinylane.evaluate import measures, results

# Intervals.


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipy_s(case: tuple[int, int]) -> None:
    right, count = case
    expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    found = measures.wilson(right, count)
    assert found.value == right / count
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_another_interval_is_not_wilson_s() -> None:
    """The control of the test above: a normal approximation is told apart."""
    p, n = 0.05, 20
    half = 1.959964 * math.sqrt(p * (1 - p) / n)
    found = measures.wilson(1, 20)
    assert abs(found.low - (p - half)) > 0.01 and found.low > 0 > p - half
    assert math.isnan(measures.wilson(0, 0).value)


def test_the_bootstrap_of_a_mean_is_near_its_standard_error() -> None:
    """And it is scipy's, from a seed of its own, so that the same run gives the same page."""
    x = np.random.default_rng(0).normal(0.3, 1.0, 400)
    found = measures.mean(x)
    half = 1.96 * x.std() / math.sqrt(len(x))
    assert found.value == pytest.approx(x.mean())
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.01)
    rng = np.random.default_rng(0)
    scipy = stats.bootstrap((x,), np.mean, method="percentile", batch=5000, rng=rng)
    assert (found.low, found.high) == pytest.approx(tuple(scipy.confidence_interval))
    assert measures.mean(x) == found


def test_pairs_are_kept_together() -> None:
    """The same problems are hard for both: a paired interval is much narrower than another."""
    rng = np.random.default_rng(1)
    hard = rng.random(300) < 0.5
    gain = (rng.random(300) < 0.1) & ~hard
    a, b = (hard | gain).astype(float), hard.astype(float)
    found = measures.mean(a - b)
    apart = stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        method="percentile",
        n_resamples=2000,
        rng=0,
    ).confidence_interval
    assert found.low > 0 > apart.low
    assert found.high - found.low < 0.5 * (apart.high - apart.low)


def test_what_cannot_be_resampled_has_no_interval() -> None:
    for values in ([1.0, 1.0, 1.0], [0.5], [math.nan, 0.0, 0.0]):
        found = measures.mean(values)
        assert found.value == values[-1] and math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(measures.mean([math.nan]).value)


# Counting.


@st.composite
def rows(draw: st.DrawFn) -> results.AnswerRow:
    """A result with ties, changes of mind and lanes of several lengths."""
    n = draw(st.integers(1, 5))
    lengths = [draw(st.integers(1, 6)) for _ in range(n)]
    groups = draw(st.integers(1, 4))
    answers, logprobs = [], []
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    for length in lengths:
        at = sorted(draw(st.sets(st.integers(1, length), max_size=3)))
        last: int | None = None
        mine: list[tuple[int, int | None]] = []
        for step in at:
            now = draw(st.sampled_from([None, *range(groups)]))
            if now != last:
                mine.append((step, now))
                last = now
        answers.append(mine)
        logprobs.append(np.round(-rng.random(length), 3).tolist())
    correct = [draw(st.booleans()) for _ in range(groups)]
    return row(answers, correct, lengths, logprobs=logprobs)


def by_hand(given: results.AnswerRow, step: int) -> list[int | None]:
    """Every lane's answer after `step` steps, by going through the changes."""
    found: list[int | None] = []
    for at, what in given.answers:
        now: int | None = None
        for when, group in zip(at.tolist(), what.tolist(), strict=True):
            if when <= step:
                now = None if group < 0 else group
        found.append(now)
    return found


def by_vote(given: results.AnswerRow, step: int, lanes: list[int] | None = None) -> bool:
    """Whether the majority is right, by `tinylane.vote` on made-up lanes."""
    answers = by_hand(given, step)
    chosen = list(range(given.lanes)) if lanes is None else lanes

    class Lane:
        def __init__(self, m: int) -> None:
            k = min(step, int(given.lengths[m]))
            self.index, self.logprobs = m, np.diff(given.logprobs[m].astype(float))[:k]
            self.text = str(answers[m]) if answers[m] is not None else ""

    class Result:
        lanes = [Lane(m) for m in chosen]  # noqa: RUF012

    voted = tinylane.vote(Result(), extract=lambda text: text or None).text
    return voted is not None and bool(given.correct[int(voted)])


def voted(groups: np.ndarray, means: np.ndarray) -> int:
    """The winner of one vote, lane by lane: by votes, then the mean, then the lower lane; or -1."""
    votes = Counter(groups.tolist())
    lanes = zip(groups.tolist(), means.tolist(), strict=True)
    ranked = [(votes[g], mean, -m, g) for m, (g, mean) in enumerate(lanes) if g >= 0]
    return max(ranked)[-1] if ranked else -1


def at(given: results.AnswerRow, step: int) -> measures.States:
    return results.states(given, np.array([step]))


@given(rows())
def test_measures_at_every_step_are_those_counted_by_hand(given: results.AnswerRow) -> None:
    for step in range(given.steps + 2):
        right = [g is not None and bool(given.correct[g]) for g in by_hand(given, step)]
        ((one, majority, some),) = measures.outcome(given, at(given, step))
        assert one == pytest.approx(np.mean(right))
        assert majority == by_vote(given, step)
        assert some == any(right)


@given(rows(), st.data())
def test_k_of_n_is_the_mean_over_all_subsets(given: results.AnswerRow, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, given.lanes))
    subsets = [list(s) for s in itertools.combinations(range(given.lanes), k)]
    answers = by_hand(given, given.steps)
    right = [g is not None and bool(given.correct[g]) for g in answers]
    some = np.mean([any(right[m] for m in s) for s in subsets])
    votes = np.mean([by_vote(given, given.steps, s) for s in subsets])
    assert measures.of_k(given, at(given, given.steps), k)[0] == pytest.approx((votes, some))


@given(rows(), st.data())
def test_one_pass_gives_the_curves_that_each_step_gives(
    given: results.AnswerRow, data: st.DataObject
) -> None:
    """Every axis at once, from many rows, against a state at a time; and who wins."""
    every = [given, given, data.draw(rows())]
    axis = data.draw(st.sampled_from(measures.AXES))
    budgets = np.array(sorted(data.draw(st.lists(st.floats(0, 12), min_size=1, max_size=9))))
    k = data.draw(st.integers(1, min(row.lanes for row in every)))
    asked = [("steps", np.array([1, 3]), None), (axis, budgets, k), (axis, budgets, None)]
    _, few, whole = measures.curves(every, asked)
    for b, budget in enumerate(budgets):
        ends = [at(row, measures.step_at(row, axis, budget)) for row in every]
        expected = np.mean([measures.outcome(*x)[0] for x in zip(every, ends, strict=True)], axis=0)
        assert [line[b].value for line in whole] == pytest.approx(expected)
        some = [measures.of_k(*x, k)[0] for x in zip(every, ends, strict=True)]
        assert [line[b].value for line in few] == pytest.approx(np.mean(some, axis=0))
    for step in range(given.steps + 2):
        groups, means = results.state(given, step)
        assert results.winners(groups, means) == voted(groups, means)


def test_resampling_how_often_each_value_is_drawn_is_resampling_rows(monkeypatch: Any) -> None:
    """From MANY problems on; the two kinds of bootstrap agree within their own noise."""
    values = np.random.default_rng(0).choice([0.0, 0.25, 1.0], measures.MANY)
    quick = measures.mean(values)
    monkeypatch.setattr(measures, "MANY", 1 << 60)
    rows = measures.mean(values)
    assert quick.value == rows.value and quick != rows
    width = rows.high - rows.low
    assert abs(quick.low - rows.low) < 0.05 * width and abs(quick.high - rows.high) < 0.05 * width


def test_many_lanes_are_sampled_from_a_fixed_seed() -> None:
    """C(20, 10) subsets would take minutes; the estimate is the same each time, and near."""
    given = row([[(1, m % 3)] for m in range(20)], [True, False, False], [1] * 20)
    assert math.comb(20, 10) > measures.SUBSETS
    (half,) = measures.of_k(given, at(given, 1), 10)
    assert (measures.of_k(given, at(given, 1), 10) == half).all() and 0.2 < half[0] < 0.8
    assert (
        measures.of_k(given, at(given, 1), 20)[0, 0] == 1.0
    )  # 7, 7 and 6 lanes; ties go to the lowest


def test_a_hand_case() -> None:
    """Three lanes: 0 is right from step 2, 1 says another from step 1, 2 never answers."""
    given = row(
        [[(2, 0)], [(1, 1)], []],
        [True, False],
        [3, 4, 2],
        logprobs=[[-1.0, -1.0, -1.0], [-2.0, -2.0, -2.0, -2.0], [-1.0, -1.0]],
    )
    found = measures.outcome(given, results.states(given, np.array([0, 1, 2, 4])))
    assert found.tolist() == [[0, 0, 0], [0, 0, 0], [1 / 3, 1, 1], [1 / 3, 1, 1]]
    assert measures.ending(given) == (2, 0, 1, 0)
    # 3 tokens after a step, 6 after two, then lane 2 is done: 8, then lane 0: 9.
    steps = measures.step_at(given, "tokens", [0, 2, 3, 5, 6, 7, 8, 9, 100])
    assert steps.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 4]
    assert measures.step_at(given, "seconds", [0.0, 0.1, 0.25, 9.0]).tolist() == [0, 1, 2, 4]


def test_repeated_n_grams_by_hand() -> None:
    same = [1, 2, 3, 4, 5]
    assert results.copied([same, same]) == 1.0
    assert results.copied([same, [9, 9, 9, 9, 9]]) == 0.0
    # (1 2 3 4) is in both; (2 3 4 5) and (2 3 4 6) in one each: 2 of 4
    assert results.copied([same, [1, 2, 3, 4, 6]]) == 0.5
    # a lane that repeats itself does not repeat others
    assert results.copied([[7] * 6, same]) == 0.0
    assert math.isnan(results.copied([same])) and math.isnan(results.copied([[1], [2]]))


def test_comparisons_are_at_budgets_that_both_have_used() -> None:
    """One lane needs 8 steps; four lanes need 2 of 4 tokens each: what is equal decides."""
    one = [row([[(8, 0)]], [True], [8], problem=str(k)) for k in range(3)]
    four = [row([[(2, 0)]] * 4, [True], [2] * 4, problem=str(k)) for k in range(3)]
    both = measures.compare({"four": four, "one": one}, [("four", "one")])
    steps, tokens = ([c for c in both if c.at_equal == axis] for axis in ("steps", "tokens"))
    assert [(c.budget, *c.values["majority"]) for c in steps] == [(2, 1.0, 0.0), (8, 1.0, 1.0)]
    assert [(c.budget, *c.values["majority"]) for c in tokens] == [(8, 1.0, 1.0)]
    assert steps[0].differences["majority"].value == 1.0 and steps[0].count == 3
    # what was cut off at its limit cannot be read beyond it
    cut = [row([[(2, 0)]] * 4, [True], [2] * 4, problem=str(k), reason="length") for k in range(3)]
    found = measures.compare({"cut": cut, "one": one}, [("cut", "one")])
    assert [c.budget for c in found if c.at_equal == "steps"] == [2]
    with pytest.raises(TinylaneError, match="x and one are not of the same problems"):
        measures.compare({"x": [row([[]], [], [1], problem="x")], "one": one}, [("x", "one")])


def test_a_summary_counts_what_it_says() -> None:
    twins = row([[(1, 0)], [(1, 0)]], [True], [2, 2], problem="1")
    found = measures.summary([row([[(1, 0)], []], [False], [2, 5], reason="length"), twins])
    assert (found.count, found.missing, found.unreadable, found.cut) == (2, 1, 0, 1)
    assert (found.one.value, found.majority.value, found.any.value) == (0.5, 0.5, 0.5)
    assert (found.steps, found.tokens) == (3.5, 5.5)
    assert found.distinct.value == 1.0 and found.margin.value == 1.5
    json.dumps(measures.as_json(found), allow_nan=False)
