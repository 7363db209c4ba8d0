"""Closed standard streams, other encodings than UTF-8, and what a shell leaves in a text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers_checkpoint import small, write_checkpoint
from helpers_text import byte_level

from tinylane.commands.shared_flags import text

ROOT = Path(__file__).parents[2]
# a container without LANG, as Python before 3.15 may meet it: ASCII, and bytes as half surrogates
NO_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(*words: Any, closed: str = "", give: bytes | None = None, **locale: str) -> Any:
    """(exit code, stdout, stderr) of a command. closed: numbers of streams."""
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tinylane", *map(os.fsencode, map(str, words))]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" ' + " ".join(f"{n}>&-" for n in closed), "sh", *command],
        env={**kept, **locale},
        input=give,
        capture_output=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint with a tokenizer of bytes."""
    folder = write_checkpoint(tmp_path_factory.mktemp("m") / "plain", small(vocab_size=420))
    (folder / "tokenizer.json").write_text(byte_level())
    return str(folder)


@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
@pytest.mark.parametrize("command", ["generate", "inspect", "eval", "view"])
def test_a_command_runs_with_closed_streams(
    plain: str, tmp_path: Path, command: str, closed: str
) -> None:
    """And nothing is printed into a file that took the number of a stream."""
    saved = tmp_path / "saved.json"
    generate = ["generate", "--model", plain, "--prompt", "a", "--max-tokens", "2", "--quiet"]
    words = {
        "generate": [*generate, "--save", saved],
        "inspect": ["inspect", plain],
        "eval": ["eval", "shell-game", "--count", "1", "--lanes", "2", "--out", tmp_path / "out"],
        "view": ["view", saved],
    }
    if command == "view":
        assert run(*words["generate"])[0] == 0
    code, out, err = run(*words[command], closed=closed)
    assert code == 0, err
    assert b"Traceback" not in err and ("1" not in closed or not out)
    if command in ("generate", "view"):
        assert json.loads(saved.read_text())["tinylane"]


def test_a_prompt_from_a_closed_standard_input_is_one_line(plain: str) -> None:
    code, _, err = run("generate", "--model", plain, "--prompt", "-", closed="0")
    assert code == 2 and err == b"tinylane: error: --prompt -: standard input is closed\n"


@pytest.mark.parametrize("locale", [NO_LOCALE, {"LC_ALL": "C.UTF-8"}])
def test_text_is_utf_8_whatever_the_locale(plain: str, locale: dict[str, str]) -> None:
    begin = ["generate", "--model", plain, "--raw", "--max-tokens", "1", "--json", "--prompt"]
    code, out, err = run(*begin, "-", give="café".encode(), **locale)
    assert code == 0, err
    piped = json.loads(out)["prompt_tokens"]
    for word in (os.fsencode("café"), os.fsencode("café\\n")):
        code, out, err = run(*begin, os.fsdecode(word), **locale)
        assert code == 0, err
        assert json.loads(out)["prompt_tokens"] == piped + (b"\\n" in word)
    code, _, err = run(*begin, "-", give=b"caf\xe9", **locale)
    assert code == 2 and err.endswith(b"--prompt -: not UTF-8 text (byte 3)\n")
    code, _, err = run("generate", "--stop", os.fsdecode(b"caf\xe9"), **locale)
    assert code == 2 and b"--stop: not UTF-8 text (byte 3)" in err and err.count(b"\n") == 1


def test_files_with_other_names_than_ascii_work_without_a_locale(tmp_path: Path) -> None:
    words = ["generate", "--seed", "1", "--quiet", "--save", tmp_path / "né.json"]
    assert run(*words, **NO_LOCALE)[0] == 0
    assert run("replay", tmp_path / "né.json", **NO_LOCALE)[0] == 0


@pytest.mark.parametrize(
    "typed, meant",
    [
        (r"a\nb", "a\nb"),
        (r"a\tb\n", "a\tb\n"),
        (r"\n\n", "\n\n"),
        (r"\nHello\tthere", "\nHello\tthere"),
        (r"$2 \times 3 \neq \nu + \theta$", r"$2 \times 3 \neq \nu + \theta$"),
        (r"\text{a}\nb", "\\text{a}\nb"),
        (r"C:\x \\ \r", r"C:\x \\ \r"),
        ("é", "é"),
        (os.fsencode("é").decode("ascii", "surrogateescape"), "é"),
    ],
)
def test_a_newline_and_a_tab_typed_in_a_shell_are_meant(typed: str, meant: str) -> None:
    """As mlx-lm's `generate` reads --prompt, but that LaTeX keeps its commands."""
    assert text(typed) == meant


def test_standard_input_is_read_as_it_is(plain: str) -> None:
    begin = ["generate", "--model", plain, "--raw", "--max-tokens", "1", "--json", "--prompt"]
    count = lambda **how: json.loads(run(*begin, *how.pop("word", ["-"]), **how)[1])[
        "prompt_tokens"
    ]
    assert count(give=rb"a\nb") == count(word=[r"a\nb"]) + 1
