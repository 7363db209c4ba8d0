# ruff: noqa: F811 - fixtures
"""A run in shards: merged, the results are those of one process, whoever starts the processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import ask, game  # noqa: F401 - fixtures

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.shards import Shard, find_runs, launched_shard, open_run, parse_shard
from tinylane.files.run_dir import Journal

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


def launch(argv: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """The command in two processes, by MLX's launcher."""
    pytest.importorskip("mlx.core")
    launcher = shutil.which("mlx.launch", path=str(Path(sys.executable).parent)) or "mlx.launch"
    (port, _) = ports(2)  # the launcher counts on from the first
    command = [launcher, "-n", "2", "--backend", "ring", "-p", str(port), "--"]
    command += [sys.executable, "-m", "tinylane", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)


def untimed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def results(folder: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    """The results, without the times that they took."""
    return untimed([json.loads(line) for line in (folder / name).read_text().splitlines()])


def merged(*folders: Path) -> list[dict[str, Any]]:
    (run,) = find_runs(folders)
    return untimed([row for _, row in run.rows()])


def asked(game: str, out: Path, *more: object, count: int = 7) -> list[object]:
    argv = ["eval", "shell-game", "--model", game, "--out", out, "--lanes", 1, 4]
    return [*argv, "--count", count, "--backend", "numpy", "--temp", 1, *more]


def collected(game: str, out: Path, *more: object) -> list[object]:
    argv = ["collect", "shell-game", "--model", game, "--out", out, "--lanes", 2, "--count", 5]
    return [*argv, "--samples", 2, "--temp", 1, "--backend", "numpy", *more]


@pytest.fixture(scope="module")
def alone(game: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    argv = [sys.executable, "-m", "tinylane", *map(str, asked(game, out))]
    subprocess.run(argv, check=True, capture_output=True)
    return out


# The processes of a run.


def test_two_ranks_of_mlx_launch_give_what_one_process_gives(
    ask: Any, game: str, alone: Path, tmp_path: Path
) -> None:
    """Rank 0 alone prints; the report reads both shards from the one --out."""
    out = tmp_path / "run"
    done = launch(asked(game, out))
    assert merged(out) == results(alone), done.stderr
    texts = {(row["mode"], lane["text"]) for row in results(alone) for lane in row["lane"]}
    assert len(texts) > 12  # random numbers of the wrong problem would show
    parts = [results(out / f"shard-{k}-of-2") for k in (1, 2)]
    assert [{row["index"] % 2 for row in part} for part in parts] == [{0}, {1}]
    assert done.stdout.count("shell game, 3 cups") == 1
    assert "4 (shard 1/2) of 7 problems" in done.stdout
    assert f"tables and plots: tinylane report {out}\n" in done.stderr
    code, page, err = ask("report", out, "--no-plots")
    assert code == 0 and "21 of 21 results by 2 shards" in page and "missing" not in err
    whole = ask("report", alone, "--no-plots")[1]
    same = lambda text: [line for line in text.splitlines() if line.startswith("| joint")]
    drop = lambda line: line.split("|")[:6] + line.split("|")[7:]  # without the seconds
    assert [drop(x) for x in same(page)] == [drop(x) for x in same(whole)] != []


def test_shards_by_hand_give_what_one_process_gives(
    ask: Any, game: str, alone: Path, tmp_path: Path
) -> None:
    """Three folders in any order; one that is not done is read as far as it is, and goes on."""
    folders = [tmp_path / name for name in "abc"]
    for k, folder in enumerate(folders, 1):
        code, said, err = ask(*asked(game, folder, "--shard", f"{k}/3"))
        assert code == 0 and f"(shard {k}/3) of 7 problems" in said, err
        assert f"tinylane report {folder} and the folders of the other shards" in err
    assert merged(folders[2], folders[0], folders[1]) == results(alone)
    counts = [len(results(folder)) for folder in folders]
    assert counts == [9, 6, 6]  # three, two and two problems in three cells
    file = folders[1] / "results.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:4]) + "\n" + lines[4][:50])
    code, page, _ = ask("report", *folders, "--no-plots", "--out", tmp_path / "page")
    assert code == 0 and "19 of 21 results by 3 shards" in page and "6 problems, seed 0" in page
    code, _, err = ask("report", folders[1], "--no-plots", "--out", tmp_path / "page")
    assert code == 0 and "missing, with their problems: 1/3, 3/3\n" in err
    code, _, err = ask(*asked(game, folders[1], "--shard", "2/3"))
    assert code == 0 and "4 of 6 done before; going on" in err
    assert merged(*folders) == results(alone)


def test_json_names_the_shard(ask: Any, game: str, tmp_path: Path) -> None:
    code, said, _ = ask(*asked(game, tmp_path / "a", "--shard", "2/2", "--json", count=3))
    document = json.loads(said)
    assert code == 0 and document["shard"] == "2/2" and document["count"] == 3
    assert [score["count"] for score in document["scores"]] == [1, 1, 1]
    settings = json.loads((tmp_path / "a" / "settings.json").read_text())["settings"]
    assert settings["shard"] == "2/2"


def test_a_run_of_one_process_says_nothing_of_shards(alone: Path) -> None:
    """Its settings are those that earlier versions wrote, so that their runs go on."""
    assert "shard" not in json.loads((alone / "settings.json").read_text())["settings"]


@pytest.mark.parametrize("label_by", ["majority", "lane"])
def test_transcripts_of_shards_become_one_file(
    ask: Any, game: str, tmp_path: Path, label_by: str
) -> None:
    """In the order of the problems, as one process writes them; the trainer reads the same."""
    more = ("--label-by", label_by, "--mode", "independent")
    assert ask(*collected(game, tmp_path / "one", *more))[0] == 0
    done = launch(collected(game, tmp_path / "two", *more))
    expected = results(tmp_path / "one")
    assert len(expected) == (10 if label_by == "majority" else 20)
    assert f"one file of all shards: tinylane report {tmp_path / 'two'}\n" in done.stderr
    code, said, err = ask("report", tmp_path / "two")
    assert code == 0 and "2 shards" in said and "labelled good" in said, err
    assert results(tmp_path / "two", "transcripts.jsonl") == expected
    code, said, err = ask(
        *("report", tmp_path / "two" / "shard-2-of-2", "--out", tmp_path / "half", "--json")
    )
    assert code == 0 and json.loads(said)["missing"] == [1]
    assert "shards are missing, with their problems: 1/2\n" in err and err.count("\n") == 1
    half = results(tmp_path / "half", "transcripts.jsonl")
    assert {row["problem"] for row in half} == {"1", "3"}
    good = sum(row["label"] for row in half)
    assert json.loads(said)["transcripts"] == len(half) and json.loads(said)["good"] == good


# Going on in another way.


def test_one_process_takes_over_what_shards_have_done(
    ask: Any, game: str, alone: Path, tmp_path: Path
) -> None:
    """The command without --shard, and --out the folder that holds them: nothing is repeated."""
    out = tmp_path / "run"
    for k in (1, 3):
        assert ask(*asked(game, out / f"shard-{k}-of-3", "--shard", f"{k}/3"))[0] == 0
    code, _, err = ask(*asked(game, out))
    assert code == 0 and "15 of 21 done before; going on" in err
    key = lambda row: (row["index"], row["mode"], row["lanes"])
    assert sorted(results(out), key=key) == sorted(results(alone), key=key)
    taken = [row["index"] for row in results(out)[:15]]
    assert taken == sorted(taken)  # in the order of the work, not shard after shard
    (run,) = find_runs([out])
    assert run.shards == 1 and run.folders == {1: out}


def test_folders_of_ranks_that_earlier_versions_wrote_count(
    ask: Any, game: str, alone: Path, tmp_path: Path
) -> None:
    """DIR/rank-R held what rank R had done; a rank may have been killed before its first result."""
    out = tmp_path / "run"
    shutil.copytree(alone, out / "rank-1")
    file = out / "rank-1" / "results.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:5]) + b'{"torn')
    (out / "rank-0").mkdir()
    code, _, err = ask(*asked(game, out))
    assert code == 0 and "5 of 21 done before; going on" in err
    assert results(out) == results(alone)
    code, _, err = ask(*asked(game, out, count=6))
    assert (code, err.count("\n")) == (2, 1) and "count was 7, now 6" in err


def test_parts_of_another_configuration_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "shard-1-of-2", {"seed": 1, "shard": "1/2"}) as other:
        other.append({"k": 1})
    says = r"shard-1-of-2: is part of a run of another configuration \(seed was 1, now 2\)"
    with pytest.raises(TinylaneError, match=says):
        open_run(tmp_path, {"seed": 2}, ["k"], [(1,)])
    journal, done = open_run(tmp_path, {"seed": 1}, ["k"], [(0,), (1,)])  # the lock is free again
    with journal:
        assert list(journal.rows()) == [{"k": 1}] and done == {(1,)}


# What is not a run.


def test_a_shard_given_twice_is_refused(ask: Any, game: str, tmp_path: Path) -> None:
    assert ask(*asked(game, tmp_path / "a", "--shard", "1/2", count=2))[0] == 0
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    code, out, err = ask("report", tmp_path / "a", tmp_path / "b", "--no-plots")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{tmp_path / 'a'} and {tmp_path / 'b'} are both shard 1/2 of one run" in err


def test_a_run_given_twice_is_refused_whatever_its_path_is_called(
    ask: Any, game: str, tmp_path: Path
) -> None:
    assert ask(*asked(game, tmp_path / "a", count=2))[0] == 0
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for again in (tmp_path / "a", tmp_path / "b"):
        code, out, err = ask("report", tmp_path / "a", again, "--no-plots")
        assert (code, out) == (2, "") and f"{again} is given twice" in err


def test_shards_of_different_runs_are_not_put_together(ask: Any, game: str, tmp_path: Path) -> None:
    """Another seed is another run: each has a shard that is missing, and the page has both."""
    assert ask(*asked(game, tmp_path / "a", "--shard", "1/2", count=2))[0] == 0
    assert ask(*asked(game, tmp_path / "b", "--shard", "2/2", "--seed", 1, count=2))[0] == 0
    code, page, err = ask("report", tmp_path / "a", tmp_path / "b", "--no-plots")
    assert code == 0 and page.count("\n## ") == 2
    assert "a: these shards are missing, with their problems: 2/2\n" in err
    assert "b: these shards are missing, with their problems: 1/2\n" in err
    assert "3 of 6 results by 2 shards (without 2)" in page


def test_transcripts_of_two_runs_are_not_one_file(ask: Any, game: str, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        more = ("--shard", "1/2", "--seed", seed)
        assert ask(*collected(game, tmp_path / name, *more))[0] == 0
    code, out, err = ask("report", tmp_path / "a", tmp_path / "b")
    assert (code, out) == (2, "") and "are two runs" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shard": "3/2"}, "its shard is '3/2'; expected K/N"),
        ({"shard": [1]}, "its shard is '[1]'; expected K/N"),
        ({"label_by": "luck"}, "settings.json is not that of tinylane collect"),
        (None, "result 2 is not a transcript of tinylane collect (KeyError"),
    ],
)
def test_an_edited_shard_is_one_line(
    ask: Any, game: str, tmp_path: Path, change: dict[str, Any] | None, says: str
) -> None:
    folder = tmp_path / "a"
    assert ask(*collected(game, folder, "--shard", "1/1"))[0] == 0
    settings = json.loads((folder / "settings.json").read_text())
    settings["settings"] |= {"shard": "1/2", **(change or {})}
    (folder / "settings.json").write_text(json.dumps(settings))
    if change is None:
        lines = (folder / "results.jsonl").read_text().splitlines()
        (folder / "results.jsonl").write_text(f"{lines[0]}\n{{}}\n")
    code, out, err = ask("report", folder)
    assert (code, out) == (2, "") and says in err.splitlines()[-1], err


