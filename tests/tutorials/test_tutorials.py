"""Every tutorial runs as it stands, reaches each of its assertions, and draws what it says.

They are run by the renderer that makes the site's pages, each in a process of its own, and leave
their pages for the site. A failed cell fails the page; so does an assertion that is never reached,
which a cell in an `if` or a function that nobody calls would be.
"""

from __future__ import annotations

import ast
import html
import re
import sys
from pathlib import Path

import pytest

from tinylane import learn
from tinylane.core.errors import CheckFailed, TinylaneError
from tutorials.build import reading as reading_tables
from tutorials.build import render
from tutorials.build.__main__ import PAGES, ROOT, make, tutorials
from tutorials.build.formulas import fence, inline, mathml

TUTORIALS = tutorials()
each = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
NAME = "tutorials/99_planted.py"
FIGURE = "figure = plot.lines({'a': [1, 2]}, [0, 1], 'x', 'y', 'T \"1\"')\n"


def test_the_ladder_has_no_gap() -> None:
    assert [int(path.name[:2]) for path in TUTORIALS] == list(range(1, len(TUTORIALS) + 1))
    assert len(TUTORIALS) >= 8


@each
def test_a_tutorial_is_in_percent_format(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    first, *_ = cells = render.cells(text, path.name)
    title = rf"# {int(path.name[:2])}\. .+"
    assert first.markdown and re.fullmatch(title, first.text.splitlines()[0])
    for cell in cells:
        if not cell.markdown:
            ast.parse(cell.text)


@each
def test_a_tutorial_ends_with_exercises_to_write_and_with_what_is_next(path: Path) -> None:
    """Every stub returns nothing yet, and is checked in the same cell."""
    parts = render.cells(path.read_text(encoding="utf-8"), path.name)
    heads = [line for c in parts if c.markdown for line in c.text.splitlines() if line[:3] == "## "]
    assert heads[-2:] == ["## Exercises", "## What next?"]
    stubs = [cell.text for cell in parts if "learn.check(" in cell.text and not cell.markdown]
    names = [name for name in learn.exercises() if name.startswith(path.name[:2])]
    assert len(names) >= 2
    for name, stub in zip(names, stubs, strict=True):
        function, said = ast.parse(stub).body
        assert isinstance(function, ast.FunctionDef) and isinstance(said, ast.Expr)
        assert [a.arg for a in function.args.args] == list(learn.exercises()[name].arguments)
        assert ast.unparse(function.body[1:]) == "..."  # after the docstring
        assert ast.unparse(said) == f"print(learn.check('{name}', {function.name}))"
        assert f"**{name}**" in "\n".join(cell.text for cell in parts if cell.markdown)


@each
def test_a_tutorial_needs_what_the_extra_brings_and_no_more(path: Path) -> None:
    """`tinylane[learn]`, what tinylane itself depends on, and the standard library."""
    brings = {"hypothesis", "matplotlib", "mlx"}
    depends = {"numpy", "tokenizers", "tinylane", "smollm2"}  # the last is a script beside it
    beside = path.parent / "solutions" / path.name
    used = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else name.name
        for file in (path, beside)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    used = {name.split(".")[0] for name in used} - set(sys.stdlib_module_names)
    assert used <= brings | depends
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = {re.split(r"[>\[]", line)[0] for line in extra["optional-dependencies"]["learn"]}
    assert names == {"hypothesis", "matplotlib", "tinylane"}  # tinylane[mlx]


def test_a_page_has_an_honest_time() -> None:
    """It grows with words, code and exercises, and is said on the page and in the table."""
    source = TUTORIALS[4].read_text(encoding="utf-8")
    reading, all_of_it = render.minutes(source, False), render.minutes(source)
    assert all_of_it == reading + 2 * render.MINUTES["exercise"]
    more = "\n# %% [markdown]\n" + "# word\n" * 130 + "\n# %%\n" + "x = 1\n" * 6
    assert abs(render.minutes(source + more) - all_of_it - 2) < 0.1
    assert [render.hours(x) for x in (1, 62, 63, 120)] == [
        "About 5 min", "About 1 h", "About 1 h 5 min", "About 2 h"
    ]  # fmt: skip
    for k, row in enumerate(reading_tables.ladder().splitlines()[2:]):
        said = render.hours(render.minutes(TUTORIALS[k].read_text(encoding="utf-8")))
        assert TUTORIALS[k].stem in row and said.removeprefix("About ") in row
    assert reading_tables.together(reading_tables.FAST, False) <= "1 h 30 min"


@each
def test_a_tutorial_runs_and_reaches_all_it_asserts(path: Path) -> None:
    assert make(path, fresh=True) == ""
    script = path.read_text(encoding="utf-8")
    tree = ast.parse(script)
    assert sum(isinstance(node, ast.Assert) for node in ast.walk(tree)) >= 6
    page = (PAGES / f"{path.stem}.md").read_text(encoding="utf-8")
    shown = re.findall(r'<img src="([^"]+)" alt="([^"]+)"', page)
    shows = r'^ *"(\d\d-[a-z-]+)",$|, "(\d\d-[a-z-]+)", caption'
    named = re.findall(shows, script, re.MULTILINE)
    named = [one or other for one, other in named]
    assert named and [name for name, _ in shown] == [f"{name}.svg" for name in named]
    for name, alt in shown:
        assert name.startswith(path.name[:2]) and len(alt) > 40
        drawn = (PAGES / name).read_text(encoding="utf-8")
        assert drawn.startswith("<?xml") and html.unescape(alt)[:25] in html.unescape(drawn)
    names = [name for name in learn.exercises() if name.startswith(path.name[:2])]
    assert re.findall(r"^(\d\d\.\d): not written yet", page, re.MULTILINE) == names
    assert re.findall(r"^(\d\d\.\d): right, in \d+ random cases$", page, re.MULTILINE) == names
    assert re.findall(r"^/// details \| Solution (.*)$", page, re.MULTILINE) == names
    assert f"[the notebook]({path.stem}.ipynb)" in page
    assert (PAGES / f"{path.stem}.ipynb").is_file()


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
        (f"{FIGURE}plot.show(figure, '99-a')", "caption ''; expected what to see"),
        (
            f"{FIGURE}figure.text(0, 0, 'x', fontsize=6)\n"
            "plot.show(figure, '99-a', caption='x' * 20)",
            "a text has 8.3 pixels",
        ),
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
        f"{FIGURE}plot.show(figure, '99-a', caption='The line <rises> from 1 to 2.')\n"
        "print('after')\n"
        "# %% [markdown]\n# **99.1** Write it.\n\n# %%\ndef f():\n    ...\n\n\n"
        "print('no: learn.check(\"99.1\", f)')\n# %% [markdown]\n# ## What next?\n"
    )
    shown, seconds = render.run(source, NAME, tmp_path)
    answer = (
        "# %% [markdown]\n# # S\n# %%\nimport math\n# %% [markdown]\n# ## Solution 99.1\n# So.\n"
    )
    answer += "# %%\ndef f():\n    return 1\n\n\nprint('99.1: right')\n"
    solved = render.solutions(answer, NAME, render.run(answer, NAME, tmp_path)[0])
    page = render.page(source, NAME, shown, seconds, solved)
    order = [
        "# 99. T", "About 15 min", "99_planted.ipynb", "One *idea*.", "```python\nimport numpy",
        "before <b>", '<img src="99-a.svg"', "&quot;1&quot;",
        "<figcaption>The line &lt;rises&gt; from 1 to 2.</figcaption>", "after",
        "**99.1** Write it.",
        "def f():\n    ...", "no: learn.check", "/// details | Solution 99.1", "So.", "import math",
        "return 1", "99.1: right", "///", "## What next?",
    ]  # fmt: skip
    at = 0
    for piece in order:
        assert piece in page[at:], piece
        at += page[at:].index(piece) + len(piece)
    assert (tmp_path / "99-a.svg").stat().st_size > 5000
    with pytest.raises(CheckFailed, match=r"solutions without an exercise: 99\.1"):
        render.page("# %% [markdown]\n# # T\n", NAME, [""], 0.0, solved)
    wrong = answer.replace("'99.1: right'", "'99.1: wrong: x = 1'")
    with pytest.raises(CheckFailed, match=r"99_planted\.py:9: 99\.1: wrong: x = 1"):
        render.solutions(wrong, NAME, render.run(wrong, NAME, tmp_path)[0])


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
