"""Tune a checkpoint on lane transcripts in a run directory, supervised (sft) or by KTO.

A state is saved only after its weights have given a sane loss, so a learning rate that diverges
never overwrites the last good state. A run that was killed goes on from its last state, and has the
losses that it would have had: nothing but the state decides them.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from tinylane.core.errors import TinylaneError
from tinylane.files.io import inside
from tinylane.files.memory import memory
from tinylane.files.run_dir import Log, append_line, claim, locked
from tinylane.files.writing import write_text
from tinylane.train.data import Transcript
from tinylane.train.parameters import Groups
from tinylane.train.setup import Session
from tinylane.train.state import STATE
from tinylane.train.step import Outcome, Tuner

REFERENCE = "reference.jsonl"
PATIENCE = 10  # steps in a row with an absurd loss before a run is given up
# A line of the log, or {"at": step, "seconds_left": s} after every step, or {"reference": k,
# "of": n} while KTO's reference is computed.
Say = Callable[[dict[str, Any]], None]


def tune(
    session: Session,
    out: str | Path,
    *,
    every: int = 10,
    save_every: int = 100,
    valid_every: int = 100,
    stop_at: int | None = None,
    valid: Sequence[Transcript] = (),
    say: Say = lambda entry: None,
) -> None:
    """Train to the recipe's end in folder `out`, from its last state on. Each saved state is also
    exported, as an adapter or a checkpoint.

    every, save_every: steps between lines of the log, and between saved states. valid: transcripts
    whose loss is logged every valid_every steps (only where the log has a line) and at the end.
    stop_at: end the run at this step; its schedule stays the recipe's. Raises TinylaneError if
    `out` holds a run with other settings, if another process works there, or if the loss diverges.
    """
    out, tuner = Path(out), session.tuner
    state, steps = inside(out, STATE), tuner.recipe.steps
    end = min(stop_at or steps, steps)
    with locked(out):
        claim(out, session.settings, session.notes)
        if tuner.kto:
            _fill_reference(tuner, out / REFERENCE, session.settings, say)
        notes = tuner.load(state) if state.exists() else {}
        window = json.loads(notes.get("window", "[]"))  # losses since the last line of the log
        guard = _Guard(tuner, state, json.loads(notes.get("guard", "[0, 0, 0]")))
        log = Log(out, tuner.step)
        first_step, before, tokens = tuner.step, log.seconds, 0
        began = time.monotonic()

        def save() -> None:
            tuner.save(state, {"window": json.dumps(window), "guard": json.dumps(guard.kept)})
            session.export(out)

        due = False
        while tuner.step < end:
            outcome = tuner.outcome(tuner.step)
            due = due or (tuner.step % save_every == 0 and tuner.step > first_step)
            if guard(outcome) and due:
                save()
                due = False
            norm = tuner.apply(outcome.grads or {})
            window.append(outcome.loss)
            tokens += outcome.tokens
            spent = time.monotonic() - began
            left = round(spent / (tuner.step - first_step) * (steps - tuner.step), 1)
            say({"at": tuner.step, "seconds_left": left})
            last = tuner.step == steps
            if tuner.step % every == 0 or last:
                kto = {name: getattr(outcome, name) for name in ("good", "bad", "kl")}
                entry = {
                    "step": tuner.step,
                    "loss": sum(window) / len(window),
                    **{name: value for name, value in kto.items() if value is not None},
                    "rate": tuner.recipe.factor(tuner.step - 1),
                    "gradient": norm,
                    "seconds": round(before + spent, 2),
                    "tokens_per_second": round(tokens / max(spent, 1e-9), 1),
                    "seconds_left": left,
                    "peak_memory": max(memory() or 0, mx.get_peak_memory()),
                }
                window.clear()
                if valid and (tuner.step % valid_every == 0 or last):
                    entry["valid"] = tuner.nll(valid)
                log.add(entry)
                say(entry)
        if tuner.step == first_step and state.exists():
            session.export(out)  # a kill may have come between state and export
        else:  # nothing has computed a loss of the last weights yet
            guard(tuner.outcome(tuner.step, gradients=False), final=True)
            save()


def _fill_reference(tuner: Tuner, path: Path, settings: Mapping[str, Any], say: Say) -> None:
    """Fill tuner.reference, from the file as far as it goes.

    The file has a line for every microbatch. Its first line has a digest of the settings.
    """
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()
    head = json.dumps({"format": "tinylane reference 1", "digest": digest})
    lines = path.read_text().splitlines() if path.exists() else []
    chunks = tuner.order.epoch(0)
    if lines and lines[0] != head:
        raise TinylaneError(f"{path} is of other data or another model; remove it")
    kept = [head]
    for line, chunk in zip(lines[1:], chunks, strict=False):
        try:
            values = [
                (float(matched), math.nan if pair is None else float(pair))
                for matched, pair in json.loads(line)
            ]
        except (ValueError, TypeError):
            break  # a kill cut it
        if len(values) != len(chunk):
            break
        tuner.reference |= dict(zip(map(int, chunk), values, strict=True))
        kept.append(line)
    write_text(path, "\n".join(kept) + "\n")
    for k in range(len(kept) - 1, len(chunks)):
        values = tuner.refer(chunks[k])
        tuner.reference |= dict(zip(map(int, chunks[k]), values, strict=True))
        pairs = [(matched, None if math.isnan(pair) else pair) for matched, pair in values]
        append_line(path, json.dumps(pairs))
        say({"reference": k + 1, "of": len(chunks)})


class _Guard:
    """Decides whether a loss is good enough to go on. Raises TinylaneError when training diverged.

    A loss that is not finite ends the run at once. So do `PATIENCE` absurd losses in a row, or one
    at the last step: worse than twice the loss of a uniform guess over the vocabulary, and than
    twice the first loss. A state is not saved while a token costs a nat more than twice the best
    average so far.
    """

    def __init__(self, tuner: Tuner, state: Path, kept: Sequence[float]) -> None:
        self.tuner, self.state, self.lost = tuner, state, 0
        self.worst, self.average, self.best = kept  # zeros: until the first loss

    @property
    def kept(self) -> list[float]:
        """What a run that goes on needs to know."""
        return [self.worst, self.average, self.best]

    def __call__(self, outcome: Outcome, final: bool = False) -> bool:
        """Whether the weights that gave this outcome should be saved."""
        nll = outcome.nll
        finite = math.isfinite(outcome.loss) and math.isfinite(nll or 0) and _finite(outcome.grads)
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
                f"training diverged: the loss is {nll if finite else outcome.loss:.3g} at step "
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
