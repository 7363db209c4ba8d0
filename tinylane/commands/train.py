"""`tinylane train`: the model inside, from scratch."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from tinylane.commands import common
from tinylane.core.errors import TinylaneError


def recipe() -> Any:
    """The trainer's Recipe class. Raises TinylaneError if MLX, which trains, is not installed."""
    try:
        from tinylane.train.from_scratch import Recipe
    except ImportError as error:
        if (error.name or "").split(".")[0] != "mlx":
            raise
        raise TinylaneError(
            'training needs MLX, which is not installed: pip install "tinylane[mlx]"'
        ) from None
    return Recipe


def run(args: Any) -> int:
    """Run the command; the exit code."""
    settings = {}
    for field in dataclasses.fields(recipe()):
        value = getattr(args, field.name)
        settings[field.name] = tuple(value) if isinstance(value, list) else value
    for flag in ("stop_at", "every", "check_every", "save_every"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise TinylaneError(f"--{flag.replace('_', '-')} is {value}; expected 1 or more")
    from tinylane.train.from_scratch import train

    chosen = recipe()(**settings)
    out = Path(args.out)
    with _Progress(chosen.steps, args.quiet) as say:
        try:
            trainer = train(
                chosen,
                out,
                every=args.every,
                check_every=args.check_every,
                save_every=args.save_every,
                stop_at=args.stop_at,
                say=say,
            )
        except KeyboardInterrupt:
            kept = out / "state.safetensors"
            common.say(
                f"tinylane: interrupted; {kept} {'is kept' if kept.exists() else 'was not reached'}"
                ": the same command goes on from there",
                file=sys.stderr,
            )
            return 130
    if trainer.step >= chosen.steps:
        common.say(f"trained: {out} (tinylane generate --model {out})")
    else:
        print(f"stopped at step {trainer.step} of {chosen.steps}; the same command goes on")
    return 0


class _Progress:
    """A line for every entry of the log; on a terminal a bar below them."""

    def __init__(self, steps: int, quiet: bool) -> None:
        self.steps, self.quiet = steps, quiet
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True, highlight=False))
            self._task = self._bar.add_task("training", total=self.steps)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, entry: dict) -> None:
        if self.quiet:
            return
        text = describe(entry, self.steps)
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(text, markup=False)
            self._bar.update(self._task, completed=entry["step"])


def describe(entry: dict, steps: int) -> str:
    """A line of the log, for people."""
    parts = [f"step {entry['step']} of {steps}, {entry['seconds']:.0f} s"]
    parts.append("loss " + ", ".join(f"{n} lanes {x:.4f}" for n, x in entry["loss"].items()))
    if "exact" in entry:
        parts.append("exact " + ", ".join(f"{n} lanes {x:.1%}" for n, x in entry["exact"].items()))
    return "; ".join(parts)
