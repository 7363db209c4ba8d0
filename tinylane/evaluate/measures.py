"""What the results of a run say, each number with its 95% interval.

    one        a lane by itself is right (the mean over the lanes)
    majority   the answer that most lanes give is right
    any        at least one lane is right

as functions of a budget: decoding steps, tokens of all lanes together, or seconds since the prompt
was first read. At a budget stands what a run with that limit would have answered (`results.state`).
Further: distinct answers, the lead of the winning answer, and how much lanes repeat one another.

Intervals: Wilson's for proportions (doi:10.1080/01621459.1927.10502953); the bootstrap over
problems for means and paired differences (`scipy.stats.bootstrap`, percentile, from a fixed seed).
Lanes of one problem are not independent, so a mean over lanes has the interval of as many trials
as there are problems: too wide rather than too narrow.

Comparisons are paired by problem, at a budget that both have used: the same steps for each lane,
and the same tokens in all. N lanes at equal steps write up to N times what one lane writes; at
equal tokens one lane goes on N times as long, while `independent` with N lanes is N samples at
equal steps and equal tokens at once.

    P problems   G budgets of a grid   N lanes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.results import AnswerRow, state, step_at_seconds, step_at_tokens, vote

Axis = Literal["steps", "tokens", "seconds"]
AXES: tuple[Axis, ...] = ("steps", "tokens", "seconds")
MEASURES = ("one", "majority", "any")
LEVEL = 0.95
RESAMPLES = 9999
SUBSETS = 256  # of the lanes, at most, for the majority of k
INSTALL = 'intervals of differences need scipy: pip install "tinylane[eval]"'


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval; low and high are NaN where there is none."""

    value: float
    low: float
    high: float


def as_json(value: Any) -> Any:
    """Plain JSON values of what is measured here: NaN is None, an Estimate has its interval."""
    if isinstance(value, Estimate):
        return {"value": as_json(value.value), "interval_95": as_json([value.low, value.high])}
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(inner) for inner in value]
    return None if value != value else value


def wilson(right: float, count: int) -> Estimate:
    """`right` of `count` trials and Wilson's interval; `right` may be a sum of means."""
    if count < 1:
        return Estimate(math.nan, math.nan, math.nan)
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    p, n = right / count, count
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half))


