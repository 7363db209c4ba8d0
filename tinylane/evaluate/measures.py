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
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.results import AnswerRow, state, vote
from tinylane.evaluate.rows import column, pick, problems

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
    """The last step of a run limited to `budget`: to so many steps, to so many tokens of all lanes
    together, or to the steps that were done so many seconds after the prompt was first read."""
    if axis == "steps":
        return min(int(budget), row.steps)
    if axis == "seconds":
        return int(np.searchsorted(row.clock, budget, side="right"))
    written = np.minimum(np.arange(1, row.steps + 1)[:, None], row.lengths).sum(axis=1)
    return int(np.searchsorted(written, int(budget), side="right"))


def most(rows: Sequence[AnswerRow], axis: Axis) -> float:
    """The largest budget that a problem of this cell took."""
    return max(column(rows, axis))


def grid(rows: Sequence[AnswerRow], axis: Axis, points: int = 64) -> np.ndarray:
    """(G,) budgets, from the first that a result can have to the largest that a problem took."""
    top = most(rows, axis)
    if axis == "seconds":
        return np.linspace(0.0, top, points)
    first = 1 if axis == "steps" else rows[0].lanes
    return np.unique(np.linspace(first, max(top, first), points).round().astype(int))


def outcome(row: AnswerRow, step: int) -> tuple[float, float, float]:
    """MEASURES of a problem after `step` steps."""
    groups, means = state(row, step)
    right = row.correct[groups[groups >= 0]]
    return len(right[right]) / row.lanes, majority_right(row, groups, means), bool(right.any())


def majority_right(row: AnswerRow, groups: np.ndarray, means: np.ndarray) -> bool:
    """Whether the majority of these answers is right."""
    winner = vote(groups, means)
    return winner is not None and bool(row.correct[winner])


def of_k(row: AnswerRow, step: int, k: int) -> tuple[float, float]:
    """How often the majority of k of the lanes is right after `step` steps, and any of k.

    The majority: the mean over all subsets of k lanes, or over SUBSETS of them, from a fixed seed,
    where there are more. Any: 1 - C(n-c, k) / C(n, k) with c right lanes, the mean over all subsets
    (Chen et al. 2021, arXiv:2107.03374).
    """
    groups, means = state(row, step)
    n, right = row.lanes, row.correct[groups[groups >= 0]]
    some = 1.0 - math.comb(n - int(right.sum()), k) / math.comb(n, k)
    if not right.any() or (len(right) == n and right.all()):
        return float(right.any()), some
    if math.comb(n, k) <= SUBSETS:
        subsets = [list(s) for s in combinations(range(n), k)]
    else:
        rng = np.random.default_rng([n, k])
        subsets = [sorted(rng.choice(n, k, replace=False)) for _ in range(SUBSETS)]
    return float(np.mean([majority_right(row, groups[s], means[s]) for s in subsets])), some


def table_at(rows: Sequence[AnswerRow], axis: Axis, budget: float) -> np.ndarray:
    """(3, P): the three measures of every problem at one budget."""
    return np.stack([outcome(row, step_at(row, axis, budget)) for row in rows], axis=1)


def curve(
    rows: Sequence[AnswerRow],
    axis: Axis,
    budgets: np.ndarray,
    measure: Callable[[AnswerRow, int], Sequence[float]] = outcome,
) -> list[list[Estimate]]:
    """For each number that `measure` gives of a problem after some steps: the mean over the
    problems at each budget."""
    total: Any = 0.0
    for row in rows:
        steps = [step_at(row, axis, b) for b in budgets]
        known = {step: measure(row, step) for step in set(steps)}
        total = total + np.array([known[step] for step in steps], dtype=float).T
    return [[wilson(float(x), len(rows)) for x in line] for line in total]


# At the end of a run.


def powers(n: int) -> list[int]:
    """1, 2, 4, .. below n, and n."""
    return [*(1 << j for j in range(n.bit_length()) if 1 << j < n), n]


