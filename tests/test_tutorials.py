"""Every tutorial runs as it stands, reaches each of its assertions, and draws what it says.

A failed assertion or an error fails the test; so does an assertion that is never reached, which a
cell in an `if` or a function that nobody calls would be.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "tutorials"
TUTORIALS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
each = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


class Marked(ast.NodeTransformer):
    """Every assertion is preceded by a call that says it was reached."""

    def __init__(self) -> None:
        self.lines: set[int] = set()

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        self.lines.add(node.lineno)
        mark = ast.parse(f"__reached__.add({node.lineno})").body[0]
        for part in ast.walk(mark):
            ast.copy_location(part, node)
        return [mark, node]


def run(source: str, name: str) -> tuple[set[int], set[int]]:
    """Run a script as `python name` would: the lines of its assertions, and of those it reached."""
    marked, reached = Marked(), set[int]()
    tree = ast.fix_missing_locations(marked.visit(ast.parse(source)))
    world: dict[str, Any] = {"__name__": "__main__", "__file__": name, "__reached__": reached}
    exec(compile(tree, name, "exec"), world)
    return marked.lines, reached


def cells(path: Path) -> list[tuple[bool, list[str]]]:
    """(markdown?, lines) of every cell; fails where a marker is not one of the two we use."""
    found: list[tuple[bool, list[str]]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# %%"):
            assert line in ("# %%", "# %% [markdown]"), line
            found.append((line.endswith("[markdown]"), []))
        else:
            assert found, f"{path.name} does not begin with a cell"
            found[-1][1].append(line)
    return found


def test_a_false_assertion_and_one_that_is_never_reached_are_noticed() -> None:
    with pytest.raises(AssertionError):
        run("assert 1 == 2", "wrong.py")
    asserted, reached = run("def f():\n    assert 1\nassert 2\nif 0:\n    assert 3", "idle.py")
    assert asserted == {2, 3, 5} and reached == {3}


def test_the_ladder_has_no_gap() -> None:
    assert [int(path.name[:2]) for path in TUTORIALS] == list(range(1, len(TUTORIALS) + 1))
    assert len(TUTORIALS) >= 8


@each
def test_a_tutorial_is_short_and_in_percent_format(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    first, *_ = found = cells(path)
    assert first[0] and re.fullmatch(rf"# # {int(path.name[:2])}\. .+", first[1][0])
    for markdown, lines in found:
        if markdown:
            assert all(line.startswith("#") for line in lines if line), lines
        else:
            ast.parse("\n".join(lines))


@each
def test_a_tutorial_ends_with_two_exercises_and_their_solutions(path: Path) -> None:
    prose = ["\n".join(lines) for markdown, lines in cells(path) if markdown]
    exercises = next(k for k, text in enumerate(prose) if "# ## Exercises" in text)
    tasks = re.findall(r"^# \*\*(\d)\.\*\*", prose[exercises], re.MULTILINE)
    solutions = re.findall(r"^# ### Solution (\d)$", "\n".join(prose), re.MULTILINE)
    assert tasks == solutions == ["1", "2"]
    text = path.read_text(encoding="utf-8")
    for solution in text.split("# ### Solution ")[1:]:
        assert "assert " in solution


@each
def test_a_tutorial_runs_and_reaches_all_it_asserts(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    asserted, reached = run(path.read_text(encoding="utf-8"), str(path))
    assert len(asserted) >= 6
    assert reached == asserted, f"never reached: lines {sorted(asserted - reached)}"
    said = capsys.readouterr().out
    drawn = sorted(file for file in tmp_path.rglob("*") if file.is_file())
    assert drawn and all(file.parent == tmp_path / "runs" / "figures" for file in drawn)
    for file in drawn:
        assert file.name.startswith(path.name[:2]) and file.suffix == ".png"
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 5000
        assert re.search(rf"\[figure runs/figures/{file.name}: \S.{{30,}}\]", said)
