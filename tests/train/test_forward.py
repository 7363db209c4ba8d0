"""Tuning's passes: the decoder's own forward, mask and coordinates; derivatives; company; room."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import helpers_cli
import mlx.core as mx
from helpers_tune import (
    CASES,
    CONFIG,
    case,
    disturb,
    gradient_errors,
    model,
    oracle_logprobs,
    refer,
    several,
    transcript,
    tuner,
    wide,
    write_jsonl,
)

import tinylane
from tinylane.checkpoints.side import Side
from tinylane.core.decoder import forward, make_plan
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Places
from tinylane.core.model import Model
from tinylane.train import forward as blocks
from tinylane.train.data import Transcript, mismatched, rows
from tinylane.train.parameters import Choice
from tinylane.train.recipe import TuneRecipe
from tinylane.train.setup import StartModel, prepare, start_model
from tinylane.train.step import Tuner, stacks

BOUND = 2e-5  # float32 against float64, of log-probabilities around 3; measured: 4e-6
PATTERNS = ("joint", "independent", "star", "neighbours:1")


def teacher_forced(t: Tuner, one: Transcript) -> np.ndarray:
    return np.asarray(t.logprobs(t.groups, [rows(one)]))[0]


def as_numpy(base: Model) -> Model:
    """The same weights in NumPy and float64, for decoding."""
    return Model(base.config, wide(base.params), "numpy", "float64", side=Side)


def decoded(
    base: Model, visibility: str, lag: int, prompt_lane: Any, omega: np.ndarray
) -> tinylane.Result:
    """Four lanes of one prompt, of unequal lane prompts and lengths, sampled."""
    mask = LaneMask.named(visibility, 4, lag)
    return tinylane.generate(
        as_numpy(base),
        [4, 9, 11, 5, 7],
        lanes=4,
        max_tokens=[9, 4, 7, 5],
        sampler=tinylane.Sampler(1.0),
        seed=3,
        lane_rope=LaneRoPE(omega, prompt_lane),
        lane_mask=mask,
        lane_prompts=[[3], [8, 12], [], [6]],
    )


def transcribed(result: tinylane.Result, folder: Path, base: Model, **recipe: Any) -> Tuner:
    """A decoding, written as a line of JSON, read back and set up for tuning."""
    line = {
        "prompt_ids": result.prompt,
        "lane_prompt_ids": [lane.prompt for lane in result.lanes],
        "lanes": result.texts,
        "lane_ids": [lane.tokens for lane in result.lanes],
    }
    path = write_jsonl(folder / "transcripts.jsonl", [line])
    start = StartModel(folder, base, None, "none", "float32")
    return prepare(start, path, TuneRecipe(steps=1, **recipe), Choice()).tuner


@pytest.mark.parametrize("prompt_lane", ["own", 0])
@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("visibility", PATTERNS)
def test_teacher_forced_logprobs_are_those_recorded_while_decoding(
    tmp_path: Path, visibility: str, lag: int, prompt_lane: Any
) -> None:
    """A run of `tinylane.generate`, saved as a transcript: what training raises is what decoding
    drew from. Guards the mask, the clock of unequal lane prompts, the end token, the shift."""
    base = model()
    omega = LaneRoPE.ntk(base.theta, 7.0, 4.0).omega
    result = decoded(base, visibility, lag, prompt_lane, omega)
    base.lane_rope = LaneRoPE(omega, prompt_lane)
    how = {"visibility": visibility, "lag": lag, "prompt_lane": prompt_lane}
    t = transcribed(result, tmp_path, base, **how)
    recorded = np.concatenate([lane.logprobs for lane in result.lanes])
    assert len({len(lane.tokens) for lane in result.lanes}) > 1
    assert np.abs(teacher_forced(t, t.transcripts[0]) - recorded).max() < BOUND


def test_teacher_forced_logprobs_of_lanes_that_a_stop_string_ended(tmp_path: Path) -> None:
    """What completed the stop string was never fed: the others must not see it in training."""
    base = tinylane.load(helpers_cli.write_checkpoint(tmp_path / "game"), "numpy", "float64")
    result = tinylane.generate(
        base, "cups ABC", lanes=4, max_tokens=12, sampler=tinylane.Sampler(1.5), stop=["3", "B"],
        lane_mask=LaneMask.joint(4), seed=1,
    )  # fmt: skip
    stopped = [lane for lane in result.lanes if lane.tokens[-1] not in base.config.eos_ids]
    assert any(lane.finish_reason == "stop" for lane in stopped)
    begin = start_model(tmp_path / "game")
    t = transcribed(result, tmp_path, begin.model)
    assert sum(t.transcripts[0].ended) == 4
    recorded = np.concatenate([lane.logprobs for lane in result.lanes])
    assert np.abs(teacher_forced(t, t.transcripts[0]) - recorded).max() < BOUND
    unseen = dataclasses.replace(t.transcripts[0], ended=[False] * 4)  # the control
    assert np.abs(teacher_forced(t, unseen) - recorded).max() > 100 * BOUND


@pytest.mark.parametrize("wrong", ["lag", "visibility", "prompt_lane", "start", "unshifted"])
def test_a_mask_off_by_one_does_not_give_what_decoding_recorded(tmp_path: Path, wrong: str) -> None:
    """The negative control: each of the things that training must share with decoding matters."""
    base = model()
    omega = LaneRoPE.ntk(base.theta, 7.0, 4.0).omega
    result = decoded(base, "joint", 0, "own", omega)
    base.lane_rope = LaneRoPE(omega + 0.1 * (wrong == "start"), "own")
    how = {
        "lag": {"lag": 1},
        "visibility": {"visibility": "star"},
        "prompt_lane": {"prompt_lane": 0},
    }
    t = transcribed(result, tmp_path, base, **how.get(wrong, {}))
    one = t.transcripts[0]
    if wrong == "unshifted":  # lane prompts that begin, not end, together
        own = [[*p, *[3] * (2 - len(p))] for p in one.lane_prompts]
        one = dataclasses.replace(one, lane_prompts=own)
    recorded = np.concatenate([lane.logprobs for lane in result.lanes])
    assert np.abs(teacher_forced(t, one) - recorded).max() > 100 * BOUND


def test_the_loss_is_on_lanes_tokens_only() -> None:
    """Not on the prompt, not on lane prompts; on the end token where the lane drew one."""
    rng = np.random.default_rng(0)
    one = transcript(rng, prompt=6, own=(2, 3, 0), drawn=(4, 5, 3))
    found = rows(one)
    assert found.follows.tolist() == [token for lane in one.lanes for token in lane]
    owners = [0] * 4 + [1] * 5 + [2] * 3
    ahead = {(int(i), int(m)) for i, m in zip(found.positions, found.lanes, strict=True)}
    assert len(ahead) == len(found.tokens)  # one row a coordinate
    for source, follows, m in zip(found.sources, found.follows, owners, strict=True):
        after = (found.positions == found.positions[source] + 1) & (found.lanes == m)
        if after.any():
            assert found.tokens[after].tolist() == [follows]
        else:  # nobody is fed the end token; a lane without a prompt begins at its clock
            assert follows == 2 or found.lanes[source] == SHARED
    assert (found.tokens != 2).all()
    t = tuner([one], steps=1, objective="sft")
    before = t.outcome(0).loss
    assert before == pytest.approx(-np.concatenate(oracle_logprobs(t, one)).mean(), abs=1e-5)


def test_a_loss_on_prompt_tokens_would_be_another() -> None:
    """The negative control: the mean over every row's next token differs."""
    one = several(1)[0]
    t = tuner([one], steps=1)
    found = rows(one)
    everything = found._replace(
        sources=np.arange(len(one.prompt) - 1), follows=found.tokens[1 : len(one.prompt)]
    )
    prompt = np.asarray(t.logprobs(t.groups, [everything]))
    together = -np.concatenate([prompt[0], teacher_forced(t, one)]).mean()
    assert abs(together - t.outcome(0).loss) > 0.01


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_block_by_block_is_forward(family: str, checkpoint: bool) -> None:
    """The trainer's own loop over blocks, plain or as gradient checkpoints, bit for bit."""
    config = dataclasses.replace(CONFIG, family=family, qk_norm=family == "qwen3", tied=True)
    t = tuner(several(), base=model(config))
    found = rows(t.transcripts[1])
    rope, mask = LaneRoPE(t.trainable.omega_start), t.recipe.mask(3)
    places = Places(found.positions, found.lanes, found.positions, found.lanes)
    plan = make_plan(config, rope, mask, places, array=mx.array)
    params, _ = t.trainable.params(t.groups)
    tokens = mx.array(found.tokens.astype(np.int32))[None]
    expected = forward(params, config, tokens, plan, blocks.TRAINING)
    live = t.trainable.live if checkpoint else None
    x = blocks.hidden(params, config, tokens, plan, live=live)
    logits = blocks.TRAINING.linear(params, "lm_head", x)
    assert np.array_equal(np.asarray(logits), np.asarray(expected))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("sizes", [{"SCORES": 200, "LOGITS": 100}, {"ROWS": 3}])
