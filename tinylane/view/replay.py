"""A saved run once more, without sampling: all rows at their coordinates, in one pass.

Rows that do not fit into memory together go through in several passes, on either backend. Lanes
that join late, wait, are sealed or dropped are handled exactly: `_History` is the run's mask with
the steps at which rows came and went (`tinylane.view.events`). A fork copies the rows of its source
in the cache at its step, as it did in the run; a new order of Hogwild!'s parts holds from its step
on; where the lanes were turned otherwise, all rows so far are computed again. There one pass ends
and another begins. `passes` is the loop. `replay` compares
log-probabilities; `tinylane.view.replay_record` looks at attention and silences lanes.

    T rows in the cache   Q drawn tokens, lane after lane   N lanes   V vocab
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError, show, whole
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import MAX_STEPS, NEVER, SHARED, LaneMask, Rotation
from tinylane.core.result import Lane
from tinylane.methods.decoding import likeliest
from tinylane.view.again import Spells, again, rotations
from tinylane.view.events import BEGIN, events_of, given_tokens

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.view.run_file import Run

# The most that one pass may hold: rows, and elements of its logits or of one layer's scores.
ROWS, ELEMENTS = 2048, 1 << 27


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
class _History(Spells):
    """A mask that knows when rows came and went. A row is there from the step at which it was fed
    or copied on; a dropped lane's rows are no longer seen."""

    places: Any = None  # (R,) the rows' coordinates as one number each (`_place`), ascending
    came: Any = None  # (R,) the step at which each was fed or copied
    gone: Any = None  # (N,) the step before which each lane was dropped

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

    def at_once(self, gone: np.ndarray) -> _History:
        """For rows that are all computed again at one time. gone: (N,) lanes dropped by then."""
        never = np.where(gone, 0, NEVER)
        return replace(self, came=np.zeros_like(self.came), gone=never)

    def fed(self, positions: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """The step at which each row came."""
        return self.came[np.searchsorted(self.places, _place(positions, lanes))]


def _place(positions: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    """One number for each coordinate; the prompt's rows are the first."""
    return (lanes + 1).astype(np.int64) * (MAX_STEPS + 1) + positions


@dataclass(frozen=True, eq=False)
class ReplayRows:
    """All rows of a run in the order in which they came, and what was drawn from which of them.

    tokens, positions, lanes: (T,). number: (T,) the row's number in the run: the prompt's rows
    come first, then each lane's prompt and tokens. history: the run's mask, with the steps at which
    rows came and went. forks: where copies begin in T, the lane they are of and the lane they are
    in. orders: from which row on Hogwild!'s parts stand in which order. turned: from which row on
    which rotation holds, and (N,) which lanes were dropped by then; row 0 has the first. begun:
    (N,) the step before which each lane began. of, index, written, row: (Q,) of each drawn token
    its lane, its index there, its id, and its number. source: (Q,) the lane that drew it: another
    one where a fork copied it. given: (Q,) whether it was given from outside, not drawn. asked:
    (Q,) the row, an index into `tokens`, whose logits it was drawn from. saved: (Q,) float64, the
    run's log-probabilities.
    """

    run: Run
    tokens: np.ndarray
    positions: np.ndarray
    lanes: np.ndarray
    number: np.ndarray
    history: _History
    forks: dict[int, tuple[int, int]]
    orders: dict[int, tuple[int, ...]]
    turned: dict[int, tuple[Rotation, np.ndarray]]
    begun: np.ndarray
    of: np.ndarray
    index: np.ndarray
    written: np.ndarray
    row: np.ndarray
    source: np.ndarray
    given: np.ndarray
    asked: np.ndarray
    saved: np.ndarray

    def silenced(self, lane: int) -> _History:
        """The run's mask, had nobody ever read `lane`."""
        quiet = self.history.silence(lane)
        return replace(
            self.history, visibility=quiet.visibility, side=quiet.side, earlier=quiet.earlier
        )

    def reached(self, lane: int) -> np.ndarray:
        """(N,) booleans: which lanes can have heard of a lane, through others and through forks."""
        v = self.history.visibility.copy()
        for one in self.run.result.lanes:
            if one.forked is not None:
                v[one.index, one.forked[0]] = True
        return LaneMask(v, side=self.history.side).reaches()[: len(self.run.result.lanes), lane]


def replay(run: Run, model: Model, top_logprobs: int | None = None) -> Replay:
    """Recompute the log-probabilities of every drawn token from all rows at once.

    top_logprobs: how many likeliest tokens to give beside each; None: as many as the run holds.
    Raises TinylaneError for a run of another model.
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
            f"the run is of model {show(run.identity)} ({run.model_source or 'the model inside'}); "
            f"this one is {show(model.identity)}; give the model that wrote it"
        )
    lanes, vocab = run.result.lanes, model.config.vocab
    for lane in lanes:
        likely = [token for top in lane.top_logprobs for token, _ in top]
        if max([*lane.prompt, *lane.tokens, *likely], default=0) >= vocab:
            raise TinylaneError(f"lane {lane.index} has tokens outside the vocabulary of {vocab}")
        last = len(lane.tokens) - 1  # not fed; past the context only where the clock jumped there
        jumped = (lane.spans or [(0, 0, 0)])[-1][0] == last
        inside = lane.positions[: last + (not jumped)]
        if max([lane.start - 1, *inside]) >= model.config.context:
            end = [lane.start, *(i + 1 for i in lane.positions)][-1]
            raise TinylaneError(
                f"lane {lane.index} ends at position {end}; "
                f"this model's context is {model.config.context}"
            )
    made = _Made(run)
    for lane in lanes:
        made.add(lane)
    return made.rows(model.config.context)


class _Made:
    """Rows of a run, lane by lane. listed: token, position, lane, the step at which each came, and
    the row that it is a copy of, or -1."""

    def __init__(self, run: Run) -> None:
        self.run, self.lanes, self.events = run, run.result.lanes, events_of(run.result)
        self.listed = [(t, i, SHARED, -1, -1) for i, t in enumerate(run.result.prompt)]
        self.first: list[int] = []  # the number of every lane's first row
        self.drawn: list[tuple[int, ...]] = []  # lane, index, id, number, source, number asked
        self.unfed: set[int] = set()
        self.begun = np.zeros(len(self.lanes), np.int64)
        self.gone = np.full(run.lane_mask.n, NEVER)
        for event in self.events:
            if event["event"] in BEGIN:
                self.begun[event["lane"]] = event["step"]
            elif event["event"] == "drop":
                self.gone[event["lane"]] = event["step"]

    def add(self, lane: Lane) -> None:
        """List a lane's rows and tokens. The source of a fork comes before it."""
        m, begun, first = lane.index, int(self.begun[lane.index]), len(self.listed)
        self.first.append(first)
        prompt, source = len(lane.prompt), -1 if lane.forked is None else lane.forked[0]
        positions = [*range(lane.start - prompt, lane.start), *lane.positions]
        came = [begun] * prompt + [max(step + 1, begun) for step in lane.steps]
        for k, token in enumerate([*lane.prompt, *lane.tokens]):
            copied = -1
            if source >= 0:
                copied = self._copied(lane, source, k, came[k] <= begun, positions[k], token)
            self.listed.append((token, positions[k], m, came[k], copied))
        theirs = sum(
            len(x.tokens) for x in self.lanes[: max(source, 0)]
        )  # drawn before its source's
        for k, (token, step) in enumerate(zip(lane.tokens, lane.steps, strict=True)):
            r, drawn_by = first + prompt + k, m
            if source >= 0 and step < begun:
                drawn_by = self.drawn[theirs + k][4]
            before = r - 1 if r > first else self._last_row(lane.follows)
            while self.listed[before][4] >= 0:
                before = self.listed[before][4]
            self.drawn.append((m, k, token, r, drawn_by, before))
        # The last token was drawn and fed, so that others saw it, unless it ended its lane.
        ended = any(e["event"] == "finish" and e["lane"] == m for e in self.events)
        if lane.finish_reason == "stop" and lane.tokens and not ended:
            self.unfed.add(len(self.listed) - 1)

    def _copied(
        self, lane: Lane, source: int, k: int, early: bool, position: int, token: int
    ) -> int:
        """The row that row k of a fork is a copy of; -1 for one that was fed to it."""
        begun, r = int(self.begun[lane.index]), self.first[source] + k
        if not early:
            return -1
        end = len(self.listed) if source + 1 == len(self.first) else self.first[source + 1]
        if r >= end or self.listed[r][:2] != (token, position):
            raise TinylaneError(
                f"lane {lane.index} was forked from lane {source}, but begins with other tokens"
            )
        _, _, _, came, copy_of = self.listed[r]
        return r if came < begun or (came == begun and copy_of >= 0) else -1

    def _last_row(self, follows: int | None) -> int:
        """The row whose logits a lane without a prompt begins with."""
        if follows is None:
            return len(self.run.result.prompt) - 1
        return self.first[follows + 1] - 1

    def rows(self, context: int) -> ReplayRows:
        """The listed rows in the order in which they came: of a step the copies first."""
        tokens, positions, owners, came, copy_of = np.array(self.listed).T
        order = np.lexsort((positions, owners * (copy_of >= 0), copy_of < 0, came))
        dropped = (owners != SHARED) & (came >= self.gone[owners])  # before it was fed
        unfed = (positions >= context) | dropped
        unfed[list(self.unfed)] = True
        order = order[~unfed[order]]
        place = np.zeros(len(order) + len(self.listed), np.int64)
        place[order] = np.arange(len(order))  # of every row in the order in which they came
        forks = {}
        for lane in self.lanes:
            copies = place[np.flatnonzero((owners == lane.index) & (copy_of >= 0) & ~unfed)]
            if lane.forked is not None and len(copies):
                forks[int(copies.min())] = (lane.forked[0], lane.index)
        orders: dict[int, tuple[int, ...]] = {}
        for event in self.events:
            if event["event"] == "arrange":
                orders = orders or {0: tuple(event["was"])}
                before = (came < event["step"]) | ((came == event["step"]) & (copy_of >= 0))
                orders[int(before[order].sum())] = tuple(event["order"])
        turned = self._turned(came[order], owners[order], copy_of[order] >= 0)
        places = _place(positions, owners)
        by_place = np.argsort(places)
        mask = self.run.lane_mask
        history = _History(
            mask.visibility,
            mask.lag,
            since=mask.since,
            until=mask.until,
            side=mask.side,
            earlier=getattr(mask, "earlier", ()),
            places=places[by_place],
            came=came[by_place],
            gone=self.gone,
        )
        drawn = np.array(self.drawn, np.int64).reshape(-1, 6).T
        saved = np.concatenate([np.array(lane.logprobs, np.float64) for lane in self.lanes])
        fed = (tokens[order], positions[order], owners[order], order, history)
        given = given_tokens(self.events, self.lanes)
        outside = np.array([(m, k) in given for m, k in drawn[[4, 1]].T.tolist()], bool)
        of, index, written, row, source, before = drawn
        told = (of, index, written, row, source, outside, place[before], saved)
        return ReplayRows(self.run, *fed, forks, orders, turned, self.begun, *told)

    def _turned(
        self, came: np.ndarray, owners: np.ndarray, copies: np.ndarray
    ) -> dict[int, tuple[Rotation, np.ndarray]]:
        """See `ReplayRows`. came, owners, copies: of the rows in the order in which they came."""
        run, forked, gone = self.run, set[int](), np.zeros(self.run.lane_mask.n, bool)
        ropes = rotations(run.result.settings, run.lane_rope, run.lane_mask.n)
        turned, k = {0: (ropes[0], gone.copy())}, 0
        for event in self.events:
            if event["event"] == "fork":
                forked.add(event["lane"])
            elif event["event"] == "drop":
                gone[event["lane"]] = True
            elif event["event"] == "rotate":
                k += 1
                came_before = came < event["step"]
                came_before |= (came == event["step"]) & copies & np.isin(owners, [*forked])
                turned[int(came_before.sum())] = ropes[k], gone.copy()
        return turned


def passes(
    model: Model,
    rows: ReplayRows,
    elements: int,
    mask: _History | None = None,
    before: Callable[[slice, np.ndarray], None] | None = None,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Feed the rows in as few passes as memory allows; yields what each pass gives, in order.

    Yields a slice, the rows of the pass; which tokens were drawn from them, indices into Q; and for
    each of these the logits that it was drawn from (tokens, V). elements: how many a pass may have
    of logits or of one layer's scores; rows of one position stay in one pass. mask: instead of the
    run's history. before: called ahead of a pass with its slice and its tokens.
    """
    count = len(rows.tokens)
    history = rows.history if mask is None else mask
    cache = model.new_cache(rows.turned[0][0], history)
    c, start = model.config, 0
    most = max(1, min(ROWS, elements // max(c.vocab, c.heads * count)))
    cuts = sorted({*rows.forks, *rows.orders, *rows.turned, count})
    while start < count:
        if start in rows.turned and start:
            if before is not None:
                before(slice(0, 0), np.zeros(0, int))  # what is read again asks for nothing
            rope, gone = rows.turned[start]
            cache = again(cache, rope, history.at_once(gone), most)
            cache.lane_mask = history
        if start in rows.orders:
            cache.lane_rope = Hogwild(rows.orders[start])
        if start in rows.forks:
            cache.fork(*rows.forks[start])
            start = len(cache)
            continue
        cut = cuts[bisect_right(cuts, start)]
        stop = min(start + most, cut)
        while stop < cut and rows.positions[stop] == rows.positions[stop - 1]:
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
