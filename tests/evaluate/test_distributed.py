# ruff: noqa: F811 - fixtures
"""Several ranks on loopback: the results of one process, and a lost rank loses nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import ask, game  # noqa: F401 - fixtures

from tinylane import distributed, sharing
from tinylane.core.errors import TinylaneError
from tinylane.distributed import Lost
from tinylane.files.run_dir import Journal

pytest.importorskip("mlx.core")  # holds the ring
TIMES = ("seconds", "prefill_seconds", "clock")
LIMIT = 240  # s; a run takes about two, and some more where other tests keep the machine busy


def ports(count: int) -> list[int]:
    """Free ports of this machine in a row, below those that outgoing connections are given."""
    while True:
        first = random.SystemRandom().randrange(15000, 30000)
        try:
            for port in range(first, first + count):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
        except OSError:
            continue
        return list(range(first, first + count))


def command(code: str | None, argv: Sequence[object]) -> list[str]:
    """tinylane with these arguments; code: Python that runs first."""
    words = [str(word) for word in argv]
    if code is None:
        return [sys.executable, "-m", "tinylane", *words]
    code += "\nimport sys; from tinylane.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", code, *words]


def ranks(
    folder: Path, *argvs: Sequence[object], codes: dict[int, str] | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """Run one command a rank, started by hand, to the end."""
    hosts = folder / "ring.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports(len(argvs))]))
    processes = [
        subprocess.Popen(
            command((codes or {}).get(rank), argv),
            env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, argv in enumerate(argvs)
    ]
    try:
        said = [process.communicate(timeout=LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *outputs)
        for process, outputs in zip(processes, said, strict=True)
    ]


def results(folder: Path) -> list[dict[str, Any]]:
    """The results, without the times that they took."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def by_key(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["index"], row["mode"]))


def asked(game: str, out: Path, count: int = 12) -> list[object]:
    more = ("--lanes", 4, "--count", count, "--backend", "numpy", "--temp", 1)
    return ["eval", "shell-game", "--model", game, "--out", out, *more]


