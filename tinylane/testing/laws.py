"""Laws 1 to 13 (method, section 5), each as an assertion about a callable.

`f(tokens, positions, lanes) -> logits (T, V)` has a mask and a rotation; the sample must hold the
same two, because some laws use them. A law that changes the mask or the rotation calls
`f(..., lane_mask=...)` or `f(..., lane_rope=...)`; a `tinylane.Model` takes both.
`plain(tokens, positions, visible=None)` is the unmodified model; `visible` is a (T, T) boolean
matrix, None for causal.

Logits may be arrays of any library (`numbers`). Errors are differences in float64. Where a law says
"exactly", values are compared bit for bit. `dtype` is that of the model's activations
(`tolerances`). NaN is never equal to anything.

    T rows   N lanes   V vocab
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinylane.checkpoints.load import exact_products
from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.testing.reference import visible_by_definition
from tinylane.testing.samples import Sample
from tinylane.testing.tolerances import tolerance

Logits = Callable[..., Any]


@dataclass(frozen=True)
class Report:
    """The worst difference of a logit that a law met, and the most that it allows (0: none).

    compared: how many rows; row: the worst of them (-1 where none was compared).
    """

    law: str
    worst: float
    allowed: float
    compared: int
    row: int = -1

    @property
    def used(self) -> float:
        """The worst difference as a share of what is allowed; above 1 is a violation."""
        if self.allowed:
            return self.worst / self.allowed
        return np.inf if self.worst else 0.0

    def __str__(self) -> str:
        return (
            f"{self.law}: worst error {self.worst:.2g}, allowed {self.allowed:.2g}, "
            f"{self.compared} rows"
        )


class LawViolation(AssertionError):
    """A law does not hold. `report` has the numbers, `sample` the rows (None: it has none)."""

    def __init__(self, report: Report, sample: Sample | None, detail: str = "") -> None:
        self.report, self.sample, self.law = report, sample, report.law
        allowed = "no difference" if report.allowed == 0 else f"{report.allowed:.2g}"
        rounded = exact_products() if "mlx.core" in sys.modules else None
        detail = "; ".join(filter(None, (detail, rounded)))
        super().__init__(
            f"{report.law}: row {report.row} differs by {report.worst:.2g}, allowed {allowed}"
            f"{'; ' + detail if detail else ''}"
            + (f"; sample {sample!r}" if sample is not None else "")
        )


def numbers(logits: Any) -> np.ndarray:
    """Logits of any library as NumPy float64.

    Takes what `numpy.asarray` takes, PyTorch tensors with a gradient, on a GPU or in bfloat16, and
    bfloat16 arrays of MLX and JAX. Raises TinylaneError for what is no numbers.
    """
    given = logits
    if hasattr(logits, "detach"):  # PyTorch
        logits = logits.detach().cpu().double()
    elif "bfloat16" in str(getattr(logits, "dtype", "")) and hasattr(logits, "astype"):
        logits = logits.astype(logits.__array_namespace__().float32)  # MLX, JAX
    try:
        return np.asarray(logits, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TinylaneError(f"logits are {show(given)}; expected an array (T, V)") from error


def assert_equal(
    law: str,
    got: Any,
    expected: Any,
    sample: Sample,
    *,
    dtype: str | None = "float64",
    rows: Any = None,
    angle: float | None = None,
    detail: str = "",
) -> Report:
    """`got` equals `expected`, both (T, V), in the rows that `rows` picks (default all).

    dtype None: bit for bit. angle: the largest angle in radians (default the sample's). sample,
    detail: for the message. Raises LawViolation; TinylaneError for logits of another shape.
    """
    a, b = numbers(got), numbers(expected)
    if a.shape != b.shape or a.ndim != 2:
        raise TinylaneError(
            f"{law}: logits have the shapes {a.shape} and {b.shape}; expected (T, V), a row for "
            "every token"
        )
    index = np.arange(len(a)) if rows is None else np.arange(len(a))[rows]
    if len(index) == 0:
        return nothing_to_compare(law)
    allowed = 0.0
    if dtype is not None:
        angle = sample.angle if angle is None else angle
        allowed = tolerance(dtype, float(np.abs(b[index]).max()), angle)
    return verdict(law, np.abs(a - b)[index].max(axis=1), allowed, index, sample, detail)


def verdict(
    law: str, off: np.ndarray, allowed: float, rows: Any, sample: Sample | None, detail: str = ""
) -> Report:
    """The report of differences (Q,), which belong to `rows` (Q,); raises LawViolation where one is
    larger than `allowed`, or NaN."""
    off = np.where(np.isnan(off), np.inf, np.abs(off))
    worst = int(off.argmax())
    report = Report(law, float(off[worst]), allowed, len(off), int(rows[worst]))
    if not report.worst <= allowed:
        raise LawViolation(report, sample, detail)
    return report


def worst_of(reports: Sequence[Report]) -> Report:
    """Several comparisons of one law as one report: the one that uses most of what is allowed."""
    worst = max(reports, key=lambda report: report.used)
    return replace(worst, compared=sum(report.compared for report in reports))


def nothing_to_compare(law: str) -> Report:
    """The sample has no rows that the law speaks of."""
    return Report(law, 0.0, 0.0, 0)


def assert_token_shift(f: Logits, sample: Sample, shift: int, *, dtype: str = "float64") -> Report:
    """Law 1: adding `shift` to every position changes no logits."""
    tokens, positions, lanes = sample.rows
    moved, still = f(tokens, positions + shift, lanes), f(*sample.rows)
    how: dict[str, Any] = {"angle": sample.angle + abs(shift), "detail": f"shift {shift}"}
    return assert_equal("token shift", moved, still, sample, dtype=dtype, **how)


def assert_lane_shift(f: Logits, sample: Sample, shift: int, *, dtype: str = "float64") -> Report:
    """Law 2: adding `shift` >= 0 to every lane index changes no logits (`prompt_lane="own"`).

    f takes `lane_mask`: the lanes move, and the mask with them.
    """
    tokens, positions, lanes = sample.rows
    seen = np.eye(sample.mask.n + shift, dtype=bool)
    seen[shift:, shift:] = sample.mask.visibility
    side = sample.mask.side
    side = None if side is None else np.pad(side, ((shift, 0), (shift, 0)))
    lanes = np.where(lanes == SHARED, SHARED, lanes + shift)
    mask = LaneMask(seen, sample.mask.lag, side=side)
    moved = f(tokens, positions, lanes, lane_mask=mask)
    still = f(*sample.rows, lane_mask=sample.mask)
    how: dict[str, Any] = {"angle": sample.angle + shift * sample.turn, "detail": f"shift {shift}"}
    return assert_equal("lane shift", moved, still, sample, dtype=dtype, **how)


def assert_storage_order(
    f: Logits, sample: Sample, order: np.ndarray, *, dtype: str = "float64"
) -> Report:
    """Law 3: permuting rows with their coordinates permutes the logits. order: (T,) indices."""
    permuted, expected = f(*sample.select(order).rows), numbers(f(*sample.rows))[order]
    detail = f"order {order.tolist()}"
    return assert_equal("storage order", permuted, expected, sample, dtype=dtype, detail=detail)


def assert_causality(f: Logits, sample: Sample, row: int, by: int = 1) -> Report:
    """Law 4: another token in `row`, at (j, n), leaves exactly unchanged every logit at (i, m) with
    i < j, and in another lane with i < j + lag. by: 1 .. V - 1, added to the token."""
    _, i, m = sample.rows
    j, n = i[row], m[row]
    late = (m != n) & (n != SHARED)
    before = np.where(late, i < j + sample.mask.lag, i < j)
    detail = f"token of row {row} (position {j}, lane index {n}) changed"
    changed, kept = f(*sample.change([row], by).rows), f(*sample.rows)
    return assert_equal("causality", changed, kept, sample, dtype=None, rows=before, detail=detail)


def assert_isolation(f: Logits, sample: Sample, lane: int, by: int = 1) -> Report:
    """Law 5: other tokens in `lane` change exactly nothing in the shared rows and in lanes that do
    not read it, directly or through others. by: 1 .. V - 1, added to the tokens."""
    seen = sample.mask.visibility | np.eye(sample.mask.n, dtype=bool)
    seen = seen if sample.mask.side is None else seen | sample.mask.side
    reach = np.linalg.matrix_power(seen.astype(float), sample.mask.n)
    isolated = (sample.lanes == SHARED) | (reach[sample.lanes, lane] == 0)
    changed, kept = f(*sample.change(sample.lanes == lane, by).rows), f(*sample.rows)
    how: dict[str, Any] = {"rows": isolated, "detail": f"tokens of lane index {lane} changed"}
    return assert_equal("isolation", changed, kept, sample, dtype=None, **how)


def assert_one_lane(
    f: Logits, plain: Logits, sample: Sample, lane: int = 0, *, dtype: str = "float64"
) -> Report:
    """Law 6: with the shared rows and one lane only, the model is the unmodified one.

    lane: any with `prompt_lane="own"`; 0 otherwise. Shared rows that come late are left out.
    """
    sample = sample.prompt_first()
    one = sample.select((sample.lanes == SHARED) | (sample.lanes == lane))
    if len(one.tokens) == 0:
        return nothing_to_compare("one lane")
    expected = plain(one.tokens, one.positions)
    return assert_equal("one lane", f(*one.rows), expected, one, dtype=dtype)


def assert_independent(
    f: Logits, plain: Logits, sample: Sample, *, dtype: str = "float64"
) -> Report:
    """Law 7: with `independent` lanes every lane is a run of the unmodified model
    (`prompt_lane="own"`). f's mask is independent. Shared rows that come late are left out."""
    sample = sample.prompt_first()
    got = numbers(f(*sample.rows))
    reports = []
    for lane in range(sample.mask.n):
        mine = np.flatnonzero((sample.lanes == SHARED) | (sample.lanes == lane))
        if len(mine) == 0:
            continue
        expected = got.copy()
        expected[mine] = numbers(plain(sample.tokens[mine], sample.positions[mine]))
        reports.append(assert_equal("independent", got, expected, sample, dtype=dtype, rows=mine))
    return worst_of(reports)


def assert_steps(
    f: Logits,
    start: Callable[[], Logits],
    sample: Sample,
    cuts: Sequence[int],
    *,
    dtype: str = "float64",
) -> Report:
    """Law 8: the rows in pieces, each seeing what came before, equal one pass over all rows.

    start: gives a new `feed(tokens, positions, lanes) -> logits` with an empty cache. cuts: where
    to cut (0 < cut < T). Lanes see each other within a position, so a cut there moves to its end.
    The sample's rows are in order of arrival.
    """
    count, positions = len(sample.tokens), sample.positions
    ends = set()
    for cut in cuts:
        while cut < count and positions[cut] == positions[cut - 1]:
            cut += 1
        ends.add(min(cut, count))
    feed, begin, pieces = start(), 0, []
    for end in sorted(ends | {count}):
        if end > begin:
            pieces.append(numbers(feed(*sample.select(slice(begin, end)).rows)))
        begin = end
    stepped, whole = np.concatenate(pieces), f(*sample.rows)
    detail = f"cut at {sorted(ends)}"
    return assert_equal("steps", stepped, whole, sample, dtype=dtype, detail=detail)


@dataclass(frozen=True, eq=False)
class CopiedPrompt(LaneMask):
    """A mask over copies of the prompt, one per lane: the rows before position `first` in a lane
    are its copy, which no other lane sees."""

    first: int = 0

    def visible(
        self,
        positions: np.ndarray,
        lanes: np.ndarray,
        key_positions: np.ndarray,
        key_lanes: np.ndarray,
    ) -> np.ndarray:
        seen = super().visible(positions, lanes, key_positions, key_lanes)
        same_lane = lanes[:, None] == key_lanes[None, :]
        return seen & (same_lane | (key_positions >= self.first))


def assert_shared_prompt(f: Logits, sample: Sample, *, dtype: str = "float64") -> Report:
    """Law 9: the shared prompt equals N copies, each visible to its own lane (`prompt_lane="own"`).

    f takes `lane_mask` and asks it for `visible(positions, lanes, key_positions, key_lanes)`.
    Shared rows that come late are left out: they are no prompt.
    """
    sample = sample.prompt_first()
    tokens, positions, lanes = sample.rows
    shared, n = np.flatnonzero(lanes == SHARED), sample.mask.n
    rest = np.flatnonzero(lanes != SHARED)
    if len(shared) == 0 or len(rest) == 0:
        return nothing_to_compare("shared prompt")
    # Copies first, lane by lane, then the lanes' rows; `source` is the row that each one copies.
    source = np.concatenate([np.tile(shared, n), rest])
    copy_lanes = np.concatenate([np.repeat(np.arange(n), len(shared)), lanes[rest]])
    first = int(positions[shared].max()) + 1
    mask = CopiedPrompt(sample.mask.visibility, sample.mask.lag, first, side=sample.mask.side)
    copies = f(tokens[source], positions[source], copy_lanes, lane_mask=mask)
    expected = numbers(f(*sample.rows, lane_mask=sample.mask))[source]
    return assert_equal("shared prompt", copies, expected, sample, dtype=dtype)


def assert_periodicity(
    f: Logits, sample: Sample, turns: np.ndarray, *, dtype: str = "float64"
) -> Report:
    """Law 10: Omega + 2 pi * turns equals Omega. turns: integers in Omega's shape. f takes
    `lane_rope`."""
    rope = sample.rope
    more = LaneRoPE(rope.omega + 2 * np.pi * np.asarray(turns), rope.prompt_lane)
    turned, still = f(*sample.rows, lane_rope=more), f(*sample.rows, lane_rope=rope)
    detail = f"turns {np.asarray(turns).tolist()}"
    how: dict[str, Any] = {"angle": sample.with_rope(more).angle, "detail": detail}
    return assert_equal("periodicity", turned, still, sample, dtype=dtype, **how)


def assert_group_think(
    f: Logits,
    plain: Logits,
    sample: Sample,
    theta: np.ndarray,
    slot: int,
    *,
    dtype: str = "float64",
) -> Report:
    """Law 11: `group_think(slot)` with `prompt_lane=0` equals the unmodified model at the virtual
    positions i + m * slot, under the same mask. f takes `lane_rope`; theta: the model's."""
    tokens, positions, lanes = sample.rows
    rope = LaneRoPE.group_think(theta, slot, prompt_lane=0)
    virtual = positions + np.maximum(lanes, 0) * slot
    visible = visible_by_definition(positions, lanes, sample.mask)
    got, expected = f(*sample.rows, lane_rope=rope), plain(tokens, virtual, visible)
    how: dict[str, Any] = {"angle": sample.with_rope(rope).angle, "detail": f"slot {slot}"}
    return assert_equal("group think", got, expected, sample, dtype=dtype, **how)


def assert_backends(models: Mapping[str, Logits], exact: Logits, sample: Sample) -> Report:
    """Law 12: every model agrees with `exact` within its dtype's tolerance.

    models: by name, which ends in the dtype ("mlx float32"); exact: in float64.
    """
    expected, reports = exact(*sample.rows), []
    for name, f in models.items():
        how: dict[str, Any] = {"dtype": name.split()[-1], "detail": name}
        reports.append(assert_equal("backends", f(*sample.rows), expected, sample, **how))
    return worst_of(reports)


def assert_company(f: Logits, sample: Sample, lane: int, *, dtype: str = "float64") -> Report:
    """Law 13: without a lane that nobody sees, nobody else changes. f's mask silences `lane`."""
    others = sample.lanes != lane
    if not others.any():
        return nothing_to_compare("company")
    without = sample.select(others)
    got, expected = f(*without.rows), numbers(f(*sample.rows))[others]
    detail = f"without lane index {lane}"
    return assert_equal("company", got, expected, without, dtype=dtype, detail=detail)
