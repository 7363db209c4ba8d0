"""Files that a training or a collection goes on from: whole, torn, of another run, not there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import helpers_cli
import helpers_eval
import numpy as np
import pytest
from helpers_cli import write_checkpoint

from tinylane.core.errors import TinylaneError
from tinylane.evaluate import runner
from tinylane.files.safetensors import TensorFile, write_tensors

mx = pytest.importorskip("mlx.core", exc_type=ImportError)
import helpers_tune  # noqa: E402 - imports MLX
from helpers_tune import KTO, command, disturb, several, transcript, tuner  # noqa: E402

from tinylane.files import run_dir  # noqa: E402
from tinylane.train.data import Transcript, read_transcripts  # noqa: E402
from tinylane.train.from_scratch import Trainer  # noqa: E402
from tinylane.train.parameters import Choice  # noqa: E402
from tinylane.train.recipe import Recipe, TuneRecipe  # noqa: E402
from tinylane.train.setup import prepare, start_model  # noqa: E402

ask, base, data = helpers_cli.ask, helpers_tune.base, helpers_tune.data  # fixtures
TINY = Recipe(
    swaps=4, lanes=(1, 2), shares=(0.5, 0.5), width=16, layers=2, heads=2, kv_heads=1,
    head_dim=8, mlp_width=32, steps=4, warmup=2, rows=128,
)  # fmt: skip


# States.


@pytest.mark.parametrize("which", ["tuner", "trainer"])
def test_a_state_of_another_kind_or_recipe_is_refused_and_changes_nothing(
    which: str, tmp_path: Path
) -> None:
    one: Any = tuner(several()) if which == "tuner" else Trainer(TINY)
    other: Any = (
        tuner(several(), Choice(lora_rank=3))
        if which == "tuner"
        else Trainer(dataclasses.replace(TINY, mlp_width=16))
    )
    path = tmp_path / "state.safetensors"
    other.save(path)
    with pytest.raises(TinylaneError, match=r"state\.safetensors: its tensors are not those of"):
        one.load(path)
    with TensorFile(path) as file:
        tensors = {name: x.read() for name, x in file.tensors.items()}
        meta = dict(file.metadata)
    for changes in ({"format": "another program's"}, {"step": "-1"}, {"step": ""}):
        write_tensors(path, tensors, meta | changes)
        with pytest.raises(TinylaneError, match=r"state\.safetensors: not a .*state saved by"):
            one.load(path)
    assert one.step == 0


def test_a_log_that_a_kill_tore_is_taken_as_far_as_it_is_whole(tmp_path: Path) -> None:
    """And not beyond the step that the state has: the steps after it are done again."""
    lines = [json.dumps({"step": k, "seconds": 1.5 * k}) for k in range(1, 6)]
    for torn in ('{"step": 4, "sec', "[]", '{"step": null}', '{"seconds": 1}'):
        (tmp_path / "log.jsonl").write_text("\n".join([*lines[:3], torn, *lines[4:]]) + "\n")
        log = run_dir.Log(tmp_path, step=5)
        assert [entry["step"] for entry in log.entries] == [1, 2, 3] and log.seconds == 4.5
        assert (tmp_path / "log.jsonl").read_text().splitlines() == lines[:3]
    log = run_dir.Log(tmp_path, step=2)
    log.add({"step": 3, "seconds": 9.0})
    assert [json.loads(x)["seconds"] for x in (tmp_path / "log.jsonl").open()] == [1.5, 3.0, 9.0]


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TinylaneError, match=r"log\.jsonl: cannot be written \(No such file"):
        run_dir.append_line(tmp_path / "gone" / "log.jsonl", "{}")


def test_a_reference_of_fewer_values_than_its_batch_is_completed(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """A line that is JSON and too short is no better than a torn one."""
    out = tmp_path / "out"
    assert ask(*command("kto", base, data, out, *KTO, "--stop-at", 2))[0] == 0
    reference = out / "reference.jsonl"
    whole = reference.read_text()
    lines = whole.splitlines(keepends=True)
    lines[2] = json.dumps(json.loads(lines[2])[:-1]) + "\n"
    reference.write_text("".join(lines))
    assert ask(*command("kto", base, data, out, *KTO))[0] == 0
    assert reference.read_text() == whole


# Settings.


@pytest.mark.parametrize(
    ("make", "said"),
    (
        (lambda: TuneRecipe(objective="dpo"), "objective 'dpo'; expected sft or kto"),
        (lambda: TuneRecipe(reduce="max"), "reduce 'max'; expected sum or mean"),
        (lambda: dataclasses.replace(TINY, omega="spiral").start(), "Omega start 'spiral'"),
        (lambda: tuner(several(), Choice(lora_rank=100)), "--lora-rank is 100; model.layers.0."),
    ),
)
def test_a_recipe_that_cannot_be_is_refused(make: Any, said: str) -> None:
    with pytest.raises(TinylaneError, match=said):
        make()


def test_every_start_of_omega_that_the_recipe_names_is_made() -> None:
    for name in ("none", "group_think", "ntk"):
        rope = dataclasses.replace(TINY, omega=name).start()
        assert bool(rope.omega.any()) is (name != "none")


def test_full_tuning_of_an_adapter_with_low_rank_updates_asks_for_a_merge(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    """Its updates would be neither trained nor kept."""
    low = tmp_path / "low"
    assert ask(*command("sft", base, data, low, "--lora-rank", 2, "--stop-at", 1))[0] == 0
    assert ask(*command("sft", base, data, low, "--lora-rank", 2))[0] == 0
    more = ("--adapter-path", low, "--full")
    code, out, err = ask(*command("sft", base, data, tmp_path / "full", *more))
    assert (code, out) == (2, "") and "merge it first (tinylane fuse)" in err


def test_the_adapter_s_mask_is_tuned_with_another_lag_if_one_is_given(
    ask: Any, base: Path, data: Path, tmp_path: Path
) -> None:
    adapter = ("--adapter-path", base / "adapter")
    for more, lag in (((), 0), (("--lag", 1), 1)):
        out = tmp_path / str(lag)
        assert ask(*command("sft", base, data, out, *adapter, *more, "--steps", 2))[0] == 0
        settings = json.loads((out / "adapter_config.json").read_text())
        assert settings["visibility"] == "joint" and settings["lag"] == lag


def test_a_model_from_scratch_needs_no_tokenizer_where_transcripts_are_ids(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", adapter=False)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": False}))
    (folder / "tokenizer.json").unlink()
    ids = {"prompt_ids": [3, 4], "lanes": [[5, 6], [7, 8]]}
    path = helpers_tune.write_jsonl(tmp_path / "d.jsonl", [ids] * 2)
    begin = start_model(folder, scratch=True, seed=3)
    assert begin.model.tokenizer is None
    head, table = (begin.model.params[k] for k in ("lm_head.weight", "model.embed_tokens.weight"))
    assert head.shape == table.T.shape and not np.allclose(np.asarray(head), np.asarray(table).T)
    session = prepare(begin, path, TuneRecipe(steps=2, warmup=1, batch_size=2), Choice(full=True))
    assert np.isfinite(session.tuner.scores(session.data.transcripts)).all()


def test_a_finished_lane_needs_a_model_that_names_its_end(tmp_path: Path) -> None:
    model = helpers_tune.model(dataclasses.replace(helpers_tune.CONFIG, eos_ids=()))
    ids = {"prompt_ids": [3, 4], "lanes": ["", [5, 6]], "finished": [True, False]}
    path = helpers_tune.write_jsonl(tmp_path / "d.jsonl", [ids])
    with pytest.raises(TinylaneError, match='line 1: this model names no end token; give "finish'):
        read_transcripts(path, model, lanes=[2])


def test_a_transcript_whose_lanes_wrote_nothing_has_no_score_and_spoils_no_other() -> None:
    """NaN for it alone: a mean over a batch with it would be NaN for all."""
    empty = Transcript([5, 6], [[3], [4]], [[], []], [False, False], None)
    one = transcript(np.random.default_rng(0))
    t = tuner([one, one])
    disturb(t)
    found = t.scores([one, empty])
    assert np.isfinite(found[0]) and np.isnan(found[1])
    assert found[0] == t.scores([one])[0]


# Collections.


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    lines = [json.dumps({"question": q, "answer": a}) for q, a in helpers_eval.QUESTIONS[:3]]
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "data.jsonl"


def collecting(model: Path, data: Path, out: Path, *more: object) -> list[object]:
    words = ["collect", "gsm8k", "--model", model, "--data", data, "--out", out, "--lanes", 2]
    words += ["--template", "{question}", "--compare", "exact", "--max-tokens", 8, "--samples", 2]
    return [*words, "--logit-bias", *helpers_eval.BIAS, "--backend", "numpy", *more]


def test_an_interrupted_collection_says_what_is_kept_and_goes_on(
    ask: Any, tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = helpers_eval.checkpoint(tmp_path / "m")
    whole = collecting(model, questions, tmp_path / "whole")
    assert ask(*whole)[0] == 0
    decode, done = runner.decode, []

    def stop(*args: Any, **named: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return decode(*args, **named)

    monkeypatch.setattr(runner, "decode", stop)
    code, _, err = ask(*collecting(model, questions, tmp_path / "cut"))
    last = err.splitlines()[-1]
    assert code == 130 and "3 of 6 transcripts are kept in" in last and "goes on from there" in last
    monkeypatch.undo()
    assert ask(*collecting(model, questions, tmp_path / "cut"))[0] == 0
    rows = [
        [json.loads(x) | {"seconds": 0} for x in (tmp_path / k / "results.jsonl").open()]
        for k in ("whole", "cut")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 6
