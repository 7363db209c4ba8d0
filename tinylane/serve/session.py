"""Lanes that somebody plays with: one decoding that goes step by step, and what can be done to it.

A `Session` is a task of the engine: it takes a step whenever it runs, and tells its listeners. All
operations are called in the engine's thread, between two steps. Each raises TinylaneError, and
changes nothing, where it is not possible.

    N lanes   S cached rows   H heads
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.decoding import Decoding
from tinylane.core.errors import TinylaneError, show, whole
from tinylane.core.lanes import SHARED, LaneMask, Rotation
from tinylane.core.sampling import Sampler
from tinylane.evaluate.tasks.shell_game import game_of, last_word
from tinylane.methods.modes import mode
from tinylane.serve.answers import piece
from tinylane.serve.engine import Task

if TYPE_CHECKING:
    from tinylane.core.cache import LaneCache
    from tinylane.core.model import Model
    from tinylane.core.result import Lane, Step
    from tinylane.view.run_file import Run

TOP = 10  # likeliest tokens beside each drawn one
MOST_LANES = 16
LEFT = 600.0  # s that a session stays when nobody looks at it any more
METHODS = ("learned", "none", "ntk", "group_think", "hogwild")
Tell = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Start:
    """What a session begins with. method: how lanes are rotated, of METHODS; visibility: a name of
    `LaneMask.named`. Both may change later."""

    prompt: Any  # a text, or token ids
    lanes: int
    method: str
    visibility: str
    temperature: float | None = None
    max_tokens: int = 200
    seed: int | None = None


def begin(model: Model, start: Start) -> Session:
    """A new session. Raises TinylaneError for what the model cannot do."""
    n = whole("lanes", start.lanes, 1, MOST_LANES)
    seed = int.from_bytes(os.urandom(4), "little") if start.seed is None else start.seed
    sampler = Sampler.from_config(model.sampling)
    if start.temperature is not None:
        sampler = replace(sampler, temperature=start.temperature)
    prompt, lane_prompts, truth, game = start.prompt, model.lane_prompts(n), None, game_of(model)
    if game is not None:
        moves = game.parse(prompt)
        prompt, truth, lane_prompts = game.prompt(moves), game.answer(moves), game.lane_prompts(n)
    decoding = Decoding(
        model,
        prompt,
        n,
        max_tokens=min(start.max_tokens, model.config.context),
        seed=seed,
        sampler=sampler,
        lane_rope=rotation(start.method, model, n, start.max_tokens),
        lane_mask=LaneMask.named(start.visibility, n, model.lag),
        lane_prompts=lane_prompts,
        top_logprobs=min(TOP, model.config.vocab),
        schedule=nothing,
    )
    return Session(decoding, start.method, truth)


def reopen(model: Model, run: Run) -> Session:
    """A saved run, to be written again token by token; then its lanes go on by themselves.

    Raises TinylaneError for a run of another model, or one whose lanes did not begin together.
    """
    lanes, saved = run.result.lanes, run.result.settings
    if run.identity != model.identity:
        raise TinylaneError("this run was written by another model, or with another adapter")
    if len(lanes) > MOST_LANES:
        raise TinylaneError(f"the run has {len(lanes)} lanes; {MOST_LANES} are the most here")
    if saved.get("events") or any(lane.forked or lane.spans[1:] for lane in lanes):
        raise TinylaneError("its lanes did not all begin together: tinylane view shows such a run")
    decoding = Decoding(
        model,
        run.result.prompt,
        len(lanes),
        max_tokens=[lane.max_tokens for lane in lanes],
        seed=run.seed,
        sampler=run.sampler,
        lane_rope=run.lane_rope,
        lane_mask=run.lane_mask,
        lane_prompts=[lane.prompt for lane in lanes],
        top_logprobs=min(TOP, model.config.vocab),
        schedule=nothing,
    )
    for lane in lanes:
        decoding.give(lane.index, lane.tokens)
    method = run.extra.get("method")
    return Session(decoding, method if method in METHODS else "as saved")


def nothing(decoding: Decoding) -> None:
    """A schedule: what happens to the lanes is told from outside. With one, Omega is kept where no
    lane reads another yet."""


def rotation(method: str, model: Model, n: int, slot: int) -> Rotation:
    """The rotation of a method for this model. slot: positions that a lane takes."""
    if method not in METHODS:
        raise TinylaneError(f"method is {show(method, 40)}; expected {', '.join(METHODS)}")
    n = max(n, 2)  # a lane alone has no mode
    named: dict[str, Any] = {"visibility": LaneMask.joint(n), "slot": float(slot)}
    if method in ("group_think", "hogwild"):
        return mode(method, model, n, **named)[0]
    return mode("joint", model, n, omega=method, **named)[0]


class Session(Task):
    """One decoding, who listens to it, and whether it runs."""

    def __init__(self, decoding: Decoding, method: str, truth: str | None = None) -> None:
        self.model, self.decoding, self.method = decoding.model, decoding, method
        self.truth = truth
        self.said: list[list[str]] = [[] for _ in decoding.lanes]  # each token as it is shown
        self.begun = [""] * len(decoding.lanes)  # how lanes began that were not there at first
        self.listeners: list[Tell] = []
        self.running = False
        self.pace = 0.0  # s that a step takes at least
        self.again = False  # who reads whom changed twice for a pair
        self.switched = False  # another rotation than at the beginning
        self.deadline = time.monotonic() + LEFT
        self.over = False
        self._next = 0.0

    # As a task.

    @property
    def lanes(self) -> int:  # type: ignore[override]
        """What counts against the server's limit: lanes that could write."""
        return len(self.decoding.live)

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

    def fork(self, lane: int) -> None:
        """A twin of a lane, which goes on by itself."""
        self._room()
        self.decoding.fork(lane)
        self.said.append(list(self.said[lane]))
        self.begun.append(f"a fork of lane {lane + 1}")

    def what_if(self, lane: int, index: int, token: int) -> None:
        """A new lane that wrote what `lane` wrote before its token `index`, then `token`."""
        self._room()
        old = self._lane(lane)
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
        try:
            self.decoding.read(lane, of, yes)
        except TinylaneError:  # once more: the file of the run cannot tell that
            mask, at = self.decoding.mask, self.decoding.position(lane)
            if mask.since is None or mask.until is None:
                raise
            since, until = mask.since.copy(), mask.until.copy()
            since[lane, of], until[lane, of] = at, np.iinfo(until.dtype).max
            self.decoding.mask = replace(mask, since=since, until=until)
            self.decoding.cache.lane_mask = self.decoding.mask
            self.again = True

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
        decoding, old = self.decoding, self.decoding.cache
        slot = max(lane.max_tokens for lane in decoding.lanes)
        rope = rotation(method, self.model, len(decoding.lanes), slot)
        if method != self.method:
            decoding.cache = again(old, rope, decoding.mask, decoding.chunk)
            self.method, self.switched = method, True

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
        return {**told, **self._listened(x, index)}

    def save(self) -> bytes:
        """The run as a file, which `tinylane view` and `replay` read."""
        from tinylane.view.run_file import save_run

        if self.again or self.switched:
            what = "the method changed" if self.switched else "a pair began to read again"
            raise TinylaneError(f"{what} while the lanes wrote: a run file cannot hold that")
        if not any(lane.tokens for lane in self.decoding.lanes):
            raise TinylaneError("nothing is written yet")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.json"
            save_run(path, self.decoding.result(), self.model, "", {"method": self.method})
            return path.read_bytes()

    # Within.

    def _lane(self, m: Any) -> Lane:
        lanes = self.decoding.lanes
        if type(m) is not int or not 0 <= m < len(lanes):
            raise TinylaneError(f"no lane {show(m, 20)}; there are {len(lanes)}, counted from 0")
        return lanes[m]

    def _room(self) -> None:
        if len(self.decoding.lanes) >= MOST_LANES:
            raise TinylaneError(f"{MOST_LANES} lanes are the most here")

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

    def _listened(self, lane: Lane, index: int) -> dict[str, Any]:
        """Shares of the attention of the row that token `index` was drawn from, over all layers and
        heads: on the prompt, on itself, on every other lane; and the rows it went to most."""
        if lane.dropped is not None:  # its rows are gone
            return {"shares": [], "most": []}
        d, m = self.decoding, lane.index
        rows = [*lane.prompt, *lane.tokens]
        place = len(lane.prompt) + index - 1  # of the row before
        if place < 0:  # drawn from the prompt's last row, which sees the prompt alone
            return {"shares": [{"of": "the prompt", "share": 1.0}], "most": []}
        where = lane.start - 1 if index == 0 else lane.positions[index - 1]
        share, cache = heard(d.cache, d.mask, rows[place], where, m)
        shares = [{"of": "the prompt", "share": float(share[cache.lanes == SHARED].sum())}]
        for n in range(len(d.lanes)):
            part = float(share[cache.lanes == n].sum())
            if n == m or part:
                name = "itself" if n == m else f"lane {n + 1}"
                shares.append({"of": name, "lane": n, "share": part})
        best = np.argsort(-share, kind="stable")[:6]
        most = [
            {
                "lane": int(cache.lanes[s]),
                "text": self._alone(int(cache.tokens[s])),
                "share": float(share[s]),
            }
            for s in best
            if share[s] > 0.01
        ]
        return {"shares": shares, "most": most}