def test_slices_of_scores_and_logits_change_nothing(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], full: bool
) -> None:
    """Scores of a few query rows, without the keys that none of them sees; logits of a few rows at
    a time, with a head that is trained and one that is not: the same loss and gradients."""
    t = tuner(several(), Choice(full=full), checkpoint=True)
    whole = t.outcome(0)
    for name, size in sizes.items():
        monkeypatch.setattr(blocks, name, size)
    parts = t.outcome(0)
    assert parts.loss == pytest.approx(whole.loss, abs=1e-6)
    assert whole.grads is not None and parts.grads is not None
    for name, group in whole.grads.items():
        for key, value in group.items():
            other = parts.grads[name][key]
            assert np.abs(np.asarray(value - other)).max() < 2e-6, key


@pytest.mark.parametrize("full", [False, True])
def test_gradient_checkpoints_change_no_gradient(full: bool) -> None:
    choice = Choice(full=True) if full else Choice(lora_rank=2)
    plain, light = (tuner(several(), choice, checkpoint=c).outcome(0) for c in (False, True))
    assert plain.loss == light.loss and plain.grads is not None and light.grads is not None
    for name, group in plain.grads.items():
        assert group.keys() == light.grads[name].keys()
        for key, value in group.items():
            assert np.abs(np.asarray(value - light.grads[name][key])).max() < 2e-6, key


