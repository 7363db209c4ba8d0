# ruff: noqa: F811 - fixtures
"""`tinylane eval --out`: a run directory goes on after a kill at any instant, and refuses others.

KILLS in the environment sets how many times the run is killed (default 5).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import helpers_cli
import pytest
from helpers_eval import checkpoint, data, flags, model, results  # noqa: F401 - fixtures

from tinylane.evaluate import runner
from tinylane.files.run_dir import read_run

ask, game = helpers_cli.ask, helpers_cli.game  # fixtures


def test_the_same_command_goes_on_and_repeats_nothing(
    ask: Any, model: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the fourth result: three are kept, and only the rest is computed."""
    argv = flags(model, data, "--count", 3, "--lanes", 2)
    assert ask(*argv, "--out", tmp_path / "whole")[0] == 0
    original, done = runner.solve, []

    def solve(*args: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(args[3])
        return original(*args)

    monkeypatch.setattr(runner, "solve", solve)
    code, _, err = ask(*argv, "--out", tmp_path / "cut")
    assert code == 130 and "3 of 6 results are kept" in err
    done[:] = [None] * 4  # so that it is not interrupted again
    code, _, err = ask(*argv, "--out", tmp_path / "cut")
    assert code == 0 and "3 of 6 done before; going on" in err and len(done) == 4 + 3
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    code, out, err = ask(*argv, "--out", tmp_path / "cut")
    assert code == 0 and "nothing left to do" in err and len(done) == 7
    assert out.splitlines()[1:] != []


def test_a_run_killed_at_any_instant_loses_only_what_was_in_flight(
    ask: Any, model: str, data: str, tmp_path: Path
) -> None:
    """kill -9 at random instants, then the same command again, until it ends by itself: the results
    are those of a run that was never stopped, and what was on disk at a kill is never computed
    again (it keeps its times). The control: of other seeds not one result agrees."""
    argv = flags(model, data, "--count", 6, "--lanes", 1, 4, "--quiet", "--out")
    assert ask(*argv, tmp_path / "whole")[0] == 0
    rng = random.Random(0)
    run, kills, before = tmp_path / "killed", 0, b""
    file = run / "results.jsonl"
    wanted = int(os.environ.get("KILLS", "5"))
    while True:
        command = [sys.executable, "-m", "tinylane", *argv, str(run)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        if kills < wanted:
            target, end = len(before) + rng.randrange(1, 4000), time.monotonic() + 60
            while process.poll() is None and time.monotonic() < end:
                if file.exists() and file.stat().st_size >= target:
                    break
                time.sleep(0.002)
            time.sleep(rng.random() * 0.05)
            process.send_signal(signal.SIGKILL)
        process.communicate()
        after = file.read_bytes() if file.exists() else b""
        whole = before[: before.rfind(b"\n") + 1]
        assert after.startswith(whole), "a result that was kept is as it was"
        kills, before = kills + 1, after
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills > min(wanted, 2), "it was killed before it was done"
    assert results(run) == results(tmp_path / "whole")
    assert len(read_run(run)[0]["starts"]) >= 2
    assert ask(*argv, tmp_path / "other", "--seed", 1)[0] == 0
    pairs = zip(results(tmp_path / "other"), results(run), strict=True)
    assert not any(a["lane"] == b["lane"] for a, b in pairs)


def test_a_second_process_on_the_same_directory_is_refused(
    ask: Any, model: str, data: str, tmp_path: Path
) -> None:
    from tinylane.files.run_dir import Journal

    argv = flags(model, data, "--count", 1, "--lanes", 2, "--out", tmp_path / "run")
    assert ask(*argv)[0] == 0
    with Journal(tmp_path / "run", read_run(tmp_path / "run")[0]["settings"]):
        code, _, err = ask(*argv, "--quiet")
    assert (code, err.count("\n")) == (2, 1) and "another process is writing" in err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--seed", 1], "seed was 0, now 1"),
        (["--count", 2], "count was 1, now 2"),
        (["--temp", 0.5], "sampler.temperature was 1.0, now 0.5"),
        (["--lanes", 4], "cells was"),
        (["--template", "Q: {question}"], "task.template was"),
        (["--lag", 1], "lag was None, now 1"),
        (["--dtype", "float64"], "dtype was 'float32', now 'float64'"),
    ],
)
def test_a_directory_of_another_configuration_is_refused(
    ask: Any, model: str, data: str, tmp_path_factory: Any, more: list, says: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "configured"
    argv = flags(model, data, "--count", 1, "--lanes", 2, "--out", folder, "--quiet")
    assert ask(*argv)[0] == 0
    code, out, err = ask(*argv, *more)
    assert (code, out, err.count("\n")) == (2, "", 1) and says in err


def test_another_model_or_file_in_the_same_directory_is_refused(
    ask: Any, model: str, data: str, tmp_path: Path
) -> None:
    argv = flags(model, data, "--count", 1, "--lanes", 2, "--out", tmp_path / "run", "--quiet")
    assert ask(*argv)[0] == 0
    other = checkpoint(tmp_path / "other", seed=1)
    code, _, err = ask(*argv, "--model", other)
    assert (code, err.count("\n")) == (2, 1) and "model was" in err
    changed = tmp_path / "changed.jsonl"
    changed.write_text(Path(data).read_text() + "\n")
    code, _, err = ask(*argv, "--data", changed)
    assert (code, err.count("\n")) == (2, 1) and "task.data was" in err


def test_a_full_disk_keeps_what_there_is(ask: Any, model: str, data: str, tmp_path: Path) -> None:
    """A limit on the size of files, as a disk that takes no more; then the limit is lifted."""
    argv = flags(model, data, "--count", 4, "--lanes", 2, "--out", tmp_path / "run")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "from tinylane.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv, "--quiet"],
        capture_output=True,
        text=True,
        env=helpers_cli.unmeasured(),
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    kept = len(results(tmp_path / "run"))
    assert f"; {kept} results are kept; the same command goes on" in done.stderr and 0 < kept < 8
    assert ask(*argv)[0] == 0
    assert len(results(tmp_path / "run")) == 8
