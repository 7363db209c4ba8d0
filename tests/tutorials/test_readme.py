"""What the README, the changelog and the page "Read the code" say is true today."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import tinylane
from tinylane.commands.cli import main
from tinylane.evaluate.tasks.shell_game import ShellGame
from tutorials.build import reading
from tutorials.build.home_figure import home, standalone

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_first_two_blocks_are_one_line_of_shell_each() -> None:
    for kind, text in BLOCKS[:2]:
        assert kind == "sh" and text.count("\n") == 1


def test_the_python_block_runs_and_votes_for_the_truth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = [text for kind, text in BLOCKS if kind == "python"]
    exec(compile(code, "README.md", "exec"), {})
    swaps = re.search(r"swap (.*): where", code)
    assert swaps is not None
    game = ShellGame()
    assert capsys.readouterr().out.split()[-1] == game.answer(game.parse(swaps[1]))


def test_the_figure_is_what_seed_7_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--seed", "7", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    box = next(text for _, text in BLOCKS if "lane 1/4" in text)
    cells = [row.strip("│").split("│") for row in box.splitlines() if row.startswith("│")]
    columns = [[cell.split()[-1] for cell in column] for column in zip(*cells, strict=True)]
    for column, lane in zip(columns, said["lanes"], strict=True):
        assert column[1:-1] == lane["text"].split() and column[-1] == column[-2]
    assert f"vote: {said['task']['truth']}, 4 of 4 lanes" in box and said["task"]["correct"]
    prompt = next(line for line in box.splitlines() if line.startswith("cups"))
    assert prompt == said["prompt"]


def output(command: str, folder: Path) -> str:
    """What a command of the README prints in a folder."""
    program, *arguments = shlex.split(command)
    assert program == "tinylane"
    done = subprocess.run(
        [sys.executable, "-m", "tinylane", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.rstrip()


def shown_runs(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, and what is shown of each."""
    runs = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    return [(command, said.rstrip()) for command, _, said in (r.partition("\n") for r in runs)]


def test_every_command_shown_gives_the_output_shown(tmp_path: Path) -> None:
    """In order, in one folder. Seconds and rounding errors are the machine's own."""
    runs = [run for kind, text in BLOCKS if kind == "console" for run in shown_runs(text)]
    assert len(runs) >= 4
    for command, said in runs:
        assert without_measures(output(command, tmp_path)) == without_measures(said), command


def without_measures(text: str) -> str:
    """A command's output without what differs by machine: rounding errors, seconds, a place."""
    text = re.sub(r"\d\.?\d*e-\d\d", "(small)", text.rstrip())
    text = re.sub(r"\(lane \d, token \d\)", "(somewhere)", text)
    return re.sub(r"(\d) +\d+\.\d$", r"\1 (seconds)", text, flags=re.MULTILINE)


def test_the_picture_is_drawn_from_a_run_of_today() -> None:
    picture = ROOT / "tutorials" / "site" / "assets" / "lanes.svg"
    assert f"]({picture.relative_to(ROOT).as_posix()})" in README
    number = r"\d+\.\d+"
    held, today = picture.read_text(encoding="utf-8"), standalone(home())
    assert re.sub(number, "", held) == re.sub(number, "", today)
    sizes = [[float(x) for x in re.findall(number, text)] for text in (held, today)]
    assert sizes[0] == pytest.approx(sizes[1], abs=0.02)  # attention differs by rounding


def test_there_is_one_place_for_the_address() -> None:
    """What is to be filled in once the project is published stands in two neighbouring lines."""
    lines = [k for k, line in enumerate(README.splitlines()) if "ADDRESS" in line]
    assert len(lines) == 2 and lines[1] == lines[0] + 1


def test_the_commands_named_are_commands() -> None:
    commands = set(re.findall(r"^tinylane ([\w-]+)", README, re.MULTILINE))
    done = subprocess.run(
        [sys.executable, "-m", "tinylane", "--help"], capture_output=True, text=True, check=True
    )
    assert commands and commands <= set(done.stdout.split())


def test_every_file_and_folder_named_is_there() -> None:
    pages = [README, *(path.read_text("utf-8") for path in (ROOT / "tutorials/site").rglob("*.md"))]
    for text in pages:
        for path in re.findall(r"\b(?:tinylane|weights|tests|tutorials)/[\w/]+\.(?:py|md)", text):
            made = re.sub(r"^(tutorials/\d\d_\w+)\.md$", r"\1.py", path)  # a page of a script
            assert (ROOT / made).is_file(), path
        for path in re.findall(rf"`((?:{'|'.join(reading.DOORS)})/[a-z_]+\.py)", text):
            assert (ROOT / "tinylane" / path).is_file(), path
    for path in re.findall(
        r"^((?:tinylane|tutorials|tests|weights)[\w/]*/) ", README, re.MULTILINE
    ):
        assert (ROOT / path).is_dir(), path


