"""A small checkpoint of the shell game, random weights; the command line in this process."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinylane.checkpoints.adapter import save_adapter
from tinylane.commands.cli import main
from tinylane.core.config import ModelConfig
from tinylane.core.lanes import LaneRoPE
from tinylane.core.random_weights import random_params
from tinylane.core.rope import RopeConfig, frequencies
from tinylane.evaluate.tasks.shell_game import END, ShellGame
from tinylane.files.safetensors import write_tensors

GAME = ShellGame(cups=3, swaps=4, lanes=(1, 2, 4))
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": len(GAME.vocabulary),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "eos_token_id": GAME.ids[END],
    "torch_dtype": "float32",
}


def has_mlx() -> bool:
    try:
        import mlx.core  # noqa: F401
    except ImportError:
        return False
    return True


def config() -> ModelConfig:
    return ModelConfig(
        family="qwen3",
        vocab=len(GAME.vocabulary),
        width=16,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=8,
        mlp_width=24,
        context=64,
        norm_eps=1e-6,
        rope=RopeConfig(base=10000.0),
        tied=True,
        qk_norm=True,
        eos_ids=(GAME.ids[END],),
    )


def write_checkpoint(
    folder: Path, *, adapter: bool = True, generation: dict | None = None, seed: int = 0
) -> Path:
    """A folder as the trainer exports it, with random weights."""
    folder.mkdir(parents=True)
    params = random_params(config(), seed, std=0.5)
    params.pop("lm_head.weight")
    tensors = {
        name: np.ascontiguousarray(w if w.ndim == 1 or "embed" in name else w.T)
        for name, w in params.items()
    }
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "generation_config.json").write_text(json.dumps(generation or {}))
    (folder / "tokenizer.json").write_text(GAME.tokenizer_json())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if adapter:
        theta, _ = frequencies(config().rope, 8)
        save_adapter(
            folder / "adapter",
            config(),
            {"lane_rope.omega": LaneRoPE.group_think(theta, 9.0).omega},
            {
                "prompt_lane": "own",
                "visibility": "joint",
                "lag": 0,
                "lanes": [1, 2, 4],
                "task": {"name": "shell-game", "cups": 3, "swaps": 4, "lanes": [1, 2, 4]},
            },
        )
    return folder


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the shell game."""
    return str(write_checkpoint(tmp_path_factory.mktemp("cli") / "game"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint without lanes that samples by default."""
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
    folder = tmp_path_factory.mktemp("cli") / "plain"
    return str(write_checkpoint(folder, adapter=False, generation=generation))


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process: exit code, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def generate(ask: Any, model: str, *more: object) -> dict:
    code, out, _ = ask("generate", "--model", model, "--json", *more)
    assert code == 0
    return json.loads(out)


TEXT = ("--prompt", "cups ABC", "--max-tokens", 5)


def unmeasured() -> dict[str, str]:
    """This environment for a process whose files are limited: coverage could not write its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}


def subprocess_run(*argv: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tinylane", *argv], capture_output=True, text=True, **kwargs
    )


def in_a_terminal(
    *argv: str, columns: int = 100, program: tuple[str, ...] = ("-m", "tinylane")
) -> str:
    """What a terminal of 24 lines is sent. program: what Python runs."""
    main, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    env |= {"TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, *program, *argv], stdout=child, stderr=child, env=env
    )
    os.close(child)
    seen = b""
    while True:
        try:
            data = os.read(main, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not data:
            break
        seen += data
    os.close(main)
    assert process.wait() == 0
    return seen.decode()
