"""`tutorials/one_file.py`: the idea in one file gives what the package gives."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tinylane
from tinylane.commands.common import embedded
from tinylane.evaluate.tasks.shell_game import ShellGame
from tutorials import one_file

FILE = Path(one_file.__file__)
GAMES = 300


def prompts() -> list[tuple[str, int]]:
    """Games of 1, 2, 4 and 8 lanes, some with places that stay, one in words it does not know."""
    rng, game = np.random.default_rng(5), ShellGame()
    some = []
    for k in range(GAMES - 1):
        moves = rng.choice(game.moves if k % 3 == 0 else game.moves[:-1], 16)
        some.append((f"cups ABCD, swap {' '.join(moves)}: where?", (1, 2, 4, 8)[k % 4]))
    return [*some, ("cups ABCD, swap 1-2 9-9 nonsense: where?", 4)]


def test_it_draws_the_same_tokens_as_the_package() -> None:
    """Greedy, in 300 games."""
    model = tinylane.load(embedded(), backend="numpy")
    for prompt, lanes in prompts():
        tags = [f"{m + 1}/{lanes}" for m in range(lanes)]
        result = tinylane.generate(model, prompt, lanes=lanes, lane_prompts=tags, max_tokens=30)
        words = [
            [one_file.words[t] for t in lane.tokens if t not in model.config.eos_ids]
            for lane in result.lanes
        ]
        assert one_file.generate(prompt, lanes) == words, prompt


@pytest.mark.parametrize("broken", ["omega", "visible"])
def test_without_an_idea_of_it_lanes_fail(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without Omega, or without reading, the same games come out wrong."""
    if broken == "omega":
        monkeypatch.setattr(one_file, "omega", np.zeros_like(one_file.omega))
    else:
        alone = lambda i, m, j, n: ((n == -1) | (n == m[:, None])) & (j <= i[:, None])
        monkeypatch.setattr(one_file, "visible", alone)
    model = tinylane.load(embedded(), backend="numpy")
    games = [(p, n) for p, n in prompts()[:16] if n == 4]
    tags = ["1/4", "2/4", "3/4", "4/4"]
    right = [
        tinylane.generate(model, p, lanes=n, lane_prompts=tags, max_tokens=30) for p, n in games
    ]
    assert [one_file.generate(p, n) for p, n in games] != [
        [lane.text.split() for lane in result.lanes] for result in right
    ]


def test_it_is_short_and_needs_numpy_only() -> None:
    source = FILE.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150
    needs = {
        (node.module or "").partition(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
    } | {
        name.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import)
        for name in node.names
    }  # fmt: skip
    assert needs - set(sys.stdlib_module_names) == {"numpy"}


def test_as_a_program_it_prints_the_lanes() -> None:
    run = lambda *words: subprocess.run(
        [sys.executable, str(FILE), *words], capture_output=True, text=True, timeout=60
    )
    prompt, *lanes = run().stdout.splitlines()
    assert prompt.startswith("cups ABCD") and len(lanes) == 4
    assert {line.split()[-1] for line in lanes} == {"CABD"}
    bad = run("cups", "3")
    assert bad.returncode == 1 and bad.stderr == "3 lanes; expected 1, 2, 4 or 8\n"


def test_the_names_are_those_of_the_package() -> None:
    """So that whoever has read it finds the way in the package."""
    from tinylane.core import decoder, lanes, rope
    from tinylane.methods import decoding

    homes: dict[str, ModuleType | type] = {
        "rotate": rope, "visible": lanes.LaneMask, "rms_norm": decoder, "linear": decoder,
        "attention": decoder, "forward": decoder, "generate": decoding,
    }  # fmt: skip
    for name, home in homes.items():
        assert hasattr(one_file, name) and hasattr(home, name)
