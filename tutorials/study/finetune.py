"""Table 2: what must be tuned before lanes cooperate, and whether by likelihood or by KTO.

The base (`tutorials.study.base`) does its share of a list and stops; it has never read another
lane. It is tuned with `tinylane train sft` and `tinylane train kto` on the transcripts of four
lanes that share a list: only Omega and biases, or low-rank updates as well, or all weights.

sft learns from right transcripts. kto gets as many bad ones in addition. One in eight is written by
the untuned base, its lanes decoded jointly. The others are right ones with a mistake in one lane:
one wrong arrangement, and all that this lane makes of it. both is kto after sft, as it is usually
done: its transcripts, right or wrong, are written by the model that sft has tuned.

    B problems   n lanes   L tokens of a lane
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tinylane
from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.sampling import Sampler
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.files.writing import write_json, write_text
from tinylane.methods.modes import omega_start
from tinylane.train.parameters import ALL_TARGETS
from tutorials.study import record
from tutorials.study.base import BaseRecipe, alone, train_base
from tutorials.study.score import score

TRANSCRIPTS = 1 << 42  # the stream of their problems, apart from those of training and scoring


@dataclass(frozen=True)
class TuneSettings:
    """What all cells of table 2 share. transcripts: good ones; kto gets as many bad ones, too."""

    lanes: int = 4
    transcripts: int = 4000
    steps: int = 600
    batch_size: int = 16
    warmup: int = 20
    omega: str = "ntk"
    slot: float = 32.0
    lora_rank: int = 8
    lora_lr: float = 3e-3
    full_lr: float = 1e-3
    omega_lr: float = 1e-2
    bias_lr: float = 1e-2
    beta: float = 0.1

    def start(self, theta: np.ndarray) -> LaneRoPE:
        """Omega before the tuning."""
        return omega_start(self.omega, theta, self.slot, self.lanes)

    def flags(self, method: str) -> list[str]:
        """The flags of `tinylane train sft` or `kto` for one of METHODS."""
        objective, _, what = method.partition("-")
        rate = AFTER if objective == "both" else 1.0
        flags = [
            *("--lanes", str(self.lanes), "--visibility", "joint"),
            *("--steps", str(self.steps), "--warmup", str(self.warmup)),
            *("--batch-size", str(self.batch_size)),
            *("--omega-lr", str(rate * self.omega_lr), "--bias-lr", str(rate * self.bias_lr)),
        ]
        if objective != "both":  # kto after sft goes on from the Omega of sft
            flags += ["--omega", self.omega]
            flags += [] if self.omega == "none" else ["--slot", str(self.slot)]
        if objective != "sft":
            flags += ["--beta", str(self.beta)]
        if what == "lora":
            flags += ["--lora-rank", str(self.lora_rank), "--lr", str(rate * self.lora_lr)]
            flags += ["--lora-targets", *ALL_TARGETS]
        elif what == "full":
            flags += ["--full", "--lr", str(self.full_lr)]
        return flags


WHAT = ("omega_biases", "lora", "full")
METHODS = (*(f"{o}-{what}" for o in ("sft", "kto") for what in WHAT), "both-lora")
AFTER = 0.1  # factor of the learning rates, for kto after sft


def chosen(names: Sequence[str] | None) -> list[str]:
    """The methods of these names, in the order of METHODS; None: all. Raises TinylaneError."""
    for name in names or ():
        if name not in METHODS:
            raise TinylaneError(f"cell {show(name)}; expected some of {', '.join(METHODS)}")
    return [name for name in METHODS if names is None or name in names]


def good(game: ShellGame, moves: np.ndarray, n: int) -> list[list[str]]:
    """What n lanes should write for each of B problems, as text."""
    return [
        [" ".join(game.arrangements[a] for a in lane) for lane in problem]
        for problem in game.write(moves, n)
    ]


def corrupted(
    game: ShellGame, moves: np.ndarray, n: int, rng: np.random.Generator
) -> list[list[str]]:
    """Right transcripts with a mistake in one lane at one step, on which later steps build."""
    written = game.write(moves, n).copy()
    for b in range(len(moves)):
        lane, at = rng.integers(n), rng.integers(written.shape[2])
        wrong = rng.integers(
            1, len(game.arrangements)
        )  # multiply by any arrangement but the identity
        written[b, lane, at:] = game.compose[wrong, written[b, lane, at:]]
    return [[" ".join(game.arrangements[a] for a in lane) for lane in p] for p in written]


def sampled(
    base: Path,
    game: ShellGame,
    moves: np.ndarray,
    tuning: TuneSettings,
    seed: int,
    adapter: Path | None = None,
) -> list[dict[str, Any]]:
    """What the base writes, untuned or with an adapter, its lanes decoded jointly at temperature 1.

    Each is labelled: whether every lane wrote what it should.
    """
    model = tinylane.load(base, dtype="float32", backend="numpy", adapter=adapter or False)
    rope = None if adapter else tuning.start(model.theta)
    transcripts = []
    for b, problem in enumerate(moves):
        result = tinylane.generate(
            model,
            game.prompt(problem),
            lanes=tuning.lanes,
            lane_prompts=game.lane_prompts(tuning.lanes),
            lane_mask=LaneMask.joint(tuning.lanes),
            lane_rope=rope,
            max_tokens=game.steps(tuning.lanes) + 1,
            sampler=Sampler(temperature=1.0),
            seed=seed + b,
        )
        right = good(game, problem[None], tuning.lanes)[0]
        finished = [lane.finish_reason == "stop" for lane in result.lanes]
        label = bool(result.texts == right and all(finished))
        transcripts.append({"lanes": result.texts, "finished": finished, "label": label})
    return transcripts


def write_transcripts(
    folder: Path, base: Path, game: ShellGame, tuning: TuneSettings, seed: int
) -> dict[str, Path]:
    """sft.jsonl and kto.jsonl, if they are not there yet."""
    paths = {name: folder / f"{name}.jsonl" for name in ("sft", "kto")}
    if all(path.exists() for path in paths.values()):
        return paths
    n, count = tuning.lanes, tuning.transcripts
    rng = np.random.default_rng([seed, TRANSCRIPTS])
    moves, other = game.draw(count, rng), game.draw(count, rng)
    few = count // 8
    bad = sampled(base, game, other[:few], tuning, seed)
    bad += [{"lanes": lanes} for lanes in corrupted(game, other[few:], n, rng)]
    right = [
        _line(game, n, problem, {"lanes": lanes, "label": True})
        for problem, lanes in zip(moves, good(game, moves, n), strict=True)
    ]
    wrong = [
        _line(game, n, problem, {"label": False, **transcript})
        for problem, transcript in zip(other, bad, strict=True)
    ]
    write_text(paths["sft"], "".join(right))
    write_text(paths["kto"], "".join(a + b for a, b in zip(right, wrong, strict=True)))
    return paths


def _line(game: ShellGame, n: int, problem: np.ndarray, rest: dict[str, Any]) -> str:
    tags = game.lane_prompts(n)
    return json.dumps({"prompt": game.prompt(problem), "lane_prompts": tags, **rest}) + "\n"


def write_own(
    path: Path, base: Path, adapter: Path, game: ShellGame, tuning: TuneSettings, seed: int
) -> None:
    """What the model tuned by sft writes, right or wrong, if it is not there yet."""
    if not path.exists():
        rng = np.random.default_rng([seed, TRANSCRIPTS, 1])
        moves = game.draw(tuning.transcripts, rng)
        transcripts = sampled(base, game, moves, tuning, seed, adapter)
        pairs = zip(moves, transcripts, strict=True)
        write_text(path, "".join(_line(game, tuning.lanes, m, t) for m, t in pairs))


def finetune(
    out: Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    recipe: BaseRecipe,
    tuning: TuneSettings,
    *,
    bases: Path | None = None,
    count: int = 500,
    stop_at: int | None = None,
    publish: Sequence[Path] = (),
    say: record.Say = print,
) -> dict[str, Any]:
    """Train and score what is missing; returns the table. bases: where table 3 has its bases."""
    bases = bases or out / "bases"
    record.claim(bases, {"table": "bases", "recipe": recipe.settings})
    settings = {"table": "finetune", "tuning": dataclasses.asdict(tuning), "count": count}
    record.claim(out, {**settings, "recipe": recipe.settings})
    publish = [out / "finetune.json", *publish]
    game = recipe.shared_game
    for seed in seeds:
        base = train_base(bases, dataclasses.replace(recipe, seed=seed), stop_at, say)
        if base is None:
            continue
        data = out / f"data-{seed}"
        with record.locked(data, say) as mine:
            if not mine:
                continue
            paths = write_transcripts(data, base, game, tuning, seed)
        for method in ("untuned", *methods):
            folder = out / f"{method}-{seed}"
            with record.part(folder, say) as mine:
                if mine:
                    _make_part(folder, method, base, paths, game, tuning, seed, count, stop_at, say)
                    record.publish(collect(out, recipe, tuning, count), publish)
    table = collect(out, recipe, tuning, count)
    record.publish(table, publish)
    return table


def _make_part(
    folder: Path,
    method: str,
    base: Path,
    paths: dict[str, Path],
    game: ShellGame,
    tuning: TuneSettings,
    seed: int,
    count: int,
    stop_at: int | None,
    say: record.Say,
) -> None:
    """One cell: tune, load what was written as a user would, score, write result.json."""
    began = time.monotonic()
    result: dict[str, Any] = {"method": method, "seed": seed}
    if method == "untuned":
        model = tinylane.load(base, backend="mlx", dtype="float32", adapter=False)
        model.lane_rope = tuning.start(model.theta)
    else:
        objective, _, what = method.partition("-")
        run, before, data = (
            folder / "run",
            folder.parent / f"sft-{what}-{seed}",
            folder / "own.jsonl",
        )
        argv = ["train", "sft" if objective == "sft" else "kto", "--model", str(base)]
        if objective == "both":
            if not record.done(before):
                say(f"{folder.name}: {before.name} comes first")
                return
            write_own(data, base, before / "run", game, tuning, seed)
            argv += ["--adapter-path", str(before / "run")]
            labels = [json.loads(line)["label"] for line in data.read_text().splitlines()]
            result["own_right"] = sum(labels) / len(labels)
        argv += ["--data", str(data if objective == "both" else paths[objective])]
        argv += ["--out", str(run), "--seed", str(seed), *tuning.flags(method)]
        argv += ["--every", "20", "--save-every", "50"]
        result["share_tuned"] = _train(argv, stop_at, say, folder.name)
        path = run / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        log = [json.loads(line) for line in lines]
        if not log or log[-1]["step"] < tuning.steps:
            return
        full = method.endswith("-full")
        model = tinylane.load(
            run if full else base,
            backend="mlx",
            dtype="float32",
            adapter=None if full else run,
        )
        keys = ("step", "loss", "nll", "good", "bad", "kl")
        result["curve"] = [{k: e[k] for k in keys if e.get(k) is not None} for e in log]
        result["train_seconds"] = log[-1]["seconds"]
    result["scores"] = {}
    for n in game.lanes:
        if n > 1:
            result["scores"][n] = record.scored(score(model, game, n, "joint", count=count, seed=1))
    rope = model.rope()
    assert isinstance(rope, LaneRoPE)
    result["alone"] = alone(model, game, 1, count, rope=rope)
    result["omega"] = {
        "start": np.round(tuning.start(model.theta).omega, 5).tolist(),
        "tuned": np.round(rope.omega, 5).tolist(),
    }
    result["seconds"] = round(time.monotonic() - began, 1)
    result |= record.about(f"python tutorials/study finetune (cell {method}, seed {seed})")
    say(
        f"{folder.name}: "
        + ", ".join(f"{n} lanes {s['accuracy']:.1%}" for n, s in result["scores"].items())
        + f"; one lane alone {result['alone']['right'] / count:.1%}"
    )
    write_json(folder / record.RESULT, result)


def _train(argv: list[str], stop_at: int | None, say: record.Say, name: str) -> str:
    """Run `tinylane train` in this process; returns its line on the share of parameters."""
    from tinylane.commands.cli import main

    if stop_at:
        argv = [*argv, "--stop-at", str(stop_at)]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = main(argv)
    lines = said.getvalue().splitlines()
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise TinylaneError(f"{name}: {lines[-1] if lines else f'exit code {code}'}")
    for line in lines[-3:]:
        say(f"{name}: {line}")
    return next((line for line in lines if "%" in line and "parameters" in line), "")


def collect(out: Path, recipe: BaseRecipe, tuning: TuneSettings, count: int) -> dict[str, Any]:
    """The table of all parts that are done in a folder."""
    cells: dict[str, Any] = {}
    for method in ("untuned", *METHODS):
        if parts := record.parts(out, method):
            cells[method] = {"seeds": parts}
    return {
        "table": "finetune",
        "asked": "What has to be tuned before lanes cooperate that never met another lane?",
        "recipe": recipe.settings,
        "tuning": dataclasses.asdict(tuning),
        "scored_on": {"problems": count, "seed": 1, "decoding": "greedy, majority of the lanes"},
        "chance": 2 / math.factorial(recipe.cups),
        "cells": cells,
    }
