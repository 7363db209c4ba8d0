"""Tuning as a run: killed, resumed, refused, diverged, on a full disk; what it writes and says."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import helpers_checkpoint as checkpoints
import helpers_cli
from helpers_cli import GAME, write_checkpoint
from helpers_tune import oracle_logprobs, tuner, write_jsonl

import tinylane
from tinylane.adapter import load_adapter
from tinylane.train import rundir
from tinylane.train.recipe import Recipe
from tinylane.train.setup import prepare, start
from tinylane.train.tuned import Choice

ask = helpers_cli.ask  # a fixture
KTO = ("--batch-size", 4)


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


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("sft", ("--lora-rank", 2)),
        ("sft", ("--omega-per-layer", "--no-tune-biases", "--omega", "none")),
        ("kto", KTO),
        ("kto", (*KTO, "--full")),
    ],
)
def test_a_stopped_run_goes_on_with_the_same_losses(
    ask: Any, base: Path, data: Path, tmp_path: Path, task: str, more: tuple
) -> None:
    assert ask(*command(task, base, data, tmp_path / "whole", *more))[0] == 0
    for stop in (4, 9, 12):
        argv = command(task, base, data, tmp_path / "parts", *more, "--stop-at", stop)
        assert ask(*argv)[0] == 0
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert [step for step, _ in losses(tmp_path / "whole")] == list(range(1, 13))
    file = "model.safetensors" if "--full" in more else "adapters.safetensors"
    assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_run_killed_at_any_instant_goes_on_with_the_same_losses(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """SIGKILL in processes of their own, at moments nobody chose: in kto's reference, between a
    state and its log, in the middle of a step."""
    more = ("--steps", 80, "--save-every", 7, "--lora-rank", 2, *KTO)
    out = tmp_path / "killed"
    argv = [sys.executable, "-m", "tinylane", *command("kto", base, data, out, *more)]
    kills = 0
    for lines in (0, 17):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        watched, until = out / ("log.jsonl" if lines else "recipe.json"), time.monotonic() + 60
        while process.poll() is None and time.monotonic() < until:
            if watched.exists() and (not lines or watched.read_bytes().count(b"\n") >= lines):
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills  # where the machine is busy with others, the second may come too late
    for folder in (out, tmp_path / "whole"):
        assert ask(*command("kto", base, data, folder, *more))[0] == 0
    assert losses(out) == losses(tmp_path / "whole") and len(losses(out)) == 80
    assert not list(out.glob(".*.tmp"))


def test_a_mean_loss_that_a_stop_cut_in_two_is_the_same(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """Lines every 5 steps, states every 3: the losses since the last line are in the state."""
    argv = lambda out: command("sft", base, data, tmp_path / out, "--every", 5, "--batch-size", 2)
    ask(*argv("whole"))
    for stop in (4, 8):
        ask(*argv("parts"), "--stop-at", stop)
    ask(*argv("parts"))
    assert [step for step, _ in losses(tmp_path / "whole")] == [5, 10, 12]
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_another_seed_gives_other_losses(ask: Any, base: Path, data: Path, tmp_path: Path) -> None:
    """The negative control of the tests above."""
    for seed in (0, 1):
        ask(*command("sft", base, data, tmp_path / str(seed), "--seed", seed, "--batch-size", 3))
    assert losses(tmp_path / "0") != losses(tmp_path / "1")


def test_a_state_of_the_right_step_only(ask: Any, base: Path, data: Path, tmp_path: Path) -> None:
    """The negative control: a run that goes on from another run's state has other losses."""
    one, two = tmp_path / "one", tmp_path / "two"
    ask(*command("sft", base, data, one, "--stop-at", 6))
    ask(*command("sft", base, data, two, "--stop-at", 3))
    ask(*command("sft", base, data, tmp_path / "whole"))
    (two / "state.safetensors").write_bytes((one / "state.safetensors").read_bytes())
    ask(*command("sft", base, data, two))
    assert losses(two) != losses(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("--lr", "1e-3", "--lora-rank", 2), "lr 0.0001 there, 0.001 here"),
        (("--seed", 3), "seed 0 there, 3 here"),
        (("--no-tune-biases",), "tune_biases True there, False here"),
        (("--omega", "none"), "omega_start 'learned' there, 'none' here"),
        (("--lag", 1, "--visibility", "star"), "visibility 'joint' there, 'star' here"),
    ],
)
def test_a_run_directory_of_another_configuration_is_refused(
    ask: Any, base: Path, data: Path, tmp_path: Path, change: tuple, named: str
) -> None:
    more = ("--lora-rank", 2) if "--lora-rank" in change else ()
    assert ask(*command("sft", base, data, tmp_path, *more, "--stop-at", 1))[0] == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    code, _, err = ask(*command("sft", base, data, tmp_path, *change))
    assert code == 2 and err.splitlines()[-1].startswith("tinylane: error:")
    assert "another recipe" in err and named in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_other_data_and_another_model_are_another_configuration(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ask(*command("sft", base, data, out, "--stop-at", 1))
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(data.read_text().splitlines(keepends=True)[:-1]))
    other = write_checkpoint(tmp_path / "other", seed=1)
    for argv, named in (
        (command("sft", base, fewer, out), "data '"),
        (command("sft", other, data, out), "model '"),
    ):
        code, _, err = ask(*argv)
        assert code == 2 and "another recipe" in err and named in err
    again = tmp_path / "copy.jsonl"
    again.write_text(data.read_text())
    assert ask(*command("sft", base, again, out))[0] == 0  # the same data by another name


