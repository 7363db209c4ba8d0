"""What a `Decoding` must write, by its own book: every lane's rows, and who reads whom now.

`Shadow` operates a decoding and keeps its own list of rows, positions and readers; it looks at none
of the decoding's. Before each step it runs the model on all rows that have been fed, without a
cache, and keeps the logits of the rows that this step feeds. These see what is read at that moment:
so who reads whom is one matrix, and no times are needed.

The model must have one layer (`tinylane.testing.machine`).

    V vocab
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.core.sampling import uniform
from tinylane.methods.decoding import Decoding
from tinylane.testing.tolerances import tolerance

Row = tuple[int, int, int]  # token, position, lane


def columns(rows: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, positions and lanes, (T,) each."""
    tokens, positions, lanes = np.array(rows).T.copy()
    return tokens, positions, lanes


class Shadow:
    """Operates a decoding, and says what it must write: a pass over all its rows for every token.

    A token is right if the pass gives it for the lane's random number, or for a number that differs
    from it by no more than rounding can change a cumulative probability; or if it was given.
    """

    def __init__(self, decoding: Decoding) -> None:
        d = self.decoding = decoding
        self.fed: list[Row] = [(token, i, SHARED) for i, token in enumerate(d.prompt)]
        self.unfed: list[Row] = []
        self.written: dict[int, list[int]] = {}  # what each lane drew
        self.given: dict[int, list[int]] = {}  # what it is to write instead
        self.sealed: dict[int, list[int]] = {}  # what its author had written when it began
        self.clock, self.shift = len(d.prompt) + max(len(x.prompt) for x in d.lanes), {}  # type: ignore[var-annotated]
        self.now, self.room = d.mask.visibility.copy(), d.mask.n  # who reads whom
        self.open: set[int] = set()  # lanes that read all that join
        self.waiting: set[int] = set()
        self.stopped: set[tuple[int, int]] = set()  # pairs of lanes that have stopped reading
        self.ended: set[int] = set()  # lanes that ended with an end token in the step before
        self.after: dict[int, int] = {}  # lanes that go on from a sealed one's logits
        self.rope = d.cache.lane_rope
        self.prompt = self._pass(self.fed)[-1]
        self.last: dict[int, np.ndarray] = {}  # (V,) logits of each lane's last row
        for lane in d.lanes:
            self._begin(lane.index, lane.prompt, self.clock)

    def _begin(self, lane: int, prompt: list[int], start: int) -> None:
        self.written[lane], self.last[lane] = [], self.prompt
        self.shift[lane] = start - self.clock
        self.unfed += [(t, start - len(prompt) + k, lane) for k, t in enumerate(prompt)]

    def _pass(self, rows: list[Row]) -> np.ndarray:
        """(T, V) logits of all rows at once, who reads whom being as it is now."""
        d = self.decoding
        mask = LaneMask(self.now, d.mask.lag)
        return np.asarray(d.model(*columns(rows), lane_rope=self.rope, lane_mask=mask))

    def _now(self, rows: list[Row]) -> dict[int, np.ndarray]:
        """Every lane's logits (V,), after the pass that feeds these rows."""
        last, fed = dict(self.last), self.fed + rows
        if rows:
            logits = self._pass(fed)
            for k in sorted(range(len(self.fed), len(fed)), key=lambda k: fed[k][1]):
                last[fed[k][2]] = logits[k]
        return {**last, **{lane: last[of] for lane, of in self.after.items()}}

    # Lanes begin.

    def _grow(self, lane: int) -> None:
        more = max(lane + 1 - len(self.now), 0)
        self.now = np.pad(self.now, (0, more))

    def _reading(self, lane: int, reads: Iterable[int], readers: Iterable[int]) -> None:
        """A new lane reads these, and is read by those."""
        self._grow(lane)
        self.now[lane] = np.isin(np.arange(len(self.now)), [*reads, lane])
        self.now[[*readers], lane] = True

    def join(self, ids: list[int], sees: Any = None, at: Any = None) -> None:
        """A lane with a prompt of its own. Without `sees`: from the current position on, with as
        much of the prompt as there is room for."""
        d, m = self.decoding, len(self.written)
        if sees is None:
            ids, at = ids[: self.clock - len(d.prompt)], at or "before"
        reads = sees if not isinstance(sees, str) else [*range(m)] if sees == "all" else []
        end = max([self.clock, *(i + 1 for _, i, _ in self.fed + self.unfed)])
        begin = {"before": self.clock - len(ids), "end": end}.get(at, at)
        lane = d.join(ids, sees=sees, at=at, max_tokens=50)
        assert (lane.index, lane.prompt, lane.start) == (m, ids, begin + len(ids))
        if reads is not None:
            self._reading(m, reads, [n for n in self.open if d.lanes[n].finish_reason is None])
        if sees == "all":
            self.open.add(m)
        self.clock = begin + len(ids) if at == "end" else self.clock
        self._begin(m, ids, begin + len(ids))

    def fork(self, source: int) -> None:
        """A lane that has written what another has."""
        new = self.decoding.fork(source, max_tokens=50).index
        for rows in (self.fed, self.unfed):
            rows += [(token, i, new) for token, i, m in rows if m == source]
        self.written[new], self.last[new] = list(self.written[source]), self.last[source]
        self.sealed[new] = self.sealed.get(source, [])
        self.shift[new] = self.shift[source]
        if source in self.after:
            self.after[new] = self.after[source]
        if new >= len(self.now):
            self._like(new, source, [])

    def _like(self, new: int, source: int, more: list[int]) -> None:
        """A new lane reads whom another reads, and has its readers."""
        others = [m for m in range(new) if m != source]
        reads = [n for n in others if self.now[source, n]]
        self._reading(new, [*reads, *more], [m for m in others if self.now[m, source]])
        if source in self.open:
            self.open.add(new)

    def seal(self, lane: int) -> None:
        """Its author goes on in a new lane, with the logits of the sealed one's last row."""
        new = self.decoding.seal(lane)
        assert self.decoding.lanes[lane].finish_reason == "sealed" and new.follows == lane
        self._like(new.index, lane, [lane])
        self._begin(new.index, [], self.clock + self.shift[lane])
        self.after[new.index] = lane
        self.given[new.index] = self.given.pop(lane, [])
        before = self.decoding.lanes[lane].prompt + self.written[lane]
        self.sealed[new.index] = self.sealed.get(lane, []) + before

    # Lanes wait, go on, are told, end.

    def read(self, lane: int, of: int, yes: bool) -> None:
        """A pair that has stopped reading may not begin again; else it does as it is told."""
        try:
            self.decoding.read(lane, of, yes)
        except TinylaneError:
            assert yes and (lane, of) in self.stopped, f"lane {lane} may not read lane {of}"
            return
        if lane != of:
            if self.now[lane, of] and not yes:
                self.stopped.add((lane, of))
            self.now[lane, of] = yes

    def arrange(self, lanes: list[int]) -> None:
        """With Hogwild!: other parts stand first in every view."""
        self.decoding.arrange(lanes)
        self.rope = Hogwild(tuple(lanes))

    def pause(self, lane: int) -> None:
        """It draws nothing; what it has written is fed."""
        self.decoding.pause(lane)
        self.waiting.add(lane)

    def resume(self, lane: int) -> None:
        """A lane that waits, or one that ended with an end token, which it takes back."""
        self.decoding.resume(lane)
        self.waiting.discard(lane)
        if lane in self.ended:
            self.ended.discard(lane)
            self.written[lane].pop()

    def give(self, lane: int, ids: list[int]) -> None:
        """It writes these next."""
        self.decoding.give(lane, ids)
        self.given.setdefault(lane, []).extend(ids)

    def peek(self, lane: int, ids: list[int]) -> None:
        """The logits are those of a pass over all rows and these, and nothing changes."""
        d, before = self.decoding, self._state()
        got = d.peek(lane, ids)
        at = self.clock + self.shift[lane]
        after, self.after = (
            self.after,
            {m: of for m, of in self.after.items() if m != lane or not ids},
        )
        expected = self._now(self.unfed + [(t, at + k, lane) for k, t in enumerate(ids)])[lane]
        self.after = after
        allowed = tolerance(d.model.dtype, float(np.abs(expected).max()), 1000.0)
        error = float(np.abs(got - expected).max())
        assert error <= allowed, f"lane {lane}: peek at {ids} is off by {error:.2g}"
        assert self._state() == before, f"lane {lane}: something changed by peeking at {ids}"

    def _state(self) -> tuple[Any, ...]:
        d = self.decoding
        held = d.cache.positions.tolist(), d.cache.lanes.tolist(), d.cache.tokens.tolist()
        lanes = [(x.tokens[:], x.finish_reason, x.text, x.spans[:]) for x in d.lanes]
        return *held, lanes, d.clock, d.steps, len(d.events), d.mask.settings()

    def drop(self, lane: int) -> None:
        """A live or finished lane: its rows are gone. One that was just sealed stays."""
        if lane in self.after.values():
            try:
                self.decoding.drop(lane)
            except TinylaneError:
                return
            raise AssertionError(f"lane {lane} was dropped, whose author needs its last logits")
        self.decoding.drop(lane)
        for rows in (self.fed, self.unfed):
            rows[:] = [row for row in rows if row[2] != lane]
        self.after.pop(lane, None)
        self.ended.discard(lane)

    # Steps.

    def expected(self) -> dict[int, tuple[set[int], np.ndarray]]:
        """For every live lane: the tokens that are right, and all log-probabilities (V,)."""
        d = self.decoding
        last, expected = self._now(self.unfed), {}
        self.fed, self.unfed, self.last, self.after = self.fed + self.unfed, [], last, {}
        top = max(float(np.abs(last[lane.index]).max()) for lane in d.live)
        # A logit off by t moves a cumulative probability by at most 2 t.
        allowed = 2 * tolerance(d.model.dtype, top, 1000.0)
        for lane in d.live:
            logits, written = last[lane.index][None], self.written[lane.index]
            before = self.sealed.get(lane.index, [])
            history = [[*d.prompt, *before, *lane.prompt, *written]]
            draw, tokens = uniform(d.seed, lane.index, len(written)), set()
            for number in (draw - allowed, draw, draw + allowed):
                number = np.clip([number], 2.0**-53, 1.0)
                token, _ = d.sampler(d.model.array(logits), number, history)
                tokens.add(int(token[0]))
            if self.given.get(lane.index):
                tokens = {self.given[lane.index].pop(0)}
            row = logits[0].astype(np.float64)
            expected[lane.index] = tokens, row - np.logaddexp.reduce(row)
        return expected

    def step(self) -> None:
        """Step the decoding; raises AssertionError for a wrong token or log-probability."""
        d = self.decoding
        before, number = self.expected(), d.steps
        assert not before.keys() & self.waiting, f"of {[*before]}, {self.waiting} wait"
        step = d.step()
        drawn = {m: t for m, t in enumerate(step.tokens) if t is not None}
        assert drawn.keys() == before.keys(), f"lanes {[*drawn]} wrote, {[*before]} are live"
        self.ended = set()
        for m, token in drawn.items():
            right, logprobs = before[m]
            assert token in right, f"lane {m} drew {token}, a pass over all rows gives {right}"
            allowed = 2 * tolerance(d.model.dtype, float(np.abs(logprobs).max()), 1000.0)
            error = abs(step.logprobs[m] - logprobs[token])  # type: ignore[operator]
            assert error <= allowed, f"lane {m}: log-probability off by {error:.2g}"
            self.written[m].append(token)
            place = self.clock + self.shift[m]
            stands = d.lanes[m].positions[-1], d.lanes[m].steps[-1]
            assert stands == (place, number), f"lane {m}: {stands}, not {(place, number)}"
            if token in d.ends:
                self.ended.add(m)
            else:
                self.unfed.append((token, place, m))
        self.clock += 1
        held = {lane.index: lane.tokens for lane in d.lanes}
        assert held == self.written, f"lanes hold {held}, they wrote {self.written}"