@pytest.fixture(scope="module")
def alone(game: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    subprocess.run(command(None, asked(game, out)), check=True, capture_output=True)
    return out


def test_two_ranks_give_what_one_process_gives(game: str, alone: Path, tmp_path: Path) -> None:
    """By MLX's launcher. Every problem is done once; rank 0 says the same table as one process."""
    launcher = shutil.which("mlx.launch", path=str(Path(sys.executable).parent)) or "mlx.launch"
    out = tmp_path / "run"
    (port, _) = ports(2)  # the launcher counts on from the first
    launch = [launcher, "-n", "2", "--backend", "ring", "-p", str(port), "--"]
    launch += command(None, asked(game, out))
    run = subprocess.run(launch, capture_output=True, text=True, timeout=LIMIT)
    assert results(out) == results(alone), run.stderr
    texts = {(row["mode"], lane["text"]) for row in results(alone) for lane in row["lane"]}
    assert len(texts) > 12  # random numbers of the wrong problem would show
    parts = [results(out / f"rank-{rank}") for rank in (0, 1)]
    assert [{row["index"] % 2 for row in part} for part in parts] == [{0}, {1}]
    assert sum(map(len, parts)) == len(results(alone)) == 24
    assert run.stdout.count("shell game, 3 cups") == 1


KILLED = """
import os, signal
from tinylane.evaluate import runner
solve, times = runner.solve, [0]
def mortal(*args):
    times[0] += 1
    if times[0] > 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return solve(*args)
runner.solve = mortal
"""


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_ends_the_run_with_its_results_kept(
    game: str, alone: Path, tmp_path: Path, lost: int
) -> None:
    """The other one ends with one line and exit code 1; a restart, by two ranks or by one process,
    repeats nothing and gives the same."""
    out = tmp_path / "run"
    argv = asked(game, out)
    run = ranks(tmp_path, argv, argv, codes={lost: KILLED})
    other = run[1 - lost]
    assert run[lost].returncode == -signal.SIGKILL
    assert other.returncode == 1, other.stderr
    last = other.stderr.splitlines()[-1]
    assert last.startswith("tinylane: error: another rank was lost") and "are kept in" in last
    assert last.endswith("the same command goes on from there") and "Traceback" not in other.stderr
    kept = [results(out / f"rank-{rank}") for rank in (0, 1)]
    assert len(kept[lost]) == 3
    if lost == 1:  # rank 0 has put together what it can see
        assert by_key(results(out)) == by_key(kept[0] + kept[1])
        again = ranks(tmp_path, argv, argv)
        assert [r.returncode for r in again] == [0, 0], again
        after = [results(out / f"rank-{rank}") for rank in (0, 1)]
        assert all(new[: len(old)] == old for new, old in zip(after, kept, strict=True))
        assert sum(map(len, after)) == 24
    else:
        one = subprocess.run(command(None, argv), capture_output=True, text=True, timeout=LIMIT)
        before = len(kept[0] + kept[1])
        assert one.returncode == 0 and f"{before} of 24 done before" in one.stderr, one.stderr
    assert by_key(results(out)) == by_key(results(alone))
    assert len(results(out)) == 24


def test_ranks_of_different_commands_are_refused_everywhere(game: str, tmp_path: Path) -> None:
    argvs = [asked(game, tmp_path / "run", count) for count in (4, 5)]
    for run in ranks(tmp_path, *argvs):
        assert run.returncode == 2 and run.stdout == ""
        assert "rank 1 has another configuration than rank 0 (count " in run.stderr
        assert run.stderr.count("\n") == 1
    assert not (tmp_path / "run" / "results.jsonl").exists()


def test_collect_is_shared_too(game: str, tmp_path: Path) -> None:
    more = ("--lanes", 2, "--count", 5, "--samples", 2, "--temp", 1, "--backend", "numpy")
    argvs = [["collect", "shell-game", "--model", game, *more, "--out"] for _ in range(2)]
    one = subprocess.run(command(None, [*argvs[0], tmp_path / "one"]), capture_output=True)
    assert one.returncode == 0
    run = ranks(tmp_path, *([*argv, tmp_path / "two"] for argv in argvs))
    assert [r.returncode for r in run] == [0, 0], run
    assert results(tmp_path / "two") == results(tmp_path / "one")
    assert len(results(tmp_path / "two")) == 10


FROZEN = """
import os, signal, sys, time
from tinylane.distributed import Lost, ring
with ring(timeout=6) as found:
    assert found.gather(bytes([found.rank]) * (1 + found.rank * 5_000_000))[1][-1:] == b"\\x01"
    if found.rank == 1:
        print(found._process.pid, flush=True)
        os.kill(found._process.pid, signal.SIGSTOP)
        time.sleep(1000)
    try:
        found.gather(b"")
    except Lost as error:
        print(error, flush=True)
        sys.exit(error.code)
"""


def test_a_rank_that_answers_no_more_is_given_up(tmp_path: Path) -> None:
    """A host that is cut off closes no socket: only the clock tells."""
    hosts = tmp_path / "ring.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports(2)]))
    environments = [
        {**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)} for rank in (0, 1)
    ]
    first, second = (
        subprocess.Popen([sys.executable, "-c", FROZEN], env=env, stdout=subprocess.PIPE)
        for env in environments
    )
    try:
        said, _ = first.communicate(timeout=LIMIT)
        assert b"no sign of life from the other ranks for 6 s" in said
        assert first.returncode == 1
    finally:
        for process in (first, second):
            process.kill()
        stopped, _ = second.communicate()
        with contextlib.suppress(ProcessLookupError):  # its worker, which nothing else reaches
            os.kill(int(stopped), signal.SIGKILL)


@pytest.mark.parametrize(
    ("rank", "hosts", "expected"),
    [
        ("0", None, "MLX_HOSTFILE is not set"),
        (None, "[]", "MLX_RANK is not set"),
        ("0", "{}", "expected [["),
        ("0", "[[], []]", "expected [["),
        ("0", "[[1], [2]]", "expected [["),
        ("0", "[", "not JSON"),
        ("2", '[["127.0.0.1:1"], ["127.0.0.1:2"]]', "MLX_RANK is '2'; expected 0 to 1"),
        ("-1", '[["127.0.0.1:1"], ["127.0.0.1:2"]]', "MLX_RANK is '-1'"),
    ],
)
def test_a_ring_that_cannot_be_is_one_line(
    ask: Any, game: str, tmp_path: Path, monkeypatch: Any, rank: Any, hosts: Any, expected: str
) -> None:
    """MLX itself hangs, or ends the process, for most of these."""
    if rank is not None:
        monkeypatch.setenv("MLX_RANK", rank)
    if hosts is not None:
        (tmp_path / "hosts.json").write_text(hosts)
        monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts.json"))
    code, out, err = ask(*asked(game, tmp_path / "run", 1))
    assert code == 2 and out == "" and expected in err and err.count("\n") == 1


