"""Claims about the kept worker process: one serves many requests, none survives a broken limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tinylane.files import worker as files_worker
from tinylane.files import worker_program
from tinylane.files.worker import Limits, Worker, WorkerEnded

MIB = 1 << 20
ORDINARY = Limits(cpu_seconds=5, wall_seconds=60, memory=64 * MIB)
PROGRAM = """
import os, signal, sys, time

def prepare():
    print("a library that prints")

def answer(request):
    what, value = request
    if what == "pid":
        return os.getpid()
    if what == "loop":
        while True:
            pass
    if what == "spin":
        end = time.process_time() + value
        while time.process_time() < end:
            pass
    if what == "sleep":
        time.sleep(value)
    if what == "fill":
        return len("x".ljust(value))
    if what == "die":
        os.kill(os.getpid(), value)
        time.sleep(60)
    if what == "raise":
        raise LookupError("no such thing")
    return value
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def worker(program: Path) -> Iterator[Worker]:
    made = Worker(program, list)
    yield made
    made.close()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """Every process started from here on."""
    processes: list[subprocess.Popen] = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return processes


def why(worker: Worker, *request: Any, **limits: Any) -> tuple[str, str]:
    """Why the worker ended instead of answering."""
    with pytest.raises(WorkerEnded) as end:
        worker.ask(request, ORDINARY._replace(**limits))
    return end.value.why, end.value.detail


