"""Processes that tinylane depends on and that end, answer nonsense, or are stopped from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tinylane import distributed
from tinylane.commands.bench_measure import Worker
from tinylane.core.errors import TinylaneError
from tinylane.distributed import Lost, Ring
from tinylane.evaluate.tasks import mathematics
from tutorials.build import __main__ as docs

MET = "import json, sys; print(json.dumps({'rank': 0, 'size': 2}), flush=True)"


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A ring whose worker is this code; and the worker's process."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def make(code: str) -> Ring:
        def start(command: list[str], **named: Any) -> Any:
            started.append(real([sys.executable, "-c", code], **named))
            return started[-1]

        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", start)
            return Ring(0, 2, timeout=60.0)

    make.started = started  # type: ignore[attr-defined]
    yield make
    for process in started:
        process.kill()
        process.wait()


# The ring of several ranks.


def test_a_worker_that_ends_at_once_is_a_lost_ring(ring: Any) -> None:
    with pytest.raises(Lost, match="the process that holds the ring ended; see the host file"):
        ring("raise SystemExit(1)")
    assert ring.started[0].poll() is not None


def test_a_ring_of_other_ranks_than_expected_is_refused_and_its_process_gone(ring: Any) -> None:
    """Two runs on the same ports."""
    with pytest.raises(TinylaneError, match="rank 0 of 2 was expected, MLX says "):
        ring(MET.replace("'rank': 0", "'rank': 1") + "; sys.stdin.read()")
    assert ring.started[0].poll() is not None


def test_what_an_ended_worker_had_said_is_what_is_told(ring: Any) -> None:
    """That rank 1 was lost is the reason; that a pipe broke is not."""
    found = ring(MET + "; print(json.dumps({'lost': 'rank 1'}), flush=True)")
    ring.started[0].wait()
    with pytest.raises(Lost, match=r"another rank was lost \(rank 1\)"):
        for _ in range(10):  # the first write may still fit into the pipe
            found.gather(b"x")
    found.close()


def test_sigterm_from_the_launcher_is_an_exception_in_the_main_thread_only() -> None:
    """As which results are kept; a thread cannot have signals and does without."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Lost, match=r"stopped from outside \(SIGTERM\)"), distributed._terminated():
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(10)
    assert signal.getsignal(signal.SIGTERM) is before
    seen: list[Any] = []

    def work() -> None:
        with distributed._terminated():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


# Contestants and judges.


def test_a_contestant_that_was_killed_is_named_with_its_exit_code() -> None:
    with Worker("tinylane numpy", 1) as worker:
        worker.process.kill()
        worker.process.wait()
        with pytest.raises(TinylaneError, match="bench: tinylane numpy ended: exit code -9"):
            worker.ask(do="bandwidth")


def test_a_judge_whose_process_is_killed_starts_another() -> None:
    """The comparison at hand is made as text; the next one is mathematics again."""
    pytest.importorskip("math_verify")
    judge = mathematics.Judge()
    assert judge("x+1", "1+x")
    judge._process.kill()  # type: ignore[union-attr]
    judge._process.wait()  # type: ignore[union-attr]
    assert not judge("y+1", "1+y")
    assert judge("z+1", "1+z")
    judge.close()


def test_a_judge_forgets_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, asked = mathematics.Judge(), []
    monkeypatch.setattr(mathematics, "REMEMBERED", 3)

    def exchange(self: Any, request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request["texts"])
        return {"same": True, "readable": [True]}

    monkeypatch.setattr(mathematics.Judge, "_exchange", exchange)
    for text in "abcabcdd":
        assert judge.readable(text)
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
    assert there == {"98_good.md", "98_good.py", "99-old.svg"}
    assert "98. T" in (pages / "98_good.md").read_text()
    monkeypatch.setattr(docs, "tutorials", lambda: [good])
    monkeypatch.setattr(docs, "build", lambda: 3)
    assert docs.main(["--pages"]) == 0 and docs.main([]) == 3  # mkdocs' own status


def test_the_site_is_built_in_a_checkout_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="works in a checkout"):
        docs.main([])
