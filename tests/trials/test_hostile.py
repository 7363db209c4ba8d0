"""Hostile files, prompts and settings are refused: no crash, no hang, nothing run or written.

The corpus is made by `hostile.py`, by name and category. TINYLANE_MUTATIONS: how many mutated
files to try (50,000); `python tests/trials/hostile.py --mutations 1000000` does it by itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import hostile
import hostile_corpus
import hostile_mutations
import pytest
from fuzz_safetensors import (
    test_what_is_accepted_of_a_structured_header_safetensors_accepts_alike as test_structured,
)

from tinylane.core.errors import LONGEST, TinylaneError

__all__ = ["test_structured"]  # collected from there
MUTATIONS = int(os.environ.get("TINYLANE_MUTATIONS", "50000"))


def test_every_hostile_input_is_refused_in_one_clear_line_within_its_limits(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Refused by a TinylaneError, 2 s of processor time, 200 MiB; nothing opened outside of its
    folder, nothing started, no file changed, made or left behind."""
    categories = list(hostile_corpus.make(tmp_path))
    before, outcomes, troubles = hostile.state(tmp_path), [], []
    for some in (["template"], [c for c in categories if c != "template"]):
        tried, trouble = hostile.try_apart(tmp_path, some)
        outcomes += tried
        troubles += [trouble] if trouble else []
    wrong = [f"{o.category}: {o.name}: {fault}" for o in outcomes for fault in hostile.faults(o)]
    assert not troubles + wrong, "\n".join(troubles + wrong)
    assert hostile.state(tmp_path) == before
    assert not list(tmp_path.rglob("CANARY")) and not Path("CANARY").exists()
    assert len(outcomes) >= 300
    shutil.rmtree(tmp_path)  # 200 MiB
    by_category = Counter(o.category for o in outcomes)
    counts = ", ".join(f"{category} {n}" for category, n in by_category.items())
    _report(request, f"{list(hostile.summary(outcomes))[-1]} ({counts})")


COMMANDS: dict[str, Any] = {
    "inspect": lambda path, base: ["inspect", str(path)],
    "generate": lambda path, base: ["generate", "--model", str(path), "--save", "out.json"],
    "adapter": lambda path, base: ["generate", "--model", base, "--adapter-path", str(path)],
    "replay": lambda path, base: ["replay", str(path), "--model", base],
    "matrix": lambda path, base: ["generate", "--model", base, "--visibility", f"@{path}"],
}
# Of each kind some, and all that once ended the process or came as a traceback.
SAMPLE = [
    ("inspect", "weights", "escapes in a name"),
    ("generate", "weights", "two sparse heads to compare"),
    ("generate", "index", "shard half a surrogate"),
    ("inspect", "config", "model_type 980 deep"),
    ("generate", "tokenizer", "a prefix # that cuts a character"),
    ("generate", "tokenizer", "the expression (c+)+$"),
    ("generate", "tokenizer", "all tokens with one id"),
    ("inspect", "own adapter", "a link outside"),
    ("adapter", "adapter", "much too much of an update"),
    ("replay", "run", "last token 2147483647, stop"),
    ("matrix", "matrix", "5000 digits"),
]


def test_the_command_line_says_one_line_and_exits_2(tmp_path: Path) -> None:
    wanted = {(category, name) for _, category, name in SAMPLE}
    corpus = hostile_corpus.make(tmp_path, lambda *which: which in wanted)
    here, package = tmp_path / "here", str(Path(hostile.__file__).parents[2])
    here.mkdir()
    env = {**os.environ, "PYTHONPATH": package}
    for command, category, name in SAMPLE:
        argv = COMMANDS[command](corpus[category][name], str(tmp_path / "base"))
        if argv[0] == "generate":
            argv += ["--prompt", hostile.PROMPT, "--raw", "--max-tokens", "2", "--quiet"]
        done = subprocess.run(
            [sys.executable, "-m", "tinylane", *argv, "--backend", "numpy"],
            capture_output=True,
            text=True,
            cwd=here,
            timeout=60,
            env=env,
        )
        assert (done.returncode, done.stdout) == (2, ""), (name, done.stderr)
        assert done.stderr.startswith("tinylane: error: "), (name, done.stderr)
        assert done.stderr.count("\n") == 1, (name, done.stderr)
        assert not list(here.iterdir()), name


def test_mutated_checkpoints_are_read_alike_or_refused(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """No crash, no other exception, nothing over 1 s; what is accepted, safetensors reads too."""
    began = time.monotonic()
    tally, wrong = hostile_mutations.run(MUTATIONS, 0, tmp_path)
    assert not wrong, "\n".join(wrong[:20])
    assert (
        tally["tensors accepted"] > MUTATIONS // 100
    )  # the mutations reach both sides of the check
    _report(request, hostile_mutations.summary(tally, wrong, time.monotonic() - began))


def test_a_planted_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a reader that opens, prints or crashes is reported by the same functions."""
    good = hostile.Outcome("c", "n", "refused", "a clear line of some length")
    assert hostile.faults(good) == []
    for change in (
        {"kind": "accepted"},
        {"kind": "crashed"},
        {"message": "two\nlines of text"},
        {"message": "an \x1b[31m escape"},
        {"message": "?"},
        {"seconds": 2.5},
        {"memory": 300.0},
        {"opened": ("open /etc/passwd",)},
    ):
        assert len(hostile.faults(hostile.Outcome(**{**vars(good), **change}))) == 1, change
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import hostile\n"
        "watch = hostile.Watch(); here = pathlib.Path(sys.argv[2])\n"
        "with watch.during(here / 'base') as seen:\n"
        "    open(here / 'base' / 'config.json').close(); open(here / 'corpus.json').close()\n"
        "    import os; os.system('true')\n"
        "print(len(seen))"
    )
    tests = str(Path(hostile.__file__).parent)
    (tmp_path / "base").mkdir()
    for name in ("base/config.json", "corpus.json"):
        (tmp_path / name).write_text("{}")
    done = subprocess.run(
        [sys.executable, "-c", code, tests, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout.strip() == "2", done.stdout + done.stderr

    def broken(path: Path) -> dict:
        raise KeyError("a bug")

    monkeypatch.setattr(hostile_mutations, "contents", broken)
    tally, wrong = hostile_mutations.run(20, 0, tmp_path / "mutations")
    assert wrong and tally["tensors crashed"] == len(wrong)


def test_an_error_is_one_line_whatever_is_put_into_it() -> None:
    for text in ("a\nb", "\x1b[2J", "\u202egnp.exe", "\ud800", "x" * 10_000, "\r\n\t\0\x9b"):
        line = str(TinylaneError(f"file {text}: wrong"))
        assert line.isprintable() and len(line) <= LONGEST, text
        assert line.startswith("file ") and line.endswith(": wrong")
    assert str(TinylaneError("größer als 3 µm")) == "größer als 3 µm"


def _report(request: pytest.FixtureRequest, line: str) -> None:
    request.node.user_properties.append(("hostile", line))