def mean(values: Any, interval: bool = True) -> Estimate:
    """The mean of a number for each problem, without NaN, with a bootstrap interval over problems.

    No interval where all numbers are equal: there is nothing to resample, which does not make the
    mean certain. Raises TinylaneError where scipy, which an interval needs, is not installed.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[~np.isnan(x)]
    if not len(x):
        return Estimate(math.nan, math.nan, math.nan)
    if not interval:
        return Estimate(float(x.mean()), math.nan, math.nan)
    if (x == x[0]).all():
        return Estimate(float(x[0]), math.nan, math.nan)
    try:
        from scipy.stats import bootstrap
    except ImportError as error:
        raise TinylaneError(INSTALL) from error
    between = bootstrap(
        (x,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // len(x)),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(float(x.mean()), float(between.low), float(between.high))


# Budgets.


def step_at(row: AnswerRow, axis: Axis, budget: float) -> int:
    """The last step of a run limited to `budget`."""
    if axis == "steps":
        return min(int(budget), row.steps)
    if axis == "tokens":
        return step_at_tokens(row, int(budget))
    return step_at_seconds(row, budget)


def used(row: AnswerRow, axis: Axis) -> float:
    """What the whole run of a problem took."""
    return {"steps": row.steps, "tokens": row.tokens, "seconds": row.seconds}[axis]


def most(rows: Sequence[AnswerRow], axis: Axis) -> float:
    """The largest budget that a problem of this cell took."""
    return max(used(row, axis) for row in rows)


def grid(rows: Sequence[AnswerRow], axis: Axis, points: int = 64) -> np.ndarray:
    """(G,) budgets, from the first that a result can have to the largest that a problem took."""
    top = most(rows, axis)
    if axis == "seconds":
        return np.linspace(0.0, top, points)
    first = 1 if axis == "steps" else rows[0].lanes
    return np.unique(np.linspace(first, max(top, first), points).round().astype(int))


def outcomes(row: AnswerRow, steps: Any) -> np.ndarray:
    """(3, G): MEASURES of a problem after each of (G,) numbers of steps."""
    steps = np.asarray(steps, int)
    changes = np.unique(np.concatenate([at for at, _ in row.answers])) if row.answers else steps[:0]
    piece = np.searchsorted(changes, steps, side="right")  # answers are constant within a piece
    right_at = np.zeros((3, len(steps)))
    for k in np.unique(piece):
        if k == 0:
            continue
        groups, _ = state(row, int(changes[k - 1]))
        right = np.array([g >= 0 and bool(row.correct[g]) for g in groups])
        inside = piece == k
        right_at[0, inside], right_at[2, inside] = right.mean(), right.any()
        values, votes = np.unique(groups[groups >= 0], return_counts=True)
        tied = row.correct[values[votes == votes.max(initial=0)]]
        if len(tied) and tied.all() == tied.any():
            right_at[1, inside] = bool(tied.all())
        else:  # log-probabilities decide, and they change with every token
            for j in np.flatnonzero(inside):
                right_at[1, j] = right_of(row, *state(row, int(steps[j])))
    return right_at


def right_of(row: AnswerRow, groups: np.ndarray, means: np.ndarray) -> bool:
    """Whether the majority of these answers is right."""
    winner = vote(groups, means)
    return winner is not None and bool(row.correct[winner])


def table_at(rows: Sequence[AnswerRow], axis: Axis, budget: float) -> np.ndarray:
    """(3, P): the three measures of every problem at one budget."""
    return np.stack([outcomes(row, [step_at(row, axis, budget)])[:, 0] for row in rows], axis=1)


def curve(rows: Sequence[AnswerRow], axis: Axis, budgets: np.ndarray) -> dict[str, list[Estimate]]:
    """For each measure an estimate at each budget."""
    total = np.zeros((3, len(budgets)))
    for row in rows:
        total += outcomes(row, [step_at(row, axis, b) for b in budgets])
    return {
        name: [wilson(float(x), len(rows)) for x in total[k]] for k, name in enumerate(MEASURES)
    }


# Of k lanes, and at the end of a run.


def majority_of(row: AnswerRow, k: int, step: int | None = None) -> float:
    """How often the majority of k of the lanes is right after `step` steps (None: at the end): the
    mean over all subsets of k lanes, or over SUBSETS of them, from a fixed seed, where there are
    more."""
    groups, means = state(row, row.steps if step is None else step)
    n, right = row.lanes, row.correct[groups[groups >= 0]]
    if not right.any():
        return 0.0
    if len(right) == n and right.all():
        return 1.0
    if math.comb(n, k) <= SUBSETS:
        subsets = [list(s) for s in combinations(range(n), k)]
    else:
        rng = np.random.default_rng([n, k])
        subsets = [sorted(rng.choice(n, k, replace=False)) for _ in range(SUBSETS)]
    return float(np.mean([right_of(row, groups[s], means[s]) for s in subsets]))


def any_of(row: AnswerRow, k: int, step: int | None = None) -> float:
    """How often at least one of k of the lanes is right: 1 - C(n-c, k) / C(n, k) with c right
    lanes, the mean over all subsets (Chen et al. 2021, arXiv:2107.03374)."""
    groups, _ = state(row, row.steps if step is None else step)
    right = sum(bool(row.correct[g]) for g in groups if g >= 0)
    return 1.0 - math.comb(row.lanes - right, k) / math.comb(row.lanes, k)


def powers(n: int) -> list[int]:
    """1, 2, 4, .. below n, and n."""
    return [*(1 << j for j in range(n.bit_length()) if 1 << j < n), n]


def curve_of_k(
    rows: Sequence[AnswerRow], axis: Axis, budgets: np.ndarray, k: int
) -> tuple[list[Estimate], list[Estimate]]:
    """The majority of k lanes and any of k, an estimate at each budget."""
    total = np.zeros((2, len(budgets)))
    for row in rows:
        at = [step_at(row, axis, b) for b in budgets]
        known = {s: (majority_of(row, k, s), any_of(row, k, s)) for s in set(at)}
        total += np.array([known[s] for s in at]).T
    majority, some = ([wilson(float(x), len(rows)) for x in line] for line in total)
    return majority, some


def distinct(row: AnswerRow) -> int:
    """How many different answers the lanes gave in the end."""
    groups, _ = state(row, row.steps)
    return len(set(groups[groups >= 0].tolist()))


def margin(row: AnswerRow) -> int:
    """By how many votes the winning answer leads the next."""
    groups, _ = state(row, row.steps)
    votes = np.sort(np.unique(groups[groups >= 0], return_counts=True)[1])[::-1]
    return int(votes[0] - (votes[1] if len(votes) > 1 else 0)) if len(votes) else 0


def without_answer(row: AnswerRow) -> tuple[int, int]:
    """(lanes that gave no answer, lanes whose answer could not be read as mathematics)."""
    groups, _ = state(row, row.steps)
    given = groups[groups >= 0]
    return int((groups < 0).sum()), int((~row.readable[given]).sum())


@dataclass(frozen=True)
class Summary:
    """A cell at the end of its run, means over its problems. copied: see `results.copied`. missing,
    unreadable: lanes. twins: problems in which two lanes wrote the same. cut: problems with a lane
    that was cut. seconds: of all problems together."""

    mode: str
    lanes: int
    count: int
    one: Estimate
    majority: Estimate
    any: Estimate
    distinct: Estimate
    margin: Estimate
    copied: Estimate
    missing: int
    unreadable: int
    twins: int
    cut: int
    steps: float
    tokens: float
    seconds: float


def summary(rows: Sequence[AnswerRow], intervals: bool = True) -> Summary:
    """One cell's problems, at least one, in numbers. intervals: of means too (see `mean`)."""
    ends = np.stack([outcomes(row, [row.steps])[:, 0] for row in rows], axis=1).sum(axis=1)
    missing, unreadable = np.sum([without_answer(row) for row in rows], axis=0)
    one, majority, some = (wilson(float(x), len(rows)) for x in ends)
    return Summary(
        mode=rows[0].mode,
        lanes=rows[0].lanes,
        count=len(rows),
        one=one,
        majority=majority,
        any=some,
        distinct=mean([distinct(row) for row in rows], interval=intervals),
        margin=mean([margin(row) for row in rows], interval=intervals),
        copied=mean([row.copied for row in rows], interval=intervals),
        missing=int(missing),
        unreadable=int(unreadable),
        twins=sum(row.twins for row in rows),
        cut=sum(row.cut for row in rows),
        steps=float(np.mean([row.steps for row in rows])),
        tokens=float(np.mean([row.tokens for row in rows])),
        seconds=float(np.sum([row.seconds for row in rows])),
    )