# What a process may be told of its shard.


@pytest.mark.parametrize(
    "text", ["", "2", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1/99999", "1/9999999", "¹/2"]
)
def test_a_shard_that_cannot_be_is_one_line(ask: Any, game: str, tmp_path: Path, text: str) -> None:
    code, out, err = ask(*asked(game, tmp_path / "run", f"--shard={text}"))
    assert (code, out, err.count("\n")) == (2, "", 1) and "expected K/N, like 1/4" in err
    assert not (tmp_path / "run").exists()


def test_a_shard_without_a_folder_or_a_problem_is_refused(
    ask: Any, game: str, tmp_path: Path
) -> None:
    code, out, err = ask("eval", "shell-game", "--model", game, "--count", 2, "--shard", "1/2")
    assert (code, out, err.count("\n")) == (2, "", 1) and "shard 1/2 needs --out DIR" in err
    code, out, err = ask(*asked(game, tmp_path / "run", "--shard", "3/3", count=2))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "shard 3/3 has nothing to do: there are 2 problems" in err
    assert not (tmp_path / "run").exists()


def test_shares_are_whole_problems_balanced_and_all_of_the_work() -> None:
    work = [(k, mode) for k in range(7) for mode in "ab"]
    shares = [Shard(k, 3).share(work) for k in (1, 2, 3)]
    assert sorted(chain(*shares)) == work
    assert [len({k for k, _ in share}) for share in shares] == [3, 2, 2]
    assert parse_shard("12/345") == Shard(12, 345) and str(Shard(12, 345)) == "12/345"


def test_ranks_do_not_begin_in_the_folder_of_one_process(
    ask: Any, game: str, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_WORLD_SIZE", "2")
    code, out, err = ask(*asked(game, alone))
    assert (code, out, err.count("\n")) == (2, "", 1) and "holds a run of one process" in err
    code, out, err = ask(*asked(game, alone, "--shard", "1/2"))  # the flag decides
    assert (code, out, err.count("\n")) == (2, "", 1) and "shard was None, now '1/2'" in err


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Sets the launcher's variables; a file's text for the two that name one."""

    def put(**values: str) -> None:
        for name, value in values.items():
            if name in ("MLX_HOSTFILE", "MLX_IBV_DEVICES"):
                (tmp_path / name).write_text(value)
                value = os.fspath(tmp_path / name)
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": "\n"}, None),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": '[["127.0.0.1:1"]]'}, None),
        ({"MLX_RANK": "1", "MLX_HOSTFILE": '[["127.0.0.1:1"], ["127.0.0.1:2"]]'}, Shard(2, 2)),
        ({"MLX_RANK": "0", "MLX_IBV_DEVICES": "[[null, 1], [1, null]]"}, Shard(1, 2)),
        ({"MLX_RANK": "2", "MLX_WORLD_SIZE": "3"}, Shard(3, 3)),
    ],
)
def test_the_launcher_says_which_shard(environment: Any, values: Any, expected: Any) -> None:
    environment(**values)
    assert launched_shard() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"MLX_RANK": "0"}, "the number of processes is not known; give --shard K/N"),
        ({"MLX_HOSTFILE": "[]"}, "MLX_HOSTFILE is set and MLX_RANK is not"),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": "{}"}, "expected a JSON list"),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": "[1, 2]"}, "expected a JSON list"),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": "["}, "not JSON"),
        ({"MLX_RANK": "2", "MLX_WORLD_SIZE": "2"}, "MLX_RANK is '2'; expected 0 to 1"),
        ({"MLX_RANK": "-1", "MLX_WORLD_SIZE": "2"}, "MLX_RANK is '-1' of '2'"),
        ({"MLX_RANK": "0", "MLX_WORLD_SIZE": "x"}, "MLX_RANK is '0' of 'x'"),
        ({"MLX_RANK": "0", "MLX_WORLD_SIZE": "9" * 5000}, "expected whole numbers"),
    ],
)
def test_a_launcher_that_cannot_be_is_one_line(
    ask: Any, game: str, tmp_path: Path, environment: Any, values: Any, expected: str
) -> None:
    environment(**values)
    code, out, err = ask(*asked(game, tmp_path / "run", count=2))
    assert code == 2 and out == "" and expected in err and err.count("\n") == 1, err
