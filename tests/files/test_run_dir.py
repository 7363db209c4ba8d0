"""Claims about run directories: a kill at any instant leaves them whole."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tinylane.core.errors import TinylaneError
from tinylane.files import run_dir
from tinylane.files.run_dir import MAX_RESULT, Journal, claim, differing, hold, locked, read_run
from tinylane.files.writing import replacing

SETTINGS: dict[str, Any] = {"seed": 0, "cells": [["joint", 4]], "sampler": {"top_p": 1.0}}


def test_results_are_there_at_the_next_start(tmp_path: Path) -> None:
    with Journal(tmp_path / "run", SETTINGS) as first:
        first.append({"a": 1})
        first.append({"text": "line\nbreak \ud800", "x": [1.5]})  # half a surrogate: model text
        assert first.count == 2
    with Journal(tmp_path / "run", SETTINGS) as again:
        assert [row.get("a") for row in again.rows()] == [1, None] and again.count == 2
        again.append({"a": 3})
    found, rows = read_run(tmp_path / "run")
    assert len(found["starts"]) == 2 and found["settings"] == json.loads(json.dumps(SETTINGS))
    assert [number for number, _ in rows] == [1, 2, 3]
    start = found["starts"][0]
    assert start["versions"]["tinylane"] and start["versions"]["numpy"] and start["time"]


def test_a_torn_line_is_cut_off_wherever_it_was_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every prefix of the file that a kill could leave gives its whole lines and takes new ones."""
    monkeypatch.setattr(run_dir, "revision", lambda: None)  # it asks git, a hundred times here
    with Journal(tmp_path / "run", SETTINGS) as made:
        for k in range(3):
            made.append({"k": k, "text": "é" * 5})
    data = made.path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for size in range(len(data) + 1):
        made.path.write_bytes(data[:size])
        kept = sum(end <= size for end in ends)
        assert len(list(read_run(tmp_path / "run")[1])) == kept  # a reader needs no repair
        with Journal(tmp_path / "run", SETTINGS) as again:
            assert [row["k"] for row in again.rows()] == list(range(kept))
            again.append({"k": 9})
        assert [row["k"] for _, row in read_run(tmp_path / "run")[1]] == [*range(kept), 9]


def test_a_long_torn_line_is_cut_off(tmp_path: Path) -> None:
    """The search for the last newline goes back block by block."""
    with Journal(tmp_path / "run", SETTINGS) as made:
        made.append({"k": 0})
    with made.path.open("ab") as file:
        file.write(b'{"k": "' + b"x" * 200_000)
    with Journal(tmp_path / "run", SETTINGS) as again:
        assert again.count == 1 and again.path.read_bytes().count(b"x") == 0


def test_a_damaged_line_in_the_middle_is_no_torn_line(tmp_path: Path) -> None:
    with Journal(tmp_path / "run", SETTINGS) as made:
        made.append({"k": 0})
    made.path.write_bytes(b'{"k": 0}\n{"k": \n{"k": 2}\n')
    with (
        Journal(tmp_path / "run", SETTINGS) as again,
        pytest.raises(TinylaneError, match=r"results.jsonl, line 2: not valid JSON"),
    ):
        list(again.rows())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"cells": [["joint", 8]]}, "cells was"),
        ({"sampler": {"top_p": 0.9}}, "sampler.top_p was 1.0, now 0.9"),
        ({"more": True}, "more was None, now True"),
    ],
)
def test_another_configuration_is_refused(tmp_path: Path, change: dict, says: str) -> None:
    with Journal(tmp_path / "run", SETTINGS) as made:
        made.append({"k": 0})
    with pytest.raises(TinylaneError, match="another configuration") as caught:
        Journal(tmp_path / "run", {**SETTINGS, **change})
    assert says in str(caught.value)
    with Journal(tmp_path / "run", SETTINGS) as again:  # and the refusal left the lock free
        assert again.count == 1


