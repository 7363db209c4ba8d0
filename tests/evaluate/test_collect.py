# ruff: noqa: F811 - fixtures
"""`tinylane collect`: transcripts say what the lanes drew, what was right, and survive a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import helpers_eval
import pytest
from helpers_cli import ask, game  # noqa: F401 - fixtures

import tinylane
from tinylane.core.errors import TinylaneError
from tinylane.core.sampling import Sampler
from tinylane.evaluate import collect, runner, tasks
from tinylane.evaluate.answers import normalise, vote
from tinylane.evaluate.collaboration import Collaboration
from tinylane.evaluate.tasks.task import Options
from tinylane.files.run_dir import Journal
from tinylane.methods.prompt import encode_prompt
from tinylane.train.data import read_transcripts

WARM = Sampler(temperature=1.0, logit_bias=dict.fromkeys(range(256, 267), 6.0))
TIMES = ("seconds",)


def questions(folder: Path, count: int = 6) -> Path:
    """A small data set, the same everywhere, with answers that the model happens to give."""
    lines = [json.dumps({"question": q, "answer": a}) for q, a in helpers_eval.QUESTIONS[:count]]
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "data.jsonl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return helpers_eval.checkpoint(tmp_path_factory.mktemp("collect") / "m")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return tinylane.load(folder, backend="numpy", dtype="float64")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Any:
    data = questions(tmp_path_factory.mktemp("data"))
    return tasks.make("gsm8k", Options(data=str(data), compare="exact"), model)


def samples(
    model: Any, task: Any, label_by: str = "majority", count: int = 4, **changes: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Transcripts of two samples of some problems, and eval's records of the first."""
    mode = changes.pop("mode", "joint:group_think")
    (cell,) = runner.cells(task, [mode], [changes.pop("lanes", 3)], changes.pop("tokens", 12))
    conditions = runner.Conditions(**{"seed": 4, "sampler": WARM, **changes})
    problems = task.problems(count, 0)
    collect.check(label_by, 2, cell, conditions)
    rows, records = [], []
    for k, problem in enumerate(problems):
        records.append(runner.solve(model, task, problem, k, cell, conditions))
        for s in (0, 1):
            rows += collect.sample(model, task, problem, k, cell, conditions, s, label_by)
    return rows, records


def test_sample_0_is_what_eval_sees_and_every_sample_is_another(model: Any, task: Any) -> None:
    rows, records = samples(model, task)
    first = [row for row in rows if row["sample"] == 0]
    for row, record in zip(first, records, strict=True):
        assert row["lanes"] == [lane["text"] for lane in record["lane"]]
        assert (row["answer"], row["label"]) == (record["answer"], record["correct"])
    written = [tuple(row["lanes"]) for row in rows]
    assert len(set(written)) == len(written)


def test_labels_say_whether_the_majority_any_all_or_the_lane_was_right(
    model: Any, task: Any
) -> None:
    """Against the texts alone, voted on by the package's own `vote`; every rule must matter."""
    likely = [model.tokenizer.encode(word)[0] for word in ("12", "18", "3", helpers_eval.END)]
    numbers = Sampler(temperature=9.0, logit_bias=dict.fromkeys(likely, 140.0))
    asked: dict[str, Any] = {"mode": "independent", "tokens": 4, "sampler": numbers}
    seen: dict[str, list[bool]] = {}
    for rule in ("majority", "any", "all"):
        rows, _ = samples(model, task, rule, count=6, **asked)
        seen[rule] = []
        for row in rows:
            find = lambda text, row=row: dict(zip(row["lanes"], row["answers"], strict=True))[text]
            right = [a is not None and normalise(a) == row["truth"] for a in row["answers"]]
            assert row["correct"] == right
            expected = {"any": any(right), "all": all(right)}
            if rule == "majority":  # decided by likelihood where votes are equal: not from texts
                said = vote(row["lanes"], extract=find)
                if said.margin > 0 or said.text is None:
                    assert row["label"] == (said.text == row["truth"])
            else:
                assert row["label"] == expected[rule]
            seen[rule].append(row["label"])
    assert seen["any"] != seen["all"] and seen["any"] != seen["majority"]
    alone, _ = samples(model, task, "lane", count=6, **asked)
    rows, _ = samples(model, task, "all", count=6, **asked)
    assert [row["label"] for row in alone] == [c for row in rows for c in row["correct"]]
    assert [row["lanes"] for row in alone] == [[text] for row in rows for text in row["lanes"]]
    assert {len(row["finished"]) for row in alone} == {1}


