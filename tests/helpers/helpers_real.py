"""The model of the tests marked `real`: its folder, five prompts, commands at real size.

A test that runs MLX does so in a process of its own, where MLX gets a quick OpenBLAS if the system
has one (its own products are slow on Linux). Beside torch that library would make torch slow.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinylane.core.errors import TinylaneError
from tutorials import smollm2 as script

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests" / "data" / "smollm2.json"
BACKENDS = ("numpy", "mlx")
TOKENS = 40  # drawn after each prompt
ROWS = 32  # whose logits are compared: the last ones
RANDOM = 256  # random ids


def _long() -> str:
    """A list that makes a prompt of about 2,000 tokens."""
    colours, things = ("red", "green", "blue", "white", "black"), ("lamp", "chair", "box", "clock")
    rooms = ("kitchen", "hall", "garden", "attic", "cellar", "office", "garage")
    lines = zip(range(1, 158), cycle(colours), cycle(things), cycle(rooms), strict=False)
    text = "\n".join(f"{k}. The {c} {t} stands in the {r}." for k, c, t, r in lines)
    return f"Here is a list.\n{text}\nIn which rooms is a clock? Explain step by step."


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


PROMPTS: dict[str, list[dict[str, str]]] = {
    "two turns": [
        _user("Name three rivers in Europe."),
        {"role": "assistant", "content": "The Danube, the Rhine and the Loire."},
        _user("Which of them is the longest, and through which countries does it flow?"),
    ],
    "system prompt": [
        {"role": "system", "content": "You answer like a ship's captain, in short sentences."},
        _user("What should I pack for a week at sea?"),
    ],
    "CJK and emoji": [_user("请用中文回答:月亮为什么会发光? 👩🏽‍🚀🌙 日本語でもお願いします。")],
    "code": [
        _user(
            "What does this print, and why?\n```python\ndef f(n, seen={}):\n    if n not in seen:\n"
            "        seen[n] = n if n < 2 else f(n - 1) + f(n - 2)\n    return seen[n]\n\n"
            "print([f(k) for k in range(10)])\n```"
        )
    ],
    "2,000 tokens": [_user(_long())],
}


def recorded() -> dict[str, Any]:
    """What transformers gave: `prompts` by name, with `ids` and greedy `tokens`."""
    return json.loads(RECORDED.read_text())


def random_ids() -> list[int]:
    """Ids without any sense, of the whole vocabulary."""
    return [int(k) for k in np.random.default_rng(12).integers(0, 49152, RANDOM)]


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The model's folder in the user's cache."""
    try:
        folder = script.default_folder()
        if script.is_ready(folder):
            return folder
    except TinylaneError as error:
        pytest.fail(str(error))
    pytest.skip("the real model is not there; python tutorials/smollm2.py makes it (269 MB)")


def environment(backend: str = "numpy") -> dict[str, str]:
    """For a process that runs one backend."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    blas = ctypes.util.find_library("openblas") if sys.platform == "linux" else None
    if backend == "mlx" and blas:
        env["LD_PRELOAD"] = blas
    return env


def run(*words: object, backend: str = "numpy", code: int = 0) -> str:
    """What `tinylane WORDS` prints; it must end with `code`."""
    command = [sys.executable, "-m", "tinylane", *map(str, words)]
    env = environment(backend)
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=1200)
    assert done.returncode == code, done.stderr or done.stdout
    return done.stdout


def on(backend: str) -> tuple[str, ...]:
    """The flags that choose a backend, in float32."""
    return ("--backend", backend, "--dtype", "float32")


def answers(folder: Path, backend: str, out: Path, *names: str) -> dict[str, np.ndarray]:
    """What `real_answers.py` computes of a checkpoint, in a process of its own."""
    program = Path(__file__).with_name("real_answers.py")
    command = [sys.executable, str(program), str(folder), backend, str(out), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(backend))
    assert done.returncode == 0, done.stderr
    with np.load(out) as file:
        return dict(file)