def again(cache: LaneCache, rope: Rotation, mask: LaneMask, chunk: int) -> LaneCache:
    """The rows of a cache, computed anew under another rotation; those of one position together."""
    fresh = cache.model.new_cache(rope, mask)
    order = np.lexsort((cache.lanes, cache.positions))
    positions, start = cache.positions[order], 0
    while start < len(order):
        stop = min(start + chunk, len(order))
        while stop < len(order) and positions[stop] == positions[stop - 1]:
            stop += 1
        rows = order[start:stop]
        cache.model(
            cache.tokens[rows], cache.positions[rows], cache.lanes[rows], cache=fresh, rows=[0]
        )
        fresh.settle()
        start = stop
    return fresh


def heard(
    cache: LaneCache, mask: LaneMask, token: int, position: int, lane: int
) -> tuple[np.ndarray, LaneCache]:
    """(S,): how the row at a coordinate shared its attention among rows, the mean over layers and
    heads; and a cache of those S rows."""
    from tinylane.view.attention import listening

    weights: list[np.ndarray] = []
    mean = lambda layer, first, heads: weights.append(heads.mean(axis=(0, 1)))
    twin = listening(cache.model, mean)
    before = cache.positions <= position
    before &= (cache.lanes != lane) | (cache.positions < position)
    seen = cache.copy()
    seen.keep(before)
    seen.model, seen.lane_mask = twin, mask
    np.asarray(twin([token], [position], [lane], cache=seen, rows=[0]))
    return np.mean(weights, axis=0), seen
