"""The program starts: help, versions, the doctor, what is loaded, which flags a command has."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import helpers_cli
import numpy as np
import pytest
from helpers_cli import subprocess_run

import tinylane
from tinylane.commands.cli import main, parser
from tinylane.core.errors import TinylaneError

ask, game = helpers_cli.ask, helpers_cli.game  # fixtures


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import sys; from tinylane.commands.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'mlx', 'rich', 'jinja2', 'tokenizers', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"
    said = subprocess_run("--version").stdout.strip()
    assert said.startswith(f"tinylane {tinylane.__version__} (Python 3.")
    assert f"NumPy {np.__version__}, " in said and re.search(r"(no MLX|MLX [0-9.]+)\)$", said)


def test_generate_without_a_terminal_loads_neither_rich_nor_mlx_nor_jinja(game: str) -> None:
    code = (
        "import sys; from tinylane.commands.cli import main\n"
        f"main(['generate', '--model', {game!r}, '--backend', 'numpy'])\n"
        "heavy = {'mlx', 'rich', 'jinja2', 'huggingface_hub', 'hypothesis', 'safetensors'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_only_commands_that_exist_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for name in (
        "generate",
        "eval",
        "inspect",
        "replay",
        "train",
        "verify",
        "bench",
        "view",
        "fuse",
    ):
        assert re.search(rf"^    {name} ", out, re.MULTILINE)
    assert not re.search(r"^    tune\b", out, re.MULTILINE)


def test_only_the_command_that_is_named_has_its_flags() -> None:
    words = ["--", "generate", "--prompt", "report"]
    assert parser(words).parse_args(words[1:]).prompt == "report"
    with pytest.raises(TinylaneError, match="unrecognized arguments: --prompt"):
        parser(words).parse_args(["eval", "--prompt", "x"])


def parsed(words: list[str]) -> Any:
    return parser(words).parse_args(words)


def test_flags_are_those_of_mlx_lm_where_it_has_them() -> None:
    args = parsed(
        [
            "generate",
            "--model",
            "m",
            "--adapter-path",
            "a",
            "--prompt",
            "p",
            "--max-tokens",
            "1",
            "--temp",
            "0.5",
            "--top-p",
            "0.9",
            "--top-k",
            "3",
            "--min-p",
            "0.1",
            "--seed",
            "7",
            "--system-prompt",
            "s",
            "--prefill-response",
            "f",
            "--ignore-chat-template",
            "--prompt-cache-file",
            "c",
        ]
    )
    assert (args.temp, args.top_k, args.raw, args.prefill_response) == (0.5, 3, True, "f")


def test_the_recipe_s_fields_are_flags_of_train() -> None:
    words = "train shell-game --out o --cups 3 --lanes 1 2 --shares 0.5 0.5 --no-learn-omega"
    args = parsed(words.split())
    assert (args.cups, args.lanes, args.shares, args.learn_omega) == (3, [1, 2], [0.5, 0.5], False)


def test_alone_the_program_prints_its_help(ask: Any) -> None:
    code, out, err = ask()
    assert code == 0 and out.startswith("usage: tinylane") and "generate" in out and err == ""