def test_what_stopped_before_its_first_result_may_be_corrected(tmp_path: Path) -> None:
    """A run that was refused at its first problem must not bar its folder to the right command."""
    Journal(tmp_path / "run", SETTINGS).close()
    (tmp_path / "run" / "results.jsonl").write_text("")
    with Journal(tmp_path / "run", {**SETTINGS, "seed": 1}) as again:
        assert again.count == 0
    found = read_run(tmp_path / "run")[0]
    assert found["settings"]["seed"] == 1 and len(found["starts"]) == 1


def test_a_result_of_a_rank_is_a_result(tmp_path: Path) -> None:
    """Rank 0 may have been killed before it put together what the ranks have."""
    Journal(tmp_path / "run", SETTINGS).close()
    with Journal(tmp_path / "run" / "rank-1", SETTINGS) as rank:
        rank.append({"k": 0})
    with pytest.raises(TinylaneError, match="another configuration"):
        Journal(tmp_path / "run", {**SETTINGS, "seed": 1})
    assert read_run(tmp_path / "run")[0]["settings"] == SETTINGS


def test_a_lock_is_held_once_and_freed_when_it_is_released_or_gone(tmp_path: Path) -> None:
    first = hold(tmp_path / "lock")
    assert first is not None and hold(tmp_path / "lock") is None
    first.release()
    second = hold(tmp_path / "lock")
    assert second is not None and hold(tmp_path / "lock") is None
    del second
    third = hold(tmp_path / "lock")
    assert third is not None
    third.release()
    assert (tmp_path / "lock").exists()  # who waits for a lock must wait for this very file
    with pytest.raises(TinylaneError, match="cannot be locked"):
        hold(tmp_path / "lock" / "lock")


# What tinylane did before it used `filelock`; a process of that version may be at work.
FORMER = """
import fcntl, os, sys
handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("held by another", flush=True)
else:
    print("mine", flush=True)
    sys.stdin.read()
"""


def former(path: Path) -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", FORMER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_an_earlier_version_and_this_one_keep_each_other_out(tmp_path: Path) -> None:
    """Also with the lock file that a finished run of the earlier version left."""
    for kept in ("", "made before"):
        path = tmp_path / "lock"
        path.write_text(kept)
        process, state = former(path)
        assert state == "mine" and hold(path) is None
        process.communicate("")
        lock = hold(path)
        assert lock is not None
        process, state = former(path)
        process.communicate("")
        assert state == "held by another"
        lock.release()
        process, state = former(path)
        process.communicate("")
        assert state == "mine" and path.exists()  # some versions of filelock empty the file


def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("text")
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(TinylaneError, match="cannot be locked"):
        hold(tmp_path / "lock")
    assert victim.read_text() == "text"


def test_half_files_are_swept_unless_somebody_writes_them(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    killed = [tmp_path / ".state.x1.tmp", tmp_path / "adapter" / ".a.abcdefgh.tmp"]
    for path in killed:
        path.write_text("half")
    with replacing(tmp_path / "figure.svg") as file:
        with locked(tmp_path):
            assert not any(path.exists() for path in killed)
        file.write(b"whole")
    assert (tmp_path / "figure.svg").read_bytes() == b"whole"


def test_claimed_settings_stay_and_notes_are_not_compared(tmp_path: Path) -> None:
    claim(tmp_path, {"lr": 1e-3, "lanes": (1, 2), "nested": {"x": 1}}, {"path": "/a"})
    written = (tmp_path / "recipe.json").read_bytes()
    assert json.loads(written)["notes"] == {"path": "/a"}
    claim(tmp_path, {"lr": 1e-3, "lanes": [1, 2], "nested": {"x": 1.0}}, {"path": "/b"})
    with pytest.raises(TinylaneError, match=r"another configuration \(nested\.x was 1, now 2\)"):
        claim(tmp_path, {"lr": 1e-3, "lanes": [1, 2], "nested": {"x": 2}})
    assert (tmp_path / "recipe.json").read_bytes() == written
    (tmp_path / "study").mkdir()
    claim(tmp_path / "study", {"table": "bases"}, name="settings.json")
    assert json.loads((tmp_path / "study" / "settings.json").read_bytes()) == {"table": "bases"}


def test_a_folder_is_for_a_training_or_for_results(tmp_path: Path) -> None:
    """Neither writes into the other's folder, nor locks itself out of its own."""

    def contents(folder: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in folder.iterdir() if "lock" not in p.name}

    for folder, mine, others in (
        ("eval", lambda f: Journal(f, SETTINGS).close(), lambda f: claim(f, SETTINGS)),
        ("train", lambda f: claim(f, SETTINGS), lambda f: Journal(f, SETTINGS).close()),
    ):
        path = tmp_path / folder
        path.mkdir()
        mine(path)
        before = {
            file.name: file.read_bytes() for file in path.iterdir() if "lock" not in file.name
        }
        with pytest.raises(TinylaneError, match=r"holds a run of another kind \((settings|recipe)"):
            others(path)
        assert contents(path) == before
        mine(path)


def test_settings_differ_where_types_do() -> None:
    assert differing({"a": 1}, {"a": 1}) == ""
    assert differing({"a": 1}, {"a": True}) == "a was 1, now True"
    assert differing({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}) == "a.c was 2, now None"


def test_results_without_settings_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"not": "ours"}\n')
    with pytest.raises(TinylaneError, match=r"no settings\.json"):
        Journal(tmp_path, SETTINGS)
    with pytest.raises(TinylaneError, match=r"no settings\.json"):
        read_run(tmp_path)


