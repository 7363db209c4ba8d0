"""`tinylane eval`: how often the lanes are right, joint and independent."""

from __future__ import annotations

import sys
from typing import Any

import tinylane
from tinylane.commands import common
from tinylane.errors import TinylaneError
from tinylane.lanes import LaneMask
from tinylane.tasks.evaluate import evaluate, game_of, table


def run(args: Any) -> int:
    """Run the command; the exit code."""
    if args.count < 1 or args.seed < 0:
        raise TinylaneError(f"--count {args.count}, --seed {args.seed}; expected at least 1 and 0")
    for name in args.visibility:
        LaneMask.named(name, 2)
    model = common.load(args)
    game = game_of(model)
    if game is None:
        raise TinylaneError(
            f"{common.name_of(args)} was not trained on the shell game; leave --model out, or "
            "train one: tinylane train shell-game"
        )
    scores = []
    lanes = args.lanes or list(game.lanes)
    for n in lanes:
        game.lane_prompts(n)  # refuses other numbers before any work is done
    for n in lanes:
        for visibility in args.visibility if n > 1 else ["independent"]:
            progress = _Progress(f"{n} lanes, {visibility}", args.count, args.quiet)
            scores.append(
                evaluate(
                    model,
                    game,
                    n,
                    visibility,
                    count=args.count,
                    seed=args.seed,
                    on_problem=progress,
                )
            )
            progress.clear()
    if args.json:
        common.print_json(
            {
                "tinylane": tinylane.__version__,
                "task": args.task,
                "model": args.model,
                "identity": model.identity,
                "backend": model.backend,
                "dtype": model.dtype,
                "seed": args.seed,
                "scores": [score.as_dict() for score in scores],
            }
        )
        return 0
    print(
        f"shell game, {game.cups} cups, {game.swaps} swaps; {common.name_of(args)} "
        f"({model.backend}, {model.dtype}); seed {args.seed}"
    )
    print(table(scores))
    return 0


class _Progress:
    """On a terminal a counter that is written over; else a line for every tenth."""

    def __init__(self, what: str, count: int, quiet: bool) -> None:
        self.what, self.count = what, count
        self.live = sys.stderr.isatty()
        self.every = 0 if quiet else max(count // (100 if self.live else 10), 1)

    def __call__(self, done: int) -> None:
        if self.every and (done % self.every == 0 or done == self.count):
            end = "" if self.live else "\n"
            start = "\r" if self.live else ""
            text = f"{start}{self.what}: {done} of {self.count}{end}"
            print(text, end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.live and self.every:
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)
