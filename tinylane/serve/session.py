"""Lanes that somebody plays with: one decoding that goes step by step, and what can be done to it.

A `PlaySession` takes turns in the engine: a step whenever it runs, and tells its listeners. All
operations are called in the engine's thread, between two steps. Each raises TinylaneError, and
changes nothing, where it is not possible.

    N lanes
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError, show, whole
from tinylane.core.lanes import LaneMask, Rotation
from tinylane.evaluate.tasks.shell_game import last_word
from tinylane.files.memory import forecast_rows
from tinylane.methods.decoding import Decoding
from tinylane.serve.answers import piece
from tinylane.serve.engine import TurnTaker
from tinylane.serve.hearing import listened
from tinylane.serve.rotations import rotation
from tinylane.view.again import again, mask_settings, may_begin_again, up_to

if TYPE_CHECKING:
    from tinylane.core.result import Lane, Step

TOP = 10  # likeliest tokens beside each drawn one
MOST_LANES = 16
LEFT = 600.0  # s that a session stays when nobody looks at it any more
Tell = Callable[[dict[str, Any]], Any]


class PlaySession(TurnTaker):
    """One decoding, who listens to it, and whether it runs.

    script: called after every step; says whether it did something to the lanes. grow: raises
    TinylaneError where so many more lanes and bytes are too many for the server.
    """

    def __init__(self, decoding: Decoding, method: str, truth: str | None = None) -> None:
        self.model, self.decoding, self.method = decoding.model, decoding, method
        self.truth, self.first = truth, method  # first: the method at the beginning
        self.said: list[list[str]] = [[] for _ in decoding.lanes]  # each token as it is shown
        self.begun = [""] * len(decoding.lanes)  # how lanes began that were not there at first
        self.listeners: list[Tell] = []
        self.running = False
        self.pace = 0.0  # s that a step takes at least
        self.script: Callable[[PlaySession], bool] | None = None  # what a saved run goes on with
        self.grow: Callable[[int, int], Any] = lambda lanes, nbytes: None
        self.row = forecast_rows(self.model).kv_per_token
        self.deadline = time.monotonic() + LEFT
        self.over = False
        self._next = 0.0

    # As a task.

    @property
    def lanes(self) -> int:  # type: ignore[override]
        """What counts against the server's limit: lanes that could write."""
        return len(self.decoding.live)

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """Keys and values: what there is, and what lanes that have not ended could still write."""
        d = self.decoding
        left = sum(self._left(x) for x in d.lanes if x.finish_reason is None)
        return self.row * (len(d.cache) + left)

    def ready(self) -> bool:
        return self.running and time.monotonic() >= self._next

    @property
    def wakes(self) -> float:  # type: ignore[override]
        """When it wants to be asked again."""
        return self._next if self.running else math.inf

    def turn(self) -> bool:
        if self.decoding.live:
            self._next = time.monotonic() + self.pace
            self.step()
        if not self.decoding.live:
            self.run(False)
        return True

    def end(self, why: str) -> None:
        self.running, self.over = False, True
        self.tell({"gone": why})

    def fail(self, error: BaseException) -> None:
        self.running, self.over = False, True
        self.tell({"error": str(error) if isinstance(error, TinylaneError) else "it failed"})

    # What can be done.

    def run(self, yes: bool, pace: float | None = None) -> None:
        """Go on by itself, or stop."""
        if pace is not None:
            self.set_pace(pace)
        if yes and not self.decoding.live:
            raise TinylaneError("every lane has finished or waits")
        self.running, self._next = yes, 0.0
        self.tell({"running": yes})

    def set_pace(self, seconds: float) -> None:
        """How long a step takes at least."""
        self.pace, self._next = min(max(seconds, 0.0), 10.0), 0.0

    def step(self) -> None:
        """One step of every lane that writes."""
        step = self.decoding.step()
        new = [self._token(lane, step) for lane in self.decoding.lanes]
        told = {"step": step.index + 1, "clock": self.decoding.clock}
        self.tell(told | {"new": [x for x in new if x], "ended": self._ended(step)})
        if self.script is not None and self.script(self):
            self.tell({"state": self.state()})

    def by_hand(self, do: Callable[[], Any]) -> Any:
        """Do something to the lanes. What a saved run still holds is not done any more then; if
        it was not possible, the run goes on as it was."""
        d, script, mask = self.decoding, self.script, self.decoding.mask
        if script is not None:
            self.script, unfed = None, list[int]()
            for lane in d.lanes:
                fed = int((d.cache.lanes == lane.index).sum())
                places = [*range(lane.start - len(lane.prompt), lane.start), *lane.positions]
                unfed.append(places[fed] if fed < len(places) else d.position(lane.index))
            d.mask = d.cache.lane_mask = up_to(mask, unfed)
        try:
            return do()
        except BaseException:
            if script is not None:
                self.script, d.mask, d.cache.lane_mask = script, mask, mask
            raise

    def fork(self, lane: int) -> None:
        """A twin of a lane, which goes on by itself."""
        self._room(lane)
        self.decoding.fork(lane)
        self.said.append(list(self.said[lane]))
        self.begun.append(f"a fork of lane {lane + 1}")

    def what_if(self, lane: int, index: int, token: int) -> None:
        """A new lane that wrote what `lane` wrote before its token `index`, then `token`."""
        old = self._room(lane)
        if not 0 <= index < len(old.tokens):
            raise TinylaneError(f"token {index} of lane {lane + 1}; it has {len(old.tokens)}")
        begin = [*old.prompt, *old.tokens[:index], whole("token", token, 0)]
        sees = [n for n in range(len(self.decoding.lanes)) if n == lane or self.reads(lane, n)]
        sees.remove(lane)
        left = max(old.max_tokens - index - 1, 1)
        self.decoding.join(begin, sees=sees, at=old.start - len(old.prompt), max_tokens=left)
        self.said.append([])
        self.begun.append(f"lane {lane + 1}, had it drawn “{self._alone(token).strip()}”")

    def give(self, lane: int, text: str) -> None:
        """Words that a lane writes next, in place of its own."""
        tokenizer = self.model.tokenizer
        ids = [] if tokenizer is None else tokenizer.encode(text)
        if not ids:
            raise TinylaneError("give a word that the model knows")
        self.decoding.give(lane, ids)

    def read(self, lane: int, of: int, yes: bool) -> None:
        """From the next step on lane `lane` reads lane `of`, or no longer does."""
        self._lane(lane), self._lane(of)
        d, before = self.decoding, self.decoding.mask
        if yes and not self.reads(lane, of):
            d.mask = may_begin_again(before, lane, of)
        try:
            d.read(lane, of, yes)
        except BaseException:
            d.mask = before
            raise

    def arrange(self, name: str) -> None:
        """From the next step on lanes read each other as in `LaneMask.named`."""
        n = len(self.decoding.lanes)
        wanted = LaneMask.named(name, n).visibility
        for m, of in np.argwhere(~np.eye(n, dtype=bool)).tolist():
            if self.reads(m, of) != wanted[m, of]:
                self.read(m, of, bool(wanted[m, of]))

    def silence(self, lane: int) -> None:
        """Nobody reads a lane any more."""
        self._lane(lane)
        for other in range(len(self.decoding.lanes)):
            if other != lane and self.reads(other, lane):
                self.read(other, lane, False)

    def drop(self, lane: int) -> None:
        """A lane ends, and nobody sees what it wrote."""
        self.decoding.drop(lane)

    def pause(self, lane: int, yes: bool) -> None:
        """A lane waits, or goes on."""
        (self.decoding.pause if yes else self.decoding.resume)(lane)

    def switch(self, method: str) -> None:
        """Another rotation from the next step on: what the lanes wrote is read again under it."""
        slot = max(lane.max_tokens for lane in self.decoding.lanes)
        rope = rotation(method, self.model, len(self.decoding.lanes), slot)
        if method != self.method:
            self.turn_lanes(rope, method)

    def turn_lanes(self, rope: Rotation, method: str) -> None:
        """As `switch`, by a rotation."""
        d, old = self.decoding, self.decoding.cache
        d.cache, self.method = again(old, rope, d.mask, d.chunk), method
        note = {"event": "rotate", "lane": 0, "step": d.steps, "clock": d.clock}
        d.events.append({**note, "method": method, "was": old.lane_rope.settings()})

    # What is told.

    def tell(self, what: dict[str, Any]) -> None:
        """To everybody who listens."""
        for listener in list(self.listeners):
            listener(what)

    def reads(self, m: int, n: int) -> bool:
        """Whether lane m would read lane n in its next row."""
        mask, at = self.decoding.mask, np.array([self.decoding.position(m)])
        return bool(mask.visible(at, np.array([m]), at - mask.lag, np.array([n]))[0, 0])

    def state(self) -> dict[str, Any]:
        """All that a page needs to draw the session anew."""
        d = self.decoding
        count = range(len(d.lanes))
        return {
            "prompt": self._text(d.prompt),
            "truth": self.truth,
            "seed": d.seed,
            "step": d.steps,
            "clock": d.clock,
            "running": self.running,
            "pace": self.pace,
            "method": self.method,
            "lanes": [self._card(lane) for lane in d.lanes],
            "reads": [[int(m == n or self.reads(m, n)) for n in count] for m in count],
        }

    def details(self, lane: int, index: int) -> dict[str, Any]:
        """Of a token: the likeliest in its place, and whom the lane listened to when it drew it."""
        x = self._lane(lane)
        if not 0 <= index < len(x.tokens):
            raise TinylaneError(f"token {index} of lane {lane + 1}; it has {len(x.tokens)}")
        top = [
            {"id": id, "text": self._alone(id), "p": math.exp(min(p, 0.0))}
            for id, p in x.top_logprobs[index]
        ]
        told: dict[str, Any] = {
            "lane": lane,
            "index": index,
            "id": x.tokens[index],
            "text": self._alone(x.tokens[index]),
            "p": math.exp(min(x.logprobs[index], 0.0)),
            "top": top,
        }
        return {**told, **listened(self.decoding, x, index)}

    def save(self) -> bytes:
        """The run as a file, which `tinylane view` and `replay` read."""
        from tinylane.view.run_file import save_run

        if not any(lane.tokens for lane in self.decoding.lanes):
            raise TinylaneError("nothing is written yet")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.json"
            result = self.decoding.result()
            result.settings.update(mask_settings(self.decoding.mask))
            more = {"method": self.method, "first": self.first, "truth": self.truth}
            save_run(path, result, self.model, "", more)
            return path.read_bytes()

    # Within.

    def _lane(self, m: Any) -> Lane:
        lanes = self.decoding.lanes
        if type(m) is not int or not 0 <= m < len(lanes):
            raise TinylaneError(f"no lane {show(m, 20)}; there are {len(lanes)}, counted from 0")
        return lanes[m]

    def _room(self, lane: int) -> Lane:
        """The lane that another begins like, which has room here."""
        x = self._lane(lane)
        if len(self.decoding.lanes) >= MOST_LANES:
            raise TinylaneError(f"{MOST_LANES} lanes are the most here")
        self.grow(1, self.row * (len(x.prompt) + len(x.tokens) + self._left(x)))
        return x

    def _left(self, lane: Lane) -> int:
        """How many tokens a lane may still write."""
        room = self.model.config.context - self.decoding.position(lane.index)
        return max(min(lane.max_tokens - len(lane.tokens), room), 0)

    def _text(self, ids: list[int]) -> str:
        tokenizer = self.model.tokenizer
        return "" if tokenizer is None else tokenizer.decode(ids, skip_special=False)

    def _alone(self, token: int) -> str:
        return piece(self.model.tokenizer, token)[0]

    def _token(self, lane: Lane, step: Step) -> dict[str, Any] | None:
        """What a step added to a lane."""
        m = lane.index
        token, logprob = step.tokens[m], step.logprobs[m]
        if token is None or logprob is None:
            return None
        tokenizer = self.model.tokenizer
        text = step.texts[m]
        if m in step.finished and tokenizer is not None and tokenizer.is_special(token):
            text = self._alone(token)  # an end token has no text of its own
        self.said[m].append(text)
        return {"lane": m, "text": text, "p": math.exp(min(logprob, 0.0))}

    def _ended(self, step: Step) -> list[dict[str, Any]]:
        return [
            {"lane": m, "reason": why, "right": self._right(self.decoding.lanes[m])}
            for m, why in step.finished.items()
        ]

    def _right(self, lane: Lane) -> bool | None:
        if self.truth is None or lane.finish_reason is None:
            return None
        return last_word(lane.text) == self.truth

    def _card(self, lane: Lane) -> dict[str, Any]:
        said = self.said[lane.index]
        return {
            "prompt": self._text(lane.prompt),
            "tokens": [
                {"text": text, "p": math.exp(min(p, 0.0))}
                for text, p in zip(said, lane.logprobs, strict=True)
            ],
            "ended": lane.finish_reason,
            "waits": lane.finish_reason is None and lane not in self.decoding.live,
            "right": self._right(lane),
            "begun": self.begun[lane.index],
        }