@pytest.mark.parametrize("name", list(CASES))
def test_gradients_are_the_central_differences_of_the_numpy_decoder(name: str) -> None:
    """Omega, biases, low-rank updates: float32 by MLX against float64 by NumPy, relative to each
    tensor's largest derivative. Measured: 8e-6 at worst (`tests/helpers/helpers_tune.py`)."""
    errors = gradient_errors(case(name), probes=2)
    assert {k.rsplit(".", 1)[1] for k, *_ in errors} == {"omega", "bias", "lora_a", "lora_b"}
    for key, largest, _, relative in errors:
        assert largest > 1e-3, f"{key}: flat, so the test says nothing"
        assert relative < 4e-5, key


def test_gradient_of_another_loss_is_caught() -> None:
    """The negative control: gradients of a step that is not the one compared."""
    t = case("sft, one Omega")
    other = t.outcome(0)
    t.order = type("Other", (), {"__call__": lambda self, k: np.array([2])})()
    assert other.grads is not None
    t.outcome = lambda step: other  # type: ignore[method-assign]
    assert max(relative for *_, relative in gradient_errors(t, probes=2)) > 0.01


def test_a_transcript_is_worth_the_same_in_any_company() -> None:
    """Stacked with others of its shape, or in a pass of its own: no padding, so no difference."""
    t = tuner(several(count=8), objective="kto", batch_size=8)
    alone = [t.scores([one])[0] for one in t.transcripts]
    assert np.abs(t.scores(t.transcripts) - alone).max() < BOUND
    sizes = sorted(len(places) for places, _ in stacks([rows(one) for one in t.transcripts]))
    assert sizes == [2, 2, 4]  # some are stacked
    for k, one in enumerate(t.transcripts):
        assert alone[k] == pytest.approx(np.concatenate(oracle_logprobs(t, one)).sum(), abs=1e-4)


def test_accumulated_microbatches_are_one_batch() -> None:
    """Unequal numbers of tokens: the mean is over all tokens of the step, not over microbatches."""
    whole = tuner(several(), batch_size=6).outcome(0)
    parts = tuner(several(), batch_size=2, accumulate=3)
    found = parts.outcome(0)
    assert len(parts.order.epoch(0)) == 3
    assert found.loss == pytest.approx(whole.loss, abs=1e-6) and found.tokens == whole.tokens
    assert whole.grads is not None and found.grads is not None
    for name, group in whole.grads.items():
        for key, value in group.items():
            assert np.abs(np.asarray(value - found.grads[name][key])).max() < 2e-6, key
    each = [tuner(several(), batch_size=2).outcome(k).loss for k in range(3)]
    assert abs(float(np.mean(each)) - whole.loss) > 1e-3  # the control: a mean of means is another


