"""Turn a tutorial (a script in percent format) into a page: its cells run, with their output.

    python -m tutorials.build.render tutorials/05_lanes.py OUT     writes OUT/05_lanes.md and others

Four things fail a page: a cell that fails, an assertion that is never reached, a figure without alt
text, caption or legible labels, an exercise whose solution is not right. Text cells become
Markdown. Code cells become code, what they print, and the figures they `show`; a file of the same
name in `build/live` goes below a figure. The solutions, scripts in `tutorials/solutions`, are
folded below their exercises. Beside the page stand the script, the solutions and a notebook. The
markers are `# %%` and `# %% [markdown]`.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import html
import io
import json
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
LIVE = Path(__file__).parent / "live"  # NAME.html: what moves below the figure NAME
PAGE_WIDTH = 780  # pixels of a page's text on a wide screen; a wider figure shrinks to it
SMALLEST = 10.5  # pixels of the smallest text of a figure on that page
# How fast a page is worked through: minutes for a word, a line of code, an exercise.
MINUTES = {"word": 1 / 130, "line": 1 / 6, "exercise": 15.0}


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


@dataclass(frozen=True)
class Solution:
    """A solution of an exercise: its text, its code and the verdict that it prints."""

    text: str
    code: str
    verdict: str


def solutions(source: str, name: str, shown: list[str]) -> dict[str, Solution]:
    """The solutions of a page by exercise; `shown`: what each cell printed (see `run`).

    Raises CheckFailed for a solution that `learn.check` does not call right.
    """
    done: dict[str, Solution] = {}
    parts = cells(source, name)
    imports = next(cell.text for cell in parts if not cell.markdown).strip()
    pairs = list(zip(parts, shown, strict=True))
    for (text, _), (code, said) in zip(pairs[2:-1:2], pairs[3::2], strict=True):
        if not (head := re.match(r"## Solution (\d\d\.\d)\n", text.text)) or code.markdown:
            raise CheckFailed(f"{name}:{text.line}: expected '## Solution', then one code cell")
        if not said.startswith(f"{head[1]}: right"):
            raise CheckFailed(f"{name}:{code.line}: {said.strip()}")
        body = code.text.strip() if done else f"{imports}\n\n\n{code.text.strip()}"
        done[head[1]] = Solution(text.text[head.end() :].strip(), body, said)
    return done


def page(
    source: str,
    name: str,
    shown: list[str],
    seconds: float,
    solved: dict[str, Solution] | None = None,
) -> str:
    """The Markdown of a page: the cells of `source`, with `shown` below each (see `run`).

    Raises CheckFailed where a solution has no exercise on the page.
    """
    left, parts = dict(solved or {}), list[str]()
    stem = Path(name).stem
    about = (
        f"{hours(minutes(source))}. [{stem}.py]({stem}.py): run it with `python "
        f"tutorials/{stem}.py`, or take [the notebook]({stem}.ipynb). The output and the figures "
        f"below are from the run that built this page; it took {seconds:.0f} s.\n{{ .about }}"
    )
    for cell, out in zip(cells(source, name), shown, strict=True):
        if cell.markdown:
            title, _, rest = cell.text.partition("\n")
            parts += [title, about, rest] if not parts else [cell.text]
            continue
        parts.append(f"```python\n{cell.text.strip()}\n```")
        for k, piece in enumerate(re.split(r"(<figure.*?</figure>)\n?", out, flags=re.DOTALL)):
            if k % 2:
                parts.append(piece)
            elif piece.strip():
                parts.append(_output(piece))
        for number in re.findall(r'learn\.check\("(\d\d\.\d)"', cell.text):
            if (solution := left.pop(number, None)) is not None:
                parts.append(f"/// details | Solution {number}\n    type: success")
                parts += [solution.text, f"```python\n{solution.code}\n```"]
                parts += [_output(solution.verdict), "///"]
    if left:
        raise CheckFailed(f"{name}: solutions without an exercise: {', '.join(left)}")
    return "\n\n".join(parts) + "\n"


def _output(text: str) -> str:
    return f"``` {{ .text .output }}\n{text.rstrip()}\n```"


def notebook(source: str, name: str) -> str:
    """The script as a Jupyter notebook (nbformat 4.5), without output."""
    parts: list[dict[str, Any]] = []
    for k, cell in enumerate(cells(source, name)):
        kind = "markdown" if cell.markdown else "code"
        text = _without_pages(cell.text).strip("\n").splitlines(keepends=True)
        part: dict[str, Any] = {"cell_type": kind, "id": f"cell-{k}", "metadata": {}}
        part["source"] = text
        parts.append(part if cell.markdown else part | {"execution_count": None, "outputs": []})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    meta = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": parts, "metadata": meta, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1) + "\n"


def _without_pages(text: str) -> str:
    """Links to other pages as links to their notebooks, or as the words alone."""
    text = re.sub(r"\]\((\d\d_\w+)\.md\)", r"](\1.ipynb)", text)
    return re.sub(r"\[([^\]]*)\]\([^)]*\.md[^)]*\)", r"\1", text)


def minutes(source: str, exercises: bool = True) -> float:
    """How long a page takes: its words, its lines of code and, if asked, its exercises."""
    parts = cells(source, "a page")
    words = sum(len(cell.text.split()) for cell in parts if cell.markdown)
    code = [cell.text for cell in parts if not cell.markdown]
    lines = sum(bool(line.strip()) for text in code for line in text.splitlines())
    tasks = sum(text.count("learn.check(") for text in code) if exercises else 0
    return words * MINUTES["word"] + lines * MINUTES["line"] + tasks * MINUTES["exercise"]


def hours(count: float) -> str:
    """Minutes in words, to the next five: "About 1 h 25 min"."""
    rounded = max(5, 5 * round(count / 5))
    whole, rest = divmod(rounded, 60)
    return "About " + " ".join([f"{whole} h"] * bool(whole) + [f"{rest} min"] * bool(rest))


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
        answers, where = "", f"tutorials/solutions/{path.name}"
        solved: dict[str, Solution] = {}
        if (beside := path.parent / "solutions" / path.name).is_file():
            answers = beside.read_text(encoding="utf-8")
            solved = solutions(answers, where, run(answers, where, made)[0])
        (made / path.name).write_text(source, encoding="utf-8")
        (made / f"{path.stem}.ipynb").write_text(notebook(source, name), encoding="utf-8")
        text = page(source, name, shown, seconds, solved)
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
    if (beside := path.parent / "solutions" / path.name).is_file():
        digest.update(beside.read_bytes())
    digest.update(str((smollm2.default_folder() / "config.json").is_file()).encode())
    versions = {d.name: d.version for d in metadata.distributions()}
    names = ("numpy", "mlx", "matplotlib", "hypothesis", "tokenizers", "safetensors")
    digest.update(repr([sys.version, *((n, versions.get(n)) for n in names)]).encode())
    inputs = [*PACKAGE.rglob("*.py"), *Path(__file__).parent.glob("*.py"), *LIVE.glob("*.html")]
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

    def show(figure: Any, name: str, *_: Any, caption: str = "") -> None:
        text = plot.alt(figure)
        if len(text) < 30:
            raise CheckFailed(f"figure {name}: alt text {text!r}; expected 30 characters or more")
        if len(caption) < 20:
            raise CheckFailed(f"figure {name}: caption {caption!r}; expected what to see in it")
        if (small := smallest_text(figure)) < SMALLEST:
            raise CheckFailed(
                f"figure {name}: a text has {small:.1f} pixels, fewer than {SMALLEST}"
            )
        plot.save(figure, folder / f"{name}.svg")
        width = round(figure.get_figwidth() * 100)
        image = f'<img src="{name}.svg" alt="{html.escape(text)}" width="{width}">'
        live = LIVE / f"{name}.html"
        moving = live.read_text(encoding="utf-8") if live.is_file() else ""
        said = f"<figcaption>{html.escape(caption)}</figcaption>"
        out.write(f'<figure class="plot">{image}{said}{moving}</figure>\n')

    with mock.patch.object(plot, "show", show):
        yield


def smallest_text(figure: Any) -> float:
    """Pixels of a figure's smallest text on a page, where a wide figure shrinks."""
    from matplotlib.text import Text

    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    shrunk = min(1.0, PAGE_WIDTH / (100 * figure.get_figwidth()))
    return min((t.get_fontsize() for t in texts), default=99.0) * 100 / 72 * shrunk


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
