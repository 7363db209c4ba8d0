"""The notebooks beside the pages: they are valid, run, and check exercises as the pages do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tutorials.build import render
from tutorials.build.__main__ import ROOT, tutorials

# As a kernel does: one cell after the other in one namespace, from another folder.
KERNEL = """
import json, sys
from pathlib import Path
world = {"__name__": "__main__"}
for cell in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), world)
"""


@pytest.mark.parametrize("path", tutorials(), ids=lambda path: path.stem)
def test_a_notebook_has_every_cell_of_the_script(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    book = json.loads(render.notebook(source, path.name))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    kinds = ["markdown" if cell.markdown else "code" for cell in render.cells(source, path.name)]
    assert [cell["cell_type"] for cell in book["cells"]] == kinds
    assert len({cell["id"] for cell in book["cells"]}) == len(kinds)
    for cell in book["cells"]:
        text = "".join(cell["source"])
        assert not re.search(r"\]\([^)]*\.md", text), text  # a notebook has no pages beside it
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            compile(text, path.name, "exec")
    code = "\n".join("".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code")
    assert code.count("assert ") == source.count("assert ")


def test_a_notebook_runs_and_checks_what_its_reader_wrote(tmp_path: Path) -> None:
    """The stub of 05.1 is filled in, the one of 05.2 wrongly."""
    (path,) = (ROOT / "tutorials").glob("05_*.py")
    book = json.loads(render.notebook(path.read_text(encoding="utf-8"), path.name))
    for cell in book["cells"]:
        text = "".join(cell["source"])
        if "def my_sees(" in text:
            text = text.replace("    ...", "    return sees(i, m, j, n, visibility, lag)")
        if "def my_reaches(" in text:
            text = text.replace("    ...", "    return visibility")
        cell["source"] = text.splitlines(keepends=True)
    (tmp_path / "05.ipynb").write_text(json.dumps(book))
    (tmp_path / "kernel.py").write_text(KERNEL)
    done = subprocess.run(
        [sys.executable, "kernel.py", "05.ipynb"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "05.1: right, in 300 random cases" in done.stdout
    assert "05.2: wrong: visibility = [[" in done.stdout
    assert (tmp_path / "runs" / "figures" / "05-joint.png").exists()