@pytest.mark.parametrize("hosts", ["", '[["127.0.0.1:1"]]'])
def test_a_launcher_with_one_process_is_one_process(
    ask: Any, game: str, tmp_path: Path, monkeypatch: Any, hosts: str
) -> None:
    (tmp_path / "hosts.json").write_text(hosts + "\n")
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts.json"))
    code, _, err = ask(*asked(game, tmp_path / "run", 1))
    assert code == 0, err


# Putting results together, with a ring that is none.


class Loop:
    """A ring whose other rank gives what it is told to."""

    rank, size = 0, 2

    def __init__(self, *answers: bytes) -> None:
        self.answers, self.done = list(answers), [0, 0]

    def agree(self, what: str, value: Any) -> None:
        pass

    def gather(self, data: bytes) -> list[bytes]:
        return [data, self.answers.pop(0)]

    def check(self, done: int | None = None) -> None:
        if self.answers == ["lost"]:
            raise Lost("another rank was lost")


ORDER = [(k,) for k in range(6)]


def lines(*numbers: int) -> bytes:
    return b"".join(b'{"k":%d}\n' % k for k in numbers)


def test_rank_0_puts_results_together_in_the_order_of_the_work(tmp_path: Path) -> None:
    """What comes through the ring and what lies in folders of earlier ranks, each once."""
    with Journal(tmp_path / "rank-7", {"a": 1}) as other:  # of a run with eight ranks
        other.append({"k": 5})
        other.append({"k": 0})
    with open(tmp_path / "rank-7" / "results.jsonl", "ab") as file:
        file.write(b'{"k":')  # it was killed here
    ring: Any = Loop(b"", lines(3, 1), b"", lines(4))
    with sharing.Shared(tmp_path, {"a": 1}, ring, ["k"], ORDER) as shared:
        assert [row["k"] for row in shared.rows()] == [0, 5, 1, 3]
        shared.append({"k": 2})
        shared.merge()
        assert [row["k"] for row in shared.rows()] == [0, 5, 1, 3, 2, 4]
    with sharing.keep(tmp_path, {"a": 1}, None, ["k"], ORDER) as journal:
        assert journal is not None and journal.count == 6


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (lines(9), r"result \(9,\) is not part of this run"),
        (b'{"q":1}\n', "a result has no k"),
        (b"nonsense\n", "rank 1, result 1: not valid JSON"),
    ],
)
def test_what_another_rank_sends_is_checked(tmp_path: Path, said: bytes, expected: str) -> None:
    ring: Any = Loop(b"", said)
    with pytest.raises(TinylaneError, match=expected):
        sharing.Shared(tmp_path, {}, ring, ["k"], ORDER)


def test_a_rank_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "rank-1", {"seed": 1}) as other:
        other.append({"k": 1})
    with pytest.raises(TinylaneError, match=r"rank-1: of another configuration \(seed was 1"):
        sharing.keep(tmp_path, {"seed": 2}, None, ["k"], ORDER)


def test_several_ranks_need_a_folder() -> None:
    ring: Any = Loop()
    with pytest.raises(TinylaneError, match="need --out DIR"):
        sharing.keep(None, {}, ring, ["k"], ORDER)


def test_shares_are_whole_problems_and_all_of_the_work() -> None:
    work = [(k, mode) for k in range(7) for mode in "ab"]
    shares = []
    for rank in range(3):
        ring: Any = Loop()
        ring.rank, ring.size = rank, 3
        shares.append(sharing.share(ring, work))
    assert sorted(chain(*shares)) == work
    assert not {k for k, _ in shares[0]} & {k for k, _ in shares[1]}
    assert sharing.share(None, work) == work


def test_without_a_launcher_there_is_no_ring(monkeypatch: Any) -> None:
    monkeypatch.delenv("MLX_RANK", raising=False)
    monkeypatch.delenv("MLX_HOSTFILE", raising=False)
    with distributed.ring() as ring:
        assert ring is None
