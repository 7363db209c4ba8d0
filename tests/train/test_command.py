"""Tuning by the command line: what is tuned, what it writes and says, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import helpers_checkpoint as checkpoints
import helpers_cli
import helpers_tune
from helpers_cli import write_checkpoint
from helpers_tune import KTO, command, losses, oracle_logprobs, transcript, tuner, write_jsonl

import tinylane
from tinylane.checkpoints.adapter import load_adapter
from tinylane.core.errors import TinylaneError
from tinylane.train.data import rows
from tinylane.train.parameters import Choice
from tinylane.train.recipe import TuneRecipe
from tinylane.train.setup import prepare, start_model

ask, base, data = helpers_cli.ask, helpers_tune.base, helpers_tune.data  # fixtures


def test_the_adapter_is_loaded_by_generate_and_computes_what_was_trained(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    argv = command("sft", base, data, tmp_path, "--lora-rank", 2, "--lora-alpha", 3)
    assert ask(*argv)[0] == 0
    session = prepare(
        start_model(base), data, TuneRecipe(steps=12, warmup=2), Choice(lora_rank=2, lora_scale=1.5)
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
    one = t.transcripts[0]
    r = rows(one)
    logits = model(r.tokens, r.positions, r.lanes)[r.sources]
    top = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    found = top[np.arange(len(r.follows)), r.follows]
    assert np.abs(found - np.concatenate(expected)).max() < 1e-6
    code, out, _ = ask("generate", "--model", base, "--adapter-path", tmp_path, "--json")
    assert code == 0 and json.loads(out)
    other = write_checkpoint(tmp_path / "other", seed=1)  # of the same sizes
    with pytest.raises(TinylaneError, match="adapter of another model"):
        tinylane.load(other, "numpy", adapter=tmp_path)


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
    assert re.search(r"tokens/s, [0-9.]+ [MG]iB, .* left", err)  # of the whole process
    entry = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert entry["tokens_per_second"] > 0 and entry["peak_memory"] > 1 << 20
    assert entry["seconds_left"] == 0 and entry["rate"] == pytest.approx(0.02)


def test_it_says_when_nothing_tells_joint_lanes_apart(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """Greedy lanes then write one text, however long one trains (the page on lanes has it)."""
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    same = [{**line, "lane_prompts": line["lane_prompts"][:1] * 2} for line in lines]
    one_tag, blind = (
        write_jsonl(tmp_path / "one.jsonl", same),
        ("--omega", "none", "--no-tune-omega"),
    )
    for k, (file, said, *more) in enumerate(
        [
            (one_tag, True, *blind),
            (data, False, *blind),  # their tags differ
            (one_tag, False),
            (one_tag, False, *blind, "--visibility", "star"),
            (one_tag, False, *blind, "--lag", 1),
            (one_tag, False, *blind, "--extra", "lane_embed"),
        ]
    ):
        code, _, err = ask(*command("sft", base, file, tmp_path / str(k), "--stop-at", 1, *more))
        assert code == 0 and ("nothing tells lanes apart" in err) is said, more


def test_kto_says_when_one_kind_of_label_is_missing(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """Bad transcripts alone push every text down, with a loss that looks like success."""
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    bad = write_jsonl(tmp_path / "bad.jsonl", [{**line, "label": False} for line in lines])
    for file, said in ((data, False), (bad, True)):
        argv = command("kto", base, file, tmp_path / file.stem, *KTO, "--stop-at", 1)
        code, _, err = ask(*argv)
        assert code == 0 and ("one kind is missing" in err) is said


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
    t = prepare(start_model(base), tmp_path / "valid.jsonl", TuneRecipe(steps=12), Choice()).tuner
    state = prepare(start_model(base), data, TuneRecipe(steps=12), Choice()).tuner
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
    recipe = TuneRecipe(steps=101, warmup=10, final=0.1)
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
    decay = {name: optimizer.weight_decay for name, optimizer in t.optimizers.items()}
    assert decay == {"omega": 0.0, "biases": 0.0, "weights": 0.5, "vectors": 0.0}