def test_before_the_first_step_nothing_has_changed() -> None:
    """Added biases are 0, low-rank updates have B = 0: the trainable model is the model."""
    for choice in (Choice(lora_rank=2), Choice(full=True), Choice(omega_per_layer=True)):
        t = tuner(several(), choice)
        plain = tuner(several(), Choice(biases=False))
        assert np.array_equal(t.scores(t.transcripts), plain.scores(plain.transcripts))


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_moves_where_it_is_used(tied: bool) -> None:
    """A full tuning away from its start, norms, embedding and (tied) head included."""
    config = dataclasses.replace(CONFIG, tied=tied, family="qwen3", qk_norm=True)
    t = tuner(several(), Choice(full=True), base=model(config))
    before = teacher_forced(t, t.transcripts[0])
    names = {name for group in t.groups.values() for name in group}
    assert names >= set(config.tensors())
    disturb(t, 0.02)
    one = t.transcripts[0]
    expected = np.concatenate(oracle_logprobs(t, one))
    assert np.abs(teacher_forced(t, one) - expected).max() < BOUND
    assert np.abs(before - expected).max() > 100 * BOUND


def test_omega_far_from_zero_stays_exact() -> None:
    """slot * theta times a lane is thousands of radians: float32 would be off by 1e-3 of a turn."""
    base = model()
    start = LaneRoPE.group_think(base.theta, 30001.0).omega
    t = tuner([transcript(np.random.default_rng(3), own=(1, 1, 1), drawn=(5, 5, 5))], start=start)
    one = t.transcripts[0]
    assert np.abs(teacher_forced(t, one) - np.concatenate(oracle_logprobs(t, one))).max() < BOUND
    coarse = tuner([one], start=np.zeros(4))
    coarse.groups["omega"] = {"lane_rope.omega": mx.array(start.astype(np.float32))}
    assert np.abs(teacher_forced(coarse, one) - teacher_forced(t, one)).max() > 10 * BOUND


def test_what_is_written_is_what_was_trained() -> None:
    """Omega leaves as float64, start and all; low-rank updates unscaled, their scale beside."""
    t = tuner(several(), Choice(lora_rank=2, lora_scale=3.0))
    disturb(t)
    tensors = t.trainable.adapter_tensors(t.groups)
    moved = np.asarray(t.groups["omega"]["lane_rope.omega"], dtype=np.float64)
    assert np.array_equal(tensors["lane_rope.omega"], t.trainable.omega_start + moved)
    assert len(tensors) == 1 + 2 * 3 + 2 * 4 * 2
    assert t.trainable.count == sum(v.size for v in tensors.values())


def test_mismatched_pairs_keep_lanes_and_fit_the_context() -> None:
    rng = np.random.default_rng(0)
    x, y = transcript(rng, prompt=9), transcript(rng, prompt=3, own=(1, 2), drawn=(6, 6))
    pair = mismatched(x, y, 64)
    assert pair.prompt == x.prompt and pair.lanes == y.lanes and pair.ended == y.ended
    short = mismatched(x, y, 9 + 2 + 4)
    assert [len(lane) for lane in short.lanes] == [4, 4] and short.ended == [False, False]
    assert mismatched(x, y, 10).targets == 0
    t = refer(tuner([x, y], objective="kto", batch_size=2))
    assert t.z0(np.array([0, 1])) == pytest.approx(0.0, abs=1e-5)


def test_tuning_fits_what_it_is_given() -> None:
    """Every way of tuning lowers the loss of a few transcripts, and changes nothing else."""
    for choice in (Choice(), Choice(lora_rank=2, biases=False, omega=False), Choice(full=True)):
        t = tuner(several(), choice, lr=1e-2, steps=12, batch_size=6)
        before = dict(t.trainable.model.params)
        first = t.outcome(0).loss
        for _ in range(12):
            t.apply(t.outcome(t.step).grads or {})
        assert t.outcome(t.step).loss < first - 0.05
        assert all(t.trainable.model.params[k] is v for k, v in before.items())
