"""Runs that an earlier version began go on, with the losses that it would have had.

`tests/data/begun` holds runs of commit 183d0dc, stopped half way. They were begun by the commands
below with `--stop-at`, after which its own losses to the end were written to losses.json.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

import helpers_cli
import helpers_tune
from helpers_tune import KTO, command

from tutorials.study.__main__ import main as study

BEGUN = Path(__file__).parents[1] / "data" / "begun"
LOSSES = json.loads((BEGUN / "losses.json").read_text())
SIZES = {
    "swaps": 4, "lanes": (1, 2), "shares": (0.5, 0.5), "width": 8, "layers": 1, "heads": 2,
    "kv_heads": 1, "head_dim": 4, "mlp_width": 8, "warmup": 2, "rows": 128, "steps": 6,
}  # fmt: skip
ask, base, data = helpers_cli.ask, helpers_tune.base, helpers_tune.data  # fixtures


def begun(name: str, out: Path) -> tuple[Path, bytes]:
    """A copy of a run's folder, and its log so far."""
    shutil.copytree(BEGUN / name, out, dirs_exist_ok=True)
    (log,) = out.rglob("log.jsonl")
    return log, log.read_bytes()


def check(log: Path, before: bytes, expected: Any) -> None:
    """The log goes on from its last line. Other machines round differently: 1e-4 of a loss."""
    assert log.read_bytes().startswith(before)
    entries = [json.loads(line) for line in log.open()]
    assert before.count(b"\n") < len(entries)
    assert [entry["step"] for entry in entries] == [step for step, _ in expected]
    for entry, (_, loss) in zip(entries, expected, strict=True):
        assert entry["loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("task", ["sft", "kto"])
def test_a_tuning_begun_by_an_earlier_version_goes_on(
    ask: Any, base: Path, data: Path, tmp_path: Path, task: str
) -> None:
    """Its adapter, transcripts and KTO's reference are those that the run began with."""
    log, before = begun(task, tmp_path)
    assert ask(*command(task, base, data, tmp_path, *(KTO if task == "kto" else ())))[0] == 0
    check(log, before, LOSSES[task])


def test_a_training_from_scratch_begun_by_an_earlier_version_goes_on(
    ask: Any, tmp_path: Path
) -> None:
    log, before = begun("shell-game", tmp_path)
    words: list[Any] = ["train", "shell-game", "--out", tmp_path, "--every", 1, "--check-every", 2]
    for name, value in SIZES.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *values]
    assert ask(*words)[0] == 0
    check(log, before, LOSSES["shell-game"])


def test_a_study_begun_by_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its trainer has Muon, and its folder settings.json."""
    log, before = begun("study", tmp_path)
    words = ["scratch", "--out", str(tmp_path), "--cells", "joint-learned", "--seeds", "0"]
    words += ["--count", "4", "--law7", "0", "--set", "stage=2"]
    for name, value in SIZES.items():
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words.append(f"{name}={shown}")
    assert study(words) == 0
    check(log, before, LOSSES["study"])
    assert (tmp_path / "joint-learned-0" / "result.json").exists()