# Between cells.


@dataclass(frozen=True)
class Comparison:
    """A cell against another at one budget, the same steps or tokens of both: what each has, and
    the paired difference, of each of MEASURES."""

    cell: str
    against: str
    at_equal: Axis
    budget: float
    count: int
    values: dict[str, tuple[float, float]]
    differences: dict[str, Estimate]


def compare(
    cell: Sequence[AnswerRow], other: Sequence[AnswerRow], names: tuple[str, str], axis: Axis
) -> list[Comparison]:
    """`cell` minus `other`, paired by problem, at equal budgets.

    The budgets are the largest that both took, and the larger of the two if the other was not cut
    off, so that more would have changed nothing.

    Raises TinylaneError where they have no problem in common, or scipy is not installed.
    """
    mine = {row.problem: row for row in cell}
    theirs = {row.problem: row for row in other}
    shared = [key for key in mine if key in theirs]
    if not shared:
        raise TinylaneError(f"{names[0]} and {names[1]} have no problem in common")
    a, b = [mine[key] for key in shared], [theirs[key] for key in shared]
    less, more = sorted([a, b], key=lambda rows: most(rows, axis))
    budgets = {most(less, axis)}
    if not any(row.cut for row in less):
        budgets.add(most(more, axis))
    comparisons = []
    for budget in sorted(budgets):
        x, y = table_at(a, axis, budget), table_at(b, axis, budget)
        values = {m: (float(x[k].mean()), float(y[k].mean())) for k, m in enumerate(MEASURES)}
        differences = {m: mean(x[k] - y[k]) for k, m in enumerate(MEASURES)}
        comparisons.append(Comparison(*names, axis, budget, len(shared), values, differences))
    return comparisons
