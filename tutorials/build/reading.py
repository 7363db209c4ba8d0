"""The tables of the page "Read the code": files, lines, and what each file is."""

from __future__ import annotations

import ast
import doctest
from collections.abc import Sequence
from pathlib import Path

from tutorials.build.render import hours, minutes

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


# What each page of the ladder is about, and what a reader builds by hand on it.
LADDER = (
    ("attention is a weighted average", "softmax, scores, the causal mask"),
    ("rotate two vectors: only the difference matters", "RoPE, plane by plane"),
    (
        "a decoder is these pieces, repeated",
        "a whole one, with trained weights; each part left out",
    ),
    ("keep what was computed", "the KV cache"),
    ("a second coordinate: lanes", "the mask as three sentences; what leaks"),
    ("a second rotation: LaneRoPE", "Omega, Group Think, what training made of it"),
    ("lanes that share work", "joint decoding, step by step"),
    ("laws instead of examples", "an encoding of your own, and three planted mistakes"),
    ("a real checkpoint", "lanes of a language model, untrained and trained"),
    ("lanes learn to cooperate", "a model, from random weights, in a minute"),
    ("is it the mask, or the encoding?", "how to read an experiment with care"),
)
FAST = (2, 5, 6, 7)  # pages of the short way


def ladder() -> str:
    """A Markdown table of the tutorials: the idea, what is built, how long it takes to read, and
    with the exercises."""
    rows, folder = [], PACKAGE.parent / "tutorials"
    for k, (idea, builds) in enumerate(LADDER, start=1):
        (path,) = folder.glob(f"{k:02}_*.py")
        text = path.read_text(encoding="utf-8")
        times = (hours(minutes(text, exercises)) for exercises in (False, True))
        reads, works = (time.removeprefix("About ") for time in times)
        link = f"[{idea}](tutorials/{path.stem}.html)"  # mkdocs turns no .md here
        rows.append(f"| {k} | {link} | {builds} | {reads} | {works} |")
    head = "| | the idea | what you build by hand | reading | with exercises |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def together(pages: Sequence[int], exercises: bool) -> str:
    """How long some pages take together, such as "1 h 5 min"."""
    folder = PACKAGE.parent / "tutorials"
    texts = (next(folder.glob(f"{k:02}_*.py")).read_text(encoding="utf-8") for k in pages)
    return hours(sum(minutes(text, exercises) for text in texts)).removeprefix("About ")


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
