"""The study's commands given again: interrupted, beside another process, on what is half there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

from tinylane.core.lanes import LaneRoPE
from tutorials.study import record
from tutorials.study.__main__ import changed, main
from tutorials.study.base import BaseRecipe
from tutorials.study.cells import StudyRecipe
from tutorials.study.finetune import TuneSettings
from tutorials.study.trainer import Mixed, StudyTrainer

DATA = Path(__file__).parents[2] / "tutorials" / "study"
MINI = ["swaps=4", "lanes=1,2", "shares=0.5,0.5", "width=16", "layers=2", "heads=2"]
MINI += ["kv_heads=1", "head_dim=8", "mlp_width=32", "warmup=2", "rows=128", "stage=2", "steps=4"]
FOLD = ("--cells", "fold", "--seeds", 0, "--count", 4, "--set", *MINI)
OTHER = "another process is at it"


@pytest.fixture
def study(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        code = main([str(word) for word in argv])
        return code, *capsys.readouterr()

    return run


def test_what_another_process_is_at_is_left_to_it_and_done_when_it_is_gone(
    study: Any, tmp_path: Path
) -> None:
    """How the same command, started twice, uses two cores: nothing twice, and no error."""
    part, law = tmp_path / "fold-0", tmp_path / "law7"
    with record.locked(part), record.locked(law):
        code, _, err = study("scratch", "--out", tmp_path, *FOLD, "--law7", 2)
        assert code == 0 and f"fold-0: {OTHER}" in err
        table = json.loads((tmp_path / "scratch.json").read_text())
        assert table["cells"] == {} and "law7" not in table
    code, out, err = study("scratch", "--out", tmp_path, *FOLD, "--law7", 2)
    assert code == 0 and OTHER not in err and out == f"{tmp_path / 'scratch.json'}\n"
    table = json.loads((tmp_path / "scratch.json").read_text())
    assert table["cells"]["fold"]["seeds"][0]["seed"] == 0
    assert len(table["law7"]["cells"]) == 4


def test_ctrl_c_says_that_the_same_command_goes_on(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(trainer: StudyTrainer) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StudyTrainer, "advance", stop)
        code, out, err = study("scratch", "--out", tmp_path, *FOLD, "--law7", 0)
    assert (code, out) == (130, "")
    assert err == "tutorials.study: interrupted; the same command goes on from there\n"
    assert study("scratch", "--out", tmp_path, *FOLD, "--law7", 0)[0] == 0
    assert (tmp_path / "fold-0" / "result.json").exists()


def test_a_base_and_its_data_are_made_once_by_whoever_is_first(study: Any, tmp_path: Path) -> None:
    """`finetune` beside `starts` on one base: the second leaves the seed out and says so; a
    published table is not made anew."""
    bases, out = tmp_path / "bases", tmp_path / "out"
    common = ("--seeds", 0, "--count", 4, "--set", *MINI)
    tuning = ("--tuning", "lanes=2", "transcripts=4", "steps=2", "lora_rank=2", "batch_size=2")
    tune = ("finetune", "--out", out, "--bases", bases, *common, *tuning, "--cells", "sft-lora")
    with record.locked(bases / "base-0"):
        for command in (("starts", "--out", bases, *common), tune):
            code, _, err = study(*command)
            assert code == 0 and f"base-0: {OTHER}" in err
        assert json.loads((out / "finetune.json").read_text())["cells"] == {}
        _, told, _ = study("tables", bases)
        assert "(no base is trained yet)" in told
        assert study("plot", bases)[0] == 0 and not list(bases.glob("*.svg"))
    assert study("starts", "--out", bases, *common)[0] == 0
    made = bases / "base-0" / "starts-4.json"
    made.write_text(made.read_text().replace('"seed": 0', '"seed": 7'))
    assert study("starts", "--out", bases, *common)[0] == 0
    assert json.loads((bases / "starts.json").read_text())["seeds"][0]["seed"] == 7
    with record.locked(out / "data-0"):
        code, _, err = study(*tune)
        assert code == 0 and f"data-0: {OTHER}" in err
    with record.locked(out / "sft-lora-0"):
        code, _, err = study(*tune)
        assert code == 0 and f"sft-lora-0: {OTHER}" in err
    assert set(json.loads((out / "finetune.json").read_text())["cells"]) == {"untuned"}


def test_what_tinylane_train_says_is_wrong_or_interrupted_is_passed_on(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("--seeds", 0, "--count", 4, "--set", *MINI, "--cells", "sft-lora")
    tuning = ("--tuning", "lanes=2", "transcripts=4", "steps=2", "batch_size=2")
    code, _, err = study("finetune", "--out", tmp_path, *common, *tuning, "lora_rank=5000")
    assert code == 2 and "--lora-rank is 5000; expected 0 to 4096" in err.splitlines()[-1]
    monkeypatch.setattr("tinylane.commands.cli.main", lambda argv: 130)
    again = ("finetune", "--out", tmp_path / "2", "--bases", tmp_path / "bases")
    assert study(*again, *common, *tuning)[0] == 130


def test_tables_are_printed_and_a_folder_without_any_is_refused(study: Any, tmp_path: Path) -> None:
    code, out, err = study("tables", DATA)
    assert (code, err) == (0, "") and out.startswith("| from scratch, ")
    text = (DATA / "README.md").read_text()
    assert all(table in text for table in out.strip().split("\n\n"))
    code, out, err = study("tables", tmp_path)
    assert (code, out) == (2, "") and "no table to read; expected one of scratch.json" in err


def test_a_table_without_learned_omega_has_no_picture_of_it(study: Any, tmp_path: Path) -> None:
    table = json.loads((DATA / "scratch.json").read_text())
    del table["cells"]["joint-learned"]
    (tmp_path / "scratch.json").write_text(json.dumps(table))
    assert study("plot", tmp_path)[0] == 0
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert len(drawn) == 2 and not any("omega" in name for name in drawn)


def test_a_folder_that_cannot_be_made_is_one_line(study: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = study("scratch", "--out", tmp_path / "file" / "below", *FOLD)
    assert (code, out, err.count("\n")) == (2, "", 1) and "cannot be made" in err


def test_settings_by_name_take_the_kind_that_the_recipe_has() -> None:
    found = changed(StudyRecipe(), ["learn_omega=False", "fold=true", "lanes=1,4", "lr=0.5"])
    assert (found.learn_omega, found.fold, found.lanes, found.lr) == (False, True, (1, 4), 0.5)
    assert found.steps == StudyRecipe().steps


def test_without_muon_all_weights_have_one_optimizer(tmp_path: Path) -> None:
    given = dict(word.split("=") for word in MINI)
    words = [f"{name}={value}" for name, value in given.items()]
    mixed, plain = (
        StudyTrainer(changed(StudyRecipe(), [*words, f"muon={rate}"])) for rate in (0.02, 0)
    )
    kinds = [{type(o) for o in trainer.optimizers.values()} for trainer in (mixed, plain)]
    assert Mixed in kinds[0] and Mixed not in kinds[1]
    assert np.isfinite(plain.advance()[1]) and np.isfinite(mixed.advance()[1])


def test_omega_before_tuning_is_the_one_that_is_named() -> None:
    theta = np.array([1.0, 0.1])
    starts = {
        "none": LaneRoPE.none(theta),
        "group_think": LaneRoPE.group_think(theta, 32.0),
        "ntk": LaneRoPE.ntk(theta, 32.0, 4),
    }
    for name, expected in starts.items():
        assert np.array_equal(TuneSettings(omega=name).start(theta).omega, expected.omega)
    assert BaseRecipe().learn_omega is False
