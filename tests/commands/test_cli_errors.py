"""The command line's notes, errors and Ctrl-C: one line each, and the exit code says which."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import helpers_cli
import numpy as np
import pytest
from helpers_cli import GAME, TEXT, generate, subprocess_run, write_checkpoint

import tinylane
from tinylane.commands import common
from tinylane.evaluate.tasks.shell_game import END
from tinylane.methods import decoding
from tinylane.methods.decoding import Decoding
from tinylane.view.run_file import load_run

ask, game, plain = helpers_cli.ask, helpers_cli.game, helpers_cli.plain  # fixtures

# What it says about models that do not know lanes.


def notes(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("tinylane: note:")]


def test_an_untrained_model_runs_independently_and_says_so_once(ask: Any, plain: str) -> None:
    _, _, err = ask("generate", "--model", plain, "--lanes", 3, *TEXT)
    assert len(notes(err)) == 1 and "not trained to listen to other lanes" in err
    assert "independent" in err and "--visibility joint" in err
    document = generate(ask, plain, "--lanes", 3, *TEXT)
    assert document["settings"]["visibility"] == np.eye(3).tolist()


def test_joint_lanes_of_an_untrained_model_say_what_to_expect_once(ask: Any, plain: str) -> None:
    _, _, err = ask("generate", "--model", plain, "--lanes", 3, "--visibility", "joint", *TEXT)
    assert len(notes(err)) == 1 and "not trained" in err and "expect degraded" in err


def test_a_trained_model_and_a_lone_lane_need_no_note(ask: Any, plain: str, game: str) -> None:
    assert notes(ask("generate", "--model", plain, *TEXT)[2]) == []
    assert notes(ask("generate", "--model", game)[2]) == []


def test_greedy_independent_lanes_are_said_to_be_identical(ask: Any, plain: str) -> None:
    same = ["generate", "--model", plain, "--lanes", 2, "--temp", 0, *TEXT]
    assert any("identical" in line for line in notes(ask(*same)[2]))
    assert not any("identical" in line for line in notes(ask(*same, "--temp", 0.5)[2]))
    told = ask(*same, "--lane-prompt", "1/4", "2/4")[2]
    assert not any("identical" in line for line in notes(told))
    assert any("no effect" in line for line in notes(ask(*same, "--top-p", 0.5)[2]))


# Errors: one line, exit 2, nothing on stdout.

BAD: dict[str, list[object]] = {
    "no lanes": ["--lanes", 0],
    "10,000 lanes": ["--lanes", 10000],
    "lanes that are no number": ["--lanes", "many"],
    "non-square visibility": ["--visibility", "[[1, 0]]"],
    "ragged visibility": ["--visibility", "[[1, 0], [1]]"],
    "visibility of words": ["--visibility", '[["a"]]'],
    "visibility that is no JSON": ["--visibility", "[["],
    "visibility nested without end": ["--visibility", "[" * 100000],
    "visibility for fewer lanes": ["--visibility", "[[1]]", "--lanes", 2],
    "unknown visibility": ["--visibility", "all"],
    "missing visibility file": ["--visibility", "@/no/such.json"],
    "negative lag": ["--lag", -1],
    "negative temperature": ["--temp", -0.5],
    "infinite temperature": ["--temp", "inf"],
    "top-p over 1": ["--top-p", 1.5],
    "negative top-k": ["--top-k", -1],
    "omega of the wrong length": ["--omega", "@OMEGA"],
    "unknown omega": ["--omega", "big"],
    "omega of no adapter": ["--omega", "learned"],
    "slot without omega": ["--slot", 3],
    "infinite slot": ["--omega", "ntk", "--slot", "inf"],
    "no tokens": ["--max-tokens", 0],
    "empty prompt": ["--prompt", ""],
    "prompt longer than the context": ["--prompt", "cups " * 70],
    "negative seed": ["--seed", -1],
    "an unknown flag": ["--frobnicate"],
    "a missing folder": ["--model", "/no/such/folder"],
    "an empty folder": ["--model", "EMPTY"],
    "an adapter that is none": ["--adapter-path", "EMPTY"],
    "bias that is none": ["--logit-bias", "x"],
    "bias of no token": ["--logit-bias", "99999:1"],
    "template settings that are no JSON": ["--chat-template-config", "{"],
    "template settings that are no object": ["--chat-template-config", "3"],
    "template settings without a template": ["--chat-template-config", '{"a": 1}'],
    "a system prompt without a template": ["--system-prompt", "be brief"],
    "an answer pattern that is none": ["--answer-pattern", "("],
    "an empty stop string": ["--stop", ""],
    "more lane prompts than lanes": ["--lanes", 1, "--lane-prompt", "swap", "swap"],
    "nowhere to save": ["--save", "/no/such/folder/run.json"],
    "a folder to save to": ["--save", "EMPTY"],
    "a dtype the backend lacks": ["--backend", "numpy", "--dtype", "bfloat16"],
    "a backend that is none": ["--backend", "torch"],
    "two outputs": ["--json", "--plain"],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_2(ask: Any, plain: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "omega.json").write_text("[1, 2, 3]")
    places = {"EMPTY": str(tmp_path / "empty"), "@OMEGA": f"@{tmp_path}/omega.json"}
    flags = [places.get(str(word), word) for word in BAD[name]]
    code, out, err = ask("generate", "--model", plain, "--quiet", *TEXT, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("tinylane: error: ") and len(err) < 400


def test_flags_are_checked_before_a_model_is_loaded(ask: Any) -> None:
    for flags in (["--lanes", 0], ["--temp", -1], ["--visibility", "x"], ["--save", "/no/x"]):
        assert "/no/such" not in ask("generate", "--model", "/no/such", *flags)[2]


def test_a_shell_game_of_other_lanes_or_swaps_is_one_line(ask: Any, game: str) -> None:
    for flags in (["--lanes", 3], ["--prompt", "1-9"], ["--prompt", "x"], ["--prompt", "1-2 " * 9]):
        code, out, err = ask("generate", "--model", game, *flags)
        assert (code, out, err.count("\n")) == (2, "", 1), err


def test_a_damaged_task_is_one_line(ask: Any, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    file = folder / "adapter" / "adapter_config.json"
    for task in ({"cups": "4", "swaps": 4}, {"cups": 4}, {"cups": 4, "swaps": -4}):
        settings = json.loads(file.read_text()) | {"task": {"name": "shell-game", **task}}
        file.write_text(json.dumps(settings))
        code, _, err = ask("generate", "--model", folder)
        assert (code, err.count("\n")) == (2, 1), err


def test_a_model_without_a_task_needs_a_prompt(ask: Any, plain: str) -> None:
    code, _, err = ask("generate", "--model", plain)
    assert (code, err.count("\n")) == (2, 1) and "--prompt" in err


def test_unknown_commands_and_missing_arguments_are_one_line(ask: Any) -> None:
    for argv in (["--plain"], ["view"], ["train"], ["eval", "chess"]):
        code, out, err = ask(*argv)
        assert (code, out, err.count("\n")) == (2, "", 1), err


def test_control_characters_of_an_argument_do_not_reach_the_terminal(ask: Any) -> None:
    code, _, err = ask("generate", "--model", "\x1b[31mred\nline", *TEXT)
    assert code == 2 and "\x1b" not in err and err.count("\n") == 1


def test_warnings_are_one_line(ask: Any, plain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        warnings.warn("weights hold\nNaN", stacklevel=2)
        raise OSError(28, "No space left on device", "out.json")

    monkeypatch.setattr(common, "load", load)
    code, _, err = ask("generate", "--model", plain, *TEXT)
    assert code == 2
    assert err.splitlines() == [
        "tinylane: warning: weights hold NaN",
        "tinylane: error: out.json: No space left on device",
    ]


def test_a_reader_that_goes_away_is_no_error(game: str) -> None:
    command = f"{sys.executable} -m tinylane generate --model {game} --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == "{" and done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(plain: str) -> None:
    command = f"{sys.executable} -m tinylane generate --model {plain} --prompt cups --quiet"
    done = subprocess.run(["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "tinylane: error: No space left on device\n"


def test_a_terminal_without_unicode_shows_escapes(plain: str) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess_run("generate", "--model", plain, "--prompt", "é", "--json", env=env)
    assert (done.returncode, json.loads(done.stdout)["prompt"]) == (0, "é")
    done = subprocess_run("generate", "--model", "/nö", "--prompt", "é", env=env)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


# Ctrl-C.


def interrupt_at(monkeypatch: pytest.MonkeyPatch, at: int, times: int = 1) -> None:
    """Send this process SIGINT at the beginning of a step."""
    original = Decoding.step

    def step(self: Decoding) -> Any:
        if self.steps == at:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        return original(self)

    monkeypatch.setattr(Decoding, "step", step)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_prints_what_there_is_and_marks_the_lanes(
    ask: Any, plain: str, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    whole = generate(ask, plain, "--lanes", 2, "--seed", 3, "--logit-bias", "1:-inf", *TEXT)
    interrupt_at(monkeypatch, 2, times)
    argv = ["--lanes", "2", "--seed", "3", "--logit-bias", "1:-inf", *TEXT]
    code, out, _ = ask("generate", "--model", plain, "--json", *argv)
    document = json.loads(out)
    assert code == 130 and document["interrupted"]
    done = 3 if times == 1 else 2  # the first Ctrl-C lets the step finish
    assert document["steps"] >= 2
    for lane, there in zip(document["lanes"], whole["lanes"], strict=True):
        assert lane["finish_reason"] == "interrupted"
        assert lane["tokens"] == there["tokens"][:done]
        assert len(lane["logprobs"]) == done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupted_token_without_its_likeliest_ones_is_removed(
    ask: Any, plain: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So the saved run can be read: its lists have one length, and its texts are its tokens'."""
    calls, real = [0], decoding.likeliest

    def likeliest(logits: Any, k: int) -> Any:
        calls[0] += 1
        if calls[0] == 4:  # of the second lane, in the second step
            raise KeyboardInterrupt
        return real(logits, k)

    monkeypatch.setattr(decoding, "likeliest", likeliest)
    argv = ["--lanes", "2", "--top-logprobs", "2", "--logit-bias", "1:-inf", *TEXT]
    code, _, _ = ask("generate", "--model", plain, "--save", str(tmp_path / "run.json"), *argv)
    run, model = load_run(tmp_path / "run.json"), tinylane.load(plain, backend="numpy")
    assert code == 130 and [len(lane.tokens) for lane in run.result.lanes] == [2, 1]
    for lane in run.result.lanes:
        assert len(lane.logprobs) == len(lane.top_logprobs) == len(lane.tokens)
        assert model.tokenizer.decode(lane.tokens) == lane.text


def test_an_interrupted_shell_game_does_not_vote(
    ask: Any, game: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 1)
    code, out, _ = ask("generate", "--model", game, "--logit-bias", f"{GAME.ids[END]}:-inf")
    assert code == 130 and "vote: no lane gave an answer" in out
    assert out.count("| interrupted") == 4


def test_ctrl_c_while_loading_is_one_line(
    ask: Any, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(common, "load", load)
    code, out, err = ask("generate", "--model", plain, *TEXT)
    assert (code, out, err) == (130, "", "tinylane: error: interrupted\n")
