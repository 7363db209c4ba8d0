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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.results import AnswerRow, state, states, winners
from tinylane.evaluate.rows import column, problems

Axis = Literal["steps", "tokens", "seconds"]
AXES: tuple[Axis, ...] = ("steps", "tokens", "seconds")
MEASURES = ("one", "majority", "any")
LEVEL = 0.95
RESAMPLES = 9999
MANY = 5000  # problems, from which on resampling rows takes seconds
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
    different, counts = np.unique(x, return_counts=True)
    if len(x) >= MANY and len(different) * 20 <= len(x):
        # The same distribution, quicker: how often each value is drawn, in place of which rows.
        drawn = np.random.default_rng(0).multinomial(len(x), counts / len(x), size=RESAMPLES)
        ends = np.percentile(drawn @ different / len(x), [50 - 50 * LEVEL, 50 + 50 * LEVEL])
        return Estimate(float(x.mean()), *map(float, ends))
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


def step_at(row: AnswerRow, axis: Axis, budgets: Any) -> Any:
    """The last step of a run limited to a budget, or to each of several: to so many steps, to so
    many tokens of all lanes together, or to the steps that were done so many seconds after the
    prompt was first read."""
    if axis == "seconds":
        return np.searchsorted(row.clock, budgets, side="right")
    whole = np.asarray(budgets).astype(int)
    if axis == "steps":
        return np.minimum(whole, row.steps)
    written = np.minimum(np.arange(1, row.steps + 1)[:, None], row.lengths).sum(axis=1)
    return np.searchsorted(written, whole, side="right")


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


States = tuple[np.ndarray, np.ndarray]  # those of `results.states`


def outcome(row: AnswerRow, states: States) -> np.ndarray:
    """(S, 3): MEASURES of a problem in each of these states."""
    right = _right(row, states[0])
    return np.stack(
        [right.mean(axis=1), _right(row, winners(*states)), right.any(axis=1)], axis=1
    ).astype(float)


def _right(row: AnswerRow, groups: np.ndarray) -> np.ndarray:
    """Whether each of these answers is right; none (-1) is not."""
    return np.append(row.correct, False)[groups]


def of_k(row: AnswerRow, states: States, k: int) -> np.ndarray:
    """(S, 2): how often the majority of k of the lanes is right in each state, and any of k.

    The majority: the mean over all subsets of k lanes, or over SUBSETS of them, from a fixed seed,
    where there are more. Any: 1 - C(n-c, k) / C(n, k) with c right lanes, the mean over all subsets
    (Chen et al. 2021, arXiv:2107.03374).
    """
    n = row.lanes
    count = _right(row, states[0]).sum(axis=1)
    shares = np.zeros((len(count), 2))
    shares[:, 1] = [1.0 - math.comb(n - int(c), k) / math.comb(n, k) for c in count]
    shares[:, 0] = count == n  # else to be counted, unless nobody is right
    for s in np.flatnonzero((count > 0) & (count < n)):
        groups, means = (values[s][_subsets(n, k)] for values in states)
        shares[s, 0] = _right(row, winners(groups, means)).mean()
    return shares


@lru_cache(maxsize=16)
def _subsets(n: int, k: int) -> np.ndarray:
    """(subsets, k): all of k of n lanes, or SUBSETS of them, from a fixed seed."""
    if math.comb(n, k) <= SUBSETS:
        return np.array([*combinations(range(n), k)])
    rng = np.random.default_rng([n, k])
    return np.array([sorted(rng.choice(n, k, replace=False)) for _ in range(SUBSETS)])


def tables_at(rows: Sequence[AnswerRow], budgets: Sequence[tuple[Axis, float]]) -> np.ndarray:
    """(B, 3, P): the three measures of every problem at each of B budgets, in one pass."""
    tables = np.empty((len(budgets), len(MEASURES), len(rows)))
    for p, row in enumerate(rows):
        steps = np.array([step_at(row, axis, budget) for axis, budget in budgets])
        tables[:, :, p] = outcome(row, states(row, steps))
    return tables


# An axis, budgets (G,) on it, and what is measured: MEASURES (None), or the majority and any of k.
Curve = tuple[Axis, np.ndarray, int | None]


def curves(rows: Sequence[AnswerRow], asked: Sequence[Curve]) -> list[list[list[Estimate]]]:
    """For each curve and each number that it shows: the mean over the problems at each budget. One
    pass over the rows, which may lie on disk."""
    totals: list[Any] = [0.0] * len(asked)
    for row in rows:
        steps = [step_at(row, axis, budgets) for axis, budgets, _ in asked]
        every = np.unique(np.concatenate(steps))
        groups, means = states(row, every)
        whole = outcome(row, (groups, means))
        for c, (_, _, k) in enumerate(asked):
            at = np.searchsorted(every, steps[c])
            if k is not None:
                few, at = np.unique(at, return_inverse=True)
                totals[c] = totals[c] + of_k(row, (groups[few], means[few]), k)[at].T
            else:
                totals[c] = totals[c] + whole[at].T
    return [[[wilson(float(x), len(rows)) for x in line] for line in total] for total in totals]


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
        (measured,) = outcome(row, states(row, np.array([row.steps])))
        self._table.extend((*measured, *ending(row), row.copied, row.twins, row.cut))
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
    cells: Mapping[str, Sequence[AnswerRow]], pairs: Sequence[tuple[str, str]]
) -> list[Comparison]:
    """The first of each pair of cells minus the second, paired by problem, at equal steps and at
    equal tokens. cells: label -> the same problems in the same order, each read once.

    The budgets are the largest that both took, and the larger of the two if the other was not cut
    off, so that more would have changed nothing. Raises TinylaneError where problems are not the
    same, or scipy is not installed.
    """
    asked: list[tuple[str, str, Axis, float]] = []
    for pair in pairs:
        a, b = (cells[label] for label in pair)
        if problems(a) != problems(b):
            raise TinylaneError(f"{pair[0]} and {pair[1]} are not of the same problems")
        for axis in AXES[:2]:
            less, more = sorted([a, b], key=lambda rows: most(rows, axis))
            budgets = {most(less, axis)}
            if not any(column(less, "cut")):
                budgets.add(most(more, axis))
            asked += [(*pair, axis, budget) for budget in sorted(budgets)]
    tables: dict[tuple[str, Axis, float], np.ndarray] = {}
    for label, rows in cells.items():
        wanted = list(dict.fromkeys(what[2:] for what in asked if label in what[:2]))
        if wanted:
            tables |= zip([(label, *what) for what in wanted], tables_at(rows, wanted), strict=True)
    comparisons = []
    for first, second, axis, budget in asked:
        x, y = tables[first, axis, budget], tables[second, axis, budget]
        values = {m: (float(x[k].mean()), float(y[k].mean())) for k, m in enumerate(MEASURES)}
        differences = {m: mean(x[k] - y[k]) for k, m in enumerate(MEASURES)}
        count = x.shape[1]
        comparisons.append(Comparison(first, second, axis, budget, count, values, differences))
    return comparisons
