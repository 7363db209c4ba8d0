"""A copy of the real model in mlx-lm's own packed format, four bits, on both backends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import helpers_real
import numpy as np
import pytest
from helpers_real import BACKENDS, ROWS, environment, on, recorded, run
from record_parity import distance

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("packed")]  # they share what is made once
pytest.importorskip("mlx.core", exc_type=ImportError)
pytest.importorskip("mlx_lm")
smollm2 = helpers_real.smollm2  # fixture
NAMES = ("two turns", "CJK and emoji", "code")
PEER = """
import json, sys
import mlx.core as mx, numpy as np
from mlx_lm.utils import load_model
from pathlib import Path
folder, out, prompts, rows = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
model, _ = load_model(Path(folder))
model.set_dtype(mx.float32)
np.savez(out, **{n: np.array(model(mx.array([ids]))[0, -rows:]) for n, ids in prompts.items()})
"""


def python(*words: object) -> None:
    """Run Python with these arguments and a quick OpenBLAS for MLX."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=environment("mlx"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def packed(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "4bit"
    python("-m", "mlx_lm", "convert", "--hf-path", smollm2, "--mlx-path", folder, "-q",
           "--q-bits", 4, "--q-group-size", 64)  # fmt: skip
    assert (folder / "model.safetensors").stat().st_size < 90_000_000
    return folder


@pytest.fixture(scope="module")
def expected(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """mlx-lm's own logits of the copy, float32."""
    out = tmp_path_factory.mktemp("peer") / "logits.npz"
    prompts = {name: recorded()["prompts"][name]["ids"] for name in NAMES}
    python("-c", PEER, packed, out, json.dumps(prompts), ROWS)
    with np.load(out) as file:
        return dict(file)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_packed_copy_computes_what_mlx_lm_computes(
    backend: str, packed: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    found = helpers_real.answers(packed, backend, tmp_path / "found.npz", *NAMES)
    for name in NAMES:
        assert distance(found[f"logits of {name}"], expected[name]) < 1e-4, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_packed_copy_decodes_four_lanes(backend: str, packed: Path, tmp_path: Path) -> None:
    words = ("generate", "--model", packed, *on(backend), "--prompt", "What is a tide?")
    words += ("--lanes", 4, "--temp", 0.8, "--seed", 1, "--max-tokens", 12)
    said: Any = json.loads(run(*words, "--save", tmp_path / "run.json", "--json", backend=backend))
    assert len(said["lanes"]) == 4 and len({lane["text"] for lane in said["lanes"]}) > 1
    run("replay", tmp_path / "run.json", "--model", packed, *on(backend), backend=backend)


def test_inspect_names_the_packing(packed: Path) -> None:
    said = run("inspect", packed)
    assert "4 bits" in said and "group" in said, said