def test_the_trainer_reads_the_very_tokens_that_were_drawn(
    model: Any, task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text need not encode to the ids that it came from: half a character, an end token spelled
    out, a stop string that was cut off, words drawn letter by letter. Without the kept ids some
    transcripts would train other tokens."""
    met: list[Any] = []
    original = runner.decode

    def decode(*given: Any) -> Any:
        record, decoding = original(*given)
        met.append(decoding)
        return record, decoding

    monkeypatch.setattr(runner, "decode", decode)
    everything = Sampler(temperature=2.0)  # bytes of all kinds
    rows, _ = samples(model, task, count=6, tokens=30, sampler=everything, stop=(" is ",))
    decodings = [d for k, d in enumerate(met) if k % 3]  # three a problem: eval's, two samples
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_transcripts(path, model, labels=True)
    assert sum("lane_ids" in row for row in rows) > 0
    for found, decoding, row in zip(data.transcripts, decodings, rows, strict=True):
        assert found.lanes == [lane.tokens for lane in decoding.lanes]
        assert found.prompt == decoding.prompt
        assert found.lane_prompts == [lane.prompt for lane in decoding.lanes]
        assert found.label == row["label"]
    bare = [{k: v for k, v in row.items() if k != "lane_ids"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in bare))
    lanes = [found.lanes for found in read_transcripts(path, model, labels=True).transcripts]
    assert lanes != [found.lanes for found in data.transcripts]


def test_plain_text_keeps_no_ids_and_tags_are_lane_prompts(game: str, tmp_path: Path) -> None:
    model = tinylane.load(game, backend="numpy")
    task = tasks.make("shell-game", Options(), model)
    cell = runner.Cell("joint", 4, 6)
    problem = task.problems(1, 0)[0]
    (row,) = collect.sample(model, task, problem, 0, cell, runner.Conditions(), 0)
    assert row["lane_prompts"] == ["1/4", "2/4", "3/4", "4/4"]
    assert "lane_ids" not in row and "prompt_ids" not in row
    assert row["prompt"] == problem.prompt and row["truth"] == problem.truth
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    (found,) = read_transcripts(tmp_path / "t.jsonl", model, labels=True).transcripts
    assert found.prompt == encode_prompt(model, problem.prompt, None)


def test_a_prompt_that_was_put_otherwise_is_kept_as_ids(model: Any, task: Any) -> None:
    rows, _ = samples(model, task, count=1, together=Collaboration(system="{lanes} lanes."))
    assert model.tokenizer.decode(rows[0]["prompt_ids"]).startswith("3 lanes.\n\n")
    assert rows[0]["prompt"] == task.problems(1, 0)[0].prompt


@pytest.mark.parametrize(
    ("label_by", "changes", "expected"),
    [
        ("lane", {}, "in mode joint:group_think they read each other"),
        ("best", {}, "label by 'best'; expected majority"),
        ("all", {"sampler": Sampler(temperature=0.0)}, "--samples 2, but greedy"),
    ],
)
def test_what_makes_no_transcripts_is_refused(
    model: Any, task: Any, label_by: str, changes: Any, expected: str
) -> None:
    with pytest.raises(TinylaneError, match=expected):
        samples(model, task, label_by, **changes)


# The command.


def argv(folder: Path, data: Path, out: Path, *more: object) -> list[str]:
    words = ["collect", "gsm8k", "--model", folder, "--data", data, "--compare", "exact"]
    words += ["--out", out, "--lanes", 2, "--samples", 2, "--temp", 1, "--max-tokens", 12]
    words += ["--backend", "numpy", "--logit-bias", *helpers_eval.BIAS, "--mode", "independent"]
    return [str(word) for word in (*words, *more)]


def read(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


# Runs the command, and kills itself where it writes its n-th line: before, in the middle, after.
SUICIDE = """
import os, signal, sys
from tinylane.commands import cli
n, when = int(sys.argv[1]), sys.argv[2]
write = os.write
def torn(handle, data):
    global n
    if not bytes(data).startswith(b'{"problem"'):
        return write(handle, data)
    n -= 1
    if n or when == "after":
        done = write(handle, data)
        if not n:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    if when == "torn":
        write(handle, bytes(data)[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = torn
sys.exit(cli.main(sys.argv[3:]))
"""


def test_killed_at_any_instant_it_goes_on_and_repeats_nothing(
    ask: Any, folder: Path, tmp_path: Path
) -> None:
    """Four kills: before, in and after the writing of a line, and between two lanes of a sample."""
    data = questions(tmp_path, 5)
    more = ("--label-by", "lane")
    code, _, err = ask(*argv(folder, data, tmp_path / "whole", *more))
    assert code == 0, err
    expected = read(tmp_path / "whole")
    assert len(expected) == 5 * 2 * 2
    out, lines = tmp_path / "out", [0]
    for n, when in ((3, "before"), (4, "torn"), (2, "after"), (3, "after")):
        killed = subprocess.run(
            [sys.executable, "-c", SUICIDE, str(n), when, *argv(folder, data, out, *more)],
            capture_output=True,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        lines.append((out / "results.jsonl").read_bytes().count(b"\n"))
    assert lines == [0, 2, 5, 7, 10]
    code, said, err = ask(*argv(folder, data, out, *more))
    assert code == 0 and "10 of 20 done before; going on" in err
    assert read(out) == expected
    good = sum(row["label"] for row in expected)
    assert f"labelled good (the lane is right): {good}; bad: {20 - good}" in said


def test_a_folder_of_another_configuration_or_in_use_is_refused(
    ask: Any, folder: Path, tmp_path: Path
) -> None:
    data = questions(tmp_path, 1)
    out = tmp_path / "out"
    code, said, _ = ask(*argv(folder, data, out, "--json", "--quiet"))
    assert code == 0
    found = json.loads(said)
    assert found["transcripts"] == 2 and found["lanes"] == 4
    assert found["good"] == sum(row["label"] for row in read(out))
    before = (out / "results.jsonl").read_bytes()
    for more, expected in (
        (("--label-by", "any"), "label_by was 'majority', now 'any'"),
        (("--samples", 3), "samples was 2, now 3"),
        (("--seed", 1), "seed was 0, now 1"),
    ):
        code, _, err = ask(*argv(folder, data, out, *more))
        assert code == 2 and expected in err and err.count("\n") == 1, err
    settings = json.loads((out / "settings.json").read_text())["settings"]
    with Journal(out, settings):
        code, _, err = ask(*argv(folder, data, out))
    assert code == 2 and "another process is writing this run" in err and err.count("\n") == 1
    assert (out / "results.jsonl").read_bytes() == before


def test_a_transcript_of_another_run_is_refused_and_unread_answers_are_counted(
    ask: Any, folder: Path, tmp_path: Path
) -> None:
    data, out = questions(tmp_path, 1), tmp_path / "out"
    assert ask(*argv(folder, data, out))[0] == 0
    file = out / "results.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert "could not be read" not in ask(*argv(folder, data, out))[1]
    for k, row in enumerate(rows):
        row["unreadable"] = k + 1
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, said, _ = ask(*argv(folder, data, out))
    assert code == 0
    assert "answers that could not be read and were compared as text: 3\n" in said
    rows[0]["sample"] = 9
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, said, err = ask(*argv(folder, data, out))
    assert (code, said, err.count("\n")) == (2, "", 1)
    assert "result 1 (problem '1', sample 9) is not part of this run; give another folder" in err


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--samples", 0), "--samples is 0"),
        (("--lanes", 0), "--lanes is 0"),
        (("--mode", "together"), "mode 'together'; expected"),
        (("--label-by", "luck"), "invalid choice: 'luck'"),
        (("--temp", 0), "greedy: all would be the same"),
        (("--count", 9), "has 2 problems"),
        (("--data", "/no/such"), "/no/such: cannot be read"),
        (("--collaborate", "/no/such"), "/no/such: no collaboration prompts"),
        (("--out", "/proc/no"), "/proc/no: cannot be made"),
        (("--out", "t.jsonl"), "t.jsonl: expected a folder"),
    ],
)
def test_bad_flags_are_one_line(
    ask: Any, folder: Path, tmp_path: Path, more: Any, expected: str
) -> None:
    data = questions(tmp_path, 2)
    code, out, err = ask(*argv(folder, data, tmp_path / "out", *more))
    assert code == 2 and out == ""
    assert expected in err and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()  # what is refused leaves nothing behind


def test_collaboration_prompts_are_in_the_transcripts_and_marked(
    ask: Any, folder: Path, tmp_path: Path
) -> None:
    """What a lane was given is no merit of its own: the ranges say which tokens those are."""
    data = questions(tmp_path, 1)
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "system.txt").write_text("You are {lanes}.\n")
    (prompts / "finish.txt").write_text(" so \n")
    more = ("--mode", "joint", "--collaborate", prompts, "--finish-at", 3, "--temp", 2)
    code, _, err = ask(*argv(folder, data, tmp_path / "out", *more))
    assert code == 0, err
    kinds: Counter[str] = Counter()
    model = tinylane.load(folder, backend="numpy")
    rows = read(tmp_path / "out")
    for row in rows:
        assert model.tokenizer.decode(row["prompt_ids"]).startswith("You are 2.\n\n")
        for ids, ranges in zip(row.get("lane_ids", [[], []]), row["given"], strict=True):
            for kind, start, stop in ranges:
                kinds[kind] += 1
                if ids and stop - start == 4:
                    assert model.tokenizer.decode(ids[start:stop]) == " so "
    assert kinds["finish"] > 0 and set(kinds) == {"finish"}
    read_back = read_transcripts(tmp_path / "out" / "results.jsonl", model, labels=True)
    assert [found.given for found in read_back.transcripts if found.given] == [
        [[k for _, start, stop in ranges for k in range(start, stop)] for ranges in row["given"]]
        for row in rows
        if any(row["given"])
    ]
