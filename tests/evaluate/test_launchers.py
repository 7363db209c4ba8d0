"""The lines of the page about several processes, as they stand there: by GNU parallel, by xargs, by
Slurm's variables. (mlx.launch: test_shards.py.) Each with two processes gives what one gives."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "tutorials" / "site" / "how-to" / "machines.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def block(word: str) -> str:
    """The first block with a word in it, for six problems and two shards."""
    (text, *_) = [text for text in BLOCKS if word in text]
    text = text.replace("--count 1000", "--count 6 --lanes 2 --temp 1 --backend numpy")
    return re.sub(r"seq \d+", "seq 2", re.sub(r"\{\}/\d+", "{}/2", text))


def shell(text: str, folder: Path, **more: str) -> str:
    """Run lines in a folder where `tinylane` is this checkout's."""
    bin = folder / "bin"
    if not bin.exists():
        bin.mkdir(parents=True)
        command = bin / "tinylane"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tinylane "$@"\n')
        command.chmod(0o755)
    env = {**os.environ, **more, "PYTHONPATH": str(ROOT), "PATH": f"{bin}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder, env=env, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(folder: Path) -> list[dict[str, Any]]:
    """The results of all runs below a folder, by problem and mode, without times."""
    rows = [
        json.loads(line)
        for file in folder.rglob("results.jsonl")
        for line in file.read_text().splitlines()
    ]
    times = ("seconds", "prefill_seconds", "clock")
    rows = [{k: v for k, v in row.items() if k not in times} for row in rows]
    return sorted(rows, key=lambda row: (row["index"], row["mode"], row["lanes"]))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("alone")
    line = block("parallel").splitlines()[0].partition("tinylane")[2]
    line = line.replace("--shard {}/2 --out runs/e/{}", "--out runs/e")
    shell(f"tinylane {line}", folder)
    return results(folder)


@pytest.mark.parametrize("program", ["parallel", "xargs"])
def test_a_launcher_of_lines(program: str, alone: list[dict[str, Any]], tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program}")
    told = shell(block(f"| {program}"), tmp_path)
    assert results(tmp_path) == alone and len(alone) >= 6
    assert len(list(tmp_path.glob("runs/e/*/results.jsonl"))) == 2 and "by 2 shards" in told


def test_a_job_array_of_slurm(alone: list[dict[str, Any]], tmp_path: Path) -> None:
    """The script with the variables that Slurm sets, both tasks at once."""
    script = block("#SBATCH").replace('TASK_ID/8"', 'TASK_ID/2"')
    (tmp_path / "shards.sh").write_text(script)
    told = shell(
        "SLURM_ARRAY_TASK_ID=1 bash -e shards.sh & SLURM_ARRAY_TASK_ID=2 bash -e shards.sh\n"
        "wait $!; tinylane report runs/e/*",
        tmp_path, SLURM_CPUS_PER_TASK="1",
    )  # fmt: skip
    assert results(tmp_path) == alone and "by 2 shards" in told


def test_transcripts_of_all_shards_are_one_file(tmp_path: Path) -> None:
    text = block("collect")
    if shutil.which("parallel") is None:
        text = text.replace("parallel -j 2", "xargs -P 2 -I{}")
    shell(text.replace("--lanes 2", "--lanes 2 --samples 2"), tmp_path)
    (file,) = (tmp_path / "runs" / "c.all").glob("*.jsonl")
    assert len(file.read_text().splitlines()) > 0


def test_the_line_of_mlx_launch_is_the_one_that_is_tried() -> None:
    line = next(text for text in BLOCKS if "mlx.launch" in text).splitlines()[0]
    tried = (ROOT / "tests" / "evaluate" / "test_shards.py").read_text(encoding="utf-8")
    assert line.startswith("mlx.launch -n 2 --backend ring -- tinylane eval shell-game")
    assert '"-n", "2", "--backend", "ring"' in tried
