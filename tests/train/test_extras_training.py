"""Tuning and training what a decoder may have for lanes: derivatives, start, files, errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import helpers_cli
import helpers_tune
import mlx.core as mx
from helpers_tune import CONFIG, command, disturb, gradient_errors, model, refer, several, tuner

import tinylane
from tinylane.checkpoints import extras
from tinylane.checkpoints.adapter import OMEGA, load_adapter, save_adapter
from tinylane.checkpoints.config_json import parse_config
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask
from tinylane.train.from_scratch import Trainer
from tinylane.train.parameters import Choice, trainable
from tinylane.train.recipe import Recipe

ask, base, data = helpers_cli.ask, helpers_tune.base, helpers_tune.data  # fixtures
ALL = tuple(extras.KINDS)
TINY = Recipe(
    cups=3, swaps=4, lanes=(1, 2), shares=(0.5, 0.5), width=32, layers=2, heads=2, kv_heads=1,
    head_dim=16, mlp_width=32, steps=6, rows=64, warmup=1, omega="none",
)  # fmt: skip


def extra_tuner(kinds: tuple[str, ...] = ALL, checkpoint: bool = False, **recipe: Any) -> Any:
    choice = Choice(omega=False, biases=False, extra=kinds, bridge_width=6)
    return tuner(several(), choice, None, None, checkpoint, **recipe)


@pytest.mark.parametrize("objective", ["sft", "kto"])
@pytest.mark.parametrize("visibility", ["joint", "bridge"])
def test_gradients_are_the_central_differences_of_the_numpy_decoder(
    objective: str, visibility: str
) -> None:
    """Of every tensor, in every layer: float32 by MLX against float64 by NumPy. Measured: 1e-5."""
    t = extra_tuner(batch_size=6, objective=objective, beta=0.5, visibility=visibility)
    if t.kto:
        refer(t)
    disturb(t, 0.3)
    errors = gradient_errors(t, probes=4)
    expected = extras.start(CONFIG, ALL, 3, 6)
    assert {name for name, *_ in errors} == expected.keys()
    for key, largest, _, relative in errors:
        assert largest > 1e-4, f"{key}: flat, so the test says nothing"
        assert relative < 1e-4, key


def test_omega_has_a_gradient_where_lanes_read_each_other_in_lace_alone() -> None:
    """As above. Without LACE it has none: no other attention of these lanes sees another lane."""
    choice = Choice(omega=True, biases=False, extra=("lace",))
    t = tuner(several(), choice, batch_size=6, visibility="bridge")
    disturb(t, 0.3)
    errors = {name: (largest, relative) for name, largest, _, relative in gradient_errors(t)}
    largest, relative = errors[OMEGA]
    assert largest > 1e-4 and relative < 1e-4
    bare = tuner(several(), Choice(biases=False), batch_size=6, visibility="bridge")
    disturb(bare, 0.3)
    assert np.abs(np.asarray(bare.outcome(0).grads["omega"][OMEGA])).max() < 1e-7  # rounding


def test_gradient_checkpoints_change_no_gradient() -> None:
    outcomes = []
    for light in (False, True):
        t = extra_tuner(checkpoint=light, batch_size=6)
        disturb(t, 0.3)
        outcomes.append(t.outcome(0).grads)
    plain, light = outcomes
    for key, value in plain["extra"].items():
        assert np.abs(np.asarray(value - light["extra"][key])).max() < 2e-6, key


def test_untrained_they_change_no_loss_and_the_prompt_s_row_of_the_input_stays_zero() -> None:
    t, bare = extra_tuner(batch_size=6), tuner(several(), batch_size=6)
    assert t.outcome(0, False).loss == bare.outcome(0, False).loss
    for step in range(3):
        t.apply(t.outcome(step).grads)
    table = np.asarray(t.groups["extra"]["model.lane_embed.weight"])
    assert not table[0].any() and (np.abs(table[1:]).max(axis=1) > 0).all()
    assert t.outcome(0, False).loss < bare.outcome(0, False).loss


def test_a_control_has_as_many_parameters_as_its_bridge() -> None:
    """C = 16: 4 x 16 x 6 + 16 and 3 x 16 x 8 + 16, in each layer."""
    sizes = [
        sum(x.size for x in extra_tuner((kind,)).groups["extra"].values())
        for kind in ("bridge", "p_match")
    ]
    assert sizes == [2 * (4 * 16 * 6 + 16)] * 2


def test_what_was_tuned_is_saved_loaded_and_tuned_further(tmp_path: Path) -> None:
    t = extra_tuner()
    disturb(t, 0.3)
    save_adapter(tmp_path, CONFIG, t.trainable.adapter_tensors(t.groups))
    adapter = load_adapter(tmp_path, CONFIG)
    assert adapter.tensors["model.layers.1.bridge.o_proj.weight"].shape == (16, 6)  # (out, in)
    choice = Choice(extra=("lane_kv", "bridge"), biases=False)
    again = trainable(model(), choice, t.trainable.omega_start, adapter)
    for name, value in again.groups["extra"].items():
        assert np.array_equal(np.asarray(value), np.asarray(t.groups["extra"][name])), name
    assert {n for n in again.kept if extras.is_extra(n)} == {
        n for n in t.groups["extra"] if "lane_kv" not in n and "bridge" not in n
    }
    saved = again.adapter_tensors(again.groups)
    assert all(np.array_equal(saved[name], x) for name, x in adapter.tensors.items())


@pytest.mark.parametrize(
    ("choice", "line"),
    [
        ({"extra": ("lanes",)}, "--extra 'lanes'; expected some of lane_embed, lane_kv, bridge"),
        ({"bridge_width": 8}, "--bridge-width is of --extra bridge, p_match or lace; give one"),
        ({"extra_lanes": 4}, "--extra-lanes is of --extra lane_embed or lane_kv; give one"),
        ({"extra": ("lane_kv",), "extra_lanes": -4}, "--extra-lanes is -4; expected 1 to 1024"),
        ({"extra": ("bridge",), "bridge_width": -1}, "--bridge-width is -1; expected 1 or more"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(choice: dict[str, Any], line: str) -> None:
    with pytest.raises(TinylaneError, match=line):
        Choice(**choice)


def test_a_table_may_have_rows_for_more_lanes_than_the_data_but_not_for_fewer() -> None:
    """Such as for ParaThinker's summary. Their rows get no gradient, and stay zero."""
    choice = Choice(omega=False, biases=False, extra=("lane_kv",), extra_lanes=5)
    t = tuner(several(), choice, batch_size=6)
    for step in range(2):
        t.apply(t.outcome(step).grads or {})
    table = np.asarray(t.groups["extra"]["model.layers.0.self_attn.lane_kv.weight"])
    assert table.shape == (6, 8) and table[:4].any(axis=1).all() and not table[4:].any()
    with pytest.raises(TinylaneError, match="--extra-lanes is 2; there are transcripts of 3 lanes"):
        tuner(several(), dataclasses.replace(choice, extra_lanes=2))


