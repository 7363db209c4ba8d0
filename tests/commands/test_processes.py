"""Processes that tinylane depends on and that end, answer nonsense, or are stopped from outside."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.tasks import mathematics
from tutorials.bench.process import EngineProcess
from tutorials.build import __main__ as docs

# Engines and judges.


def test_an_engine_that_was_killed_is_named_with_its_exit_code() -> None:
    with EngineProcess("tinylane numpy", 1) as worker:
        worker.process.kill()
        worker.process.wait()
        with pytest.raises(TinylaneError, match="bench: tinylane numpy ended: exit code -9"):
            worker.ask(do="bandwidth")


def test_a_judge_whose_process_is_killed_starts_another() -> None:
    """The next comparison is mathematics again."""
    pytest.importorskip("math_verify")
    judge = mathematics.Judge()
    assert judge("x+1", "1+x")
    process = judge._worker._process
    assert process is not None
    process.kill()
    process.wait()
    assert judge("y+1", "1+y") and judge._worker._process not in (None, process)
    judge.close()


def test_a_judge_forgets_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, asked = mathematics.Judge(), []
    monkeypatch.setattr(mathematics, "REMEMBERED", 3)

    def ask(request: list[Any], limits: Any) -> list[str]:
        asked.append(request[0])
        return ["expression", request[0]]

    monkeypatch.setattr(judge._worker, "ask", ask)
    for name in "abcabcdd":
        assert judge.readable(f"{name}^2+1")
    assert len(asked) == 4 and len(judge._known) == 1


# The site.


def test_a_tutorial_that_fails_ends_the_build_with_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And leaves the folder as it was; a page that is made anew loses pictures it no longer has."""
    good, bad = tmp_path / "98_good.py", tmp_path / "99_bad.py"
    good.write_text("# %% [markdown]\n# # 98. T\n\n# %%\nassert 1\n")
    bad.write_text("# %% [markdown]\n# # 99. T\n\n# %%\nassert 1 == 2\n")
    pages = tmp_path / "pages"
    pages.mkdir()
    for name in ("98-old.svg", "98_good.md", "99-old.svg"):
        (pages / name).write_text("old")
    monkeypatch.setattr(docs, "PAGES", pages)
    monkeypatch.setattr(docs, "tutorials", lambda: [good, bad])
    monkeypatch.setattr(docs, "build", lambda: pytest.fail("a site of failed pages"))
    assert docs.main(["--pages"]) == 1 and docs.main([]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("2 tutorials, ")
    assert "tutorials/99_bad.py:5 (cell at line 5): AssertionError" in err
    there = {path.name for path in pages.iterdir() if not path.name.startswith(".")}
    assert there == {"98_good.md", "98_good.py", "98_good.ipynb", "99-old.svg"}
    assert "98. T" in (pages / "98_good.md").read_text()
    monkeypatch.setattr(docs, "tutorials", lambda: [good])
    monkeypatch.setattr(docs, "build", lambda: 3)
    assert docs.main(["--pages"]) == 0 and docs.main([]) == 3  # mkdocs' own status


def test_the_site_is_built_in_a_checkout_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"run python tutorials/build in a checkout"):
        docs.main([])


def test_a_bench_that_is_killed_takes_its_engine_along() -> None:
    """However the process that asks ends: an engine that goes on would disturb the next bench."""
    command = [sys.executable, "-m", "tinylane", "bench", "--repeats", "9999", "--lanes", "1"]
    bench = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL)
    children = Path(f"/proc/{bench.pid}/task/{bench.pid}/children")
    if not children.exists():
        bench.kill()
        pytest.skip("the system does not list a process's children (it is not Linux)")
    end = time.monotonic() + 60
    while not (engine := children.read_text().split()) and time.monotonic() < end:
        time.sleep(0.05)
    bench.kill()
    bench.wait()
    assert engine, "no engine was started within a minute"
    while alive(engine[0]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(engine[0])


def alive(pid: str) -> bool:
    """Whether it runs: what has ended and is not waited for yet is no process any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# Ctrl-C.

SWALLOWED = """
import os, signal, sys, time
import tinylane.__main__ as entry
from tinylane.commands import cli

def command():
    if sys.argv[1] == "pressed":
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt:  # as a library does that makes its own error of it
            pass
    return int(sys.argv[2])

signal.signal(signal.SIGINT, signal.default_int_handler)
cli.main = command
sys.exit(entry.main())
"""


@pytest.mark.parametrize(
    ("pressed", "code", "ends"),
    [("pressed", 2, 130), ("pressed", 1, 130), ("pressed", 0, 0), ("not", 2, 2), ("not", 0, 0)],
)
def test_ctrl_c_that_a_library_makes_an_error_of_ends_with_130(
    pressed: str, code: int, ends: int
) -> None:
    """What was done all the same is done: a command that ends well ends with 0."""
    command = [sys.executable, "-c", SWALLOWED, pressed, str(code)]
    assert subprocess.run(command, timeout=60).returncode == ends
