"""Turn a tutorial (a script in percent format) into a page: its cells run, with their output.

    python -m tutorials.build.render tutorials/05_lanes.py OUT     writes OUT/05_lanes.md, .py, .svg

Three things fail a page: a cell that fails, an assertion that is never reached, a figure without
alt text. Text cells become Markdown. Code cells become code, what they print, and the figures they
`show`. The solutions of the exercises are folded. The markers are `# %%` and `# %% [markdown]`.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import html
import io
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

from tinylane import plot
from tinylane.core.errors import CheckFailed, TinylaneError
from tutorials import smollm2

PACKAGE = Path(__file__).parents[2] / "tinylane"


@dataclass(frozen=True)
class ScriptCell:
    """A cell of a script: its text without comment signs if it is Markdown, else its code."""

    markdown: bool
    line: int  # of the first line after the marker, from 1
    text: str


def cells(source: str, name: str) -> list[ScriptCell]:
    """The cells of a script in percent format. Raises TinylaneError for any other marker."""
    raw: list[tuple[bool, int, list[str]]] = []
    for number, line in enumerate(source.splitlines(), start=1):
        if line.startswith("# %%"):
            if line not in ("# %%", "# %% [markdown]"):
                raise TinylaneError(
                    f"{name}:{number}: {line!r}; expected '# %%' or '# %% [markdown]'"
                )
            raw.append((line.endswith("[markdown]"), number + 1, []))
        elif raw:
            raw[-1][2].append(line)
        elif line:
            raise TinylaneError(f"{name}:{number}: text before the first cell")
    done = []
    for markdown, number, lines in raw:
        if markdown:
            if strange := [line for line in lines if line and not re.match(r"#( |$)", line)]:
                raise TinylaneError(f"{name}: {strange[0]!r} in a cell of text; expected '# '")
            lines = [line[2:] for line in lines]
        done.append(ScriptCell(markdown, number, "\n".join(lines).strip("\n" if markdown else "")))
    return done


def run(source: str, name: str, figures: Path) -> tuple[list[str], float]:
    """Run a script cell by cell, as `python name` would.

    Returns what to show below each cell, and the seconds it took. figures: the folder that
    `plot.show` fills with SVGs. Raises CheckFailed with the line of a cell that fails, of an
    assertion that is not reached, or of a figure without alt text.
    """
    marked, reached, shown = _Marked(), set[int](), list[str]()
    world: dict[str, Any] = {"__name__": "__main__", "__file__": name, "__reached__": reached}
    beside = mock.patch.object(sys, "path", [str(PACKAGE.parent / Path(name).parent), *sys.path])
    began = time.perf_counter()
    for cell in cells(source, name):
        out = io.StringIO()
        if not cell.markdown:
            try:
                with contextlib.redirect_stdout(out), _figures(figures, out), beside:
                    tree = ast.parse("\n" * (cell.line - 1) + cell.text, name)
                    tree = ast.fix_missing_locations(marked.visit(tree))
                    exec(compile(tree, name, "exec"), world)
            except BaseException as error:
                raise CheckFailed(_where(error, cell, name, out.getvalue())) from error
        shown.append(out.getvalue())
    if idle := sorted(marked.lines - reached):
        raise CheckFailed(f"{name}: assertions that are never reached, in lines {idle}")
    return shown, time.perf_counter() - began


def page(source: str, name: str, shown: list[str], seconds: float) -> str:
    """The Markdown of a page: the cells of `source`, with `shown` below each (see `run`)."""
    parts, folded = [], False
    script = Path(name).name
    about = (
        f"[{script}]({script}), {len(source.splitlines())} lines: run it with `python "
        f"tutorials/{script}`, or open it as a notebook (`jupytext --to notebook`). The output and "
        f"the figures below are from the run that built this page; it took {seconds:.0f} s.\n"
        "{ .about }"
    )
    for cell, out in zip(cells(source, name), shown, strict=True):
        if cell.markdown:
            text = cell.text
            if solution := re.match(r"### (Solution \d)(\n|$)", text):
                parts += ["///"] * folded
                parts.append(f"/// details | {solution[1]}\n    type: success")
                text, folded = text[solution.end() :].lstrip("\n"), True
            title, _, rest = text.partition("\n")
            parts += [title, about, rest] if not parts else [text]
            continue
        parts.append(f"```python\n{cell.text.strip()}\n```")
        for k, piece in enumerate(re.split(r"(<figure.*?</figure>)\n?", out, flags=re.DOTALL)):
            if k % 2:
                parts.append(piece)
            elif piece.strip():
                parts.append(f"``` {{ .text .output }}\n{piece.rstrip()}\n```")
    return "\n\n".join([*parts, *["///"] * folded]) + "\n"


def render(path: Path, out: Path) -> Path:
    """Run a tutorial in this process and write its page, script and figures into a folder.

    Old files are replaced at the end, because mkdocs may read them meanwhile. Raises CheckFailed or
    TinylaneError as `run` and `cells` do; then the folder is unchanged.
    """
    out.mkdir(parents=True, exist_ok=True)
    source = path.read_text(encoding="utf-8")
    name = f"tutorials/{path.name}"
    with tempfile.TemporaryDirectory(prefix=".", dir=out) as folder:  # mkdocs leaves out the dot
        made = Path(folder)
        shown, seconds = run(source, name, made)
        (made / path.name).write_text(source, encoding="utf-8")
        text = page(source, name, shown, seconds)
        (made / f"{path.stem}.md").write_text(text, encoding="utf-8")
        new = {file.name for file in made.iterdir()}
        for file_name in sorted(new, key=lambda n: n.endswith(".md")):  # what it shows first
            os.replace(made / file_name, out / file_name)
    for old in out.glob(f"{path.name[:2]}[_-]*"):
        if old.name not in new:
            old.unlink()
    stamp(path, out).write_text(key(path))
    return out / f"{path.stem}.md"


def stamp(path: Path, out: Path) -> Path:
    """The file with the key that a page was made from (mkdocs skips names with a dot)."""
    return out / f".{path.stem}.key"


def key(path: Path) -> str:
    """A digest of a page's inputs: script, package, this builder, weights, data, libraries."""
    path = path.resolve()
    digest = hashlib.sha256(path.read_bytes())
    digest.update(str((smollm2.default_folder() / "config.json").is_file()).encode())
    versions = {d.name: d.version for d in metadata.distributions()}
    names = ("numpy", "mlx", "matplotlib", "hypothesis", "tokenizers", "safetensors")
    digest.update(repr([sys.version, *((n, versions.get(n)) for n in names)]).encode())
    inputs = [*PACKAGE.rglob("*.py"), *Path(__file__).parent.glob("*.py")]
    inputs += (PACKAGE.parent / "weights").rglob("*")
    inputs += (path.parent / "study").rglob("*.json")
    for file in sorted(inputs):
        if file.is_file():
            digest.update(f"{file.relative_to(PACKAGE.parent)} ".encode() + file.read_bytes())
    return digest.hexdigest()


