"""`tinylane train`: the model inside from scratch, or a checkpoint tuned on lane transcripts."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinylane.commands import common, shared_flags
from tinylane.commands.progress import Progress, Pulse, duration, reading
from tinylane.commands.train_flags import extra_flags, numbers, tune_flags
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.train.recipe import Recipe, TuneRecipe

TASKS = {
    "shell-game": "the model inside, from scratch",
    "frontier": "a model that explores graphs, from scratch",
    "sft": "tune on transcripts, by their likelihood",
    "kto": "tune on transcripts labelled good or bad (arXiv:2402.01306)",
}


def flags(p: Any) -> None:
    """Add the tasks, each with its flags."""
    p.description += f" {common.RESUME}"
    tasks = p.add_subparsers(metavar="task", required=True, dest="task", parser_class=type(p))
    for name, says in TASKS.items():
        description = f"{says[0].upper()}{says[1:]}. {common.RESUME}"
        task = tasks.add_parser(name, help=says, description=description, allow_abbrev=False)
        if name in GAMES:
            _game_flags(task, name)
        else:
            tune_flags(task, name)


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    if find_spec("mlx") is None:
        raise TinylaneError(
            'training needs MLX, which is not installed: pip install "tinylane[mlx]"'
        )
    return _from_scratch(args) if args.task in GAMES else _tune(args)


def _kept(out: Path) -> str:
    """What Ctrl-C leaves of a run."""
    state = out / "state.safetensors"
    return f"{state} {'is kept' if state.exists() else 'was not reached'}"


def _pace(args: Any, *names: str) -> dict[str, Any]:
    """The values of flags that count steps. Raises TinylaneError for one below 1."""
    shared_flags.check_numbers(args, 1, *names)
    return {name: getattr(args, name) for name in names}


# From scratch: the model inside, and other games.

GAMES: dict[str, tuple[set[str], dict[str, Any]]] = {
    # name -> the fields of Recipe that it does not use, and its own defaults of others
    "shell-game": ({"nodes", "edges", "depth", "schedule"}, {}),
    "frontier": (
        {"cups", "swaps", "stay"},
        {"lanes": (1, 2, 4), "shares": (0.25, 0.25, 0.5), "base": 100.0, "mlp_width": 512},
    ),
}


def _recipe_fields(game: str) -> list[tuple[str, Any]]:
    """The fields of Recipe that a game has flags for, and their defaults."""
    unused, own = GAMES[game]
    skipped = {*unused, "game_name", "extra", "bridge_width"}
    listed = [f for f in dataclasses.fields(Recipe) if f.name not in skipped]
    return [(f.name, own.get(f.name, f.default)) for f in listed]


def _game_flags(p: Any, game: str) -> None:
    p.add_argument("--out", required=True, metavar="DIR", help="checkpoint, state and log")
    numbers(
        p,
        ("--stop-at", int, "N", "stop early, at this step"),
        ("--every", int, "N", "steps a progress line; 100", 100),
        ("--check-every", int, "N", "steps a check; 500", 500),
        ("--save-every", int, "N", "steps a state; 500", 500),
    )
    p.add_argument("--quiet", action="store_true", help="no progress")
    g = p.add_argument_group("recipe")
    for name, default in _recipe_fields(game):
        options: dict[str, Any] = {"type": type(default), "metavar": "X"}
        shown = str(default)
        if isinstance(default, bool):
            options, shown = {"action": argparse.BooleanOptionalAction}, "yes" if default else "no"
        elif isinstance(default, tuple):
            options = {"nargs": "+", "type": type(default[0]), "metavar": "N"}
            shown = " ".join(map(str, default))
        flag = f"--{name.replace('_', '-')}"
        g.add_argument(flag, default=default, help=f"default: {shown}", **options)
    extra_flags(g)


def _from_scratch(args: Any) -> int:
    settings: dict[str, Any] = {"game_name": args.task}
    for name, _ in _recipe_fields(args.task):
        value = getattr(args, name)
        settings[name] = tuple(value) if isinstance(value, list) else value
    settings |= {"extra": tuple(args.extra), "bridge_width": args.bridge_width}
    pace = _pace(args, "stop_at", "every", "check_every", "save_every")
    from tinylane.train.extras import check_kinds
    from tinylane.train.from_scratch import train

    check_kinds(settings["extra"], settings["bridge_width"])
    chosen, out = Recipe(**settings), Path(args.out)
    if len(chosen.shares) != len(chosen.lanes) or abs(sum(chosen.shares) - 1) > 1e-8:
        raise TinylaneError(
            f"--shares is {chosen.shares}, --lanes {chosen.lanes}; "
            "expected a share for each number of lanes, 1 in all"
        )
    with Progress(chosen.steps, quiet=args.quiet, name="training") as progress:

        def say(entry: dict[str, Any]) -> None:
            progress.line(describe(entry, chosen.steps))
            progress.at(entry["step"])

        with common.interrupted(lambda: _kept(out)):
            trainer = train(chosen, out, **pace, say=say)
    if trainer.step >= chosen.steps:
        common.say(f"trained: {out} (tinylane generate --model {out})")
    else:
        print(f"stopped at step {trainer.step} of {chosen.steps}; the same command goes on")
    return 0


def describe(entry: dict[str, Any], steps: int) -> str:
    """A line of the log of a training from scratch, for people."""
    parts = [f"step {entry['step']} of {steps}, {entry['seconds']:.0f} s"]
    parts.append("loss " + ", ".join(f"{n} lanes {x:.4f}" for n, x in entry["loss"].items()))
    if "exact" in entry:
        parts.append("exact " + ", ".join(f"{n} lanes {x:.1%}" for n, x in entry["exact"].items()))
    return "; ".join(parts)


# Tuning a checkpoint.


def _tune(args: Any) -> int:
    common.silence_panics()
    recipe, choice = tuning(args)
    from tinylane.train import setup
    from tinylane.train.data import MAX_LINE, read_transcripts
    from tinylane.train.loop import tune

    pace = _pace(args, "every", "save_every", "valid_every", "stop_at")
    omega, template = shared_flags.parse_omega(args.omega), shared_flags.template(args)
    with common.told_if_slow("loading the model", args.quiet, anywhere=True):
        begin = setup.start_model(
            common.source(args),
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
    with reading(args.data, MAX_LINE, args.quiet, "reading transcripts") as told:
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
            told=told,
        )
    data, out, valid = session.data, Path(args.out), []
    if args.valid is not None:
        upto = range(1, max(data.counts) + 1)
        with reading(args.valid, MAX_LINE, args.quiet, "reading --valid") as told:
            valid = read_transcripts(
                args.valid, model, lanes=upto, template=template, told=told
            ).transcripts
    counts = ", ".join(map(str, data.counts))
    common.note(f"{len(data.transcripts):,} transcripts of {counts} lanes", args.quiet)
    if data.left_out:
        common.note(f"{data.left_out:,} labelled false are left out; kto uses them", args.quiet)
    if recipe.objective == "kto":
        good = sum(bool(t.label) for t in data.transcripts)
        bad = len(data.transcripts) - good
        common.note(f"{good:,} good, {bad:,} bad", args.quiet)
        if not good or not bad:
            common.note("kto needs good and bad transcripts; one kind is missing")
    common.note(setup.describe(session.tuner.trainable), args.quiet)
    if setup.alike(session):
        common.note(
            "nothing tells lanes apart: they read each other without an Omega, and their prompts "
            "end in one token; greedy lanes will all write the same (--omega ntk, or --tune-omega)"
        )
    with (
        ExitStack() as first,
        Progress(recipe.steps, quiet=args.quiet, name="training") as progress,
    ):
        text = f"the first of {recipe.steps:,} steps"
        first.enter_context(common.told_if_slow(text, args.quiet, anywhere=True))
        pulse = Pulse(args.quiet or sys.stderr.isatty())  # until the first line of the log

        def say(entry: dict[str, Any]) -> None:
            first.close()
            if "reference" in entry:
                pulse("reference", entry["reference"], entry["of"])
                progress.at(name=f"reference {entry['reference']} of {entry['of']}")
            elif "at" in entry:
                progress.at(entry["at"], "training")
                pulse("training", entry["at"], recipe.steps)
            else:
                pulse.stop()
                progress.line(describe_tuning(entry, recipe.steps))

        with common.interrupted(lambda: _kept(out)):
            tune(session, out, **pace, valid=valid, say=say)
    step = session.tuner.step
    if step < recipe.steps:
        print(f"stopped at step {step} of {recipe.steps}; the same command goes on")
    how = f"--model {out}" if choice.full or args.from_scratch else f"--adapter-path {out}"
    common.say(f"tuned: {out} (tinylane generate {how})")
    return 0


def tuning(args: Any) -> tuple[Any, Any]:
    """The recipe and what to tune, from the flags. Raises TinylaneError for those out of range."""
    from tinylane.train.parameters import TARGETS, Choice

    shared_flags.check_omega_numbers(args, "ntk" if args.omega is None else args.omega)
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
        extra=tuple(args.extra),
        extra_lanes=args.extra_lanes,
        bridge_width=args.bridge_width,
    )
    visibility: Any = shared_flags.parse_visibility(args.visibility) or "joint"
    if isinstance(visibility, LaneMask):
        visibility = visibility.visibility.astype(int).tolist()
    names = {f.name for f in dataclasses.fields(TuneRecipe)}
    given = {k: v for k, v in vars(args).items() if k in names and v is not None}
    given |= {"visibility": visibility, "lag": args.lag or 0, "objective": args.task}
    given["prompt_lane"] = 0 if args.prompt_lane == "0" else "own"
    return TuneRecipe(**given), choice


def _check_out(out: Path, model: Path, adapter: str | None, full: bool) -> None:
    """Refuse to write over what the run starts from: it could not go on after an interruption."""
    for source, what in ((model if full else None, "--model"), (adapter, "--adapter-path")):
        if source is not None and os.path.realpath(source) == os.path.realpath(out):
            raise TinylaneError(f"--out {out} is {what} itself; choose another folder")


def describe_tuning(entry: dict[str, Any], steps: int) -> str:
    """A line of the log of `train sft` and `train kto`, for people."""
    parts = [f"step {entry['step']} of {steps}", f"loss {entry['loss']:.4f}"]
    for key, name in (("good", "good"), ("bad", "bad"), ("kl", "KL")):
        if entry.get(key) is not None:
            parts.append(f"{name} {entry[key]:+.2f}")
    if "valid" in entry:
        parts.append(f"valid {entry['valid']:.4f}")
    parts.append(f"{entry['tokens_per_second']:,.0f} tokens/s")
    parts.append(common.mebibytes(entry["peak_memory"]))
    parts.append(f"{duration(entry['seconds_left'])} left")
    return ", ".join(parts)
