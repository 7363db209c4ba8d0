"""Every part of `gpu.py` runs on a CPU too, with TINY=1, and says what it should.

The parts that need mlx-lm are skipped where it is not installed; `.ci/run` does not install it.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx.core", exc_type=ImportError)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def run(*words: object) -> list[dict[str, Any]]:
    """The lines of a part, less the first, which names it."""
    done = subprocess.run(
        [sys.executable, str(HERE / "gpu.py"), *map(str, words)],
        env={**os.environ, "TINY": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]  # mlx-lm prints too
    first, *rest = map(json.loads, lines)
    assert first["part"] == words[0] and first["mlx"]
    return rest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "shape"
    assert run("make", folder) == [{"wrote": str(folder)}]
    return folder


@pytest.fixture(scope="module")
def quantized(model: Path) -> Path:
    pytest.importorskip("mlx_lm")
    folder = model.with_name("shape4")
    assert run("quantize", model, folder) == [{"wrote": str(folder)}]
    return folder


def test_every_mode_is_right_in_float32(model: Path) -> None:
    lines = run("correct", model, "float32", "bfloat16")
    assert len(lines) == 2 * 5 and len({line["mode"] for line in lines}) == 5
    for line in lines[:5]:
        assert max(line["one_pass"], line["steps"]) < 1e-4 and line["same_best"] == 1.0


def test_the_game_is_the_same_on_both_backends() -> None:
    lines = run("game")
    assert [(line["backend"], line["dtype"]) for line in lines[:2]] == [
        ("numpy", "float32"),
        ("mlx", "float32"),
    ]
    assert all(line["same"] for line in lines[:2]) and len(lines) == 4


def test_a_seed_draws_the_same_tokens() -> None:
    lines = run("seeds")
    assert [line["sampler"] for line in lines] == [
        "greedy",
        "temperature",
        "qwen3",
        "top_p",
        "min_p",
    ]
    assert all(line["same_alone"] and line["same_as_numpy"] >= 7 for line in lines)


def test_a_decoding_goes_on_in_another_thread_or_says_why_not() -> None:
    (line,) = run("threads")
    assert len(line["in_another_thread"]) == 1


def test_a_buffer_is_written_while_a_pass_runs() -> None:
    assert [line["written"] for line in run("copies")] == [
        "when the pass is done",
        "while the pass runs",
    ]


@pytest.mark.parametrize("when", ["ahead", "late"])
def test_step_times_of_tinylane(model: Path, when: str) -> None:
    lines = run("speed", model, "float32", when)
    assert len(lines) == 1 + 4 * 3
    assert all(line["passes"] == when and line["step_ms"] > 0 for line in lines)


def test_step_times_of_mlx_lm(model: Path, quantized: Path) -> None:
    for lines in (run("mlxlm", model, "float32"), run("mlxlm", quantized, "as-is")):
        assert [line["lanes"] for line in lines] == [1, 4, 8, 16]
        assert all(line["step_ms"] > 0 for line in lines)


def test_a_4_bit_checkpoint_of_mlx_lm_is_right(quantized: Path) -> None:
    lines = run("correct", quantized, "float32")
    assert all(max(line["one_pass"], line["steps"]) < 1e-4 for line in lines)


def test_the_scripts_name_parts_and_tests_that_are_there() -> None:
    script = (HERE / "run.sh").read_text()
    source = (HERE / "gpu.py").read_text()
    parts = set(re.findall(r"part \d+ (\w+)", script))
    assert parts and all(f"def {part}(" in source for part in parts)
    for name in re.findall(r"tests/[\w/.]+", script):
        assert (ROOT / name).exists(), name
    for file in (HERE / "run.sh", HERE / "prepare.sh"):
        subprocess.run(["bash", "-n", str(file)], check=True)


def test_pruning_keeps_the_code_of_one_card() -> None:
    sys.path.insert(0, str(HERE))
    import prune

    def entry(kind: int, architecture: int, code: bytes) -> bytes:
        head = struct.pack("<HHIQ", kind, 0, 64, len(code)).ljust(28, b"\0")
        return (head + struct.pack("<I", architecture)).ljust(64, b"\0") + code

    def fatbin(*some: bytes) -> bytes:
        body = b"".join(some)
        return prune.MAGIC + struct.pack("<HHQ", 1, 16, len(body)) + body

    one = fatbin(entry(2, 80, b"a" * 8), entry(2, 90, b"b" * 8), entry(1, 90, b"c" * 8))
    other = fatbin(entry(2, 80, b"d" * 8))  # nothing for card 90: kept whole
    data = bytearray(b"elf" + prune.MAGIC + b"no fatbin here" + one + other)
    length = len(data)
    before, kept = prune.prune(data, {90})
    assert len(data) == length and kept == {(2, 90): 8, (2, 80): 8}
    assert before == {(2, 80): 16, (2, 90): 8, (1, 90): 8}
    assert [letter for letter in b"abcd" if bytes([letter]) * 8 in data] == [*b"bd"]