class _Marked(ast.NodeTransformer):
    """Adds a call before every assertion that records that it was reached."""

    def __init__(self) -> None:
        self.lines: set[int] = set()

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        self.lines.add(node.lineno)
        mark = ast.parse(f"__reached__.add({node.lineno})").body[0]
        for part in ast.walk(mark):
            ast.copy_location(part, node)
        return [mark, node]


@contextlib.contextmanager
def _figures(folder: Path, out: io.StringIO) -> Iterator[None]:
    """Makes `plot.show` write an SVG into the folder and its <figure> element into the output."""

    def show(figure: Any, name: str, *_: Any) -> None:
        text = plot.alt(figure)
        if len(text) < 30:
            raise CheckFailed(f"figure {name}: alt text {text!r}; expected 30 characters or more")
        plot.save(figure, folder / f"{name}.svg")
        width = round(figure.get_figwidth() * 100)
        image = f'<img src="{name}.svg" alt="{html.escape(text)}" width="{width}">'
        out.write(f'<figure class="plot">{image}</figure>\n')

    with mock.patch.object(plot, "show", show):
        yield


def _where(error: BaseException, cell: ScriptCell, name: str, said: str) -> str:
    """What failed, where in the script, and what the cell had printed."""
    steps = [s for s in traceback.extract_tb(error.__traceback__) if s.filename == name]
    lines = [s.lineno for s in steps if s.lineno] or [getattr(error, "lineno", None) or cell.line]
    said = f"; it had printed: {said.strip()[-500:]}" if said.strip() else ""
    return f"{name}:{lines[-1]} (cell at line {cell.line}): {type(error).__name__}: {error}{said}"


if __name__ == "__main__":
    try:
        print(render(Path(sys.argv[1]), Path(sys.argv[2])))
    except (CheckFailed, TinylaneError) as failure:
        sys.exit(str(failure))