def test_a_second_process_on_one_directory_is_refused(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    with rundir.locked(tmp_path):
        code, _, err = ask(*command("sft", base, data, tmp_path))
        assert code == 2 and "another process is at work there" in err
    assert ask(*command("sft", base, data, tmp_path, "--stop-at", 1))[0] == 0


def test_a_learning_rate_that_diverges_stops_and_keeps_the_last_good_state(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """The loss climbs beyond all sense, though it stays a number. What is kept has given a good
    loss: a state saved on the way up would have replaced it."""
    argv = command("sft", base, data, tmp_path, "--full", "--lr", 30, "--steps", 100)
    argv += ["--warmup", "30", "--save-every", "1"]
    code, _, err = ask(*argv)
    assert code == 2 and "training diverged" in err and "is kept" in err
    assert "Lower the learning rates" in err and "Traceback" not in err
    tuner = prepare(start(base), data, Recipe(steps=100), Choice(full=True)).tuner
    first = tuner.outcome(0, gradients=False)
    tuner.load(tmp_path / "state.safetensors")
    found = tuner.outcome(tuner.step, gradients=False)
    assert 0 < tuner.step < 20 and found.nll is not None and first.nll is not None
    assert found.nll <= 1 + 2 * first.nll
    assert max(loss for _, loss in losses(tmp_path)) > 10 * found.nll


def test_a_loss_that_is_no_number_stops_at_once(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    argv = command("sft", base, data, tmp_path, "--full", "--lr", "1e30", "--save-every", 1)
    code, _, err = ask(*argv)
    assert code == 2 and "training diverged: the loss is nan at step 1" in err
    assert "no state was saved" in err and not (tmp_path / "model.safetensors").exists()


def test_a_divergence_in_the_last_step_is_not_saved(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """Nobody computes a loss after the last step but the guard."""
    argv = command("sft", base, data, tmp_path, "--full", "--lr", "1e30", "--steps", 1)
    argv[argv.index("--warmup") + 1] = "0"
    code, _, err = ask(*argv)
    assert code == 2 and "training diverged" in err and "no state was saved" in err
    assert not (tmp_path / "model.safetensors").exists()


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """Files may not grow beyond 4 KiB, as if the disk were full: the state of step 3 stays."""
    out = tmp_path / "out"
    assert ask(*command("sft", base, data, out, "--stop-at", 3, "--lora-rank", 2))[0] == 0
    before = (out / "state.safetensors").read_bytes()
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    argv = [sys.executable, "-m", "tinylane", *command("sft", base, data, out, "--lora-rank", 2)]
    done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=full)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("tinylane: error:") and "cannot be written (File too large)" in last
    assert (out / "state.safetensors").read_bytes() == before
    assert ask(*command("sft", base, data, out, "--lora-rank", 2))[0] == 0
    ask(*command("sft", base, data, tmp_path / "whole", "--lora-rank", 2))
    assert losses(out) == losses(tmp_path / "whole")


def test_a_reference_of_other_data_is_refused_and_a_torn_one_completed(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ask(*command("kto", base, data, out, *KTO, "--stop-at", 2))
    reference = out / "reference.jsonl"
    whole = reference.read_text()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 1 + 3
    reference.write_text("".join(lines[:2]) + lines[2][:20])
    assert ask(*command("kto", base, data, out, *KTO))[0] == 0
    assert reference.read_text() == whole
    reference.write_text(whole.replace('"digest": "', '"digest": "0'))
    code, _, err = ask(*command("kto", base, data, out, *KTO))
    assert code == 2 and "other data or another model" in err


def test_kto_of_a_resumed_run_keeps_its_untuned_reference(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """Were the reference lost and made anew after step 9, it would be the tuned model's."""
    ask(*command("kto", base, data, tmp_path, *KTO, "--stop-at", 9))
    (tmp_path / "reference.jsonl").unlink()
    whole = tmp_path / "whole"
    ask(*command("kto", base, data, whole, *KTO))
    ask(*command("kto", base, data, tmp_path, *KTO))
    assert losses(tmp_path) == losses(whole)
    first = json.loads((tmp_path / "reference.jsonl").read_text().splitlines()[1])
    assert first == json.loads((whole / "reference.jsonl").read_text().splitlines()[1])


def test_the_adapter_is_loaded_by_generate_and_computes_what_was_trained(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    argv = command("sft", base, data, tmp_path, "--lora-rank", 2, "--lora-alpha", 3)
    assert ask(*argv)[0] == 0
    session = prepare(
        start(base), data, Recipe(steps=12, warmup=2), Choice(lora_rank=2, lora_scale=1.5)
    )
    t = session.tuner
    t.load(tmp_path / "state.safetensors")
    assert t.step == 12
    model = tinylane.load(base, "numpy", "float64", adapter=tmp_path)
    assert model.visibility == "joint" and model.task is not None
    expected = oracle_logprobs(t, t.transcripts[0])
    result = tinylane.generate(
        model, t.transcripts[0].prompt, lanes=2, max_tokens=1, sampler=tinylane.Sampler(0.0),
        lane_prompts=t.transcripts[0].lane_prompts,
    )  # fmt: skip
    assert len(result.lanes) == 2
    adapter = load_adapter(tmp_path, model.config)
    assert adapter.settings["lora_parameters"]["scale"] == 1.5 and adapter.lanes == (2,)
    from tinylane.train.transcripts import rows

    one = t.transcripts[0]
    r = rows(one)
    logits = model(r.tokens, r.positions, r.lanes)[r.sources]
    top = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    found = top[np.arange(len(r.follows)), r.follows]
    assert np.abs(found - np.concatenate(expected)).max() < 1e-6
    code, out, _ = ask("generate", "--model", base, "--adapter-path", tmp_path, "--json")
    assert code == 0 and json.loads(out)


def test_a_full_tuning_is_a_checkpoint(ask: Any, base: Path, data: Path, tmp_path: Path) -> None:
    assert ask(*command("sft", base, data, tmp_path, "--full", "--lr", "1e-3"))[0] == 0
    before, after = tinylane.load(base, "numpy"), tinylane.load(tmp_path, "numpy")
    name = "model.layers.0.mlp.up_proj.weight"
    assert np.abs(before.params[name] - after.params[name]).max() > 1e-4
    assert after.lane_rope is not None and after.tokenizer is not None
    bias = "model.layers.1.self_attn.q_proj.bias"
    assert np.abs(after.params[bias]).max() > 0 and bias not in before.params
    out = tmp_path / "plain"  # for loaders that know of no adapter
    assert ask("fuse", "--model", tmp_path, "--save-path", out)[0] == 0
    plain = tinylane.load(out, "numpy", adapter=False)
    ids, lanes = np.arange(3, 13), np.full(10, -1)
    a, b = (np.asarray(m(ids, np.arange(10), lanes)) for m in (after, plain))
    assert np.abs(a - b).max() < 1e-4


def test_a_run_does_not_write_over_what_it_starts_from(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    before = (base / "model.safetensors").read_bytes()
    code, _, err = ask(*command("sft", base, data, base, "--full"))
    assert code == 2 and "is --model itself" in err
    assert (base / "model.safetensors").read_bytes() == before
    ask(*command("sft", base, data, tmp_path / "a", "--stop-at", 1))
    argv = command("kto", base, data, tmp_path / "a", "--adapter-path", tmp_path / "a")
    code, _, err = ask(*argv)
    assert code == 2 and "is --adapter-path itself" in err


def test_from_scratch_needs_a_config_only(ask: Any, base: Path, data: Path, tmp_path: Path) -> None:
    """Random weights by the seed; the folder that is made loads."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((base / name).read_bytes())
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        argv = command("sft", bare, data, tmp_path / name, "--from-scratch", "--lr", "1e-3")
        assert ask(*argv, "--seed", seed)[0] == 0
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert losses(tmp_path / "a")[-1][1] < losses(tmp_path / "a")[0][1]
    model = tinylane.load(tmp_path / "a", "numpy")
    assert model.lane_rope is not None and model.visibility == "joint"


def test_tuning_goes_on_from_an_adapter(ask: Any, base: Path, data: Path, tmp_path: Path) -> None:
    """Omega, biases and low-rank updates of a first run are where the second begins; what it does
    not tune is carried along."""
    first, second, third = (tmp_path / n for n in ("first", "second", "third"))
    ask(*command("sft", base, data, first, "--lora-rank", 2))
    argv = ("--adapter-path", first, "--lora-rank", 2)
    assert ask(*command("kto", base, data, second, *KTO, *argv))[0] == 0
    argv = ("--adapter-path", first, "--no-tune-biases")
    assert ask(*command("sft", base, data, third, *argv))[0] == 0
    config = tinylane.load(base, "numpy").config
    a, b, c = (load_adapter(folder, config) for folder in (first, second, third))
    moved = {k for k in a.tensors if not np.array_equal(a.tensors[k], b.tensors[k])}
    assert moved == set(a.tensors)
    assert all(np.array_equal(a.tensors[k], c.tensors[k]) for k in a.tensors)
    assert a.lane_rope and c.lane_rope and not np.array_equal(a.lane_rope.omega, c.lane_rope.omega)
    code, _, err = ask(
        *command("sft", base, data, tmp_path / "x", "--adapter-path", first, "--lora-rank", 3)
    )
    assert code == 2 and "tinylane fuse" in err


def test_it_says_what_it_tunes_and_how_fast(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    code, out, err = ask(*command("sft", base, data, tmp_path))
    assert code == 0 and "--adapter-path" in out
    assert "8 transcripts of 2 lanes" in err and "4 labelled false are left out" in err
    assert "good" not in err
    assert "tunes 68 of 4,420 parameters (1.538%): omega 4, biases 64" in err
    assert "tokens/s" in err and "MiB" in err and "left" in err
    entry = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert entry["tokens_per_second"] > 0 and entry["peak_memory"] > 1 << 20
    assert entry["seconds_left"] == 0 and entry["rate"] == pytest.approx(0.02)


def test_a_validation_loss_is_that_of_other_transcripts(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """Logged at its steps and at the last; training does not see it."""
    lines = data.read_text().splitlines(keepends=True)
    (tmp_path / "valid.jsonl").write_text("".join(lines[3:6]))
    more = ("--valid", tmp_path / "valid.jsonl", "--valid-every", 5)
    code, _, err = ask(*command("sft", base, data, tmp_path / "out", *more))
    assert code == 0 and "valid" in err
    ask(*command("sft", base, data, tmp_path / "plain"))
    assert losses(tmp_path / "out") == losses(tmp_path / "plain")
    entries = [json.loads(x) for x in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "valid" in e] == [5, 10, 12]
    t = prepare(start(base), tmp_path / "valid.jsonl", Recipe(steps=12), Choice()).tuner
    state = prepare(start(base), data, Recipe(steps=12), Choice()).tuner
    state.load(tmp_path / "out" / "state.safetensors")
    t.groups = state.groups
    every = np.concatenate([x for one in t.transcripts for x in oracle_logprobs(t, one)])
    assert entries[-1]["valid"] == pytest.approx(-every.mean(), abs=1e-5)


@pytest.mark.parametrize("more", [("--grad-checkpoint",), ("--dtype", "bfloat16")])
def test_a_packed_checkpoint_is_tuned_by_low_rank_updates(
    ask: Any, tmp_path: Path, more: tuple
) -> None:
    """Its weights stay packed; the adapter loads on top of them, in NumPy as well."""
    how = {"group_size": 32, "bits": 4}
    raw = checkpoints.small(
        "qwen2", quantization={**how, "mode": "affine"}, tie_word_embeddings=True
    )
    packed = checkpoints.quantized(checkpoints.weights(raw), {}, how)
    base = checkpoints.write_checkpoint(tmp_path / "base", raw, packed)
    rng = np.random.default_rng(0)
    ids = lambda n: rng.integers(3, 90, n).tolist()
    lines = [{"prompt": ids(4), "lanes": [ids(3), ids(5)], "label": bool(k % 2)} for k in range(6)]
    data = write_jsonl(tmp_path / "data.jsonl", lines)
    tuned = (
        "--lora-rank",
        2,
        "--lora-targets",
        "mlp.down_proj",
        "self_attn.q_proj",
        "--lr",
        "1e-2",
    )
    assert ask(*command("sft", base, data, tmp_path / "out", *tuned, *more))[0] == 0
    found = losses(tmp_path / "out")
    assert found[-1][1] < found[0][1]
    model = tinylane.load(base, "numpy", adapter=tmp_path / "out")
    assert any(name.endswith("down_proj.lora_a") for name in model.params)
    code, _, err = ask(*command("sft", base, data, tmp_path / "full", "--full"))
    assert code == 2 and "--full cannot train a quantized checkpoint" in err


BAD_FLAGS = {
    ("--lora-rank", -1): "--lora-rank is -1",
    ("--lora-rank", 2, "--full"): "leave --lora-rank out",
    ("--lora-alpha", 3): "--lora-alpha needs --lora-rank",
    ("--valid-every", 0): "--valid-every is 0",
    ("--valid", "nowhere"): "nowhere: cannot be read",
    ("--lora-targets", "q_proj", "--lora-rank", 2): "--lora-targets 'q_proj'",
    ("--no-tune-omega", "--no-tune-biases"): "nothing to tune",
    ("--steps", 0): "--steps is 0",
    ("--lr", "nan"): "--lr is nan",
    ("--clip", 0): "--clip is 0",
    ("--seed", -1): "--seed is -1",
    ("--lanes", 0): "--lanes",
    ("--slot", 3, "--omega", "none"): "--slot needs",
    ("--omega", "chess"): "--omega is 'chess'",
    ("--visibility", "[[1]]"): "--visibility is 1 x 1; there are transcripts of 2 lanes",
    ("--save-every", 0): "--save-every is 0",
    ("--final", 2): "--final is 2",
    ("--from-scratch", "--dtype", "bfloat16"): "--from-scratch takes no",
}


@pytest.mark.parametrize("flags", list(BAD_FLAGS), ids=lambda flags: " ".join(map(str, flags)))
def test_flags_that_cannot_be_right_are_one_line(
    ask: Any, base: Path, data: Path, tmp_path: Path, flags: tuple
) -> None:
    code, _, err = ask(*command("sft", base, data, tmp_path / "out", *flags))
    assert code == 2 and BAD_FLAGS[flags] in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    recipe = Recipe(steps=101, warmup=10, final=0.1)
    assert [recipe.factor(k) for k in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    middle = 0.1 + 0.9 * 0.5  # half of the cosine is over half way between warm-up and end
    assert recipe.factor(10) == 1.0 and recipe.factor(55) == pytest.approx(middle)
    assert recipe.factor(100) == pytest.approx(0.1)
    t = tuner(
        [tuner_transcript()], Choice(biases=False), steps=3, warmup=2, omega_lr=0.01, clip=1e9
    )
    t.apply(t.outcome(0).grads or {})
    first = np.abs(np.asarray(t.groups["omega"]["lane_rope.omega"]))
    assert first.max() == pytest.approx(0.005, rel=1e-3)  # Adam's first step is its rate


def tuner_transcript() -> Any:
    from helpers_tune import transcript

    return transcript(np.random.default_rng(0))


def test_clipping_is_of_all_gradients_together() -> None:
    t = tuner([tuner_transcript()], clip=1e-3)
    found = t.outcome(0).grads or {}
    norm = np.sqrt(
        sum(float((np.asarray(g) ** 2).sum()) for v in found.values() for g in v.values())
    )
    assert t.apply(found) == pytest.approx(norm, rel=1e-4)


def test_only_matrices_decay() -> None:
    t = tuner([tuner_transcript()], Choice(full=True), weight_decay=0.5)
    decay = {name: rate[1] for name, rate in t.rates.items()}
    assert decay == {"omega": 0.0, "biases": 0.0, "weights": 0.5, "vectors": 0.0}


def test_pid_files_do_not_outlive_a_killed_process(tmp_path: Path) -> None:
    """The lock is the system's: it goes with the process, so no stale lock keeps a user out."""
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom tinylane.train.rundir import locked\n"
        f"with locked(Path({str(tmp_path)!r})):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    (tmp_path / ".state.safetensors.x1.tmp").write_text("half")
    with rundir.locked(tmp_path):
        assert not list(tmp_path.glob(".*.tmp"))
