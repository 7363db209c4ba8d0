"""Tuning in tests: a small model with everything that can be tuned, its transcripts, an oracle.

The oracle is the decoder in NumPy and float64, row by row at coordinates written out here. As a
script it prints the errors of MLX's gradients against central differences of that oracle:

    python tests/helpers/helpers_tune.py
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from helpers_cli import GAME, write_checkpoint

from tinylane.checkpoints.side import LANE_EMBED, Side
from tinylane.core.config import ModelConfig
from tinylane.core.lanes import SHARED, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.random_weights import random_params
from tinylane.train.data import Transcript
from tinylane.train.parameters import Choice, trainable
from tinylane.train.recipe import TuneRecipe
from tinylane.train.step import Tuner

CONFIG = ModelConfig(
    family="llama", vocab=23, width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=24,
    context=64, tied=False, eos_ids=(2,),
)  # fmt: skip


def model(config: ModelConfig = CONFIG, seed: int = 0) -> Model:
    """An MLX model whose attention is not flat."""
    params = {
        k: mx.array(np.ascontiguousarray(v)) for k, v in random_params(config, seed, 0.4).items()
    }
    if config.tied:
        params["lm_head.weight"] = params["model.embed_tokens.weight"].T
    return Model(config, params, "mlx", "float32", side=Side)


def transcript(
    rng: np.random.Generator,
    prompt: int = 5,
    own: Sequence[int] = (1, 1),
    drawn: Sequence[int] = (4, 6),
    label: bool | None = None,
) -> Transcript:
    """Random ids: `own` tokens of each lane's prompt, `drawn` of its text; odd lanes end."""
    ids = lambda n: [int(x) for x in rng.integers(3, 23, n)]
    lanes = [ids(n) for n in drawn]
    ended = [bool(m % 2) for m in range(len(drawn))]
    for lane, e in zip(lanes, ended, strict=True):
        if e and lane:
            lane[-1] = 2
    return Transcript(ids(prompt), [ids(n) for n in own], lanes, ended, label)


def several(seed: int = 0, count: int = 6) -> list[Transcript]:
    """Transcripts of one, two and three lanes, of different and of equal shapes, labelled."""
    rng = np.random.default_rng(seed)
    shapes: list[dict[str, Any]] = [
        {},
        {"own": (1, 2, 0), "drawn": (3, 5, 2)},
        {"own": (0,), "drawn": (4,)},
        {},
    ]
    return [
        transcript(
            rng, **shapes[k % len(shapes)], label=bool(rng.random() < 0.5) if k > 1 else k < 1
        )
        for k in range(count)
    ]


def tuner(
    transcripts: Sequence[Transcript],
    choice: Choice | None = None,
    start: np.ndarray | None = None,
    base: Model | None = None,
    checkpoint: bool = False,
    **recipe: Any,
) -> Tuner:
    base = base or model()
    first = LaneRoPE.ntk(base.theta, 7.0, 3.0).omega if start is None else start
    settings = {"steps": 10, "batch_size": 3, "warmup": 2, **recipe}
    lanes = max(len(each.lanes) for each in transcripts)
    return Tuner(
        TuneRecipe(**settings),
        trainable(base, choice or Choice(lora_rank=2), first, lanes=lanes),
        transcripts,
        checkpoint,
    )


def disturb(t: Tuner, size: float = 0.05, seed: int = 1) -> None:
    """Move everything that is tuned away from where it starts."""
    rng = np.random.default_rng(seed)
    for name, group in t.groups.items():
        t.groups[name] = {
            key: value + mx.array((size * rng.standard_normal(value.shape)).astype(np.float32))
            for key, value in group.items()
        }
    if LANE_EMBED in t.groups.get("extra", {}):  # its first row is not tuned
        table = t.groups["extra"][LANE_EMBED]
        t.groups["extra"][LANE_EMBED] = mx.concatenate([mx.zeros_like(table[:1]), table[1:]])


# ------------------------------------------------------------------------------------- the oracle


def wide(values: Any) -> dict[str, np.ndarray]:
    return {k: np.asarray(v).astype(np.float64) for k, v in values.items()}


