"""The study's commands, stopped, killed and misused; and the tables that are published."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

from tutorials.study import record
from tutorials.study.__main__ import main
from tutorials.study.cells import CELLS

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tutorials" / "study"
MINI = ["swaps=4", "lanes=1,2", "shares=0.5,0.5", "width=16", "layers=2", "heads=2"]
MINI += ["kv_heads=1", "head_dim=8", "mlp_width=32", "warmup=2", "rows=128", "stage=2"]


# The commands.


def run(*argv: object) -> int:
    return main([str(a) for a in argv])


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_scratch_stopped_and_resumed_is_the_uninterrupted_run(tmp_path: Path) -> None:
    cells = ("--cells", "joint-learned", "fold", "--seeds", 0, "--count", 8, "--law7", 0)
    common = (*cells, "--set", *MINI, "steps=6")
    assert run("scratch", "--out", tmp_path / "a", *common) == 0
    assert run("scratch", "--out", tmp_path / "b", *common, "--stop-at", 3) == 0
    assert not (tmp_path / "b" / "joint-learned-0" / "result.json").exists()
    assert run("scratch", "--out", tmp_path / "b", *common) == 0
    for name in ("joint-learned-0", "fold-0"):
        assert weights(tmp_path / "a" / name) == weights(tmp_path / "b" / name)
    table = json.loads((tmp_path / "a" / "scratch.json").read_text())
    assert set(table["cells"]) == {"joint-learned", "fold"}
    part = table["cells"]["joint-learned"]["seeds"][0]
    assert part["scores"]["2"]["count"] == 8 and len(part["omega"]["learned"]) == 4
    before = weights(tmp_path / "a" / "fold-0")
    assert run("scratch", "--out", tmp_path / "a", *common) == 0  # done: nothing is done again
    assert weights(tmp_path / "a" / "fold-0") == before


def test_scratch_killed_at_some_instant_goes_on(tmp_path: Path) -> None:
    """SIGKILL between two saved states: the restart ends with the bits of a run left alone."""
    argv = ["--cells", "joint-none", "--seeds", "0", "--count", "4", "--law7", "0"]
    argv += ["--set", *MINI, "steps=300"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [
        sys.executable,
        str(ROOT / "tutorials" / "study"),
        "scratch",
        "--out",
        str(killed),
        *argv,
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ}
    )
    state = killed / "joint-none-0" / "state.safetensors"
    for _ in range(6000):
        if state.exists() or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists() and process.returncode == -signal.SIGKILL
    assert not (killed / "joint-none-0" / "result.json").exists()
    assert run("scratch", "--out", killed, *argv) == 0
    assert run("scratch", "--out", whole, *argv) == 0
    assert weights(whole / "joint-none-0") == weights(killed / "joint-none-0")
    steps = [json.loads(x)["step"] for x in (killed / "joint-none-0/log.jsonl").open()]
    assert steps == [100, 200, 300]


def test_finetune_and_starts_share_their_bases_and_go_on(tmp_path: Path) -> None:
    base = ("--seeds", 0, "--count", 8, "--set", *MINI, "steps=4")
    bases, out = tmp_path / "bases", tmp_path / "out"
    assert run("starts", "--out", bases, *base, "--stop-at", 2) == 0
    assert json.loads((bases / "starts.json").read_text())["seeds"] == []
    assert run("starts", "--out", bases, *base, "--publish", tmp_path / "s.json") == 0
    assert len(json.loads((tmp_path / "s.json").read_text())["seeds"]) == 1
    tuning = ("--tuning", "lanes=2", "transcripts=12", "steps=4", "lora_rank=2", "batch_size=4")
    cells = ("--cells", "sft-lora", "sft-full", "kto-omega_biases", "both-lora")
    command = ("finetune", "--out", out, "--bases", bases, *base, *tuning, *cells)
    assert run(*command, "--stop-at", 2) == 0
    assert set(json.loads((out / "finetune.json").read_text())["cells"]) == {"untuned"}
    assert run(*command) == 0
    cells_done = json.loads((out / "finetune.json").read_text())["cells"]
    assert set(cells_done) == {"untuned", *cells[1:]}
    part = cells_done["both-lora"]["seeds"][0]
    assert part["scores"]["2"]["count"] == 8 and part["alone"]["count"] == 8
    labels = [json.loads(x)["label"] for x in (out / "data-0" / "kto.jsonl").open()]
    assert labels.count(True) >= 12 and labels.count(False) >= 6


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["scratch", "--out", "x", "--cells", "joint-nothing"], "cell 'joint-nothing'; expected"),
        (["finetune", "--out", "x", "--cells", "dpo-full"], "cell 'dpo-full'; expected"),
        (["scratch", "--out", "x", "--seeds", "1", "1"], "expected different numbers"),
        (["scratch", "--out", "x", "--count", "0"], "--count is 0; expected 1 or more"),
        (["scratch", "--out", "x", "--stop-at", "0"], "--stop-at is 0"),
        (["scratch", "--out", "x", "--set", "cup=3"], "--set 'cup=3'; expected one of cups"),
        (["scratch", "--out", "x", "--set", "steps=many"], "expected a value like 2000"),
        (["scratch", "--out", "x", "--set", "cups=9"], "9 cups; expected 2 to 5"),
        (["starts"], "required: --out"),
        (["plot", "nowhere"], "nowhere"),
        ([], "required: table"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, argv, said) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err, err


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path, capsys) -> None:
    argv = ("scratch", "--out", tmp_path, "--cells", "fold", "--seeds", 0, "--law7", 0)
    assert run(*argv, "--stop-at", 1, "--count", 4, "--set", *MINI, "steps=3") == 0
    capsys.readouterr()
    assert run(*argv, "--stop-at", 1, "--count", 4, "--set", *MINI, "steps=4") == 2
    assert "of another configuration (recipe" in capsys.readouterr().err
    assert run("finetune", "--out", tmp_path, "--cells", "sft-full", "--seeds", 0) == 2
    assert "of another configuration" in capsys.readouterr().err


def test_two_processes_never_work_on_one_part(tmp_path: Path) -> None:
    with record.locked(tmp_path / "part") as first, record.locked(tmp_path / "part") as second:
        assert first and not second
    with record.locked(tmp_path / "part") as again:
        assert again


# What is published.


def test_a_table_is_written_as_it_is(tmp_path: Path) -> None:
    table = {"a": [1, -2.5, 1e-7], "b": [[1], [2, 3]], "c": ["1", None], "d": {"e": []}, "f": 5}
    record.publish(table, [tmp_path / "new" / "t.json"])
    text = (tmp_path / "new" / "t.json").read_text()
    assert json.loads(text) == table and '"a": [1, -2.5, 1e-07]' in text


def test_the_tables_in_the_text_are_made_from_the_data() -> None:
    """Guards the results text: no figure in a table is typed."""
    from tutorials.study.tables import tables

    text = (DATA / "README.md").read_text()
    for table in tables(DATA).split("\n\n"):
        assert table in text


def test_pictures_are_drawn_from_the_published_data(tmp_path: Path) -> None:
    for path in DATA.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert main(["plot", str(tmp_path)]) == 0
    drawn = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert set(drawn) == {path.name for path in DATA.glob("*.svg")} >= {"untuned.svg"}
    assert all(text.rstrip().endswith("</svg>") for text in drawn.values())


def parts(table: dict) -> list[tuple[str, dict]]:
    return [(name, part) for name, cell in table["cells"].items() for part in cell["seeds"]]


@pytest.mark.parametrize("name", ["scratch", "finetune"])
def test_published_scores_are_counts_with_their_wilson_intervals(name: str) -> None:
    """Guards the tables: nothing typed in, shares from counts, intervals from the closed form."""
    table = json.loads((DATA / f"{name}.json").read_text())
    assert len(parts(table)) >= 6
    for _, part in parts(table):
        assert part["revision"] and part["versions"]["mlx"] and part["command"]
        for found in part["scores"].values():
            n, right, z = found["count"], found["right"], 1.959964
            assert n >= 500 and 0 <= right <= n and found["accuracy"] == right / n
            # Wilson's interval solves (p - right/n)^2 = z^2 p (1 - p) / n
            for p, inside in zip(found["interval"], (right > 0, right < n), strict=True):
                if inside:
                    gap = (p - right / n) ** 2 - z * z * p * (1 - p) / n
                    assert abs(gap) < 1e-4
    if name == "scratch":
        assert set(table["cells"]) <= set(CELLS)
        for row in table["law7"]["cells"]:
            assert row["logits_gap_same_weights"] < 1e-3
