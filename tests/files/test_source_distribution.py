"""The source distribution is a checkout: every file of the repository is in it, and no more."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_it_has_every_file_of_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """By MANIFEST.in, as setuptools reads it; packages and the files of `pyproject.toml` are added
    by setuptools itself."""
    file_list = pytest.importorskip("setuptools.command.egg_info").FileList
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = {*filter(None, listed.stdout.split("\0"))}
    monkeypatch.chdir(ROOT)
    found = file_list()
    for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            found.process_template_line(line)
    by_itself = {"README.md", "LICENSE", "MANIFEST.in", "pyproject.toml"}
    missing = {name for name in tracked - {*found.files} if not name.startswith("tinylane/")}
    assert missing == by_itself
    assert {name for name in found.files if Path(name).name == "state.safetensors"} <= tracked