def oracle_logprobs(
    t: Tuner, one: Transcript, groups: dict[str, dict[str, np.ndarray]] | None = None
) -> list[np.ndarray]:
    """log p of every token that each lane drew, by the NumPy decoder in float64.

    Coordinates as `tinylane.core.decoding` gives them, written out by themselves.
    """
    groups = groups or {name: wide(group) for name, group in t.groups.items()}
    what, r = t.trainable, t.recipe
    params = wide(what.model.params)
    for group in (g for name, g in groups.items() if name != "omega"):
        for key, value in group.items():
            params[key] = value * (what.choice.lora_scale if key.endswith("lora_b") else 1.0)
            if key == LANE_EMBED:  # the shared prompt's row is not tuned
                params[key][0] = 0.0
    if what.model.config.tied:
        params["lm_head.weight"] = params["model.embed_tokens.weight"].T
    omega = what.omega_start + groups.get("omega", {}).get("lane_rope.omega", 0.0)
    P, n = len(one.prompt), len(one.lanes)
    clock = P + max(len(p) for p in one.lane_prompts)
    table = [(token, i, SHARED) for i, token in enumerate(one.prompt)]
    for m in range(n):
        own = one.lane_prompts[m]
        table += [(token, clock - len(own) + k, m) for k, token in enumerate(own)]
        table += [(token, clock + k, m) for k, token in enumerate(one.lanes[m])]
    tokens, positions, lanes = (np.array(column) for column in zip(*table, strict=True))
    plain = Model(what.model.config, params, "numpy", "float64", side=Side)
    mask = r.mask(n)
    logits = plain(tokens, positions, lanes, LaneRoPE(omega, r.prompt_lane), mask)
    top = logits.max(axis=-1, keepdims=True)
    logp = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    by_lane = []
    for m in range(n):
        before = clock - 1  # its position, in the lane or (without a lane prompt) the last shared
        at = {int(i): row for row, i in enumerate(positions) if lanes[row] == m}
        if before not in at:
            at[before] = P - 1
        drawn = one.lanes[m]
        by_lane.append(np.array([logp[at[before + k], token] for k, token in enumerate(drawn)]))
    return by_lane


def oracle_score(t: Tuner, one: Transcript, groups: Any = None) -> float:
    """log pi(y|x), as the recipe reduces it."""
    every = np.concatenate(oracle_logprobs(t, one, groups))
    return float(every.sum() if t.recipe.reduce == "sum" else every.mean())


# ------------------------------------------------------------------------------ finite differences


