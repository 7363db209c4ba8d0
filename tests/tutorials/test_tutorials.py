"""Every tutorial runs as it stands, reaches each of its assertions, and draws what it says.

They are run by the renderer that makes the site's pages, each in a process of its own, and leave
their pages for the site. A failed cell fails the page; so does an assertion that is never reached,
which a cell in an `if` or a function that nobody calls would be.
"""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path

import pytest

from tinylane.core.errors import CheckFailed, TinylaneError
from tutorials.build import render
from tutorials.build.__main__ import PAGES, ROOT, make, tutorials
from tutorials.build.formulas import fence, inline, mathml

TUTORIALS = tutorials()
each = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
NAME = "tutorials/99_planted.py"


def test_the_ladder_has_no_gap() -> None:
    assert [int(path.name[:2]) for path in TUTORIALS] == list(range(1, len(TUTORIALS) + 1))
    assert len(TUTORIALS) >= 8


@each
def test_a_tutorial_is_short_and_in_percent_format(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    first, *_ = cells = render.cells(text, path.name)
    title = rf"# {int(path.name[:2])}\. .+"
    assert first.markdown and re.fullmatch(title, first.text.splitlines()[0])
    for cell in cells:
        if not cell.markdown:
            ast.parse(cell.text)


@each
def test_a_tutorial_ends_with_two_exercises_and_their_solutions(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    prose = [cell.text for cell in render.cells(text, path.name) if cell.markdown]
    exercises = next(k for k, text in enumerate(prose) if "## Exercises" in text)
    tasks = re.findall(r"^\*\*(\d)\.\*\*", prose[exercises], re.MULTILINE)
    solutions = re.findall(r"^### Solution (\d)$", "\n".join(prose), re.MULTILINE)
    assert tasks == solutions == ["1", "2"]
    for solution in text.split("# ### Solution ")[1:]:
        assert "assert " in solution


@each
def test_a_tutorial_runs_and_reaches_all_it_asserts(path: Path) -> None:
    assert make(path, fresh=True) == ""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert sum(isinstance(node, ast.Assert) for node in ast.walk(tree)) >= 6
    page = (PAGES / f"{path.stem}.md").read_text(encoding="utf-8")
    shown = re.findall(r'<img src="([^"]+)" alt="([^"]+)"', page)
    named = re.findall(r'"(\d\d-[\w-]+)"\)', path.read_text(encoding="utf-8"))
    assert named and [name for name, _ in shown] == [f"{name}.svg" for name in named]
    for name, alt in shown:
        assert name.startswith(path.name[:2]) and len(alt) > 40
        drawn = (PAGES / name).read_text(encoding="utf-8")
        assert drawn.startswith("<?xml") and html.unescape(alt)[:25] in html.unescape(drawn)


# The renderer.


@pytest.mark.parametrize(
    "cell, said",
    [
        ("assert 1 == 2", r":4 \(cell at line 4\): AssertionError"),
        ("x = 1\nx / 0", r":5 .*ZeroDivisionError"),
        ("print('so far')\nraise SystemExit(0)", r"SystemExit.*it had printed: so far"),
        ("def f():\n    assert 1", r"never reached, in lines \[5\]"),
        ("if 0:\n    assert 3", r"never reached, in lines \[5\]"),
        ("x = (", r"SyntaxError"),
        ("from matplotlib.figure import Figure\nplot.show(Figure(), '99-bare')", "alt text ''"),
    ],
)
def test_a_planted_fault_fails_the_page(tmp_path: Path, cell: str, said: str) -> None:
    source = f"# %%\nfrom tinylane import plot\n# %%\n{cell}\n"
    with pytest.raises(CheckFailed, match=said):
        render.run(source, NAME, tmp_path)


@pytest.mark.parametrize("source", ["x = 1\n# %%\n", "# %% [raw]\n", "# %% [markdown]\ntext\n"])
def test_text_that_is_in_no_cell_of_ours_is_refused(source: str) -> None:
    with pytest.raises(TinylaneError, match=NAME):
        render.cells(source, NAME)


def test_a_page_has_text_code_output_figures_and_folded_solutions(tmp_path: Path) -> None:
    """In this order, and with what a cell printed before and after its figure around it."""
    source = (
        "# %% [markdown]\n# # 99. T\n#\n# One *idea*.\n\n# %%\nimport numpy as np\n"
        "from tinylane import plot\nprint('before <b>')\n"
        "plot.show(plot.lines({'a': [1, 2]}, [0, 1], 'x', 'y', 'T \"1\"'), '99-a')\n"
        "print('after')\n"
        "# %% [markdown]\n# ### Solution 1\n# Text.\n\n# %%\nassert 1\n"
        "# %% [markdown]\n# ### Solution 2\n\n# %%\nassert 2\n"
    )
    shown, seconds = render.run(source, NAME, tmp_path)
    page = render.page(source, NAME, shown, seconds)
    order = [
        "# 99. T", "One *idea*.", "```python\nimport numpy", "before <b>", '<img src="99-a.svg"',
        "&quot;1&quot;", "after", "/// details | Solution 1", "Text.", "assert 1", "///",
        "/// details | Solution 2", "assert 2", "///",
    ]  # fmt: skip
    at = 0
    for piece in order:
        assert piece in page[at:], piece
        at += page[at:].index(piece) + len(piece)
    assert (tmp_path / "99-a.svg").stat().st_size > 5000


def test_a_page_is_made_anew_when_what_it_is_made_from_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "99_planted.py"
    path.write_text("# %%\n1\n")
    before = render.key(path)
    assert render.key(path) == before
    path.write_text("# %%\n2\n")
    after = render.key(path)
    cache = tmp_path / "tinylane" / "SmolLM2-135M-Instruct"
    cache.mkdir(parents=True)
    (cache / "config.json").write_text("{}")  # a page may show this model
    assert len({before, after, render.key(path)}) == 3
    monkeypatch.chdir(ROOT)
    assert render.key(TUTORIALS[0].relative_to(ROOT)) == render.key(TUTORIALS[0])


# Formulas.


def test_a_formula_becomes_mathml_and_an_unknown_command_is_refused() -> None:
    omega = mathml(r"\Omega_d = s\,\theta_d\,\lambda^{-2d/(D-2)}", block=True)
    assert omega.startswith("<math") and 'display="block"' in omega and "&#x003A9;" in omega
    assert "&#x0003C;" in mathml("i < j") and " < " not in mathml("i < j")  # the page holds
    for wrong in (r"\nosuchthing x", r"\left( x"):
        with pytest.raises(TinylaneError, match="formula"):
            mathml(wrong)


def test_a_formula_that_cannot_be_read_is_a_warning_that_fails_a_strict_build(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The Markdown extension that calls us swallows exceptions: the page would show raw LaTeX."""
    assert "<math" in inline("x", "math", "formula", None)
    assert not caplog.records
    assert "nosuch" in fence(r"\nosuch", "math", "formula", {}, None)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.name.startswith("mkdocs.")
