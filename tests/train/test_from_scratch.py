"""The trainer: its mask and tables are the decoder's, its bits repeat, its runs survive."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import mlx.core as mx

import tinylane
from tinylane.core.decoder import make_plan
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask, LaneRoPE, Places
from tinylane.core.model import Model
from tinylane.train.from_scratch import Trainer, train
from tinylane.train.omega import TrainingPlan
from tinylane.train.recipe import Recipe

TINY = Recipe(
    swaps=4,
    lanes=(1, 2),
    shares=(0.5, 0.5),
    width=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    mlp_width=32,
    steps=6,
    warmup=2,
    rows=128,
)


def same(a: Trainer, b: Trainer) -> bool:
    left, right = a.state["weights"], b.state["weights"]
    omega = np.array_equal(np.asarray(a.state["omega"]), np.asarray(b.state["omega"]))
    return omega and all(np.array_equal(np.asarray(left[k]), np.asarray(right[k])) for k in left)


@pytest.mark.parametrize("prompt_lane", ["own", 0])
@pytest.mark.parametrize("layers", [1, 2])
def test_training_plan_is_the_decoding_plan(prompt_lane, layers: int) -> None:
    """The training mask is the decoding mask, and Omega turns training rows as decoding rows."""
    config = TINY.config
    positions, lanes = TINY.game.coordinates(2)
    mask = LaneMask.joint(2, lag=1)
    omega = np.random.default_rng(0).normal(size=(2, 4) if layers == 2 else 4).astype(np.float32)
    rope = LaneRoPE(omega, prompt_lane)
    plan = make_plan(config, rope, mask, Places(positions, lanes, positions, lanes))
    ours = TrainingPlan(config, mask, positions, lanes, prompt_lane).at(mx.array(omega))
    assert np.array_equal(np.asarray(ours.mask), plan.mask)
    assert np.array_equal(ours.block_of, plan.block_of)
    for layer in range(config.layers):
        pairs = zip(
            [*ours.keys[layer], *(t for ts in ours.queries[layer] for t in ts)],
            [*plan.keys[layer], *(t for ts in plan.queries[layer] for t in ts)],
            strict=True,
        )
        for mine, theirs in pairs:
            assert np.abs(np.asarray(mine) - theirs).max() < 2e-6


def test_teacher_forced_logits_are_the_decoders() -> None:
    """One batch through the trainer equals each run through `model(tokens, positions, lanes)`."""
    trainer = Trainer(TINY)
    n, tokens, _ = trainer.batch(1)
    logits = trainer.logits(trainer.state["weights"], trainer.state["omega"], mx.array(tokens), n)
    weights = trainer.state["weights"]
    params = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].T}
    model = Model(trainer.config, params, backend="mlx")
    positions, lanes = TINY.game.coordinates(n)
    rope, mask = LaneRoPE(np.asarray(trainer.state["omega"])), LaneMask.joint(n)
    for b in range(2):
        one = model(tokens[b], positions, lanes, rope, mask)
        P = TINY.swaps + 7
        assert np.abs(np.asarray(one)[P:] - np.asarray(logits[b])).max() < 1e-4


def test_gradient_of_omega_against_finite_differences_in_float64() -> None:
    """MLX's derivative through angles, two query tables, mask and softmax; NumPy float64 beside."""
    recipe = dataclasses.replace(TINY, omega="ntk", slot=3.0, lanes=(2,), shares=(1.0,))
    trainer = Trainer(recipe)
    rng = np.random.default_rng(0)
    for k, w in trainer.state["weights"].items():  # larger, so that attention is not flat
        trainer.state["weights"][k] = w * 8 if w.ndim == 2 else w
    _, tokens, follows = trainer.batch(0)
    tokens, follows = tokens[:2], follows[:2]

    def loss(omega: mx.array) -> mx.array:
        logits = trainer.logits(trainer.state["weights"], omega, mx.array(tokens), 2)
        chosen = mx.take_along_axis(logits, mx.array(follows)[..., None], axis=-1)[..., 0]
        return (mx.logsumexp(logits, axis=-1) - chosen).mean()

    weights = {k: np.asarray(v, dtype=np.float64) for k, v in trainer.state["weights"].items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].T
    model = Model(trainer.config, weights, dtype="float64")
    positions, lanes = recipe.game.coordinates(2)
    P = recipe.swaps + 7

    def loss64(omega: np.ndarray) -> float:
        total = []
        for b in range(2):
            rope = LaneRoPE(omega)
            logits = model(tokens[b], positions, lanes, rope, LaneMask.joint(2))[P:]
            top = logits.max(axis=-1, keepdims=True)
            lse = top[:, 0] + np.log(np.exp(logits - top).sum(axis=-1))
            total.append(lse - logits[np.arange(len(lse)), follows[b]])
        return float(np.mean(total))

    omega = np.asarray(trainer.state["omega"], dtype=np.float64)
    found = np.asarray(mx.grad(loss)(mx.array(omega.astype(np.float32))))
    direction = rng.normal(size=omega.shape)
    for e in [*np.eye(len(omega)), direction]:
        step = 1e-6
        expected = (loss64(omega + step * e) - loss64(omega - step * e)) / (2 * step)
        assert abs(found @ e - expected) < 1e-4 * max(1.0, abs(expected)) + 2e-5
    assert np.abs(found).max() > 1e-4  # the loss does depend on Omega here


