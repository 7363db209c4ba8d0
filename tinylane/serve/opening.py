"""How a session of `tinylane play` begins: anew, or with a saved run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError, whole
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask
from tinylane.core.sampling import Sampler
from tinylane.evaluate.tasks.shell_game import game_of
from tinylane.files.memory import forecast_rows
from tinylane.methods.decoding import Decoding
from tinylane.methods.prompt import encode_prompt
from tinylane.serve.rotations import METHODS, rotation
from tinylane.serve.session import MOST_LANES, TOP, PlaySession
from tinylane.view.again import rotations
from tinylane.view.events import BEGIN, events_of, words

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.view.run_file import Run


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


Check = Callable[[int, int], None]  # raises TinylaneError for too many lanes or bytes


def begin(model: Model, start: Start, check: Check = lambda lanes, nbytes: None) -> PlaySession:
    """A new session. Raises TinylaneError for what the model cannot do, or as `check` does."""
    n = whole("lanes", start.lanes, 1, MOST_LANES)
    seed = int.from_bytes(os.urandom(4), "little") if start.seed is None else start.seed
    sampler = Sampler.from_config(model.sampling)
    if start.temperature is not None:
        sampler = replace(sampler, temperature=start.temperature)
    prompt, lane_prompts, truth, game = start.prompt, model.lane_prompts(n), None, game_of(model)
    if game is not None:
        moves = game.parse(prompt)
        prompt, truth, lane_prompts = game.prompt(moves), game.answer(moves), game.lane_prompts(n)
    ids = encode_prompt(model, prompt, None)
    check(n, forecast_rows(model, n, len(ids), start.max_tokens).total)
    decoding = Decoding(
        model,
        ids,
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
    return PlaySession(decoding, start.method, truth)


def reopen(model: Model, run: Run, check: Check = lambda lanes, nbytes: None) -> PlaySession:
    """A saved run, to be written again token by token; then its lanes go on by themselves.

    Raises TinylaneError for a run of another model, for one that cannot be written so, and as
    `check` does.
    """
    lanes = run.result.lanes
    if run.identity != model.identity:
        raise TinylaneError("this run was written by another model, or with another adapter")
    if len(lanes) > MOST_LANES:
        raise TinylaneError(f"the run has {len(lanes)} lanes; {MOST_LANES} are the most here")
    count, most = len(run.result.prompt), max(lane.max_tokens for lane in lanes)
    check(len(lanes), forecast_rows(model, len(lanes), count, most).total)
    script = Script(run)
    first = lanes[: script.first]
    decoding = Decoding(
        model,
        run.result.prompt,
        len(first),
        max_tokens=[lane.max_tokens for lane in first],
        seed=run.seed,
        sampler=run.sampler,
        lane_rope=script.ropes[0],
        lane_mask=run.lane_mask,
        lane_prompts=[lane.prompt for lane in first],
        top_logprobs=min(TOP, model.config.vocab),
        schedule=nothing,
    )
    if script.back and not decoding.ends:
        raise TinylaneError("a lane took back an end, but this model has no end token")
    if any(lane.start != decoding.clock for lane in first):
        raise TinylaneError("its lanes did not begin together: tinylane view shows such a run")
    for lane in first:
        decoding.give(lane.index, script.rest(decoding, lane.index))
    decoding.events = []  # these words are the lanes' own
    truth = run.extra.get("truth")
    session = PlaySession(decoding, script.method, truth if isinstance(truth, str) else None)
    session.script = script
    script(session)
    return session


class Script:
    """What happened to the lanes of a saved run, done again when it is due."""

    def __init__(self, run: Run) -> None:
        self.run, self.events = run, events_of(run.result)
        self.ropes = rotations(run.result.settings, run.lane_rope, run.lane_mask.n)
        turned = [event for event in self.events if event["event"] == "rotate"]
        orders = [tuple(event["was"]) for event in self.events if event["event"] == "arrange"]
        if orders:
            self.ropes[0] = Hogwild(orders[0])
        self.first = len(run.result.lanes) - sum(e["event"] in BEGIN for e in self.events)
        waits: set[int] = set()
        self.back: list[tuple[int, int]] = []  # lanes that took back an end, and in which step
        for event in self.events:
            if event["event"] == "pause":
                waits.add(event["lane"])
            elif event["event"] == "resume" and event["lane"] in waits:
                waits.remove(event["lane"])
            elif event["event"] == "resume":
                self.back.append((event["lane"], event["step"] - 1))
        saved = run.extra.get("first" if turned else "method")
        self.method = saved if saved in METHODS else "as saved"
        self.done = self.turns = 0

    def __call__(self, session: PlaySession) -> bool:
        """Do what came before the next step; returns whether there was something."""
        d, began = session.decoding, self.done
        while self.done < len(self.events) and self.events[self.done]["step"] <= d.steps:
            event = self.events[self.done]
            self.done += 1
            d.clock = event["clock"]
            self._do(session, event)
            d.mask = d.cache.lane_mask = self.run.lane_mask
        if self.done > began:
            d.events = [dict(event) for event in self.events[: self.done]]
        if self.done == len(self.events):
            session.script = None
        return self.done > began

    def rest(self, decoding: Decoding, m: int) -> list[int]:
        """What a lane writes from now on: its tokens, and an end where it took one back."""
        lane, now = self.run.result.lanes[m], decoding.steps
        told = list(zip(lane.steps, lane.tokens, strict=True))
        told += [(step, min(decoding.ends, default=0)) for n, step in self.back if n == m]
        return [token for step, token in sorted(told) if step >= now]

    def _do(self, session: PlaySession, event: dict[str, Any]) -> None:
        d, name, m = session.decoding, event["event"], event["lane"]
        lane = self.run.result.lanes[m]
        if name == "join":
            d.join(lane.prompt, at=event["at"], max_tokens=lane.max_tokens)
        elif name == "fork":
            d.fork(event["source"], max_tokens=lane.max_tokens)
        elif name == "seal":
            d.seal(event["source"]).max_tokens = lane.max_tokens
        elif name == "arrange":
            d.arrange(event["order"])
        elif name == "rotate":
            self.turns += 1
            method = event["method"] if event["method"] in METHODS else "as saved"
            session.turn_lanes(self.ropes[self.turns], method)
        elif name == "finish":
            d.finish(m, event["reason"])
        elif name in ("pause", "resume", "drop"):
            getattr(d, name)(m)
            del session.said[m][len(d.lanes[m].tokens) :]
        if name in BEGIN:
            session.said.append([*session.said[event["source"]]] if name == "fork" else [])
            session.begun.append(words(event).partition(" begins as ")[2] or "began later")
            if rest := self.rest(d, m):
                d.give(m, rest)


def nothing(decoding: Decoding) -> None:
    """A schedule: what happens to the lanes is told from outside. With one, Omega is kept where no
    lane reads another yet."""
