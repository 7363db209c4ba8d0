"""A machine that is not this one: without an optional package, without /proc, without git.

A package is taken away by putting None in its place, which is what a failed import finds.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helpers_cli
import pytest

from tinylane.checkpoints import chat_template
from tinylane.checkpoints.hub import resolve
from tinylane.commands import bench_machine
from tinylane.core.errors import TinylaneError
from tinylane.evaluate.tasks import mathematics
from tinylane.files import memory, run_dir
from tinylane.view import figure_style, training_figure
from tutorials.study.__main__ import main as study

ask, game = helpers_cli.ask, helpers_cli.game  # fixtures
MATPLOTLIB = ("matplotlib", "matplotlib.figure", "matplotlib.pyplot")
MLX = ("mlx", "mlx.core", "mlx.nn", "mlx.utils", "mlx.optimizers")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Take modules away, and those of ours that need them, so that they are imported anew."""

    def take(*names: str, ours: tuple[str, ...] = ()) -> None:
        for name in [*names, *ours]:
            monkeypatch.delitem(sys.modules, name, raising=False)
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return take


# A package that is not installed is named, with how to get it.


def test_figures_without_matplotlib(without: Any, tmp_path: Path, capsys: Any) -> None:
    without(*MATPLOTLIB)
    for act in (lambda: figure_style.blank(1, 1), lambda: training_figure.draw(tmp_path)):
        with pytest.raises(TinylaneError, match=r"matplotlib is not installed.*tinylane\[plot\]"):
            act()
    (tmp_path / "scratch.json").write_text("{}")
    assert study(["plot", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pip install 'tinylane[plot]'" in said


def test_downloads_without_the_hub_s_library(without: Any) -> None:
    without("huggingface_hub", "huggingface_hub.errors")
    with pytest.raises(TinylaneError, match=r"owner/name: no such folder.*huggingface_hub"):
        resolve("owner/name")


@pytest.mark.parametrize(
    "words",
    (
        ("train", "sft", "--data", "x.jsonl", "--out", "x"),
        ("train", "shell-game", "--out", "x"),
        ("generate", "--backend", "mlx"),
    ),
    ids=lambda words: " ".join(words[:2]),
)
def test_commands_that_need_mlx(words: tuple[str, ...], without: Any, ask: Any) -> None:
    without(*MLX, ours=("tinylane.train.parameters", "tinylane.train.from_scratch"))
    code, out, err = ask(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "mlx" in err and 'not installed: pip install "tinylane[mlx]"' in err


def test_without_mlx_auto_means_numpy(without: Any) -> None:
    from tinylane.checkpoints.load import choose_backend

    without(*MLX)
    assert choose_backend("auto") == "numpy"


def test_the_study_without_mlx(without: Any, capsys: Any) -> None:
    without(*MLX)
    assert study(["scratch", "--out", "x"]) == 2
    assert 'not installed: pip install "tinylane[mlx]"' in capsys.readouterr().err


def test_what_is_looked_up_before_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates are rendered in a process of their own, which cannot say what is missing."""
    chat_template._worker.close()  # one that runs needs no look-up
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TinylaneError, match="pip install 'jinja2"):
        chat_template.render("{{ 1 }}", [])


def test_an_error_in_a_trainer_is_not_taken_for_a_missing_mlx(without: Any, ask: Any) -> None:
    """`pip install mlx` would be bad advice where something else cannot be imported."""
    pytest.importorskip("mlx.core")
    for words, name in (
        (("shell-game",), "from_scratch"),
        (("sft", "--data", "x"), "parameters"),
    ):
        without(f"tinylane.train.{name}")
        with pytest.raises(ImportError, match=f"train.{name}"):
            ask("train", *words, "--out", "x")


def test_a_math_verify_that_does_not_start_is_said_once_and_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("math_verify")
    monkeypatch.setattr(sys, "path", [])  # the worker finds nothing to import
    judge = mathematics.Judge.__new__(mathematics.Judge)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: object())
        judge.__init__()  # type: ignore[misc]
    with pytest.raises(
        TinylaneError, match=r"does not start \(ModuleNotFoundError.*\); answers are compared by"
    ):
        judge("x + 1", "1 + x")
    assert judge._worker._process is None
    judge.close()  # nothing to end, and no complaint


# Other systems tell less about themselves.


class NoFiles:
    """A Path where nothing can be read or written."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read_text(self) -> str:
        raise FileNotFoundError(self.name)

    def write_text(self, text: str) -> None:
        raise FileNotFoundError(self.name)


def test_memory_and_processor_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS: the peak is what the system counts, in bytes there and in KiB elsewhere."""
    monkeypatch.setattr(memory, "Path", NoFiles)
    monkeypatch.setattr(bench_machine, "Path", NoFiles)
    memory.reset_peak()  # nothing to reset, and no error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    assert memory.memory() == peak * unit
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.memory() == peak
    told = bench_machine.describe()
    assert told["processor"] and told["cores"] >= 1
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.memory() is None


def test_cores_where_the_system_keeps_no_list_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert bench_machine.cores() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert bench_machine.cores() == 1


def test_available_memory_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the machine's, as a Mac says it; unknown where nobody says, and then nothing fails."""
    monkeypatch.setattr(memory, "Path", NoFiles)
    monkeypatch.setattr(memory, "_control_group", lambda: None)
    sizes = {"SC_PHYS_PAGES": 3 << 20, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert memory.available_memory() == 12 << 30

    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    assert memory.available_memory() is None
    assert memory.size(12 << 30) == "12.0 GiB" and memory.size(3 << 50) == "3072.0 TiB"


def test_the_revision_of_a_checkout_is_unknown_where_git_cannot_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run's record says so, it does not fail: no git, or no checkout."""

    def no_git(*args: Any, **named: Any) -> Any:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert run_dir.revision() is None
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert run_dir.revision() is None


# A notebook shows figures; anything else gets a file.


def test_a_figure_is_a_file_with_its_words_printed_or_shown_in_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    figure = figure_style.finish(figure_style.blank(1, 1), "an empty square")
    figure_style.show(figure, "square", tmp_path / "new")
    file = tmp_path / "new" / "square.png"
    assert capsys.readouterr().out == f"[figure {file}: an empty square]\n"
    assert file.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TinylaneError, match=r"square\.png/below: cannot be made \(Not a directory"):
        figure_style.show(figure, "square", file / "below")

    seen: list[tuple[bytes, str]] = []
    notebook: Any = types.ModuleType("IPython")
    notebook.get_ipython = lambda: SimpleNamespace(kernel=1)
    screen: Any = types.ModuleType("IPython.display")
    screen.Image, screen.display = lambda data, alt: (data, alt), seen.append
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", screen)
    figure_style.show(figure, "other", tmp_path / "new", caption="Nothing is in it.")
    ((data, words),) = seen
    assert data.startswith(b"\x89PNG") and words == "an empty square"
    assert capsys.readouterr().out == "Nothing is in it.\n"
    assert not (tmp_path / "new" / "other.png").exists()
    notebook.get_ipython = lambda: SimpleNamespace()  # IPython in a terminal shows no figures
    figure_style.show(figure, "other", tmp_path / "new")
    assert (tmp_path / "new" / "other.png").exists()