def test_same_seed_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    a, b = train(TINY, tmp_path / "a"), train(TINY, tmp_path / "b")
    assert same(a, b)
    files = ("model.safetensors", "adapter/adapters.safetensors", "config.json", "tokenizer.json")
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not same(a, train(dataclasses.replace(TINY, seed=1), tmp_path / "c"))


@pytest.mark.parametrize("stops", [[2], [1, 3, 5]])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, stops) -> None:
    whole = train(TINY, tmp_path / "whole", every=1, check_every=2)
    for stop in stops:
        train(TINY, tmp_path / "parts", every=1, check_every=2, stop_at=stop)
    assert same(train(TINY, tmp_path / "parts", every=1, check_every=2), whole)

    def log(name: str) -> list[dict]:
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(x).items() if k == "loss"} for x in lines]

    assert log("whole") == log("parts")


def test_a_run_that_was_killed_between_saves_loses_only_what_was_not_saved(tmp_path: Path) -> None:
    """The log may not run ahead of the state, and a step may not be counted twice."""

    class Killed(Exception):
        pass

    def say(entry: dict) -> None:
        if entry["step"] == 5:
            raise Killed

    with pytest.raises(Killed):
        train(TINY, tmp_path / "run", every=1, save_every=2, check_every=9, say=say)
    assert same(
        train(TINY, tmp_path / "run", every=1, save_every=2, check_every=9),
        train(TINY, tmp_path / "whole", every=1, save_every=2, check_every=9),
    )
    steps = [json.loads(x)["step"] for x in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_folder_with_another_recipe_is_refused(tmp_path: Path) -> None:
    train(TINY, tmp_path, stop_at=1)
    before = (tmp_path / "recipe.json").read_bytes()
    with pytest.raises(TinylaneError, match=r"another configuration \(lr was 0\.001, now 0\.002\)"):
        train(dataclasses.replace(TINY, lr=2e-3), tmp_path)
    assert (tmp_path / "recipe.json").read_bytes() == before


def test_a_loss_that_diverges_stops_the_run_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    wild = dataclasses.replace(TINY, lr=1e30, clip=1e30, warmup=3)
    with pytest.raises(TinylaneError, match="Lower the learning rate"):
        train(wild, tmp_path, save_every=1)
    trainer = Trainer(wild)
    trainer.load(tmp_path / "state.safetensors")
    assert 0 < trainer.step < wild.steps


def test_the_export_is_a_checkpoint_that_loads_with_its_omega(tmp_path: Path) -> None:
    trainer = train(TINY, tmp_path)
    model = tinylane.load(tmp_path, backend="numpy")
    assert model.trained_for_lanes and model.task == {
        "name": "shell-game",
        "cups": 4,
        "swaps": 4,
        "lanes": [1, 2],
    }
    omega = model.lane_rope.omega
    assert np.array_equal(omega, np.asarray(trainer.state["omega"]).astype(np.float64))
    n, tokens, _ = trainer.batch(3)
    positions, lanes = TINY.game.coordinates(n)
    expected = trainer.logits(trainer.state["weights"], trainer.state["omega"], mx.array(tokens), n)
    found = model(tokens[0], positions, lanes)[TINY.swaps + 7 :]
    assert np.abs(found - np.asarray(expected[0])).max() < 1e-4


def test_the_curves_of_a_run_are_a_figure_of_its_log(tmp_path: Path) -> None:
    """A line for every number of lanes, in both panels; the same file for the same log."""
    pytest.importorskip("matplotlib")
    from tinylane.view.palette import COLOURS
    from tinylane.view.training_figure import LANES, draw

    with pytest.raises(TinylaneError, match=r"log\.jsonl is missing; `tinylane train shell-game`"):
        draw(tmp_path)
    train(TINY, tmp_path, every=1, check_every=2)
    first = draw(tmp_path).read_bytes()
    assert first == draw(tmp_path).read_bytes() and first.rstrip().endswith(b"</svg>")
    for n, colour in zip(LANES, COLOURS, strict=False):  # both panels and the legend
        assert first.lower().count(colour.encode()) == (3 if n in TINY.lanes else 0)
