"""The tables of the page "Read the code": files, lines, and what each file is."""

from __future__ import annotations

import ast
import doctest
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "tinylane"
STUDY_PATH = ("rope", "lanes", "decoder", "cache", "model", "sampling", "decoding")  # of core
DOORS = (
    "core",
    "files",
    "checkpoints",
    "methods",
    "hf",
    "testing",
    "view",
    "evaluate",
    "train",
    "learn",
    "commands",
    "serve",
)


def study_path() -> str:
    """A Markdown table of the seven files in reading order, with lines and their sum."""
    files = [PACKAGE / "core" / f"{name}.py" for name in STUDY_PATH]
    rows = [f"| `core/{file.name}` | {lines(file)} | {summary(file)} |" for file in files]
    total = f"| together | {sum(map(lines, files)):,} | |"
    return "\n".join(["| file | lines | what it is |", "|---|---|---|", *rows, total])


def doors() -> str:
    """A Markdown table of the doors from the lowest up, with files and lines."""
    rows = []
    for door in DOORS:
        files = sorted((PACKAGE / door).rglob("*.py"))
        names = ", ".join(f"`{f.stem}`" for f in files if f.stem != "__init__")
        rows.append(f"| `{door}/` | {len(files)} | {sum(map(lines, files)):,} | {names} |")
    everything = list(PACKAGE.rglob("*.py"))
    rows.append(f"| all | {len(everything)} | {sum(map(lines, everything)):,} | |")
    return "\n".join(["| door | files | lines | modules |", "|---|---|---|---|", *rows])


def part(number: int) -> str:
    """A numbered part of `tutorials/one_file.py`, as code."""
    code = (PACKAGE.parent / "tutorials" / "one_file.py").read_text(encoding="utf-8")
    begin = code.index(f"# {number}. ")
    end = code.find(f"# {number + 1}. ")
    return f"```python\n{code[begin : end if end >= 0 else len(code)].strip()}\n```"


def lines(file: Path) -> int:
    """The number of lines of a file, without the examples of its docstrings."""
    text = file.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    parser = doctest.DocTestParser()
    examples = [e for node in nodes for e in parser.get_examples(ast.get_docstring(node) or "")]
    return len(text.splitlines()) - sum((e.source + e.want).count("\n") for e in examples)


def summary(file: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())
