"""Tune a checkpoint on lane transcripts, in a run directory: supervised (sft), or by KTO.

A state is only saved once its weights have given a sane loss, so that a learning rate that diverges
never overwrites the last good one. A run that was killed goes on from its last state with the
losses that it would have had; nothing but that state decides them.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import mlx.core as mx

from tinylane.core.errors import TinylaneError
from tinylane.files.io import write_text
from tinylane.files.memory import memory
from tinylane.train.data import Transcript
from tinylane.train.rundir import Log, append, claim, locked
from tinylane.train.step import Groups, Outcome, Tuner

STATE, REFERENCE = "state.safetensors", "reference.jsonl"
PATIENCE = 10  # steps in a row whose loss is out of bounds before a run is given up
# What there is to say: a line of the log, or {"at": step, "seconds_left": s} after every step, or
# {"reference": k, "of": n} while kto's reference is computed.
Say = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Pace:
    """Steps between lines of the log, saved states, and checks of the validation loss (where there
    is a line); stop_at ends a run early (its schedule stays the recipe's)."""

    every: int = 10
    save_every: int = 100
    valid_every: int = 100
    stop_at: int | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and value < 1:
                raise TinylaneError(f"--{f.name.replace('_', '-')} is {value}; expected 1 or more")


def run(
    tuner: Tuner,
    out: str | Path,
    recipe: Mapping[str, Any],
    export: Callable[[Tuner, Path], None],
    pace: Pace | None = None,
    *,
    notes: Mapping[str, Any] | None = None,
    valid: Sequence[Transcript] = (),
    say: Say = lambda entry: None,
) -> Tuner:
    """Train to the recipe's end in folder `out`, from its last state on; export what is saved.

    recipe: all that decides the numbers (`rundir.claim`); notes are kept beside it. export writes
    adapter or checkpoint and is called with every saved state. valid: transcripts whose loss is
    logged, at steps of pace.valid_every and at the last. Raises TinylaneError if `out` holds a run
    of another recipe, another process works there, or the loss diverges.
    """
    out = Path(out)
    with locked(out):
        claim(out, recipe, notes or {})
        if tuner.kto:
            _refer(tuner, out / REFERENCE, recipe, say)
        _train(tuner, out, export, pace or Pace(), valid, say)
    return tuner


def _train(
    tuner: Tuner,
    out: Path,
    export: Callable[[Tuner, Path], None],
    pace: Pace,
    valid: Sequence[Transcript],
    say: Say,
) -> None:
    state, steps = out / STATE, tuner.recipe.steps
    end = min(pace.stop_at or steps, steps)
    window: list[float] = []  # losses since the last line of the log
    guard = _Guard(tuner, state)
    if state.exists():
        notes = tuner.load(state)
        window = json.loads(notes.get("window", "[]"))
        guard = _Guard(tuner, state, json.loads(notes.get("guard", "[0, 0, 0]")))
    log = Log(out, tuner.step)
    started, before, tokens = tuner.step, time.monotonic() - log.seconds, 0
    began = time.monotonic()

    def save() -> None:
        tuner.save(state, {"window": json.dumps(window), "guard": json.dumps(guard.kept)})
        export(tuner, out)

    due = False
    while tuner.step < end:
        found = tuner.outcome(tuner.step)
        due = due or (tuner.step % pace.save_every == 0 and tuner.step > started)
        if guard(found) and due:
            save()
            due = False
        norm = tuner.apply(found.grads or {})
        window.append(found.loss)
        tokens += found.tokens
        spent = time.monotonic() - began
        left = round(spent / (tuner.step - started) * (steps - tuner.step), 1)
        say({"at": tuner.step, "seconds_left": left})
        if tuner.step % pace.every == 0 or tuner.step == steps:
            mean = sum(window) / len(window)
            window.clear()
            named = {name: getattr(found, name) for name in ("good", "bad", "kl")}
            entry = {
                "step": tuner.step,
                "loss": mean,
                **{name: value for name, value in named.items() if value is not None},
                "rate": tuner.recipe.factor(tuner.step - 1),
                "gradient": norm,
                "seconds": round(time.monotonic() - before, 2),
                "tokens_per_second": round(tokens / max(spent, 1e-9), 1),
                "seconds_left": left,
                "peak_memory": max(memory() or 0, mx.get_peak_memory()),
            }
            if valid and (tuner.step % pace.valid_every == 0 or tuner.step == steps):
                entry["valid"] = tuner.nll(valid)
            log.add(entry)
            say(entry)
    if tuner.step == started and state.exists():
        export(tuner, out)  # a kill may have come between the two
    else:  # the last weights have not given a loss yet: that of one more step
        guard(tuner.outcome(tuner.step, gradients=False), final=True)
        save()


def _refer(tuner: Tuner, path: Path, recipe: Mapping[str, Any], say: Say) -> None:
    """Fill tuner.reference, from the file as far as it goes: a line a microbatch of the untuned
    model's log-probabilities. The first line says of which data, model and order."""
    digest = hashlib.sha256(json.dumps(dict(recipe), sort_keys=True).encode()).hexdigest()
    head = json.dumps({"format": "tinylane reference 1", "digest": digest})
    lines = path.read_text().splitlines() if path.exists() else []
    chunks = tuner.order.epoch(0)
    if lines and lines[0] != head:
        raise TinylaneError(f"{path} is of other data or another model; remove it")
    kept = [head]
    for line in lines[1 : len(chunks) + 1]:
        try:
            values = [
                (float(own), math.nan if pair is None else float(pair))
                for own, pair in json.loads(line)
            ]
        except (ValueError, TypeError):
            break  # torn by a kill
        chunk = chunks[len(kept) - 1]
        if len(values) != len(chunk):
            break
        tuner.reference |= dict(zip(map(int, chunk), values, strict=True))
        kept.append(line)
    write_text(path, "\n".join(kept) + "\n")
    for k in range(len(kept) - 1, len(chunks)):
        values = tuner.refer(chunks[k])
        tuner.reference |= dict(zip(map(int, chunks[k]), values, strict=True))
        plain = [(own, None if math.isnan(pair) else pair) for own, pair in values]
        append(path, plain)
        say({"reference": k + 1, "of": len(chunks)})


class _Guard:
    """Whether a loss is one to go on from. Raises TinylaneError when training has diverged.

    A loss that is no number ends the run at once; so do `PATIENCE` steps in a row, or the last,
    worse than twice what guessing evenly among all tokens would give (and than how it began). A
    state is not worth saving while a token costs a nat more than twice the best average so far.
    """

    def __init__(self, tuner: Tuner, state: Path, kept: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        self.tuner, self.state, self.lost = tuner, state, 0
        self.worst, self.average, self.best = kept  # zeros: until the first loss

    @property
    def kept(self) -> list[float]:
        """What a run that goes on needs to know."""
        return [self.worst, self.average, self.best]

    def __call__(self, found: Outcome, final: bool = False) -> bool:
        """Whether the weights that gave `found` are worth saving."""
        finite = (
            math.isfinite(found.loss) and math.isfinite(found.nll or 0) and _finite(found.grads)
        )
        nll = found.nll
        if finite and nll is not None and not self.worst:
            self.worst = 2 * max(math.log(self.tuner.config.vocab), nll)
            self.average = self.best = nll
        absurd = nll is not None and nll > self.worst
        self.lost = self.lost + 1 if absurd else 0
        if not finite or self.lost >= PATIENCE or (final and absurd):
            kept = "no state was saved yet"
            if self.state.exists():
                kept = f"{self.state}, the last that was good, is kept"
            raise TinylaneError(
                f"training diverged: the loss is {nll if finite else found.loss:.3g} at step "
                f"{self.tuner.step}; {kept}. Lower the learning rates (with another --out)"
            )
        if nll is None:
            return True
        self.average += 0.1 * (nll - self.average)
        self.best = min(self.best, self.average)
        return nll <= 1 + 2 * self.best


def _finite(grads: Groups | None) -> bool:
    if grads is None:
        return True
    fine = [mx.isfinite(value).all() for group in grads.values() for value in group.values()]
    return bool(mx.stack(fine).all().item())