def ending(row: AnswerRow) -> tuple[int, int, int, int]:
    """What the lanes answered in the end: how many different answers, by how many votes the winning
    answer leads the next, lanes without an answer, and lanes whose answer could not be read as
    mathematics."""
    groups, _ = state(row, row.steps)
    given = groups[groups >= 0]
    votes = sorted(np.unique(given, return_counts=True)[1].tolist(), reverse=True)
    first, second = [*votes, 0, 0][:2]
    missing, unreadable = row.lanes - len(given), int((~row.readable[given]).sum())
    return len(votes), first - second, missing, unreadable


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
    shares: dict[str, Estimate]
    numbers: dict[str, Estimate]


class Tally:
    """A cell at the end of its run, problem by problem: `add` each, then `summary`.

    It keeps a few numbers of each problem, however much its lanes wrote.
    """

    def __init__(self) -> None:
        self.mode, self.lanes = "", 0
        self._table = array("d")
        self._counted: dict[str, dict[str, array[float]]] = {"shares": {}, "numbers": {}}

    def add(self, row: AnswerRow) -> None:
        """Count a problem."""
        self.mode, self.lanes = row.mode, row.lanes
        self._table.extend((*outcome(row, row.steps), *ending(row), row.copied, row.twins, row.cut))
        self._table.extend((row.steps, row.tokens, row.seconds))
        for kind, by_name in self._counted.items():
            for name, value in getattr(row, kind).items():
                by_name.setdefault(name, array("d")).append(value)

    def summary(self, intervals: bool = True) -> Summary:
        """The problems so far, at least one, in numbers. intervals: of means too (see `mean`)."""
        columns = np.ascontiguousarray(np.array(self._table).reshape(-1, 13).T)  # (13, P)
        count = columns.shape[1]
        one, majority, some = (wilson(float(x.sum()), count) for x in columns[:3])
        distinct, margin, missing, unreadable, same, twins, cut, steps, tokens, seconds = columns[
            3:
        ]
        shares, numbers = self._counted.values()
        return Summary(
            mode=self.mode,
            lanes=self.lanes,
            count=count,
            one=one,
            majority=majority,
            any=some,
            distinct=mean(distinct, interval=intervals),
            margin=mean(margin, interval=intervals),
            copied=mean(same, interval=intervals),
            missing=int(missing.sum()),
            unreadable=int(unreadable.sum()),
            twins=int(twins.sum()),
            cut=int(cut.sum()),
            steps=float(steps.mean()),
            tokens=float(tokens.mean()),
            seconds=float(seconds.sum()),
            shares={k: wilson(sum(x), len(x)) for k, x in shares.items()},
            numbers={k: mean(x, interval=intervals) for k, x in numbers.items()},
        )


def summary(rows: Iterable[AnswerRow], intervals: bool = True) -> Summary:
    """One cell's problems, at least one, in numbers. intervals: of means too (see `mean`)."""
    tally = Tally()
    for row in rows:
        tally.add(row)
    return tally.summary(intervals)


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
    mine, theirs = ({name: k for k, name in enumerate(problems(rows))} for rows in (cell, other))
    shared = [key for key in mine if key in theirs]
    if not shared:
        raise TinylaneError(f"{names[0]} and {names[1]} have no problem in common")
    a, b = pick(cell, [mine[key] for key in shared]), pick(other, [theirs[key] for key in shared])
    less, more = sorted([a, b], key=lambda rows: most(rows, axis))
    budgets = {most(less, axis)}
    if not any(column(less, "cut")):
        budgets.add(most(more, axis))
    comparisons = []
    for budget in sorted(budgets):
        x, y = table_at(a, axis, budget), table_at(b, axis, budget)
        values = {m: (float(x[k].mean()), float(y[k].mean())) for k, m in enumerate(MEASURES)}
        differences = {m: mean(x[k] - y[k]) for k, m in enumerate(MEASURES)}
        comparisons.append(Comparison(*names, axis, budget, len(shared), values, differences))
    return comparisons
