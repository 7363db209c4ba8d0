"""How much there is to read, and what an import brings along: limits that this test keeps.

    python tests/core/test_limits.py     prints the table

Lines are those of the files, blank ones and docstrings included, less the doctests: the examples in
docstrings (`>>>`, `...` and what they print) explain the code and are not counted.
"""

from __future__ import annotations

import ast
import doctest
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tinylane"
STUDY_PATH = ("rope", "lanes", "decoder", "cache", "model", "sampling", "decoding")  # in this order
NOT_DOORS = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
LEAF = "tinylane.core.rope"
WITH_THE_LEAF = {LEAF, "tinylane", "tinylane.core"}


class Limit(NamedTuple):
    """A count, and the most that it may be."""

    what: str
    count: int
    most: int


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def doctest_lines(source: str) -> int:
    """Lines of the examples in a module's docstrings: their code and what they print."""
    parser, count = doctest.DocTestParser(), 0
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            for example in parser.get_examples(text):
                count += example.source.count("\n") + example.want.count("\n")
    return count


def lines_to_read(file: Path) -> int:
    return lines(file) - doctest_lines(file.read_text(encoding="utf-8"))


def file_of(module: str) -> Path | None:
    """The file of a module of the package; None for the package itself and what is no module."""
    path = ROOT.joinpath(*module.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() and path != PACKAGE else None


def imports(file: Path) -> Iterator[Path]:
    """The package's files that a file imports, anywhere in it: in functions and for types too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] == "tinylane" and (imported := file_of(name)):
                yield imported


def reach(start: list[Path]) -> set[Path]:
    """These files and all that they import from the package, and so on."""
    reached, waiting = set(start), list(start)
    while waiting:
        for file in imports(waiting.pop()):
            if file not in reached:
                reached.add(file)
                waiting.append(file)
    return reached


def limits() -> list[Limit]:
    study = [PACKAGE / "core" / f"{name}.py" for name in STUDY_PATH]
    entries = [path for path in PACKAGE.iterdir() if path.name not in NOT_DOORS]
    in_core = (PACKAGE / "core").rglob("*.py")
    return [
        Limit("lines of the study path", sum(map(lines_to_read, study)), 1500),
        Limit("lines with all that it imports", sum(map(lines_to_read, reach(study))), 1900),
        Limit("lines of tinylane/core", sum(map(lines_to_read, in_core)), 2520),
        Limit("lines of tinylane", sum(map(lines, PACKAGE.rglob("*.py"))), 38050),  # wanted: 18500
        Limit("entries of tinylane/", len(entries), 14),
    ]


def test_no_two_classes_of_the_package_have_one_name() -> None:
    names = [
        node.name
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert {name: names.count(name) for name in names if names.count(name) > 1} == {}


DOORS = ["checkpoints", "evaluate", "files", "learn", "testing", "train", "view"]


@pytest.mark.parametrize("door", DOORS)
def test_a_door_that_says_in_which_order_to_read_names_all_its_modules(door: str) -> None:
    said = ast.get_docstring(ast.parse((PACKAGE / door / "__init__.py").read_text("utf-8")))
    names = {file.stem for file in (PACKAGE / door).glob("*.py")} - {"__init__"}
    assert names - set(re.findall(r"\w+", said or "")) == set()


def test_the_readme_says_the_limits() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| lines of .*\| at most ([\d,]+) \|", readme, re.MULTILINE)
    study, _, core, package, _ = limits()
    assert said == [f"{limit.most:,}" for limit in (study, core, package)]


@pytest.mark.parametrize("limit", limits(), ids=lambda limit: limit.what)
def test_there_is_no_more_to_read_than_this(limit: Limit) -> None:
    assert limit.count <= limit.most


def test_the_leaf_imports_nothing_but_numpy() -> None:
    """`import tinylane.core.rope` in a process of its own."""
    code = f"import sys, json, {LEAF}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(json.loads(done.stdout))
    ours = {name for name in imported if name.split(".")[0] == "tinylane"}
    assert ours <= WITH_THE_LEAF
    assert third_parties(imported - ours) <= {"numpy"}


def third_parties(modules: set[str]) -> set[str]:
    """Top-level names of modules that are neither of the standard library nor a start-up hook."""
    bare = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    known = {*sys.stdlib_module_names, *(name.split(".")[0] for name in bare.stdout.split())}
    return {name.split(".")[0] for name in modules} - known


def test_examples_in_docstrings_are_not_counted() -> None:
    """The control: code is, and so is the rest of a docstring."""
    source = 'def f(x):\n    """Twice.\n\n    >>> f(\n    ...     1)\n    2\n\n    End.\n    """\n'
    assert doctest_lines(source + "    return 2 * x\n") == 3
    assert doctest_lines("# >>> f(1)\nx = '>>> f(1)'\n") == 0


def test_imports_are_found_wherever_they_are(tmp_path: Path) -> None:
    """The control."""
    file = tmp_path / "x.py"
    file.write_text(
        "import numpy\nif TYPE_CHECKING:\n    from tinylane.core import lanes, __version__\n"
        "def f():\n    import tinylane.core.rope\n"
    )
    named = {path.relative_to(PACKAGE).as_posix() for path in imports(file)}
    assert named == {"core/__init__.py", "core/lanes.py", "core/rope.py"}


if __name__ == "__main__":
    for limit in limits():
        print(f"{limit.what:32} {limit.count:6}   at most {limit.most:6}")
