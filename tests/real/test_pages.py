"""The pages that show a real model: their commands run, and print what a real model writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import helpers_real
import pytest
from helpers_real import ROOT, environment

pytestmark = pytest.mark.real
smollm2 = helpers_real.smollm2  # fixture
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{k}")
    for page in sorted((ROOT / "tutorials/site/how-to").glob("*.md"))
    for k, block in enumerate(
        re.findall(r"^```bash exec[^\n]*\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    )
    if "smollm2.py" in block
]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.usefixtures("smollm2")
def test_a_block_of_a_page_shows_lanes_of_the_model(block: str) -> None:
    (ROOT / "build" / "how-to").mkdir(parents=True, exist_ok=True)
    env = environment()
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    done = subprocess.run(
        ["bash", "-c", block], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not there" not in done.stdout and len(done.stdout.split()) > 20, done.stdout


@pytest.mark.usefixtures("smollm2")
def test_tutorial_9_shows_lanes_of_the_model(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tutorials.build.render", "tutorials/09_checkpoint.py"]
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "09_checkpoint.md").read_text("utf-8")
    assert "this page's model: SmolLM2-135M-Instruct" in page
    assert "You are a helpful AI assistant named SmolLM" in page and "'layers': 30" in page


@pytest.mark.usefixtures("smollm2")
def test_the_readmes_lines_write_what_it_shows() -> None:
    """Four different texts without an adapter, four lanes of one sum and of one list with it."""
    text = (ROOT / "README.md").read_text("utf-8")
    pairs = re.findall(
        r"```sh\n(tinylane generate [^\n]*smollm2\.py[^\n]*)\n```\n+```text\n(.*?)```", text, re.S
    )
    env = environment()
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    for line, shown in pairs:
        done = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == shown
        assert len({row.split(" | ")[1] for row in shown.splitlines()}) == 4
    assert ["adapter" in line for line, _ in pairs] == [False, True, True]