def test_a_bridge_that_its_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(TinylaneError, match=r"12 wide; expected at most 8 \(the head dim\), or a"):
        trainable(model(), Choice(extra=("bridge",), bridge_width=12), np.zeros(4))


@pytest.mark.parametrize("kinds", [(kind,) for kind in ALL])
def test_a_model_of_a_game_is_trained_with_each(kinds: tuple[str, ...], tmp_path: Path) -> None:
    """The checkpoint that it writes says what the trainer's own pass says."""
    visibility = "bridge" if kinds[0] in ("bridge", "lace") else "joint"
    recipe = dataclasses.replace(TINY, extra=kinds, bridge_width=6 * ("lane" not in kinds[0]))
    trainer = Trainer(dataclasses.replace(recipe, visibility=visibility))
    begun = {k: np.array(v) for k, v in trainer.state["weights"].items() if extras.is_extra(k)}
    for _ in range(4):
        trainer.advance()
    for name, value in begun.items():
        assert np.abs(np.asarray(trainer.state["weights"][name]) - value).max() > 0, name
    trainer.export(tmp_path)
    _, tokens, _ = trainer.batch(0)
    tokens, _ = trainer.game.rows(trainer.game.draw(1, np.random.default_rng(0)), 2)
    weights, omega = trainer.state["weights"], trainer.state["omega"]
    expected = np.asarray(trainer.logits(weights, omega, mx.array(tokens), 2))[0]
    loaded = tinylane.load(tmp_path, "numpy", "float64")
    assert loaded.report is not None and kinds[0] in loaded.report["adapter"]["value"]["extra"][0]
    positions, lanes = trainer.game.coordinates(2)
    mask = LaneMask.named(visibility, 2)
    logits = loaded(tokens[0], positions, lanes, lane_mask=mask)[trainer.game.prompt_rows :]
    assert np.abs(logits - expected).max() < 1e-4
    bare = tinylane.load(tmp_path, "numpy", "float64", adapter=False)
    other = bare(tokens[0], positions, lanes, lane_mask=mask)[trainer.game.prompt_rows :]
    assert np.abs(logits - other).max() > 1e-4  # the control


def test_the_command_trains_a_game_with_them_and_inspect_shows_them(
    tmp_path: Path, ask: Any
) -> None:
    out = tmp_path / "game"
    command = ["train", "shell-game", "--out", out, "--steps", 2, "--rows", 64, "--quiet"]
    command += ["--cups", 3, "--swaps", 4, "--lanes", 1, 2, "--shares", 0.5, 0.5, "--width", 32]
    command += ["--extra", "lane_embed", "lane_kv", "bridge", "--bridge-width", 12]
    assert ask(*command)[0] == 0
    code, said, _ = ask("inspect", out)
    assert code == 0
    assert all(x in said for x in ("lane_embed for 2 lanes", "lane_kv for 2", "bridge 12 wide"))


@pytest.mark.parametrize("task", ["sft", "kto"])
def test_the_command_tunes_them(
    task: str, base: Path, data: Path, tmp_path: Path, ask: Any
) -> None:
    out = tmp_path / "tuned"
    more = ["--extra", "lane_kv", "bridge", "lace", "--no-tune-omega", "--batch-size", 4, "--quiet"]
    assert ask(*command(task, base, data, out, *more))[0] == 0
    found = load_adapter(out, parse_config(helpers_cli.CONFIG)).tensors
    assert extras.summary({k: v.shape for k, v in found.items()}) == [
        "lane_kv for 2 lanes",
        "bridge 8 wide",
        "lace 8 wide",
    ]
    assert all(found[f"model.layers.{k}.bridge.o_proj.weight"].any() for k in (0, 1))
    assert found["model.layers.1.lace.up_proj.weight"].any()
    run = ("generate", "--model", base, "--adapter-path", out, "--lanes")
    assert ask(*run, 2)[0] == 0
    code, _, error = ask(*run, 4)
    table = "model.layers.0.self_attn.lane_kv.weight"
    last = f"tinylane: error: lane 3 has no row in {table}, which is for 2 lanes"
    assert code == 2 and error.splitlines()[-1].startswith(last)
