"""The model inside: its files, an exact text on every backend, its accuracy."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

import tinylane
from tinylane.evaluate.tasks.shell_game import ShellGame

FOLDER = Path(__file__).parents[2] / "weights/shell-game"
GAME = ShellGame()
KINDS = [("numpy", "float32"), ("numpy", "float64")]
if importlib.util.find_spec("mlx") is not None:
    KINDS.append(("mlx", "float32"))
GOLDEN = {
    1: ["CBAD CDAB DCAB DCBA BCDA BADC ABDC ABCD DBCA DCBA ACBD ABCD BACD BCAD BCDA ACDB"],
    2: [
        "CBAD CDAB DCAB DCBA BCDA BADC ABDC ABCD ACDB",
        "DBCA DCBA ACBD ABCD BACD BCAD BCDA ACDB ACDB",
    ],
    4: [
        "CBAD CDAB DCAB DCBA ABCD ACDB",
        "CBAD CDAB DCAB DCBA ABCD ACDB",
        "DBCA DCBA ACBD ABCD ACDB ACDB",
        "BACD BCAD BCDA ACDB ACDB ACDB",
    ],
}
SWAPS = "1-3 2-4 1-2 3-4 1-3 2-4 1-2 3-4 1-4 2-3 1-4 2-3 1-2 2-3 3-4 1-4"


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def model(request: pytest.FixtureRequest) -> tinylane.Model:
    backend, dtype = request.param
    return tinylane.load(FOLDER, backend=backend, dtype=dtype)


def play(model: tinylane.Model, moves: np.ndarray, n: int, visibility: str) -> list[str]:
    result = tinylane.generate(
        model,
        GAME.prompt(moves),
        lanes=n,
        lane_prompts=GAME.lane_prompts(n),
        lane_mask=tinylane.LaneMask.named(visibility, n),
        max_tokens=GAME.steps(n) + 1,
    )
    return result.texts


@pytest.mark.parametrize("n", GOLDEN)
def test_greedy_text_is_exact_on_every_backend(model: tinylane.Model, n: int) -> None:
    """Guards against anything that moves a logit far: layout, rotation, cache, loading."""
    assert play(model, GAME.parse(SWAPS), n, "joint") == GOLDEN[n]


def test_golden_texts_are_what_the_swaps_do() -> None:
    """The expected texts do not come from the model: they are the task's own arithmetic."""
    moves = GAME.parse(SWAPS)[None]
    for n, texts in GOLDEN.items():
        words = [[GAME.arrangements[a] for a in lane] for lane in GAME.write(moves, n)[0]]
        assert [" ".join(lane) for lane in words] == texts


@pytest.mark.parametrize("n", [2, 4, 8])
def test_joint_lanes_answer_unseen_problems_and_independent_ones_cannot(
    model: tinylane.Model, n: int
) -> None:
    """A claim of the README on a sample of it; `tinylane eval shell-game` measures the whole."""
    rng = np.random.default_rng([2026, n])  # the trainer draws from [seed, step]
    problems = GAME.draw(50, rng)
    right = {"joint": 0, "independent": 0}
    for visibility in right:
        for moves in problems:
            texts = play(model, moves, n, visibility)
            last = [text.split()[-1] if text else "" for text in texts]
            answer = tinylane.vote(last, pattern="([A-D]{4})").text
            right[visibility] += answer == GAME.answer(moves)
    assert right["joint"] >= 49 and right["independent"] <= 15, right


def test_the_files_are_those_whose_digests_are_published() -> None:
    text = (FOLDER.parent / "README.md").read_text()
    published = dict(reversed(x) for x in re.findall(r"([0-9a-f]{64})  (\S+)", text))
    assert set(published) == {"model.safetensors", "adapter/adapters.safetensors"}
    for name, digest in published.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
    assert sum(f.stat().st_size for f in FOLDER.rglob("*.safetensors")) < 8 << 20


def test_the_log_ends_where_the_recipe_does() -> None:
    recipe = json.loads((FOLDER / "recipe.json").read_text())
    last = json.loads((FOLDER / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == recipe["steps"] and min(last["exact"].values()) >= 0.98