def test_a_second_process_is_refused_and_a_dead_one_is_not(tmp_path: Path) -> None:
    """The lock ends with the process, without a word from it."""
    code = (
        "import sys, time; from tinylane.files.run_dir import Journal\n"
        "j = Journal(sys.argv[1], {'seed': 0}); print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TinylaneError, match="another process is writing this run"):
            Journal(tmp_path / "run", {"seed": 0})
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    Journal(tmp_path / "run", {"seed": 0}).close()


def test_a_full_disk_keeps_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes half a line: it is taken back, the error says what is kept, and the next
    start goes on."""
    with Journal(tmp_path / "run", SETTINGS) as made:
        made.append({"k": 0})
        real = os.write
        room = [5]

        def write(handle: int, data: Any) -> int:
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            count = real(handle, bytes(data)[: room[0]])
            room[0] -= count
            return count

        monkeypatch.setattr(run_dir.os, "write", write)
        with pytest.raises(TinylaneError, match=r"No space left on device\); 1 results are kept"):
            made.append({"k": 1})
        monkeypatch.setattr(run_dir.os, "write", real)
        assert made.path.read_bytes() == b'{"k":0}\n'
        made.append({"k": 1})
    assert [row["k"] for _, row in read_run(tmp_path / "run")[1]] == [0, 1]


def test_what_cannot_be_a_run_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "results.jsonl")
    for place in ("file", "file/below", "run"):
        with pytest.raises(TinylaneError) as caught:
            Journal(tmp_path / place, SETTINGS)
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_checkout_knows_its_revision() -> None:
    found = run_dir.revision()
    root = Path(run_dir.__file__).parents[2]
    if (root / ".git").exists():
        assert found is not None and len(found.rstrip("+")) == 40
    else:
        assert found is None


@pytest.mark.parametrize("name", ["results.jsonl", "settings.json"])
def test_a_run_directory_whose_files_are_links_outside_is_not_written_through(
    tmp_path: Path, name: str
) -> None:
    """The last line of what a link pointed at, without a newline, was cut off as a torn one."""
    victim = tmp_path / "victim"
    victim.write_text("a line\nand one without an end")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).symlink_to(victim)
    with pytest.raises(TinylaneError, match="outside its folder"):
        Journal(folder, {"seed": 0})
    assert victim.read_text() == "a line\nand one without an end"
    assert {path.name for path in folder.iterdir()} <= {name, "lock"}


def test_a_line_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with Journal(tmp_path / "run", {"seed": 0}) as journal:
        journal.append({"text": "kept"})
        with pytest.raises(TinylaneError, match="Ask for fewer lanes or tokens"):
            journal.append({"text": "x" * MAX_RESULT})
    with Journal(tmp_path / "run", {"seed": 0}) as journal:
        assert list(journal.rows()) == [{"text": "kept"}]
