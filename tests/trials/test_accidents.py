"""No file is lost when a process is killed, interrupted, locked out or the disk is full.

Also: threads, and memory over a long time. A small share of what `accidents.py` does; its docstring
has the commands for all of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from accidents_soak import soak
from helpers_cli import has_mlx
from helpers_lanes import FREE, omega, small

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask
from tinylane.files.writing import replacing, write_text
from tinylane.methods.decoding import generate

HERE = Path(__file__).parent
MLX = ("mlx", "float32")


def accidents(tmp_path: Path, *words: object, code: int = 0) -> tuple[dict[str, int], str]:
    """Run the script; its totals and its output."""
    done = subprocess.run(
        [sys.executable, str(HERE / "accidents.py"), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


def test_killed_at_random_instants_every_file_is_absent_old_or_whole(tmp_path: Path) -> None:
    """Download, load, generate --save, cache save, eval, collect and training are killed, their
    files checked, and run again until the result is that of an undisturbed run."""
    total, _ = accidents(tmp_path, "--kills", 9)
    assert total["kills"] == 9 and total["wrong"] == 0 and total["continued"] > 0


def test_a_file_that_is_written_where_it_stands_is_found(tmp_path: Path) -> None:
    """The control: without a temporary file and a rename, a kill leaves half of one."""
    words = ("--kills", 12, "--only", "cache save", "--plant")
    total, said = accidents(tmp_path, *words, code=1)
    assert total["wrong"] > 0 and "cache.safetensors: " in said


def test_a_full_disk_and_a_folder_below_a_file_are_one_line_each(tmp_path: Path) -> None:
    """Every command that writes: exit 2, the old files as they were, nothing left behind, and with
    room again it goes on."""
    total, said = accidents(tmp_path, "places", "--times", 1)
    assert (total["full"], total["unwritable"]) == ((12, 12) if has_mlx() else (9, 9)), said


def test_a_second_process_on_a_run_directory_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    total, said = accidents(tmp_path, "second")
    assert total["refused"] == total["first unharmed"] == (5 if has_mlx() else 2), said


def test_ctrl_c_is_one_line_and_keeps_what_was_there(tmp_path: Path) -> None:
    """Real processes, a random instant of each command, from its first import on."""
    total, said = accidents(tmp_path, "interrupt", "--times", 1)
    assert total["interrupted"] >= (12 if has_mlx() else 9), said


def test_ctrl_c_while_the_command_line_is_imported_is_one_line(tmp_path: Path) -> None:
    """Before anything could handle it; a library may turn it into another error."""
    code = (
        "import signal, sys, types\nimport tinylane.__main__ as entry\n"
        "class Slow(types.ModuleType):\n"
        "    def __getattr__(self, name):\n"
        "        try:\n            signal.raise_signal(signal.SIGINT)\n"
        "        except KeyboardInterrupt:\n            raise {error}\n"
        "sys.modules['tinylane.commands.cli'] = Slow('tinylane.commands.cli')\n"
        "sys.exit(entry.main())"
    )
    for error in ("KeyboardInterrupt", "ImportError('a library failed')"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(error=error)], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (130, "tinylane: error: interrupted\n")


def test_what_a_killed_writer_left_the_next_one_removes_and_a_live_one_keeps(
    tmp_path: Path,
) -> None:
    """A temporary file of a process that ended is removed; those of live processes and of other
    names are kept."""
    target = tmp_path / "run.json"
    code = (
        "import os, signal, sys\nfrom tinylane.files.writing import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(target)])
    (left,) = tmp_path.iterdir()
    assert left.read_bytes() == b"half" and left.name.startswith(".run.json.")
    other = tmp_path / ".other.json.abcdefgh.tmp"
    other.write_text("of another file")
    with replacing(target) as file:
        file.write(b"one")
        assert not left.exists()
        write_text(target, "two")  # of another writer, meanwhile
    assert target.read_text() == "one"
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, "run.json"]


# Threads.


@pytest.mark.parametrize(
    "kinds",
    [
        (("numpy", "float32"), ("numpy", "float64")),
        pytest.param((MLX, MLX), marks=pytest.mark.skipif(not has_mlx(), reason="no MLX")),
        pytest.param(
            (("numpy", "float32"), MLX), marks=pytest.mark.skipif(not has_mlx(), reason="no MLX")
        ),
    ],
    ids=["numpy", "mlx", "one of each"],
)
def test_two_models_in_two_threads_write_what_each_writes_alone(kinds: Any) -> None:
    """Different models (the one of `test_decoding.py` is shared), decoding at the same time."""
    models = [small(*kind, seed=k, width=32 + 16 * k, heads=4) for k, kind in enumerate(kinds)]

    def run(k: int) -> Any:
        model = models[k]
        result = generate(
            model, [5, 6, 7], lanes=3, sampler=FREE, max_tokens=40, seed=k,
            lane_rope=omega(model), lane_mask=LaneMask.joint(3),
        )  # fmt: skip
        return [(lane.tokens, lane.logprobs) for lane in result.lanes]

    expected = [run(0), run(1)]
    results: dict[int, list[Any]] = {0: [], 1: []}
    ready = threading.Barrier(2)

    def work(k: int) -> None:
        ready.wait()
        for _ in range(3):
            results[k].append(run(k))

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {k: [expected[k]] * 3 for k in (0, 1)}
    assert expected[0] != expected[1]


# A soak.


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_memory_beyond_the_cache_is_flat_while_lanes_join_and_leave(backend: str) -> None:
    """`python tests/trials/accidents.py soak --steps 20000` is the long one."""
    if backend == "mlx":
        pytest.importorskip("mlx.core", exc_type=ImportError)
    (row,), wrong = soak(500, 0, backend, 64, leak=False)
    assert not wrong
    assert min(row[name] for name in ("joined", "forked", "finished", "dropped")) >= 10


def test_a_decoding_that_is_kept_is_found_by_the_soak() -> None:
    """The control."""
    _, wrong = soak(1000, 0, "numpy", 100, leak=True)
    assert any(text.startswith("beyond: ") for text in wrong)


def test_a_merge_that_was_not_finished_begins_again(tmp_path: Path, monkeypatch: Any) -> None:
    """Once it left weights without a config.json, and the next try was refused for the weights. A
    kill between config.json and Omega's adapter left a folder that was read without its lanes."""
    from helpers_cli import write_checkpoint

    import tinylane
    from tinylane.checkpoints import export

    base, out = write_checkpoint(tmp_path / "base"), tmp_path / "out"
    original = export.write_json

    def full(path: Any, value: Any) -> None:
        if path.name == "config.json":
            raise TinylaneError("no room")
        original(path, value)

    monkeypatch.setattr(export, "write_json", full)
    with pytest.raises(TinylaneError, match="no room"):
        export.fuse(base, out, base / "adapter")
    assert (out / "model.safetensors").exists() and (out / export.UNFINISHED).exists()
    monkeypatch.undo()
    export.fuse(base, out, base / "adapter")
    assert not (out / export.UNFINISHED).exists()
    assert tinylane.load(out, backend="numpy").trained_for_lanes
    with pytest.raises(TinylaneError, match="already holds weights"):
        export.fuse(base, out, base / "adapter")
