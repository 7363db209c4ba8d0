"""`tinylane train sft` and `tinylane train kto`: tune a checkpoint on lane transcripts."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from tinylane.commands import common
from tinylane.commands.lanes import parse_omega
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneRoPE


def run(args: Any) -> int:
    """Run the command; the exit code."""
    common.silence_panics()
    recipe, choice = asked(args)
    from tinylane.train import setup
    from tinylane.train.data import read_transcripts
    from tinylane.train.loop import Pace, tune

    pace = Pace(args.every, args.save_every, args.valid_every, args.stop_at)

    omega, template = parse_omega(args.omega), common.template(args)
    source = args.model if args.model is not None else common.embedded()
    begin = setup.start_model(
        source,
        args.adapter_path,
        dtype=args.dtype,
        revision=args.revision,
        scratch=args.from_scratch,
        seed=recipe.seed,
    )
    model = begin.model
    if args.visibility is None and model.visibility is not None:
        recipe = dataclasses.replace(recipe, visibility=model.visibility)
        if args.lag is None:
            recipe = dataclasses.replace(recipe, lag=model.lag)
    if args.prompt_lane is None and isinstance(model.lane_rope, LaneRoPE):
        recipe = dataclasses.replace(recipe, prompt_lane=model.lane_rope.prompt_lane)
    _check_out(Path(args.out), begin.folder, args.adapter_path, choice.full or args.from_scratch)
    session = setup.prepare(
        begin,
        args.data,
        recipe,
        choice,
        omega=omega,
        slot=args.slot,
        omega_scale=args.omega_scale,
        lanes=args.lanes,
        template=template,
        checkpoint=args.grad_checkpoint,
    )
    data, out, valid = session.data, Path(args.out), []
    if args.valid is not None:
        upto = range(1, max(data.counts) + 1)
        valid = read_transcripts(args.valid, model, lanes=upto, template=template).transcripts
    counts = ", ".join(map(str, data.counts))
    common.note(f"{len(data.transcripts):,} transcripts of {counts} lanes", args.quiet)
    if data.left_out:
        common.note(f"{data.left_out:,} labelled false are left out; kto uses them", args.quiet)
    if recipe.objective == "kto":
        good = sum(bool(t.label) for t in data.transcripts)
        bad = len(data.transcripts) - good
        common.note(f"{good:,} good, {bad:,} bad", args.quiet)
        if not good or not bad:
            common.note("kto learns from good ones beside bad ones; one kind is missing")
    common.note(setup.describe(session.tuner.trainable), args.quiet)
    with Progress(recipe.steps, args.quiet) as say:
        try:
            tune(session, out, pace, valid=valid, say=say)
        except KeyboardInterrupt:
            kept = out / "state.safetensors"
            common.say(
                f"tinylane: interrupted; {kept} {'is kept' if kept.exists() else 'was not reached'}"
                ": the same command goes on from there",
                file=sys.stderr,
            )
            return 130
    step = session.tuner.step
    if step < recipe.steps:
        print(f"stopped at step {step} of {recipe.steps}; the same command goes on")
    how = f"--model {out}" if choice.full or args.from_scratch else f"--adapter-path {out}"
    common.say(f"tuned: {out} (tinylane generate {how})")
    return 0


def asked(args: Any) -> tuple[Any, Any]:
    """The recipe and what to tune, from the flags. Raises TinylaneError for those out of range."""
    try:
        from tinylane.train.parameters import TARGETS, Choice
    except ImportError as error:
        if (error.name or "").split(".")[0] != "mlx":
            raise
        raise TinylaneError(
            'training needs MLX, which is not installed: pip install "tinylane[mlx]"'
        ) from None
    from tinylane.train.recipe import TuneRecipe

    if args.slot is not None and args.omega not in (None, "group_think", "ntk"):
        raise TinylaneError("--slot needs --omega group_think or --omega ntk")
    if args.omega_scale is not None and args.omega not in (None, "ntk"):
        raise TinylaneError("--omega-scale needs --omega ntk")
    if args.lora_alpha is not None and not args.lora_rank:
        raise TinylaneError("--lora-alpha needs --lora-rank")
    scale = args.lora_scale
    if args.lora_alpha is not None:
        scale = args.lora_alpha / args.lora_rank
    choice = Choice(
        omega=args.tune_omega,
        omega_per_layer=args.omega_per_layer,
        biases=args.tune_biases,
        lora_rank=args.lora_rank,
        lora_scale=scale,
        lora_targets=tuple(args.lora_targets or TARGETS),
        full=args.full,
    )
    visibility: Any = args.visibility or "joint"
    if visibility.startswith(("@", "[")):
        mask = common.parse_mask(visibility, None, args.lag or 0)
        visibility = mask.visibility.astype(int).tolist()
    names = {f.name for f in dataclasses.fields(TuneRecipe)}
    given = {k: v for k, v in vars(args).items() if k in names and v is not None}
    given |= {"visibility": visibility, "lag": args.lag or 0, "objective": args.task}
    given["prompt_lane"] = 0 if args.prompt_lane == "0" else "own"
    return TuneRecipe(**given), choice


def _check_out(out: Path, model: Path, adapter: str | None, full: bool) -> None:
    """Refuse to write over what the run starts from: it could not go on after an interruption."""
    for there, what in ((model if full else None, "--model"), (adapter, "--adapter-path")):
        if there is not None and os.path.realpath(there) == os.path.realpath(out):
            raise TinylaneError(f"--out {out} is {what} itself; choose another folder")


class Progress:
    """A line for every entry of the log; on a terminal a bar with the time left below them."""

    def __init__(self, steps: int, quiet: bool) -> None:
        self.steps, self.quiet = steps, quiet
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                console=Console(stderr=True, highlight=False),
            )
            self._task = self._bar.add_task("training", total=self.steps, left="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, entry: dict[str, Any]) -> None:
        if self.quiet:
            return
        if "reference" in entry:
            if self._bar is not None:
                left = f"reference {entry['reference']} of {entry['of']}"
                self._bar.update(self._task, left=left)
            return
        if "at" in entry:
            if self._bar is not None:
                left = f"{span(entry['seconds_left'])} left"
                self._bar.update(self._task, completed=entry["at"], left=left)
            return
        text = describe(entry, self.steps)
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(text, markup=False)


def describe(entry: dict[str, Any], steps: int) -> str:
    """A line of the log, for people."""
    parts = [f"step {entry['step']} of {steps}", f"loss {entry['loss']:.4f}"]
    for key, name in (("good", "good"), ("bad", "bad"), ("kl", "KL")):
        if entry.get(key) is not None:
            parts.append(f"{name} {entry[key]:+.2f}")
    if "valid" in entry:
        parts.append(f"valid {entry['valid']:.4f}")
    parts.append(f"{entry['tokens_per_second']:,.0f} tokens/s")
    parts.append(common.mebibytes(entry["peak_memory"]))
    parts.append(f"{span(entry['seconds_left'])} left")
    return ", ".join(parts)


def span(seconds: float) -> str:
    """A time for people: 42 s, 7 min, 2 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
