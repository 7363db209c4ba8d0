# ruff: noqa: F811 - fixtures
"""`tinylane eval`: any task and mode, a table or a run directory; what is refused."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import helpers_cli
import pytest
from helpers_eval import checkpoint, data, flags, model, results  # noqa: F401 - fixtures

import tinylane
from tinylane.commands.progress import Progress, duration
from tinylane.evaluate import tasks
from tinylane.evaluate.tasks.task import Options
from tinylane.files.run_dir import read_run

ask, game = helpers_cli.ask, helpers_cli.game  # fixtures


# What a run is.


def test_every_mode_is_run_on_every_problem(
    ask: Any, model: str, data: str, tmp_path: Path
) -> None:
    modes = ["independent", "joint", "joint:ntk", "group_think", "hogwild", "star"]
    argv = flags(model, data, "--count", 2, "--lanes", 1, 3, "--mode", *modes, "--compare", "math")
    code, out, err = ask(*argv, "--out", tmp_path / "run")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("gsm8k, 2 problems; ") and len(lines) == 2 + 1 + len(modes)
    found = results(tmp_path / "run")
    order = [(row["problem"], row["mode"], row["lanes"]) for row in found]
    cells = [("independent", 1), *((mode, 3) for mode in modes)]
    assert order == [(problem, *cell) for problem in "12" for cell in cells]
    said = {row["mode"]: [x["logprobs"] for x in row["lane"]] for row in found if row["lanes"] == 3}
    assert len(set(map(str, said.values()))) == len(modes), "each mode reads in its own way"
    for row in found:
        for lane in row["lane"]:
            assert {"lane", "tokens", "text", "answer", "finish_reason", "logprob"} <= set(lane)
        assert row["tokens"] == sum(len(lane["tokens"]) for lane in row["lane"])
    settings = read_run(tmp_path / "run")[0]["settings"]
    assert settings["task"]["name"] == "gsm8k" and settings["count"] == 2
    assert settings["model"] == tinylane.load(model, backend="numpy").identity
    lengths = {(c["mode"], c["lanes"]): c["max_tokens"] for c in settings["cells"]}
    assert lengths["independent", 1] == 36 and lengths["joint", 3] == 12  # 36 in all for each


def test_truths_that_are_no_mathematics_are_said(ask: Any, model: str, tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"question": "a", "answer": "7"}\n{"question": "b", "answer": "{{("}\n')
    argv = ["eval", "jsonl", "--data", path, "--model", model, "--lanes", 1, "--max-tokens", 2]
    code, _, err = ask(*argv)
    assert code == 0 and "1 of 2 true answers cannot be read as mathematics" in err
    assert "problem 2: '{{('" in err
    assert "true answers" not in ask(*argv, "--compare", "exact")[2]


def test_a_run_is_as_long_for_all_if_asked(ask: Any, model: str, data: str, tmp_path: Path) -> None:
    argv = flags(model, data, "--count", 1, "--lanes", 1, 2, "--mode", "joint", "--equal", "steps")
    assert ask(*argv, "--out", tmp_path / "run")[0] == 0
    cells = read_run(tmp_path / "run")[0]["settings"]["cells"]
    assert [c["max_tokens"] for c in cells] == [12, 12]


def test_a_table_needs_no_directory(ask: Any, model: str, data: str) -> None:
    code, out, err = ask(*flags(model, data, "--count", 1, "--lanes", 2, "--json"))
    document = json.loads(out)
    assert code == 0 and [s["mode"] for s in document["scores"]] == ["joint", "independent"]
    assert document["scores"][0]["majority"]["interval_95"][1] > 0.5
    assert "2 of 2" in err
    _, out, err = ask(*flags(model, data, "--count", 1, "--lanes", 2, "--quiet"))
    assert len(out.splitlines()) == 4 and err == ""


def test_identical_lanes_are_warned_of(ask: Any, model: str, data: str) -> None:
    """The same text N times is one sample: it must not pass for a vote of N."""
    argv = flags(model, data, "--count", 1, "--lanes", 3, "--mode", "independent", "--temp", 0)
    _, _, err = ask(*argv)
    assert "all 3 lanes will be identical" in err
    assert "two lanes wrote the same, token for token, in 1 of 1 problems" in err
    assert "wrote the same" not in ask(*flags(model, data, "--count", 1, "--lanes", 3))[2]


def test_a_terminal_sees_a_bar_with_the_time_left(
    model: str, data: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(10, 4, quiet=False) as progress:
        for k in range(6):
            progress.at(name=f"problem {k + 1}")
            progress.done()
    said = capsys.readouterr().err
    assert "4 of 10 done before; going on" in said and "10/10" in said and "left" in said


def test_the_time_left_is_said_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(20, 10, quiet=False) as progress:
        for _ in range(10):
            progress.done()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and "left" in lines[1] and lines[-1].startswith("20 of 20, 0:00")
    assert [duration(s) for s in (75, 4000.4)] == ["1:15", "1:06:40"]


# Bad input: one line, exit 2, nothing on stdout.

BAD: dict[str, list[object]] = {
    "no data": ["--data", "/no/such.jsonl"],
    "malformed data": ["--data", "MALFORMED"],
    "a field that is missing": ["--answer-field", "solution"],
    "an answer without a mark": ["--data", "UNMARKED"],
    "an empty data set": ["--data", "EMPTY"],
    "more problems than there are": ["--count", 99999],
    "no problems": ["--count", 0],
    "a question longer than the context": ["--data", "LONG"],
    "a mode that is none": ["--mode", "telepathy"],
    "a start of Omega that is none": ["--mode", "joint:big"],
    "a learned Omega that is none": ["--mode", "joint:learned"],
    "independent with a start": ["--mode", "independent:ntk"],
    "no lanes": ["--lanes", 0],
    "a negative seed": ["--seed", -1],
    "no tokens": ["--max-tokens", 0],
    "a template without a question": ["--template", "hello"],
    "an answer pattern that is none": ["--answer-pattern", "("],
    "a negative temperature": ["--temp", -1],
    "a folder that cannot be made": ["--out", "/proc/none/run"],
    "a file for a folder": ["--out", "MALFORMED"],
    "a negative lag": ["--lag", -1],
    "a start of Omega for nobody": ["--omega", "ntk", "--mode", "hogwild"],
    "a start of Omega that is not one": ["--omega", "big"],
    "a slot for nobody": ["--slot", 3],
    "a scale for nobody": ["--omega-scale", 3, "--mode", "joint:group_think"],
    "a prompt lane for nobody": ["--prompt-lane", "0", "--mode", "group_think"],
    "a lag for nobody": ["--lag", 1, "--mode", "independent"],
    "the size of another task": ["--cups", 3],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_2(
    ask: Any, model: str, data: str, tmp_path: Path, name: str
) -> None:
    good = Path(data).read_text().splitlines()[0]
    files = {
        "MALFORMED": f'{good}\n{{"question": "x", \n',
        "UNMARKED": f'{good}\n{{"question": "x", "answer": "7"}}\n',
        "EMPTY": "\n",
        "LONG": json.dumps({"question": "why? " * 1000, "answer": "#### 7"}) + "\n",
    }
    for word, text in files.items():
        (tmp_path / f"{word}.jsonl").write_text(text)
    more = [tmp_path / f"{w}.jsonl" if w in files else w for w in map(str, BAD[name])]
    place = () if "--out" in more else ("--out", tmp_path / "runs" / "e")
    code, out, err = ask(*flags(model, data, "--lanes", 2, "--quiet", *more, *place))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert not (tmp_path / "runs").exists()  # what is refused leaves nothing behind
    assert err.startswith("tinylane: error: ") and len(err) < 500
    if name in ("malformed data", "an answer without a mark"):
        assert "line 2" in err


def test_a_task_that_is_none_is_one_line(ask: Any, model: str) -> None:
    code, out, err = ask("eval", "chess", "--model", model)
    assert (code, out, err.count("\n")) == (2, "", 1) and "shell-game" in err


def test_a_folder_that_is_not_ours_is_left_alone(
    ask: Any, model: str, data: str, tmp_path: Path
) -> None:
    theirs = tmp_path / "results.jsonl"
    theirs.write_text('{"not": "ours"}')
    argv = flags(model, data, "--count", 1, "--lanes", 2, "--quiet", "--out", tmp_path)
    code, _, err = ask(*argv)
    assert (code, err.count("\n")) == (2, 1) and theirs.read_text() == '{"not": "ours"}'


def test_a_result_that_was_edited_is_refused(
    ask: Any, model: str, data: str, tmp_path: Path
) -> None:
    argv = flags(model, data, "--count", 1, "--lanes", 2, "--quiet", "--out", tmp_path / "run")
    assert ask(*argv)[0] == 0
    file = tmp_path / "run" / "results.jsonl"
    lines = file.read_text().splitlines()
    for bad, says in (
        ([*lines, lines[0]], "result 3 .* twice"),
        ([lines[0].replace('"problem":"1"', '"problem":"9"')], "not part of this run"),
        ([lines[0].replace('"clock":[', '"clock":["x",'), lines[1]], "line 1: is not a result"),
    ):
        file.write_text("".join(f"{line}\n" for line in bad))
        code, _, err = ask(*argv)
        assert (code, err.count("\n")) == (2, 1)
        assert re.search(says, err), err


# The shell game, as before there were other tasks.


def test_the_shell_game_in_words_is_asked_of_any_model(ask: Any, model: str) -> None:
    argv = ["eval", "shell-game", "--model", model, "--count", 1, "--lanes", 2, "--max-tokens", 4]
    code, out, _ = ask(*argv, "--cups", 3, "--swaps", 2, "--quiet")
    assert code == 0 and out.startswith("shell game, 3 cups, 2 swaps, 1 problems")
    code, _, err = ask(*argv, "--quiet")
    assert (code, err.count("\n")) == (2, 1) and "--cups" in err


def test_the_shell_game_needs_no_extra(
    ask: Any, game: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain install scores the model inside, with intervals; only other tasks need more."""
    for name in ("scipy", "scipy.stats", "math_verify", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    code, out, _ = ask("eval", "shell-game", "--model", game, "--count", 2, "--lanes", 2)
    assert code == 0 and " to " in out


def test_the_python_entry_counts_what_the_command_counts(ask: Any, game: str) -> None:
    from tinylane.evaluate.tasks.shell_game_task import game_of
    from tutorials.study.score_one import evaluate

    loaded = tinylane.load(game, backend="numpy")
    size = game_of(loaded)
    assert size is not None
    score = evaluate(loaded, size, 2, "joint", count=12)
    _, out, _ = ask("eval", "shell-game", "--model", game, "--count", 12, "--lanes", 2, "--json")
    said = json.loads(out)["scores"][0]
    assert said["majority"]["value"] * 12 == pytest.approx(score.right)
    task = tasks.make("shell-game", Options(), loaded)
    assert score.tokens == said["max_tokens"] == task.max_tokens(2)
