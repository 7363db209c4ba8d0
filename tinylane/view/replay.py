"""A saved run once more, without sampling: all rows at their coordinates, in one pass.

Rows that do not fit into memory together go through in several passes, on either backend. A lane
that joined late or was dropped is handled exactly: `_History` is the run's mask with the times at
which rows came and went. `passes` is the loop. `replay` compares log-probabilities;
`tinylane.view.replay_record` looks at attention and silences lanes.

Not handled: a fork of a lane that reads others. Its copied rows hold what the source lane had read
at the source's own coordinates (`LaneCache.fork`); no pass over the fork's tokens gives that.

    T rows of the run
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.result import Lane

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.view.run_file import Run

Token = tuple[int, int]  # a drawn token: its lane, and its index there
# The most that one pass may hold: rows, and elements of its logits and of one layer's scores.
ROWS, LOGITS, SCORES = 2048, 1 << 27, 1 << 27
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Replay:
    """The recomputed log-probabilities (float64) of every lane's tokens, and how far off they are.

    by_lane: the largest |difference| of each lane (0 for one without tokens). worst: lane and index
    of the token with the largest of all, None if there are no tokens.
    """

    logprobs: list[list[float]]
    by_lane: list[float]
    worst: Token | None

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

    def fed(self, positions: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """The clock at the step that fed each row."""
        return np.where(lanes == SHARED, 0, np.maximum(positions + 1, self.begun[lanes]))


@dataclass(frozen=True, eq=False)
class ReplayRows:
    """All rows of a run in the order in which they were fed, and what is asked of which of them.

    tokens, positions, lanes: (T,). history: the run's mask, with the times at which rows came and
    went. asked: (position, lane) of a row -> the tokens drawn from its logits.
    """

    tokens: np.ndarray
    positions: np.ndarray
    lanes: np.ndarray
    history: _History
    asked: dict[tuple[int, int], list[Token]]

    def silenced(self, lane: int) -> _History:
        """The run's mask, had nobody ever read `lane`."""
        return replace(self.history, visibility=self.history.silence(lane).visibility)


def replay(run: Run, model: Model) -> Replay:
    """Recompute the log-probabilities of every drawn token from all rows at once.

    Raises TinylaneError for a run of another model, and for forks that no pass can give (above).
    """
    rows, lanes = rows_of(run, model), run.result.lanes
    again: dict[Token, float] = {}
    for _, asked, logits in passes(run, model, rows):
        for row, drawn in zip(logits, asked, strict=True):
            of_row = log_softmax(row)
            for lane, index in drawn:
                again[lane, index] = float(of_row[lanes[lane].tokens[index]])
    logprobs = [[again[lane.index, k] for k in range(len(lane.tokens))] for lane in lanes]
    off = [
        np.abs(np.array(ours) - np.array(lane.logprobs))
        for ours, lane in zip(logprobs, lanes, strict=True)
    ]
    by_lane = [float(x.max(initial=0.0)) for x in off]
    worst = int(np.argmax(by_lane))
    at_worst = (worst, int(off[worst].argmax())) if off[worst].size else None
    return Replay(logprobs, by_lane, at_worst)


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
        if max([*lane.prompt, *lane.tokens], default=0) >= model.config.vocab:
            raise TinylaneError(
                f"lane {lane.index} has tokens outside the vocabulary of {model.config.vocab}"
            )
        if lane.start + len(lane.tokens) > model.config.context:
            raise TinylaneError(
                f"lane {lane.index} ends at position {lane.start + len(lane.tokens)}; "
                f"this model's context is {model.config.context}"
            )
    begun, gone = np.zeros(run.lane_mask.n, np.int64), np.full(run.lane_mask.n, _NEVER)
    rows = [(token, i, SHARED) for i, token in enumerate(run.result.prompt)]
    for lane in lanes:
        begun[lane.index] = lane.forked[1] if lane.forked else lane.start
        gone[lane.index] = _NEVER if lane.dropped is None else lane.dropped
        # The last token was drawn and fed, so that others saw it, unless it ended its lane.
        unfed = lane.finish_reason == "stop"
        fed = [*lane.prompt, *lane.tokens[: len(lane.tokens) - unfed]]
        rows += [(t, lane.start - len(lane.prompt) + k, lane.index) for k, t in enumerate(fed)]
    history = _History(run.lane_mask.visibility, run.lane_mask.lag, begun, gone)
    asked: dict[tuple[int, int], list[Token]] = {}
    for lane in lanes:
        for k in range(len(lane.tokens)):
            at = (lane.start - 1 + k, lane.index) if k or lane.prompt else (P - 1, SHARED)
            asked.setdefault(at, []).append((lane.index, k))
    tokens, positions, owners = (np.array(column) for column in zip(*rows, strict=True))
    order = np.lexsort((positions, history.fed(positions, owners)))
    return ReplayRows(tokens[order], positions[order], owners[order], history, asked)


def passes(
    run: Run,
    model: Model,
    rows: ReplayRows,
    mask: LaneMask | None = None,
    before: Callable[[slice, list[tuple[int, list[Token]]]], None] | None = None,
    limit: int = ROWS,
) -> Iterator[tuple[slice, list[list[Token]], np.ndarray]]:
    """Feed the rows in as few passes as memory allows; yields what each pass gives, in order.

    Yields a slice, the rows of the pass; for each of its rows from whose logits tokens were drawn,
    which tokens; and the logits of these rows (rows, V). mask: instead of the run's history.
    before: called ahead of a pass with its slice and (row of the pass, tokens drawn from it).
    limit: rows of a pass; rows of one position stay in one pass.
    """
    count = len(rows.tokens)
    cache = model.new_cache(run.lane_rope, rows.history if mask is None else mask)
    c, start = model.config, 0
    most = max(1, min(limit, ROWS, LOGITS // c.vocab, SCORES // (c.heads * count)))
    while start < count:
        stop = min(start + most, count)
        while stop < count and rows.positions[stop] == rows.positions[stop - 1]:
            stop += 1  # rows of one position may see each other
        part = slice(start, stop)
        places = zip(rows.positions[part].tolist(), rows.lanes[part].tolist(), strict=True)
        drawn = [(k, rows.asked[place]) for k, place in enumerate(places) if place in rows.asked]
        wanted = [k for k, _ in drawn]
        if before is not None:
            before(part, drawn)
        logits = model(
            rows.tokens[part],
            rows.positions[part],
            rows.lanes[part],
            cache=cache,
            rows=np.array(wanted or [0]),
        )
        yield part, [asked for _, asked in drawn], np.asarray(logits)[: len(drawn)]
        start = stop


def _check_fork(run: Run, lane: Lane) -> None:
    if lane.forked is None:
        return
    source, alone, reason = lane.forked[0], np.eye(run.lane_mask.n, dtype=bool), ""
    for m in (lane.index, source):
        if (run.lane_mask.visibility & ~alone)[m].any():
            reason = f"and lane {m} reads other lanes"
    rope = run.lane_rope
    if isinstance(rope, LaneRoPE) and rope.prompt_lane == 0 and rope.omega.any():
        reason = reason or "with the prompt at lane 0"
    if reason:
        raise TinylaneError(
            f"lane {lane.index} was forked from lane {source}, {reason}: its rows cannot be "
            "recomputed from tokens"
        )
