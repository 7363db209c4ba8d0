"""What the package imports is what pyproject.toml lists, and nothing is listed for nothing."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import tinylane

PACKAGE = Path(tinylane.__file__).parent
# What a person may have installed, in extras: imported where it is used, with a line that says how.
EXTRAS = {"mlx", "matplotlib", "scipy", "hypothesis", "torch", "transformers"} | {
    "lm_eval", "math_verify", "sympy", "latex2sympy2_extended", "prompt_toolkit", "starlette",
    "uvicorn", "h11",
}  # fmt: skip
# Used where it is there, as in a notebook.
OPTIONAL = {"IPython"}


def imported() -> set[str]:
    """Packages of others that a file of the package imports, at its top or where it needs them."""
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"tinylane", "tutorials"}


def test_dependencies_are_what_is_imported() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    name = lambda line: re.match(r"[\w-]+", line)[0].replace("-", "_")  # type: ignore[index]
    listed = {name(line) for line in project["dependencies"]}
    optional = project["optional-dependencies"]
    extras = {name(line) for lines in optional.values() for line in lines}
    assert listed - imported() == set()
    assert imported() - listed - OPTIONAL == EXTRAS - listed
    assert extras >= EXTRAS
