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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from tinylane.bench.machine import memory
from tinylane.errors import TinylaneError
from tinylane.files import write_text
from tinylane.train.rundir import Log, append, claim, locked
from tinylane.train.tuner import Groups, Outcome, Tuner

STATE, REFERENCE = "state.safetensors", "reference.jsonl"
PATIENCE = 10  # steps in a row whose loss is out of bounds before a run is given up
Say = Callable[[dict[str, Any]], None]


def run(
    tuner: Tuner,
    out: str | Path,
    recipe: Mapping[str, Any],
    export: Callable[[Tuner, Path], None],
    *,
    notes: Mapping[str, Any] | None = None,
    every: int = 10,
    save_every: int = 100,
    stop_at: int | None = None,
    say: Say = lambda entry: None,
) -> Tuner:
    """Train to the recipe's end in folder `out`, from its last state on; export what is saved.

    recipe: all that decides the numbers (`rundir.claim`). export writes adapter or checkpoint and
    is called with every saved state. every, save_every: steps between lines of the log, and between
    states. stop_at ends early (the schedule stays the recipe's). Raises TinylaneError if `out`
    holds a run of another recipe, another process works there, or the loss diverges.
    """
    out = Path(out)
    with locked(out):
        claim(out, recipe, notes or {})
        if tuner.kto:
            _refer(tuner, out / REFERENCE, recipe, say)
        _train(tuner, out, export, every, save_every, stop_at, say)
    return tuner


def _train(
    tuner: Tuner,
    out: Path,
    export: Callable[[Tuner, Path], None],
    every: int,
    save_every: int,
    stop_at: int | None,
    say: Say,
) -> None:
    state, steps = out / STATE, tuner.recipe.steps
    end = min(stop_at or steps, steps)
    window: list[float] = []  # losses since the last line of the log
    guard = _Guard(tuner, state)
    if state.exists():
        notes = tuner.load(state)
        window, guard.worst = json.loads(notes["window"]), float(notes["worst"])
    log = Log(out, tuner.step)
    started, before, tokens = tuner.step, time.monotonic() - log.seconds, 0
    began = time.monotonic()

    def save() -> None:
        tuner.save(state, {"window": json.dumps(window), "worst": str(guard.worst)})
        export(tuner, out)

    while tuner.step < end:
        found = tuner.outcome(tuner.step)
        sane = guard(found)
        if sane and tuner.step % save_every == 0 and tuner.step > started:
            save()
        norm = tuner.apply(found.grads or {})
        window.append(found.loss)
        tokens += found.tokens
        if tuner.step % every == 0 or tuner.step == steps:
            mean = sum(window) / len(window)
            window.clear()
            named = {name: getattr(found, name) for name in ("good", "bad", "kl")}
            spent = time.monotonic() - began
            entry = {
                "step": tuner.step,
                "loss": mean,
                **{name: value for name, value in named.items() if value is not None},
                "rate": tuner.recipe.factor(tuner.step - 1),
                "gradient": norm,
                "seconds": round(time.monotonic() - before, 2),
                "tokens_per_second": round(tokens / max(spent, 1e-9), 1),
                "seconds_left": round(spent / (tuner.step - started) * (steps - tuner.step), 1),
                "peak_memory": max(memory() or 0, mx.get_peak_memory()),
            }
            log.add(entry)
            say(entry)
    if tuner.step == started and state.exists():
        export(tuner, out)  # a kill may have come between the two
    # the last weights have not given a loss yet: the next step's says whether they are good
    elif guard(tuner.outcome(tuner.step, gradients=False), final=True):
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
    worse than twice what guessing evenly among all tokens would give (and than how it began).
    """

    def __init__(self, tuner: Tuner, state: Path) -> None:
        self.tuner, self.state, self.out_of_bounds = tuner, state, 0
        self.worst = 0.0  # until the first loss

    def __call__(self, found: Outcome, final: bool = False) -> bool:
        numbers = [found.loss, *([] if found.nll is None else [found.nll])]
        finite = all(map(math.isfinite, numbers)) and _finite(found.grads)
        if finite and not self.worst and found.nll is not None:
            self.worst = 2 * max(math.log(self.tuner.config.vocab), found.nll)
        sane = finite and (found.nll is None or not self.worst or found.nll <= self.worst)
        self.out_of_bounds = 0 if sane else self.out_of_bounds + 1
        if not finite or self.out_of_bounds >= PATIENCE or (final and not sane):
            kept = f"{self.state} is kept" if self.state.exists() else "no state was saved yet"
            shown = found.nll if finite else found.loss
            raise TinylaneError(
                f"training diverged: the loss is {shown:.3g} at step {self.tuner.step}; "
                f"{kept}, the last that was good. Lower the learning rates (in another --out)"
            )
        return sane


def _finite(grads: Groups | None) -> bool:
    if grads is None:
        return True
    fine = [mx.isfinite(value).all() for group in grads.values() for value in group.values()]
    return bool(mx.stack(fine).all().item())
