"""Laws 14 to 18, 22, 24 and 25: of segments of text and of schedules (method, section 5).

As in `laws`, each is an assertion about callables: `f(tokens, positions, lanes) -> logits (T, V)`
with the mask and the rotation of the sample, and `plain(tokens, positions, visible=None)`, the
unmodified model. A lane is a segment that one author writes; `fork_join` of `samples` makes rows of
a prompt, paths that do not read each other, and a summary that reads them all. It stands where the
longest path ends. Laws 15 to 18 say what that is where no Omega tells lanes apart.

Laws 18 and 25 have a second half that is no law: how far two methods are apart that are often taken
for one. `reuse_gap` measures it.

    T rows   V vocab   N lanes   Q tokens drawn
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.testing.laws import (
    Logits,
    Report,
    assert_equal,
    nothing_to_compare,
    numbers,
    verdict,
    worst_of,
)
from tinylane.testing.samples import Sample, depths
from tinylane.testing.tolerances import tolerance

MOST = 100_000  # passes of one check of the chain rule
SUMMED = 1e-9  # what a sum of so many float64 numbers may be off by


def predecessors(sample: Sample) -> np.ndarray:
    """(T,) the row whose logits each row's token is drawn from: the one before it in its lane; for
    a lane's first row, the last shared row before it. -1 where there is none."""
    _, positions, lanes = sample.rows
    before_each = np.full(len(lanes), -1)
    for row, (i, m) in enumerate(zip(positions, lanes, strict=True)):
        for lane in (m, SHARED):
            before = np.flatnonzero((lanes == lane) & (positions < i))
            if len(before):
                before_each[row] = before[positions[before].argmax()]
                break
    return before_each


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, float64."""
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def assert_chain_rule(f: Logits, sample: Sample, rows: Any, choices: Any) -> Report:
    """Law 14: the probabilities of all continuations add up to 1.

    The tokens of `rows` (indices, Q of them) run through `choices` in every combination; the other
    rows stay. A row's token is drawn among the choices, from the logits of the row before it in its
    lane (`predecessors`): the distribution that the model has, restricted to them. With
    `range(V)` it is the model's own. It takes len(choices) ** Q passes. The law fails where a row's
    logits depend on a token that is drawn with it or later, if others depend on its token too.
    Where they do not, they are the same to the bit in every pass (law 4), so that the sum has the
    rounding of its float64 terms only, whatever the dtype.
    Raises TinylaneError for a row without a row before it, and beyond 100,000 passes.
    """
    rows, ids = np.atleast_1d(np.asarray(rows)), np.asarray(choices)
    asked = predecessors(sample)[rows]
    if len(rows) == 0 or len(ids) == 0:
        return nothing_to_compare("chain rule")
    if (asked < 0).any():
        raise TinylaneError(f"chain rule: no row comes before row {rows[asked < 0][0]} in its lane")
    if (count := len(ids) ** len(rows)) > MOST:
        raise TinylaneError(f"chain rule: {count} passes; give fewer rows or choices")
    total = 0.0
    for chosen in product(range(len(ids)), repeat=len(rows)):
        tokens = sample.tokens.copy()
        tokens[rows] = ids[list(chosen)]
        logits = numbers(f(tokens, sample.positions, sample.lanes))[asked][:, ids]
        total += float(np.exp(log_softmax(logits)[np.arange(len(rows)), list(chosen)].sum()))
    detail = f"the probabilities of {count} continuations add up to {total:.6g}, not 1"
    report = verdict("chain rule", np.array([total - 1]), SUMMED, rows[-1:], sample, detail)
    return replace(report, compared=len(rows))


def assert_permuted_paths(
    f: Logits, sample: Sample, order: Sequence[int], *, dtype: str = "float64"
) -> Report:
    """Law 15: paths in another order have the same logits, and so has who reads them all (Omega =
    0).

    order: (N,) the new index of each lane; the mask must stay what it is (a fork-join's does where
    its paths change places). Raises TinylaneError where it does not.
    """
    tokens, positions, lanes = sample.rows
    seen, label = sample.mask.visibility, np.append(np.asarray(order), SHARED)
    if not np.array_equal(seen[np.ix_(label[:-1], label[:-1])], seen):
        raise TinylaneError(f"permuted paths: order {list(order)} changes who sees whom")
    renamed = label[lanes]
    arrival = np.lexsort((renamed, positions))
    got = f(tokens[arrival], positions[arrival], renamed[arrival])
    expected = numbers(f(*sample.rows))[arrival]
    detail = f"order {list(order)}"
    return assert_equal("permuted paths", got, expected, sample, dtype=dtype, detail=detail)


def ancestors(sample: Sample) -> np.ndarray:
    """(T, T) booleans: a row sees the shared rows, the rows before it in its lane, itself, and all
    rows of the lanes that its lane sees. It needs no positions but the order within a lane."""
    _, positions, lanes = sample.rows
    m, n = lanes[:, None], lanes[None, :]
    earlier = positions[None, :] <= positions[:, None]
    of_others = (m != SHARED) & (n != SHARED) & sample.mask.visibility[m, n]
    return np.where(m == n, earlier, of_others | (n == SHARED))


def assert_fork_join(f: Logits, plain: Logits, sample: Sample, *, dtype: str = "float64") -> Report:
    """Law 16: fork and join are one flat pass (Omega = 0).

    sample: lanes of which none reads a lane that reads it, directly or through others. Its flat
    pass is the unmodified model over the same tokens, where a lane begins one after the latest end
    of what it sees, and sees all of it. f gets the sample's own positions, so a summary that stands
    elsewhere is a violation. Raises TinylaneError for lanes that read each other, and for a lag
    above 1, with which a summary would not see the last token.
    """
    if sample.mask.lag > 1:
        raise TinylaneError(f"fork join: lag {sample.mask.lag}; expected 0 or 1")
    expected = plain(sample.tokens, depths(sample), ancestors(sample))
    return assert_equal("fork join", f(*sample.rows), expected, sample, dtype=dtype)


def assert_one_path(f: Logits, plain: Logits, sample: Sample, *, dtype: str = "float64") -> Report:
    """Law 17: one path is no path: a prompt, a path and its summary are one text (Omega = 0, or
    Hogwild!'s rotation).

    sample: lanes of which each sees all that come before it; in the order of their positions the
    rows are the text.
    """
    order = np.argsort(sample.positions, kind="stable")
    start = int(sample.positions.min())
    expected = plain(sample.tokens[order], start + np.arange(len(order)))
    got = numbers(f(*sample.rows))[order]
    return assert_equal("one path", got, expected, sample, dtype=dtype)


def reread(sample: Sample, reader: int) -> tuple[Sample, np.ndarray]:
    """The rows of a fork-join whose lane `reader` encodes the texts of all other lanes again, and
    then its own, right behind the prompt; it sees no lane. And the reader's rows in it: (R,)."""
    tokens, positions, lanes = sample.rows
    paths = [tokens[_in_order(sample, m)] for m in range(sample.mask.n) if m != reader]
    text = np.concatenate([*paths, tokens[_in_order(sample, reader)]])
    shared = positions[lanes == SHARED]
    start = int(shared.max()) + 1 if len(shared) else int(positions.min())
    seen = sample.mask.visibility.copy()
    seen[reader], seen[:, reader] = False, False
    others = sample.select(lanes != reader).with_mask(LaneMask(seen, sample.mask.lag))
    whole = others.followed_by(text, start + np.arange(len(text)), np.full(len(text), reader))
    arrival = np.lexsort((whole.lanes, whole.positions))
    whole = whole.select(arrival)
    return whole, np.flatnonzero(whole.lanes == reader)


def _in_order(sample: Sample, lane: int) -> np.ndarray:
    mine = np.flatnonzero(sample.lanes == lane)
    return mine[np.argsort(sample.positions[mine], kind="stable")]


def assert_reread(
    f: Logits, plain: Logits, sample: Sample, reader: int, *, dtype: str = "float64"
) -> Report:
    """Law 18: a summary that rereads is the unmodified model on prompt, texts and summary; and with
    one path, to read its rows (reuse) is to read its text again (Omega = 0).

    sample: a fork-join; reader: the lane of its summary. f takes `lane_mask`. With more paths reuse
    and rereading are two methods, see `reuse_gap`.
    """
    whole, mine = reread(sample, reader)
    text = np.flatnonzero(whole.lanes == SHARED)
    both = np.concatenate([text, mine])
    got = numbers(f(*whole.rows, lane_mask=whole.mask))[both]
    expected = plain(whole.tokens[both], whole.positions[both])
    how: dict[str, Any] = {"dtype": dtype, "detail": "texts that are read again"}
    reports = [assert_equal("reread", got, expected, whole, **how)]
    for path in (m for m in range(sample.mask.n) if m != reader and (sample.lanes == m).any()):
        one = one_path(sample, path, reader)
        reused = numbers(f(*one.rows, lane_mask=one.mask))[one.lanes == reader]
        whole, mine = reread(one, reader)
        again = numbers(f(*whole.rows, lane_mask=whole.mask))[mine][len(mine) - len(reused) :]
        how["detail"] = f"path {path} alone: its rows against its text"
        reports.append(assert_equal("reread", reused, again, one, **how))
    return worst_of(reports)


def one_path(sample: Sample, path: int, reader: int) -> Sample:
    """A fork-join with this one path of it: the reader begins where the path ends."""
    kept = sample.select(np.isin(sample.lanes, [SHARED, path, reader]))
    seen = np.eye(sample.mask.n, dtype=bool)
    seen[reader, path] = True
    kept = kept.with_mask(LaneMask(seen, sample.mask.lag))
    return replace(kept, positions=depths(kept))


def reuse_gap(f: Logits, sample: Sample, reader: int) -> float:
    """How far two joins are apart: the largest difference of the reader's logits between reading
    the paths' rows and reading their texts again. Arguments as of `assert_reread`."""
    reused = numbers(f(*sample.rows, lane_mask=sample.mask))[sample.lanes == reader]
    whole, mine = reread(sample, reader)
    again = numbers(f(*whole.rows, lane_mask=whole.mask))[mine][len(mine) - len(reused) :]
    return float(np.abs(reused - again).max())


def view(sample: Sample, row: int, order: Sequence[int]) -> np.ndarray:
    """The rows that `row` sees as one text: the shared ones, then the lanes in this order, then its
    own lane, each by position."""
    positions, lanes_of = sample.positions, sample.lanes
    lane = int(lanes_of[row])
    seen = sample.mask.visible(positions[[row]], lanes_of[[row]], positions, lanes_of)[0]
    lanes = [SHARED, *(m for m in order if m != lane), *([lane] if lane != SHARED else [])]
    rows = [r for m in lanes for r in _in_order(sample, m) if seen[r]]
    return np.array(rows)


def assert_seal(
    f: Logits,
    plain: Logits,
    sample: Sample,
    views: Sequence[Sequence[int]] | None = None,
    *,
    lanes: Sequence[int] | None = None,
    dtype: str = "float64",
) -> Report:
    """Law 22: with Hogwild!'s views, what a lane has sealed stands in every reader's text where its
    view says. The last row of each lane equals the unmodified model on that text written out.

    f: a decoder of ONE layer, whose cached values depend on a row's token alone; in a deeper one
    they keep what the row had read when it was written. views: for each lane the lanes in the order
    in which they stand in its text; None is by index. A sealed piece is a lane of its own. lanes:
    those whose last row is compared; default all.
    """
    got, reports = numbers(f(*sample.rows)), []
    for lane in range(sample.mask.n) if lanes is None else lanes:
        mine = _in_order(sample, lane)
        if len(mine) == 0:
            continue
        order = range(sample.mask.n) if views is None else views[lane]
        rows = view(sample, int(mine[-1]), order)
        expected = numbers(plain(sample.tokens[rows], np.arange(len(rows))))[-1:]
        how: dict[str, Any] = {"dtype": dtype, "detail": f"the view of lane {lane}"}
        reports.append(assert_equal("seal", got[mine[-1:]], expected, sample, **how))
    return worst_of(reports) if reports else nothing_to_compare("seal")


@dataclass(frozen=True)
class Rollout:
    """What a decoding fed, and what it drew.

    sample: the rows that were fed, with its mask and rotation. asked, tokens, logprobs: (Q,) of
    each token that was drawn the row whose logits it came from, its id, and its log-probability (of
    the raw logits) as the decoding recorded it.
    """

    sample: Sample
    asked: np.ndarray
    tokens: np.ndarray
    logprobs: np.ndarray


def assert_rollout(f: Logits, transcript: Rollout, *, dtype: str = "float64") -> Report:
    """Law 24: a rollout is what training sees: the log-probabilities recorded while decoding equal
    those of one pass of f over all rows at the same coordinates.

    f: the pass of the trainer, which may be another program than the one that decoded.
    """
    if len(transcript.asked) == 0:
        return nothing_to_compare("rollout")
    logits = numbers(f(*transcript.sample.rows))[transcript.asked]
    again = log_softmax(logits)[np.arange(len(logits)), transcript.tokens]
    # Both sides have rounded logits, and each moves a log-probability by at most twice its error.
    allowed = 4 * tolerance(dtype, float(np.abs(logits).max()), transcript.sample.angle)
    off = again - np.asarray(transcript.logprobs, dtype=np.float64)
    detail = "a token's log-probability in the pass and in the decoding"
    return verdict("rollout", off, allowed, transcript.asked, transcript.sample, detail)


Rows = tuple[np.ndarray, np.ndarray]  # tokens and positions
Moved = Callable[[Rows, int, Rows], Any]


def assert_moved_cache(
    moved: Moved, plain: Logits, sample: Sample, cut: int, shift: int, *, dtype: str = "float64"
) -> Report:
    """Law 25: cached rows whose keys are turned on by `shift` positions are those that a pass at
    the shifted positions would have cached, with all that they saw moved too.

    moved(rows, shift, further): feeds `rows` (tokens, positions) into an empty cache, moves the
    cache by `shift`, and gives the logits of `further` rows, fed at their (shifted) positions.
    sample: one text, by position; its first `cut` rows are moved. Where the rows had seen less than
    their new context, moved rows are not recomputed ones: what caches that are joined to another
    prefix differ by.
    """
    tokens, positions = sample.tokens, sample.positions
    if not 0 < cut < len(tokens):
        return nothing_to_compare("moved cache")
    got = moved((tokens[:cut], positions[:cut]), shift, (tokens[cut:], positions[cut:] + shift))
    expected = numbers(plain(tokens, positions + shift))[cut:]
    how: dict[str, Any] = {"angle": sample.angle + abs(shift), "detail": f"shift {shift}"}
    return assert_equal("moved cache", got, expected, sample, dtype=dtype, **how)
