"""What may happen to lanes between two steps: they begin, wait, go on, are read, are sealed, end.

`Decoding` inherits these operations, and the lanes' text. Every lane has its position: that of the
clock, unless it was told to begin elsewhere (`join(at=...)`). A lane that waits, or whose clock was
moved on by a prompt that joined at its end, leaves a gap in its positions; `Lane.spans` says where
each token stands.

Who reads whom may change, but only for rows that have not been fed (`LaneMask.since`, `until`): so
cached rows stay true, and a decoding is what one pass over all its rows gives (laws 4, 5 and 8).

What happened is noted in `events`, for run files, replay and pictures.

    N lanes   V vocab
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np

from tinylane.core.decoding import Loop
from tinylane.core.errors import TinylaneError, of_kind, show, whole
from tinylane.core.lanes import SHARED, LaneMask
from tinylane.core.model import Model
from tinylane.core.result import Lane
from tinylane.methods import times
from tinylane.methods.prompt import encode_lane_prompt, text_stream


class Life(Loop):
    """The operations of a `Decoding` on its lanes. Each raises TinylaneError, and changes nothing,
    for a lane that is not there or not in a state for it."""

    stop: tuple[str | int, ...]
    ends: frozenset[int]
    plain: bool  # an Omega was left out, because no lane reads another

    def __init__(self, model: Model, prompt: list[int], lanes: int, **settings: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self._streams: dict[int, Any] = {}  # lane -> what makes its text
        self._after: dict[int, int] = {}  # lane -> the lane whose logits it begins with
        self._shift: dict[int, int] = {}  # lane -> its position less the clock's, if they differ
        self._paused: set[int] = set()
        self._given: dict[int, list[int]] = {}  # lane -> tokens it writes next, instead of drawing
        self._open: set[int] = set()  # lanes that read every lane that joins
        super().__init__(model, prompt, lanes, **settings)

    @property
    def live(self) -> list[Lane]:
        """The lanes that draw a token in the next step."""
        return [lane for lane in super().live if lane.index not in self._paused]

    def position(self, lane: int) -> int:
        """Where the next token of a lane stands."""
        return self.clock + self._shift.get(self._lane(lane).index, 0)

    def end(self, lanes: Iterable[int] | None = None) -> int:
        """The first position behind all rows (or those of the prompt and of `lanes`): where one
        text of them would go on."""
        _, waiting, whose = np.array(self._feed, dtype=np.int64).reshape(-1, 3).T
        _, _, i, m = self.cache.places(waiting, whose)
        those = None if lanes is None else [SHARED, *self._several("end", lanes)]
        return 1 + int((i if those is None else i[np.isin(m, those)]).max())

    def join(
        self,
        prompt: str | Sequence[int] = (),
        *,
        sees: str | Iterable[int] | None = None,
        at: str | int | None = None,
        max_tokens: int = 256,
    ) -> Lane:
        """A new lane with a prompt of its own.

        sees: whom it reads: lanes, "none", or "all" (and all that join later). None: it reads, and
        is read, as `lane_mask` says, which must have room for it. at: where its prompt stands.
        "before" (the default without `sees`): it ends just before the clock. "end" (the default
        with `sees`): it begins at the clock, or behind all rows if there are later ones, and the
        clock moves on to its end. A number: it begins there, and the lane counts on from there. A
        lane that reads others needs a prompt: its first token is drawn from the prompt's last row.
        """
        m, ids = len(self.lanes), encode_lane_prompt(self.model, prompt)
        limit, P = whole("max_tokens", max_tokens, 1), len(self.prompt)
        at = ("before" if sees is None else "end") if at is None else at
        ends = {"before": self.clock - len(ids), "end": max(self.clock, self.end())}
        place = ends.get(at) if isinstance(at, str) else at
        if not isinstance(place, Integral) or isinstance(place, bool):
            raise TinylaneError(f"at is {show(at)}; expected before, end or a position")
        begin = int(place)
        self._in_context("join", begin + len(ids))
        if begin < P and at == "before":
            raise TinylaneError(
                f"the lane's prompt has {len(ids)} tokens, but the clock is only "
                f"{self.clock - P} past the shared prompt"
            )
        if begin < P:
            raise TinylaneError(f"at is {at}; expected a position from {P} on, behind the prompt")
        read = None if sees is None else self._lanes_of(sees)
        if read is None and m >= self.mask.n:
            raise TinylaneError(
                f"visibility is {self.mask.n} x {self.mask.n}: no room for lane {m}; "
                "give a lane_mask for all lanes that will join, or say whom the lane sees"
            )
        if read is not None:
            if read and not ids:
                raise TinylaneError("a lane that reads others needs a prompt of at least one token")
            live = [x for x in self._open if self.lanes[x].finish_reason is None]
            readers = {reader: self._unfed(reader) for reader in live}
            self._set_mask(times.joined(self.mask, m, read, readers))
            if isinstance(sees, str) and sees == "all":
                self._open.add(m)
        lane = Lane(m, ids, begin + len(ids), limit)
        if at == "end":
            self.clock = lane.start
        if lane.start != self.clock:
            self._shift[m] = lane.start - self.clock
        self._begin(lane)
        self._note("join", m, sees=read, at=begin)
        return lane

    def fork(self, source: int, *, max_tokens: int | None = None) -> Lane:
        """A new lane that has written all that lane `source` has, and goes on by itself.

        Its rows are copies that stand in the new lane (see `LaneCache.fork`). Its random numbers
        are its own; what its source has still to write (`give`) is not for it. max_tokens counts
        from its beginning; None takes the source's. Where the mask has no room it gets some: the
        fork reads whom its source reads, and is read by its readers.
        """
        parent, m = self._alive("fork", source), len(self.lanes)
        source = parent.index
        limit = parent.max_tokens if max_tokens is None else whole("max_tokens", max_tokens, 1)
        if m >= self.mask.n:
            self._grow(m, source, [])
        self.cache.fork(source, m)
        self._feed += [(t, i, m) for t, i, lane in self._feed if lane == source]
        self._same((self._logits, self._after, self._shift), source, m)
        lane = replace(deepcopy(parent), index=m, max_tokens=limit, forked=(source, self.clock))
        return self._add(lane, "fork", source=source)

    def seal(self, lane: int) -> Lane:
        """What a lane has written stands as it is; its author goes on in a new lane, returned here.

        The new lane reads the sealed one and whom that reads, and is read by its readers. It begins
        without rows, with the logits of the last row of the sealed lane. Who wrote the steps of a
        chain is told by `Lane.follows`.
        """
        old, m = self._alive("seal", lane), len(self.lanes)
        if not old.tokens:
            raise TinylaneError(f"seal: lane {lane} has written nothing yet")
        self._grow(m, lane, [lane])
        new = Lane(m, [], self.position(lane), max(old.max_tokens - len(old.tokens), 1))
        lane = new.follows = old.index
        self._end(old, "sealed")
        self._after[m] = lane
        self._same((self._shift, self._given), lane, m)
        return self._add(new, "seal", source=lane)

    def read(self, lane: int, of: int, yes: bool = True) -> None:
        """From its next row on, `lane` reads lane `of`, or (yes=False) no longer does.

        A pair begins once and stops once.
        """
        lane, of = self._lane(lane).index, self._lane(of).index
        yes = bool(of_kind("yes", yes, (bool, np.bool_), "true or false"))
        if lane != of:
            self._set_mask(times.reading(self.mask, lane, of, yes, self._unfed(lane)))
            self._note("read", lane, of=of, yes=yes)

    def arrange(self, lanes: Sequence[int]) -> None:
        """With the rotation `Hogwild`: the parts of these lanes stand first in every view."""
        order = tuple(self._several("arrange", lanes))
        rope: Any = self.cache.lane_rope
        if not hasattr(rope, "order") or len({*order}) != len(order):
            raise TinylaneError(f"arrange: {list(order)}; expected different lanes, with hogwild")
        if order != rope.order:
            self.cache.lane_rope = replace(rope, order=order)
            self._note("arrange", order[-1] if order else 0, order=[*order], was=[*rope.order])

    def pause(self, lane: int) -> None:
        """The lane draws nothing until `resume`; what it has written is fed and can be read."""
        self._alive("pause", lane)
        self._paused.add(lane)
        self._note("pause", lane)

    def resume(self, lane: int) -> None:
        """A paused lane goes on, at the clock. So does one that ended with an end token or a stop
        string in the step before: it takes back that token, which was not fed."""
        x = self._lane(lane)
        self._in_context("go on", self.position(lane))
        if x.finish_reason == "stop" and lane in self._logits and x.tokens:
            x.finish_reason = None
            x.tokens, x.logprobs = x.tokens[:-1], x.logprobs[:-1]
            x.top_logprobs = x.top_logprobs[: len(x.tokens)]
            x.spans = [span for span in x.spans if span[0] < len(x.tokens)]
            x.max_tokens = max(x.max_tokens, len(x.tokens) + 1)
            self._say_again(x)
        elif lane not in self._paused or x.finish_reason is not None:
            state = x.finish_reason or "it goes on"
            raise TinylaneError(f"resume: lane {lane} is not paused ({state})")
        self._paused.discard(lane)
        self._note("resume", lane)

    def give(self, lane: int, tokens: str | Sequence[int]) -> None:
        """The lane writes these tokens next, one a step, instead of drawing."""
        self._alive("give", lane)
        ids = encode_lane_prompt(self.model, tokens)
        self._given.setdefault(lane, []).extend(ids)
        self._note("give", lane, tokens=ids)

    def giving(self, lane: int) -> bool:
        """Whether a lane has tokens left that it was given."""
        return bool(self._given.get(self._lane(lane).index))

    def peek(self, lane: int, tokens: str | Sequence[int] = ()) -> np.ndarray:
        """Logits (V,) of the lane's next token, had it written these. Nothing changes by it."""
        self._alive("peek", lane)
        ids, at = encode_lane_prompt(self.model, tokens), self.position(lane)
        self._in_context("peek", at + len(ids))
        rows = [*self._feed, *((token, at + k, lane) for k, token in enumerate(ids))]
        before, logits = len(self.cache), self._logits
        if rows:
            logits = {**logits, **self._forward(rows)}
            self.cache.rewind(before)
        source = lane if lane in logits else self._after[lane]
        return np.asarray(logits[source])

    def reread(self, lanes: Iterable[int]) -> list[int]:
        """What lanes hold, one after the other, as token ids: a prompt that is the text of others.

        Lane prompts are part of it, end tokens are not.
        """
        texts = [self.lanes[m] for m in self._several("reread", lanes)]
        return [t for x in texts for t in [*x.prompt, *x.tokens] if t not in self.ends]

    def drop(self, lane: int) -> None:
        """End a lane and forget what it wrote: from now on nobody sees it."""
        gone = self._lane(lane)
        if lane in self._after.values():
            raise TinylaneError(f"drop: lane {lane} was just sealed; take a step first")
        if gone.dropped is None:
            gone.finish_reason = gone.finish_reason or "dropped"
            gone.dropped = self.clock
            self._note("drop", lane)
        self.cache.drop(lane)
        self._feed = [row for row in self._feed if row[2] != lane]
        for state in (self._logits, self._after, self._given):
            state.pop(lane, None)

    def finish(self, lane: int, reason: str = "interrupted") -> None:
        """End a lane; what it has written stays visible."""
        target, reason = self._lane(lane), of_kind("reason", reason, str, "a text") or "finished"
        if target.finish_reason is None:
            self._end(target, reason)
            self._logits.pop(lane, None)
            self._note("finish", lane, reason=reason)

    # Within.

    def _pass(self) -> None:
        super()._pass()
        self._logits.update({lane: self._logits[of] for lane, of in self._after.items()})
        going = [lane.index for lane in self.lanes if lane.finish_reason is None]
        self._logits = {m: self._logits[m] for m in going if m in self._logits}
        self._after = {}

    def _draw(self, live: list[Lane], known: bool = True) -> tuple[list[int], list[float]]:
        given = {k: x.index for k, x in enumerate(live) if self._given.get(x.index)}
        drawn, logprobs = super()._draw(live, known and not given)
        for k, m in given.items():
            drawn[k] = self._given[m].pop(0)
            row = np.asarray(self._logits[m], dtype=np.float64)
            logprobs[k] = float(row[drawn[k]] - np.logaddexp.reduce(row))
        return drawn, logprobs

    def _add(self, lane: Lane, event: str, **details: Any) -> Lane:
        """A lane that begins with the text of another, or none."""
        self.lanes.append(lane)
        self._say_again(lane)
        self._note(event, lane.index, **details)
        return lane

    def _note(self, event: str, lane: int, **details: Any) -> None:
        note = {"event": event, "lane": int(lane), "step": self.steps, "clock": self.clock}
        self.events.append({**note, **details})

    def _lane(self, m: int) -> Lane:
        if not isinstance(m, Integral) or isinstance(m, bool) or not 0 <= m < len(self.lanes):
            raise TinylaneError(f"lane {show(m)}; there are lanes 0 .. {len(self.lanes) - 1}")
        return self.lanes[m]

    def _several(self, name: str, lanes: Any, expected: str = "lanes") -> list[int]:
        given = lanes.tolist() if isinstance(lanes, np.ndarray) else lanes
        return [self._lane(m).index for m in of_kind(name, given, Iterable, expected)]

    def _alive(self, what: str, m: int) -> Lane:
        lane = self._lane(m)
        if lane.finish_reason is not None:
            raise TinylaneError(f"{what}: lane {m} has finished ({lane.finish_reason})")
        return lane

    def _lanes_of(self, sees: str | Iterable[int]) -> list[int]:
        if isinstance(sees, str) and sees not in ("all", "none"):
            raise TinylaneError(f"sees is {show(sees)}; expected all, none, or lanes")
        if isinstance(sees, str):
            return [x.index for x in self.lanes] if sees == "all" else []
        return list(dict.fromkeys(self._several("sees", sees, "all, none, or lanes")))

    def _in_context(self, what: str, position: int) -> None:
        if position > self.model.config.context - (self.steps > 0):
            raise TinylaneError(f"no lane can {what} at position {position}: the context ends")

    def _same(self, states: Iterable[dict[int, Any]], lane: int, new: int) -> None:
        for state in states:
            if lane in state:
                state[new] = state[lane]

    def _grow(self, m: int, like: int, more: list[int]) -> None:
        """Room for a lane m, which reads whom `like` reads and `more`, and has its readers."""
        others = [x.index for x in self.lanes if x.index != like]
        now = {n: self._unfed(n) for n in others}
        read = [n for n in others if self._reads(like, n, self._unfed(like))]
        readers = {n: at for n, at in now.items() if self._reads(n, like, at)}
        self._set_mask(times.joined(self.mask, m, [*read, *more], readers))
        if like in self._open:
            self._open.add(m)

    def _reads(self, m: int, n: int, position: int) -> bool:
        at = np.array([position])
        return bool(self.mask.visible(at, np.array([m]), at - self.mask.lag, np.array([n]))[0, 0])

    def _unfed(self, lane: int) -> int:
        """The first position of a lane that has not been fed: who reads whom may change from it."""
        return min([i for _, i, m in self._feed if m == lane], default=self.position(lane))

    def _set_mask(self, mask: LaneMask) -> None:
        if self.plain:
            raise TinylaneError(
                "the lanes began without Omega, because none read another; "
                "give a schedule, or a lane_mask by which a lane reads another"
            )
        self.mask = self.cache.lane_mask = mask

    def _begin(self, lane: Lane) -> None:
        super()._begin(lane)
        self._say_again(lane)

    def _stops(self, lane: Lane, token: int) -> bool:
        return token in self.ends or self._say(lane, token)

    def _written(self, lane: Lane) -> list[int]:
        return own_text(self.lanes, lane)

    def _say(self, lane: Lane, token: int) -> bool:
        """Add a token's text to its lane; whether that completed a stop string."""
        stream = self._streams[lane.index]
        lane.text += stream.push(token)
        return stream.stopped

    def _say_again(self, lane: Lane) -> None:
        self._streams[lane.index], lane.text = text_stream(self.model, self.stop), ""
        for token in lane.tokens:
            self._say(lane, token)

    def _end(self, lane: Lane, reason: str) -> None:
        super()._end(lane, reason)
        lane.text += self._streams[lane.index].flush()


def own_text(lanes: Sequence[Lane], lane: Lane) -> list[int]:
    """The prompt and the tokens of a lane, behind those of the sealed lanes that it goes on."""
    text = [*lane.prompt, *lane.tokens]
    while lane.follows is not None:
        lane = lanes[lane.follows]
        text = [*lane.prompt, *lane.tokens, *text]
    return text