def runs(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(done.stdout.strip()) and "Z" not in done.stdout


def ends(pid: int, within: float = 30.0) -> bool:
    deadline = time.monotonic() + within
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not runs(pid)


# --------------------------------------------------------------------------------- one process


def test_five_hundred_requests_start_one_process(worker: Worker, started: list) -> None:
    """The start is what is expensive; it is counted, since times depend on the machine."""
    for k in range(500):
        assert worker.ask(["say", [k, "é\n"]], ORDINARY) == [k, "é\n"]
    assert len(started) == 1
    worker.close()
    assert started[0].returncode is not None and worker.ask(["say", 1], ORDINARY) == 1
    assert len(started) == 2


def test_requests_and_answers_larger_than_a_pipe(worker: Worker) -> None:
    text = "x" * (3 * MIB)
    assert worker.ask(["say", text], ORDINARY) == text


def test_threads_share_the_process_and_get_their_own_answers(worker: Worker, started: list) -> None:
    answers: dict[int, list[int]] = {}

    def work(k: int) -> None:
        answers[k] = [worker.ask(["say", 100 * k + i], ORDINARY) for i in range(20)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {k: [100 * k + i for i in range(20)] for k in range(6)}
    assert len(started) == 1


def test_a_request_that_is_no_json_is_refused_before_anything_starts(
    worker: Worker, started: list
) -> None:
    with pytest.raises(TypeError):
        worker.ask(object(), ORDINARY)
    assert not started


# -------------------------------------------------------------------------------------- limits


def test_a_broken_limit_ends_the_process_and_the_next_request_is_answered(
    worker: Worker, started: list
) -> None:
    """Every way to end, then an ordinary request."""
    broken: list[tuple[str, str, tuple, dict[str, float]]] = [
        ("processor", "", ("loop", 0), {"cpu_seconds": 0.1}),
        ("time", "", ("sleep", 60), {"wall_seconds": 0.5}),
        ("signal", str(int(signal.SIGKILL)), ("die", int(signal.SIGKILL)), {}),
        ("failed", "LookupError: no such thing", ("raise", 0), {}),
    ]
    if sys.platform == "linux":  # macOS does not keep a limit of memory
        broken.append(("memory", "MemoryError", ("fill", 200 * MIB), {}))
    pids = set()
    for name, detail, request, limits in broken:
        pids.add(worker.ask(["pid", 0], ORDINARY))
        assert why(worker, *request, **limits) == (name, detail)
        assert started[-1].returncode is not None  # waited for
    assert worker.ask(["say", "still here"], ORDINARY) == "still here"
    assert len(pids) == len(broken) and len(started) == len(broken) + 1


def test_the_limits_are_each_request_s_own(worker: Worker, started: list) -> None:
    """Processor time is not added up over requests; memory that was given back counts no more."""
    short = ORDINARY._replace(cpu_seconds=0.3, memory=100 * MIB)
    if sys.platform == "linux":
        for _ in range(5):
            assert worker.ask(["fill", 80 * MIB], short) == 80 * MIB
    for _ in range(5):  # 0.5 s of processor time in all
        worker.ask(["spin", 0.1], short)
    assert len(started) == 1


def test_a_process_that_ended_by_itself_is_replaced(worker: Worker) -> None:
    pid = worker.ask(["pid", 0], ORDINARY)
    os.kill(pid, signal.SIGKILL)
    assert ends(pid)
    assert worker.ask(["pid", 0], ORDINARY) != pid


def test_a_program_that_cannot_start_says_why(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("import no_such_module")
    found = why(Worker(path, list), "say", 1)
    assert found == ("failed", "ModuleNotFoundError: No module named 'no_such_module'")


def test_where_the_kernel_does_not_limit_memory_it_is_watched(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of macOS, here."""
    monkeypatch.setattr(files_worker, "WATCHED", True)
    assert worker.ask(["say", 1], ORDINARY) == 1
    monkeypatch.setattr(files_worker, "resident", lambda pid: ORDINARY.memory + 1)
    assert why(worker, "loop", 0) == ("memory", "stopped while it grew")


def test_the_size_of_a_process_is_known_where_ps_is() -> None:
    size = files_worker.resident(os.getpid())
    assert (size > 1 << 20) == Path("/bin/ps").exists()
    assert files_worker.resident(2**22 + 1) == 0


# -------------------------------------------------------------------------- parents and children


SCRIPT = """
import os, signal, sys
from pathlib import Path
from tinylane.files.worker import Limits, Worker
limits = Limits(60, 60, 1 << 30)
worker = Worker(Path(sys.argv[1]), list)
print(worker.ask(["pid", 0], limits), flush=True)
"""


def begun(program: Path, then: str) -> tuple[subprocess.Popen, int]:
    """A process that has a worker and goes on with `then`; the worker's id."""
    command = [sys.executable, "-c", SCRIPT + then, str(program)]
    root = Path(files_worker.__file__).parents[2]
    process = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize(
    "then",
    [
        "",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os._exit(0)",
        "raise SystemExit(3)",
        # A forked child that lives on does not keep the worker of its parent.
        "if os.fork() == 0:\n    import time; os.close(1); os.close(2); time.sleep(20)",
    ],
)
def test_the_process_ends_with_its_parent(program: Path, then: str) -> None:
    process, pid = begun(program, then)
    process.communicate()
    assert ends(pid, within=15.0)


def test_ctrl_c_in_the_middle_of_a_request_leaves_nothing(program: Path) -> None:
    process, pid = begun(program, "print('asks', flush=True); worker.ask(['loop', 0], limits)")
    assert process.stdout is not None and process.stdout.readline() == "asks\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert "KeyboardInterrupt" in said and ends(pid)


def test_ctrl_c_of_the_terminal_between_requests_harms_no_later_one(worker: Worker) -> None:
    """The terminal sends it to the worker too; a session that goes on has its worker still."""
    pid = worker.ask(["pid", 0], ORDINARY)
    os.kill(pid, signal.SIGINT)
    assert worker.ask(["pid", 0], ORDINARY) == pid


def test_a_forked_child_has_a_worker_of_its_own_and_leaves_its_parent_s(worker: Worker) -> None:
    """Also when another thread held the lock in the instant of the fork."""
    pid = worker.ask(["pid", 0], ORDINARY)
    reading, writing = os.pipe()
    worker._lock.acquire()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writing, str(worker.ask(["pid", 0], ORDINARY)).encode())
            worker.close()
            status = 0
        finally:
            os._exit(status)
    worker._lock.release()
    os.close(writing)
    with os.fdopen(reading) as file:
        theirs = int(file.read())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert theirs != pid and ends(theirs)
    assert worker.ask(["pid", 0], ORDINARY) == pid


def test_a_worker_that_nobody_holds_ends_its_process(program: Path) -> None:
    worker = Worker(program, list)
    pid = worker.ask(["pid", 0], ORDINARY)
    del worker
    assert ends(pid)


# ------------------------------------------------------------------------------ the child's side


def serve(program: Path, *lines: Any) -> tuple[int, list[Any]]:
    """Run the child's program in an ordinary interpreter, to the end of its input."""
    start = {"program": str(program), "folders": []}
    done = subprocess.run(
        [sys.executable, "-m", worker_program.__name__],
        input="".join(json.dumps(line) + "\n" for line in (start, *lines)),
        capture_output=True,
        text=True,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_the_child_serves_to_the_end_of_its_input_and_says_why_it_ends(program: Path) -> None:
    limits = [20.0, 64 * MIB]
    assert serve(program, limits, ["say", 1], limits, ["say", 2]) == (
        0,
        [{}, {"answer": 1}, {"answer": 2}],
    )
    code, replies = serve(program, limits, ["raise", 1], limits, ["say", 2])
    assert code == 1
    assert replies == [{}, {"why": "failed", "detail": "LookupError: no such thing"}]
    if sys.platform == "linux":
        code, replies = serve(program, limits, ["fill", 500 * MIB])
        assert (code, replies) == (1, [{}, {"why": "memory", "detail": "MemoryError"}])
        # The answer fits and its JSON, six times as long, does not.
        code, replies = serve(program, limits, ["say", "é" * 8 * MIB])
        assert (code, replies) == (1, [{}, {"why": "memory", "detail": "MemoryError"}])
    if hasattr(signal, "setitimer"):
        assert serve(program, [0.05, 0], ["loop", 0]) == (-signal.SIGPROF, [{}])


def test_limits_where_proc_or_resource_or_timers_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No /proc: room for an ordinary interpreter; never above what the process may have."""
    kept: list[tuple[int, tuple[int, int]]] = []
    stand_in: Any = ModuleType("resource")
    stand_in.RLIMIT_CORE, stand_in.RLIMIT_AS = 1, 2
    stand_in.RLIM_INFINITY, stand_in.getpagesize = -1, lambda: 4096
    stand_in.setrlimit = lambda which, pair: kept.append((which, pair))
    stand_in.getrlimit = lambda which: (-1, -1)
    monkeypatch.setitem(sys.modules, "resource", stand_in)

    def no_file(*args: Any, **named: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", no_file)
    worker_program.limit_memory(100 * MIB)
    stand_in.getrlimit = lambda which: (-1, 200 * MIB)
    worker_program.limit_memory(100 * MIB)
    monkeypatch.undo()
    memory = [pair for which, pair in kept if which == 2]
    assert memory == [(612 * MIB, -1), (200 * MIB, 200 * MIB)]
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delattr(signal, "setitimer", raising=False)
    with worker_program.limited(3, 100 * MIB):  # Windows: no limit, no error
        pass
    assert len(kept) == 4
