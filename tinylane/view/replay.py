"""A saved run once more, without sampling: all rows at their coordinates, in one pass.

Rows that do not fit into memory together go through in several passes, on either backend. A lane
that joined late or was dropped is handled exactly: `_History` is the run's mask with the times at
which rows came and went. `passes` is the loop. `replay` compares log-probabilities;
`tinylane.view.replay_record` looks at attention and silences lanes.

Not handled: a fork of a lane that reads others. Its copied rows hold what the source lane had read
at the source's own coordinates (`LaneCache.fork`); no pass over the fork's tokens gives that.

    T rows fed   Q drawn tokens, lane after lane   N lanes   V vocab
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.distribution import likeliest
from tinylane.core.errors import TinylaneError, show, whole
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.result import Lane

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.view.run_file import Run

# The most that one pass may hold: rows, and elements of its logits or of one layer's scores.
ROWS, ELEMENTS = 2048, 1 << 27
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Replay:
    """The recomputed log-probabilities (float64) of every lane's tokens, and how far off they are.

    by_lane: the largest |difference| of each lane (0 for one without tokens). worst: the token with
    the largest of all, as its lane and its index there; None if there are no tokens. top_logprobs:
    the likeliest tokens beside each one, recomputed too; the saved ones count in the differences.
    """

    logprobs: list[list[float]]
    by_lane: list[float]
    worst: tuple[int, int] | None
    top_logprobs: list[list[list[tuple[int, float]]]]

    @property
    def difference(self) -> float:
        """The largest |difference| of all."""
        return max(self.by_lane, default=0.0)


@dataclass(frozen=True, eq=False)
class _History(LaneMask):
    """A mask that knows when rows came and went. A row is fed at the step after it was drawn, and
    not before its lane joined or was forked; a dropped lane's rows are no longer seen."""

    begun: Any = None  # (N,) the position of the clock when the lane joined or was forked
    gone: Any = None  # (N,) when it was dropped

    def visible(
        self,
        positions: np.ndarray,
        lanes: np.ndarray,
        key_positions: np.ndarray,
        key_lanes: np.ndarray,
    ) -> np.ndarray:
        """As `LaneMask.visible`, and another lane's row only while it was in the cache."""
        seen = super().visible(positions, lanes, key_positions, key_lanes)
        now = self.fed(positions, lanes)[:, None]
        cached = (self.fed(key_positions, key_lanes) <= now) & (now < self.gone[key_lanes])
        mine = (key_lanes == SHARED) | (key_lanes == lanes[:, None])
        return seen & (mine | cached)

    def same_step(self, positions: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """As `LaneMask.same_step`, and only between rows that were fed together."""
        fed = self.fed(positions, lanes)
        return super().same_step(positions, lanes) & (fed[:, None] == fed)

    def fed(self, positions: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """The clock at the step that fed each row."""
        return np.where(lanes == SHARED, 0, np.maximum(positions + 1, self.begun[lanes]))


@dataclass(frozen=True, eq=False)
class ReplayRows:
    """All rows of a run in the order in which they were fed, and what was drawn from which of them.

    tokens, positions, lanes: (T,). number: (T,) the row's number in the run: the prompt's rows
    come first, then each lane's prompt and tokens. history: the run's mask, with the times at which
    rows came and went. of, index, written, row: (Q,) of each drawn token its lane, its index there,
    its id, and its number. asked: (Q,) the row, an index into `tokens`, whose logits it was drawn
    from. saved: (Q,) float64, the run's log-probabilities.
    """

    run: Run
    tokens: np.ndarray
    positions: np.ndarray
    lanes: np.ndarray
    number: np.ndarray
    history: _History
    of: np.ndarray
    index: np.ndarray
    written: np.ndarray
    row: np.ndarray
    asked: np.ndarray
    saved: np.ndarray

    def silenced(self, lane: int) -> _History:
        """The run's mask, had nobody ever read `lane`."""
        quiet = self.history.silence(lane)
        return replace(self.history, visibility=quiet.visibility, side=quiet.side)


def replay(run: Run, model: Model, top_logprobs: int | None = None) -> Replay:
    """Recompute the log-probabilities of every drawn token from all rows at once.

    top_logprobs: how many likeliest tokens to give beside each; None: as many as the run holds.
    Raises TinylaneError for a run of another model, and for forks that no pass can give (above).
    """
    rows = rows_of(run, model)
    lanes = run.result.lanes
    held = [top for x in lanes for top in x.top_logprobs or [[]] * len(x.tokens)]
    k = max(map(len, held), default=0) if top_logprobs is None else top_logprobs
    k = whole("top_logprobs", k, 0, model.config.vocab)
    again, off = np.zeros((2, len(rows.written)))
    tops: list[list[tuple[int, float]]] = [[]] * len(again)
    for _, drawn, logits in passes(model, rows, ELEMENTS):
        for q, row in zip(drawn, logits, strict=True):
            each = log_softmax(row)
            again[q], tops[q] = each[rows.written[q]], likeliest(each, k)
            saved = [(rows.written[q], rows.saved[q]), *held[q]]
            off[q] = max(abs(each[token] - logprob) for token, logprob in saved)
    by_lane = [rows.of == m for m in range(len(lanes))]
    q = int(off.argmax()) if len(off) else None
    return Replay(
        [again[mine].tolist() for mine in by_lane],
        [float(off[mine].max(initial=0.0)) for mine in by_lane],
        None if q is None else (int(rows.of[q]), int(rows.index[q])),
        [[tops[q] for q in np.flatnonzero(mine)] for mine in by_lane],
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(..., V) float64, natural logarithms."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def rows_of(run: Run, model: Model) -> ReplayRows:
    """The rows that a replay feeds; raises TinylaneError where `model` cannot replay the run."""
    if run.identity and model.identity and run.identity != model.identity:
        raise TinylaneError(
            f"the run is of model {show(run.identity)} ({run.model_source}); "
            f"this one is {show(model.identity)}"
        )
    lanes, P = run.result.lanes, len(run.result.prompt)
    for lane in lanes:
        _check_fork(run, lane)
        likely = [token for top in lane.top_logprobs for token, _ in top]
        if max([*lane.prompt, *lane.tokens, *likely], default=0) >= model.config.vocab:
            raise TinylaneError(
                f"lane {lane.index} has tokens outside the vocabulary of {model.config.vocab}"
            )
        room = model.config.context - lane.start
        if room < 0 or len(lane.tokens) > max(room, 1):  # a last token is not fed
            raise TinylaneError(
                f"lane {lane.index} ends at position {lane.start + len(lane.tokens)}; "
                f"this model's context is {model.config.context}"
            )
    begun, gone = np.zeros(run.lane_mask.n, np.int64), np.full(run.lane_mask.n, _NEVER)
    rows = [(token, i, SHARED) for i, token in enumerate(run.result.prompt)]
    drawn: list[tuple[int, ...]] = []  # lane, index there, id, number, number of the row before it
    unfed = []
    for lane in lanes:
        begun[lane.index] = lane.forked[1] if lane.forked else lane.start
        gone[lane.index] = _NEVER if lane.dropped is None else lane.dropped
        text, first = [*lane.prompt, *lane.tokens], len(rows)
        rows += [(t, lane.start - len(lane.prompt) + k, lane.index) for k, t in enumerate(text)]
        for k, token in enumerate(lane.tokens):
            r = first + len(lane.prompt) + k
            drawn.append((lane.index, k, token, r, P - 1 if r == first else r - 1))
        # The last token was drawn and fed, so that others saw it, unless it ended its lane.
        if lane.finish_reason == "stop" and lane.tokens:
            unfed.append(len(rows) - 1)
    mask = run.lane_mask
    history = _History(mask.visibility, mask.lag, begun, gone, side=mask.side)
    tokens, positions, owners = np.array(rows).T
    order = np.lexsort((positions, history.fed(positions, owners)))
    order = order[~np.isin(order, unfed)]
    place = np.zeros(len(rows), np.int64)  # of every row in the order in which they are fed
    place[order] = np.arange(len(order))
    of, index, written, row, before = np.array(drawn, np.int64).reshape(-1, 5).T
    saved = np.concatenate([np.array(lane.logprobs, np.float64) for lane in lanes])
    fed = (tokens[order], positions[order], owners[order], order)
    return ReplayRows(run, *fed, history, of, index, written, row, place[before], saved)


def passes(
    model: Model,
    rows: ReplayRows,
    elements: int,
    mask: LaneMask | None = None,
    before: Callable[[slice, np.ndarray], None] | None = None,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Feed the rows in as few passes as memory allows; yields what each pass gives, in order.

    Yields a slice, the rows of the pass; which tokens were drawn from them, indices into Q; and for
    each of these the logits that it was drawn from (tokens, V). elements: how many a pass may have
    of logits or of one layer's scores; rows of one position stay in one pass. mask: instead of the
    run's history. before: called ahead of a pass with its slice and its tokens.
    """
    count = len(rows.tokens)
    cache = model.new_cache(rows.run.lane_rope, rows.history if mask is None else mask)
    c, start = model.config, 0
    most = max(1, min(ROWS, elements // max(c.vocab, c.heads * count)))
    while start < count:
        stop = min(start + most, count)
        while stop < count and rows.positions[stop] == rows.positions[stop - 1]:
            stop += 1  # rows of one position may see each other
        part = slice(start, stop)
        drawn = np.flatnonzero((rows.asked >= start) & (rows.asked < stop))
        wanted = rows.asked[drawn] - start
        if before is not None:
            before(part, drawn)
        logits = model(
            rows.tokens[part],
            rows.positions[part],
            rows.lanes[part],
            cache=cache,
            rows=wanted if len(wanted) else np.zeros(1, int),
        )
        yield part, drawn, np.asarray(logits)[: len(drawn)]
        start = stop


def _check_fork(run: Run, lane: Lane) -> None:
    if lane.forked is None:
        return
    source, reason = lane.forked[0], ""
    for m in (lane.index, source):
        if np.delete(run.lane_mask.visibility[m], m).any():
            reason = f"and lane {m} reads other lanes"
    rope = run.lane_rope
    if isinstance(rope, LaneRoPE) and rope.prompt_lane == 0 and rope.omega.any():
        reason = reason or "with the prompt at lane 0"
    if reason:
        raise TinylaneError(
            f"lane {lane.index} was forked from lane {source}, {reason}: its rows cannot be "
            "recomputed from tokens"
        )
