"""Table 3: what other lanes do to a checkpoint that has never read one, before any tuning.

A lane writes its usual transcript (the whole list, tag 1/1) while it reads a second lane: the
transcript of another problem, as fluent as its own. Nothing in it is useful, so every change is
harm. For each start of Omega two things are measured on the right text: the share of problems for
which every token still has the highest probability (by causality, greedy decoding is then exactly
right), and the mean negative log-probability of the right tokens.

    B problems   L rows of a lane   V vocab
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tinylane
from tinylane.core.lanes import LaneMask
from tinylane.core.model import Model
from tinylane.evaluate.tasks.shell_game import END, ShellGame
from tinylane.evaluate.tasks.task import EVALUATION
from tinylane.files.io import read_json
from tinylane.files.writing import write_json
from tinylane.methods.modes import omega_start
from tutorials.study import record
from tutorials.study.base import BaseRecipe, train_base
from tutorials.study.fold import SharesGame, head
from tutorials.study.score import BATCH, batched

SLOTS = (8.0, 32.0, 128.0)
LANES = 2


def omegas(theta: np.ndarray, slots: Sequence[float] = SLOTS) -> dict[str, dict[str, Any]]:
    """All starts that are compared, by name."""
    starts: dict[str, dict[str, Any]] = {
        "independent": {"omega": "none", "slot": None, "prompt_lane": "own", "sees": False},
        "none": {"omega": "none", "slot": None, "prompt_lane": "own", "sees": True},
    }
    for slot in slots:
        for name, prompt_lane in (("group_think", "own"), ("group_think", 0), ("ntk", "own")):
            key = f"{name}-{slot:g}" + ("" if prompt_lane == "own" else "-prompt0")
            starts[key] = {"omega": name, "slot": slot, "prompt_lane": prompt_lane, "sees": True}
    for s in starts.values():
        s["rope"] = omega_start(s["omega"], theta, s["slot"], LANES, s["prompt_lane"])
    return starts


def company(
    model: Model, game: ShellGame, start: dict[str, Any], which: int, count: int
) -> dict[str, Any]:
    """The measures of one start for lane `which` of two; the other lane has another problem's text.

    With `prompt_lane=0` the two lanes differ: lane 0 is where the prompt is.
    """
    rng = np.random.default_rng([1, EVALUATION])
    moves, other = game.draw(count, rng), game.draw(count, rng)
    words, L = game.ids, 1 + game.swaps
    written = game.write(moves, 1)[:, 0] + words[game.arrangements[0]]
    others = game.write(other, 1)[:, 0] + words[game.arrangements[0]]
    tag = np.full((count, 1), words["1/1"])
    lanes = [np.concatenate([tag, others], axis=1), np.concatenate([tag, others], axis=1)]
    lanes[which] = np.concatenate([tag, written], axis=1)
    tokens = np.concatenate([head(game, moves), *lanes], axis=1)
    follows = np.concatenate([written, np.full_like(tag, words[END])], axis=1)
    mask = LaneMask.joint(LANES) if start["sees"] else LaneMask.independent(LANES)
    logits = batched(model, game, LANES, mask, start["rope"], steps=game.swaps)
    exact, nll, tokens_right = 0, 0.0, 0
    for at in range(0, count, BATCH):
        values = logits(tokens[at : at + BATCH])[:, which * L : (which + 1) * L].astype(np.float64)
        wanted = follows[at : at + BATCH]
        right = values.argmax(axis=-1) == wanted
        exact += int(right.all(axis=-1).sum())
        tokens_right += int(right.sum())
        top = values.max(axis=-1, keepdims=True)
        total = top[..., 0] + np.log(np.exp(values - top).sum(axis=-1))
        nll += float((total - np.take_along_axis(values, wanted[..., None], -1)[..., 0]).sum())
    return {
        **record.share(exact, count),
        "tokens_right": tokens_right / follows.size,
        "nll": round(nll / follows.size, 5),
        "perplexity": round(float(np.exp(nll / follows.size)), 5),
    }


def together(
    model: Model, game: SharesGame, start: dict[str, Any], n: int, count: int
) -> dict[str, Any]:
    """n lanes, each with its own tag and share: how many of all count * n lanes are exactly right.

    By causality this is greedy decoding as long as every lane is right. Where one is wrong, the
    others are measured beside the text that it should have written.
    """
    moves = game.draw(count, np.random.default_rng([1, EVALUATION]))
    words, L = game.ids, 1 + game.steps(n)
    written = game.write(moves, n) + words[game.arrangements[0]]
    tags = np.tile(np.array([words[t] for t in game.lane_prompts(n)])[None, :, None], (count, 1, 1))
    fed = np.concatenate([tags, written], axis=2).reshape(count, -1)
    follows = np.concatenate([written, np.full_like(tags, words[END])], axis=2)
    tokens = np.concatenate([head(game, moves), fed], axis=1)
    mask = LaneMask.joint(n) if start["sees"] else LaneMask.independent(n)
    logits = batched(model, game, n, mask, start["rope"])
    right = 0
    for at in range(0, count, BATCH):
        best = logits(tokens[at : at + BATCH]).argmax(axis=-1).reshape(-1, n, L)
        right += int((best == follows[at : at + BATCH]).all(axis=-1).sum())
    return record.share(right, count * n)


def starts(
    out: Path,
    seeds: Sequence[int],
    recipe: BaseRecipe,
    *,
    count: int = 500,
    stop_at: int | None = None,
    publish: Sequence[Path] = (),
    say: record.Say = print,
) -> dict[str, Any]:
    """Train the bases that are missing and measure every start on each; the table."""
    record.claim(out, {"table": "bases", "recipe": recipe.settings})
    measured = []
    for seed in seeds:
        mine = dataclasses.replace(recipe, seed=seed)
        folder = train_base(out, mine, stop_at, say)
        if folder is None:
            continue
        path = folder / f"starts-{count}.json"
        if not path.exists():
            model = tinylane.load(folder, backend="mlx", dtype="float32", adapter=False)
            rows, many = {}, [n for n in mine.lanes if n > 1]
            for name, start in omegas(model.theta).items():
                lanes = [company(model, mine.shared_game, start, k, count) for k in range(LANES)]
                rows[name] = {
                    **{k: v for k, v in start.items() if k != "rope"},
                    "lanes": lanes,
                    "shares": {str(n): together(model, mine.game, start, n, count) for n in many},
                }
                say(f"seed {seed}, {name}: " + ", ".join(f"{x['accuracy']:.1%}" for x in lanes))
            write_json(path, {"seed": seed, "starts": rows})
        measured.append({**read_json(path), "base": record.done(folder)})
    table = {
        "table": "starts",
        "asked": "Before any tuning: does reading another lane corrupt what a lane writes, and "
        "does it depend on where Omega starts?",
        "setting": "two lanes, each with the tag 1/1; the other holds the transcript of another "
        "problem. `lanes` has the measures of lane 0 and of lane 1. `shares`: n lanes that each "
        "write their own share, of all lanes those exactly right",
        "count": count,
        "seeds": measured,
        **record.about("python tutorials/study starts"),
    }
    record.publish(table, [out / "starts.json", *publish])
    return table