def test_every_module_named_on_a_page_can_be_imported() -> None:
    for path in (ROOT / "tutorials").rglob("*.md"):
        for name in re.findall(
            r"\b(?:tinylane|tutorials)(?:\.[a-z_]\w*)+", path.read_text("utf-8")
        ):
            if name.endswith((".py", ".md")) or name in ("tinylane.load", "tinylane.__version__"):
                continue
            assert is_there(name), name


def test_every_file_and_module_named_in_code_is_there() -> None:
    """In backticks, in docstrings and comments."""
    named = re.compile(r"`(?:python )?((?:tinylane|tests|tutorials)(?:/[\w-]+)+\.(?:py|md))\b")
    for folder in ("tinylane", "tests", "tutorials"):
        for path in (ROOT / folder).rglob("*.py"):
            source = path.read_text("utf-8")
            files = named.findall(source)
            assert [file for file in files if not (ROOT / file).is_file()] == [], path
            modules = set(re.findall(r"`(tinylane(?:\.[a-z]\w+)+)", source))
            assert [name for name in modules if not is_there(name)] == [], path


def is_there(name: str) -> bool:
    """Whether it is a module, or in one."""
    module, _, attribute = name.rpartition(".")
    if name.startswith("tinylane.hf."):  # to import it one needs torch
        folder, first = ROOT / "tinylane" / "hf", name.split(".")[2]
        public = f'"{first}"' in (folder / "__init__.py").read_text("utf-8")  # in __all__
        return public or (folder / f"{first}.py").is_file()
    if importable(name):
        return True
    return importable(module) and hasattr(importlib.import_module(module), attribute)


def importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_the_doors_named_are_the_folders_of_the_package() -> None:
    folders = {path.parent.name for path in (ROOT / "tinylane").glob("*/__init__.py")}
    assert folders == set(reading.DOORS)
    assert re.findall(r"^tinylane/(\w+)/ ", README, re.MULTILINE) == list(reading.DOORS)


def test_the_files_of_the_study_path_use_only_those_before_them() -> None:
    for k, name in enumerate(reading.STUDY_PATH):
        source = (ROOT / "tinylane" / "core" / f"{name}.py").read_text(encoding="utf-8")
        used = set(re.findall(r"^from tinylane\.core\.(\w+) import", source, re.MULTILINE))
        assert used & set(reading.STUDY_PATH) <= set(reading.STUDY_PATH[:k]), name


def test_the_lines_of_the_study_path_are_nearly_those_said() -> None:
    said = dict(re.findall(r"^\| `(\w+)\.py` \| (\d+) \|", README, re.MULTILINE))
    assert list(said) == list(reading.STUDY_PATH)
    for name, count in said.items():
        lines = reading.lines(ROOT / "tinylane" / "core" / f"{name}.py")
        assert abs(int(count) - lines) <= 0.05 * lines, f"{name}.py has {lines} lines"


def test_the_tables_of_the_reading_page_count_every_file() -> None:
    rows = [row.split("|")[1:-1] for row in reading.doors().splitlines()[2:]]
    *doors, everything = [(int(row[1]), int(row[2].replace(",", ""))) for row in rows]
    top = list((ROOT / "tinylane").glob("*.py"))
    assert everything[0] == sum(files for files, _ in doors) + len(top)
    assert everything[1] == sum(lines for _, lines in doors) + sum(map(reading.lines, top))
    path = reading.study_path()
    assert [f"core/{name}.py" in path for name in reading.STUDY_PATH] == [True] * 7
    assert "| |" not in path.rpartition("\n")[0]  # every file says what it is


@pytest.mark.parametrize("heading, least", [("Modules that moved", 50), ("Internal names", 5)])
def test_the_new_places_in_the_changelog_are_there(heading: str, least: int) -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition(f"### {heading}")[2]
    table = text.partition("| before | now |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(table) >= least
    for row in table:
        for name in re.findall(r"`([\w.]+)`", row.split("|")[2]):
            where = name if name.startswith("tutorials") else f"tinylane.{name}"
            module, _, attribute = where.rpartition(".")
            assert importable(where) or hasattr(importlib.import_module(module), attribute), row


def test_every_public_name_is_there() -> None:
    for name in tinylane.__all__:
        assert getattr(tinylane, name) is not None


def renew() -> None:
    """Write what is printed and counted today into the README: run this file as a script."""
    text = README
    with tempfile.TemporaryDirectory() as folder:
        for kind, block in BLOCKS:
            if kind == "console":
                runs = [
                    (command, output(command, Path(folder))) for command, _ in shown_runs(block)
                ]
                text = text.replace(block, "".join(f"$ {one}\n{said}\n" for one, said in runs))
    for name in reading.STUDY_PATH:
        lines = reading.lines(ROOT / "tinylane" / "core" / f"{name}.py")
        text = re.sub(rf"^\| `{name}\.py` \| \d+ ", f"| `{name}.py` | {lines} ", text, flags=re.M)
    (ROOT / "README.md").write_text(text, encoding="utf-8")
    picture = ROOT / "tutorials" / "site" / "assets" / "lanes.svg"
    picture.write_text(standalone(home()), encoding="utf-8")


if __name__ == "__main__":
    renew()