def gradient_errors(
    t: Tuner, step: int = 0, h: float = 1e-6, probes: int = 6
) -> list[tuple[str, float, float, float]]:
    """(name, largest derivative, largest and relative error) for every tuned tensor.

    MLX's float32 gradients of a step's loss against central differences, in float64, of the same
    loss by the oracle: in the largest entries, in random ones, and in a random direction.
    """
    grads = t.outcome(step).grads
    assert grads is not None
    base = {name: wide(group) for name, group in t.groups.items()}
    loss = oracle_loss(t, step)
    rng, rows = np.random.default_rng(0), []
    for group, tensors in base.items():
        for key, value in tensors.items():
            gradient = np.asarray(grads[group][key]).astype(np.float64)
            flat = np.abs(gradient).ravel()
            picks = [*np.argsort(flat)[-probes // 2 :], *rng.integers(0, flat.size, probes // 2)]
            directions = [np.eye(1, flat.size, int(k)).reshape(value.shape) for k in picks]
            directions.append(rng.standard_normal(value.shape) / np.sqrt(value.size))
            worst = 0.0
            for d in directions:
                ends = []
                for sign in (h, -h):
                    moved = {**base, group: {**tensors, key: value + sign * d}}
                    ends.append(loss(moved))
                worst = max(worst, abs((ends[0] - ends[1]) / (2 * h) - float((gradient * d).sum())))
            rows.append((key, float(flat.max()), worst, worst / max(float(flat.max()), 1e-12)))
    return rows


def oracle_loss(t: Tuner, step: int) -> Callable[[Any], float]:
    """groups (float64) -> the loss of a step, with KTO's z_0 held where it is now (no gradient)."""
    r = t.recipe
    chunks = [t.order(step * r.accumulate + k) for k in range(r.accumulate)]
    if r.objective == "sft":
        those = [t.transcripts[i] for chunk in chunks for i in chunk]

        def sft(groups: Any) -> float:
            every = [np.concatenate(oracle_logprobs(t, one, groups)) for one in those]
            return -float(np.concatenate(every).mean())

        return sft
    z0s = [oracle_z0(t, chunk) for chunk in chunks]

    def kto(groups: Any) -> float:
        losses = []
        for chunk, z0 in zip(chunks, z0s, strict=True):
            for i in chunk:
                one = t.transcripts[i]
                ratio = oracle_score(t, one, groups) - t.reference[int(i)][0]
                if one.label:
                    losses.append(r.desirable * (1 - 1 / (1 + np.exp(-r.beta * (ratio - z0)))))
                else:
                    losses.append(r.undesirable * (1 - 1 / (1 + np.exp(-r.beta * (z0 - ratio)))))
        return float(np.mean(losses))

    return kto


def oracle_z0(t: Tuner, chunk: np.ndarray) -> float:
    """The mean log-ratio of (prompt of one, lanes of the next), clamped at 0."""
    ratios = []
    for k, i in enumerate(chunk):
        x, y = t.transcripts[i], t.transcripts[chunk[(k + 1) % len(chunk)]]
        pair = dataclasses.replace(y, prompt=x.prompt)
        ratios.append(oracle_score(t, pair) - t.reference[int(i)][1])
    return max(0.0, float(np.mean(ratios)))


def refer(t: Tuner) -> Tuner:
    """Fill the reference, as a run does before its first step."""
    for chunk in t.order.epoch(0):
        t.reference |= dict(zip(map(int, chunk), t.refer(chunk), strict=True))
    return t


CASES: dict[str, dict[str, Any]] = {
    "sft, one Omega": {"choice": Choice(lora_rank=2)},
    "sft, Omega by layer, prompt at 0, lag 1": {
        "choice": Choice(omega_per_layer=True, lora_rank=2),
        "prompt_lane": 0,
        "lag": 1,
    },
    "kto": {"choice": Choice(lora_rank=2), "objective": "kto", "beta": 0.5, "undesirable": 1.5},
}


def case(name: str) -> Tuner:
    """A tuner away from its start, so that no derivative is zero for a reason of its own."""
    t = tuner(several(), batch_size=6, **CASES[name])
    if t.kto:
        refer(t)
    disturb(t)
    return t


KTO = ("--batch-size", 4)


def write_jsonl(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# --------------------------------------------------------------------- runs by the command line


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tune") / "game")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shell games of two lanes; every third transcript is wrong, and says so."""
    rng, lines = np.random.default_rng(0), []
    for k in range(12):
        moves = GAME.draw(1, rng)
        written, good = GAME.write(moves, 2)[0], k % 3 > 0
        if not good:
            written = rng.permutation(written.ravel()).reshape(written.shape)
        lines.append(
            {
                "prompt": GAME.prompt(moves[0]),
                "lanes": [" ".join(GAME.arrangements[a] for a in lane) for lane in written],
                "lane_prompts": GAME.lane_prompts(2),
                "label": good,
            }
        )
    return write_jsonl(tmp_path_factory.mktemp("tune") / "data.jsonl", lines)


def command(task: str, base: Path, data: Path, out: Path, *more: object) -> list[str]:
    words = ["train", task, "--model", base, "--data", data, "--out", out, "--steps", 12]
    return [str(word) for word in [*words, "--warmup", 2, "--every", 1, "--save-every", 3, *more]]


def losses(out: Path) -> list[tuple[int, float]]:
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(entry["step"], entry["loss"]) for entry in entries]


if __name__ == "__main__":
    for name in CASES:
        print(f"{name}\n  {'tensor':44} {'largest':>9} {'error':>9} {'relative':>9}")
        for key, largest, error, relative in gradient_errors(case(name)):
            print(f"  {key:44} {largest:9.1e} {error:9.1e} {relative:9.1e}")
