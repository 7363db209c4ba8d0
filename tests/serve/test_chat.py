"""A conversation in the terminal: turns, lanes, commands, Ctrl-C, line editing."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import write_checkpoint
from helpers_serve import ROOT

import tinylane
from tinylane import methods
from tinylane.commands import generate_loop
from tinylane.commands.cli import main
from tinylane.core.errors import TinylaneError
from tinylane.serve.answers import answer_of

TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}{{ 'where?' if x is not defined }}"


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model with a chat template."""
    folder = write_checkpoint(tmp_path_factory.mktemp("chat") / "talker", adapter=False, seed=3)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    return folder


@pytest.fixture
def say(talker: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Say lines to the model; stdout and stderr."""

    def run(lines: list[str], *flags: object, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        words = ["chat", "--model", str(talker), "-m", "4", "--seed", "7", *map(str, flags)]
        words += ["--logit-bias", "1:-100"]  # no end token
        assert main(words) == code
        out, err = capsys.readouterr()
        return out, err

    return run


def test_a_second_turn_is_that_of_the_whole_conversation_and_reads_only_what_is_new(
    say: Any, talker: Path, tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    out, err = say(["cups ABC", "swap 1-2", f"/save {file}"])
    messages = json.loads(file.read_text())["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2
    model = tinylane.load(talker)
    greedy = tinylane.Sampler(temperature=0, logit_bias={1: -100})
    for k in (1, 3):
        whole = tinylane.generate(model, messages[:k], max_tokens=4, sampler=greedy)
        assert messages[k]["content"] == whole.texts[0] and whole.texts[0] in out
    read = [tuple(map(int, found)) for found in re.findall(r"prompt (\d+) tokens, (\d+) of", err)]
    assert read[0][0] == read[0][1] and read[1][1] < read[1][0]


def test_lanes_answer_side_by_side_and_one_is_gone_on_with(say: Any, tmp_path: Path) -> None:
    """Without a temperature in the checkpoint they would all be one text: they get one."""
    file = tmp_path / "chat.json"
    out, _ = say(["cups ABC", f"/save {file}", "/quit", "never read"], "--lanes", 3)
    texts = dict(re.findall(r"^(lane \d) \| (.*)$", out, re.M))
    assert len(set(texts.values())) == 3
    chosen = re.search(r"^\[lane (\d), the likeliest\]$", out, re.M)
    assert chosen is not None
    said = json.loads(file.read_text())["messages"]
    assert said[1]["content"].split() == texts[f"lane {chosen[1]}"].split() and len(said) == 2


def test_commands_change_the_lanes_and_begin_anew(say: Any) -> None:
    out, err = say(
        ["cups ABC", "/lanes 2", "/method joint", "swap 1-2", "/new", "cups ABC"], "--temp", 3
    )
    assert len(re.findall(r"^lane 2 \|", out, re.M)) == 2
    prompts = re.findall(r"prompt (\d+) tokens", err)
    assert prompts[2] == prompts[0] != prompts[1]
    out, _ = say(["/help"])
    assert "/method NAME" in out


def test_what_is_saved_begins_with_the_system_prompt(say: Any, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    say(["cups ABC", f"/save {file}"], "--system-prompt", "swap 1-2")
    said = json.loads(file.read_text())["messages"]
    assert [m["role"] for m in said] == ["system", "user", "assistant"]
    assert said[0]["content"] == "swap 1-2"


@pytest.mark.parametrize("name", ["parathinker", "best_of_n", "plain_lanes", "logit-averaging"])
def test_a_method_gives_one_answer_and_the_chat_goes_on_with_it(
    say: Any, talker: Path, tmp_path: Path, name: str
) -> None:
    """Both answers are those of `tinylane.methods.generate`; lanes that join are shown."""
    file = tmp_path / "chat.json"
    out, err = say([f"/method {name}", "cups ABC", "swap 1-2", f"/save {file}"], "--temp", 2)
    messages = json.loads(file.read_text())["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2
    model, name = tinylane.load(talker), name.replace("-", "_")
    for k in (1, 3):
        result = methods.generate(
            model, messages[:k], method=name, lanes=3, max_tokens=4, seed=7 + k // 2,
            sampler=tinylane.Sampler(2.0, logit_bias={1: -100}),
        )  # fmt: skip
        assert messages[k]["content"] == answer_of(name, result)[0]
        for m, text in enumerate(result.texts):
            assert not text.strip() or f"lane {m + 1} | {text.splitlines()[0]}" in out
    assert out.count(f", {name}]") == 2 and not re.search("error", err)


def test_a_method_may_be_a_flag_and_lanes_may_be_told(say: Any) -> None:
    out, _ = say(["cups ABC", "/method joint", "cups ABC"], "--method", "best_of_n", "--lanes", 2)
    assert out.count("[lane") == 2 and "best_of_n]" in out and "lane 3" not in out
    _, err = say([], "--method", "best_of_n", "--mode", "joint", code=2)
    assert "give one of them" in err
    _, err = say([], "--method", "psychic", code=2)
    assert "--method is 'psychic'; expected independent" in err


def test_flags_of_reading_hold_with_a_method_that_is_a_mode(say: Any) -> None:
    """Beside another method they would do nothing, and are refused."""
    say_it = ["cups ABC"], "--lanes", 2, "--temp", 3, "--omega", "ntk", "--slot", 9
    flag, _ = say(*say_it, "--method", "joint")
    mode, _ = say(*say_it, "--mode", "joint")
    plain, _ = say(*say_it[:5], "--mode", "joint")
    assert flag == mode != plain
    for more in (("--omega", "ntk"), ("--visibility", "star"), ("--lag", 1)):
        _, err = say([], "--method", "parathinker", *more, code=2)
        assert f"{more[0]} with --method parathinker" in err


def test_another_method_forgets_the_flags_of_the_one_before(say: Any) -> None:
    """All of them: whom lanes read, their angles, and how late."""
    lines, usual = ["/method joint", "cups ABC"], ("--lanes", 2, "--temp", 3)
    plain, _ = say(lines, *usual)
    for flags in (("--slot", 9, "--omega", "ntk"), ("--lag", 3), ("--visibility", "neighbours:0")):
        assert say(lines[1:], *usual, "--mode", "joint", *flags)[0] != plain
        assert say(lines, *usual, "--mode", "joint", *flags)[0] == plain


def test_a_question_that_fails_is_no_part_of_the_conversation(
    say: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also one that fails before its first step."""
    file, decode = tmp_path / "chat.json", generate_loop.decode

    def once(*given: Any) -> Any:
        monkeypatch.setattr(generate_loop, "decode", decode)
        raise TinylaneError("no")

    monkeypatch.setattr(generate_loop, "decode", once)
    say(["1-3", "cups ABC", f"/save {file}"])
    assert [m["role"] for m in json.loads(file.read_text())["messages"]] == ["user", "assistant"]


def test_lanes_that_are_turned_otherwise_read_the_conversation_again(say: Any) -> None:
    """Their keys are of another rotation; what is the prompt's alone stays."""
    lines = [
        "cups ABC",
        "/method group_think",
        "swap 1-2",
        "/method hogwild",
        "1-2",
        "/method joint",
    ]
    _, err = say([*lines, "/method joint", "1-3"], "--lanes", 2)
    read = [tuple(map(int, found)) for found in re.findall(r"prompt (\d+) tokens, (\d+) of", err)]
    assert len(read) == 4 and all(new < whole for whole, new in read[1:]) and "error" not in err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/nothing", "no command '/nothing'; /help lists them"),
        ("/lanes many", "/lanes is 'many'; expected a whole number from 1 to 64"),
        ("/method psychic", "/method is 'psychic'; expected independent"),
        ("/save", "/save needs the name of a file"),
        ("/save /no/such/folder/x", "no folder"),
        ("cups " * 100, "tokens; this model's context is 64"),
    ],
)
def test_what_is_wrong_is_a_line_and_the_chat_goes_on(say: Any, line: str, says: str) -> None:
    out, err = say([line, "cups ABC"])
    assert err.count("error: ") == 1 and says in err and out.strip()


def test_a_model_without_a_chat_template_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["chat"]) == 2
    assert "this model has no chat template; give another --model" in capsys.readouterr().err


class Terminal:
    """A chat in a terminal: what it shows, and keys for it."""

    def __init__(self, *flags: str) -> None:
        self.main, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tinylane", "chat", *flags],
            stdin=child, stdout=child, stderr=child, env=env, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(child)
        self.seen = ""

    def wait(self, pattern: str, seconds: float = 60) -> str:
        """Read until the pattern has come: what came up to its end. The rest is kept."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < end, self.seen
            if select.select([self.main], [], [], 0.1)[0]:
                sent = os.read(self.main, 65536).decode(errors="replace")
                if "\x1b[6n" in sent:  # prompt_toolkit asks where the cursor is
                    os.write(self.main, b"\x1b[1;1R")
                self.seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)
        self.seen, shown = self.seen[found.end() :], self.seen[: found.end()]
        return shown

    def keys(self, data: bytes) -> None:
        os.write(self.main, data)


def asked_in_turn(monkeypatch: pytest.MonkeyPatch, answers: list[Any]) -> list[str]:
    """Let a person at a terminal type these, and Ctrl-C or Ctrl-D where it is an error; the
    prompts that were shown."""
    shown: list[str] = []

    def read(prompt: str) -> str:
        shown.append(prompt)
        said = answers.pop(0)
        if isinstance(said, type):
            raise said
        return str(said)

    monkeypatch.setattr("tinylane.serve.chat.reader", lambda: read)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    return shown


def test_the_lane_is_asked_for_until_it_is_one(
    talker: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    """Nothing, Ctrl-C and Ctrl-D take what is offered; at the prompt Ctrl-C gives up the line."""
    file, words = tmp_path / "chat.json", ["chat", "--model", str(talker), "-m", "4", "--seed", "7"]
    words += ["--lanes", "3", "--plain", "--logit-bias", "1:-100"]
    for typed in (["9", "none", "0", "3"], [""], [KeyboardInterrupt], [EOFError]):
        lines = [KeyboardInterrupt, " ", "cups ABC", *typed, f"/save {file}", EOFError]
        shown = asked_in_turn(monkeypatch, lines)
        assert main(words) == 0
        offered = re.findall(r"lane 1-3 \[(\d), the likeliest\]", " ".join(shown))
        assert len(offered) == len(typed) and {*shown[:3]} == {"> "}
        out = capsys.readouterr().out
        texts = dict(re.findall(r"^lane (\d) \| (.*)$", out, re.M))
        taken = "3" if typed[-1] == "3" else offered[0]
        said = json.loads(file.read_text())["messages"][1]["content"]
        assert said.split() == texts[taken].split()
        assert (f"[lane {taken}, the likeliest]" in out) == (typed[-1] != "3")


def test_marked_answers_are_voted_on(
    say: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The lane of the most frequent answer is gone on with, not the likeliest."""
    from tinylane.methods.decoding import Decoding

    plain = Decoding.result

    def marked(self: Any) -> Any:
        result = plain(self)
        likeliest = tinylane.best_of(result).index
        for lane in result.lanes:
            lane.text = "#### 5" if lane.index == likeliest else "#### 4"
        return result

    monkeypatch.setattr(Decoding, "result", marked)
    file = tmp_path / "chat.json"
    out, _ = say(["cups ABC", f"/save {file}"], "--lanes", 3)
    assert re.search(r"^\[lane \d, by vote: 4\]$", out, re.M)
    assert json.loads(file.read_text())["messages"][1]["content"] == "#### 4"


def test_a_quiet_chat_has_its_texts_alone(say: Any) -> None:
    out, err = say(["cups ABC", "/mode joint", "/exit"], "--quiet")
    assert out.strip() and err == ""


def test_in_a_terminal_lines_are_edited_ctrl_c_ends_an_answer_and_not_the_chat(
    talker: Path,
) -> None:
    pytest.importorskip("prompt_toolkit")
    flags = ("--model", str(talker), "--lanes", "2", "--seed", "7")
    terminal = Terminal(*flags, "-m", "40", "--logit-bias", "1:-100")
    terminal.wait(">")
    terminal.keys(b"cups ABX\x7fC\r")  # a letter is taken back
    shown = terminal.wait(r"go on with lane 1-2 \[\d, the likeliest\]:")
    assert "lane 1" in shown and "lane 2" in shown and "╭" in shown
    terminal.keys(b"2\r")
    terminal.wait("prompt .* drawn")
    terminal.wait(">")
    terminal.keys(b"\x1b[A")  # history: the line above
    terminal.wait("cups ABC|2")
    terminal.keys(b"\x03")  # at the prompt it gives up the line
    terminal.wait(">")
    terminal.keys(b"/quit\r")
    assert terminal.process.wait(60) == 0


def test_ctrl_c_keeps_what_was_written(talker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer ends after its step, and the next question is taken."""
    lines = iter(["cups ABC\n", "swap 1-2\n", ""])
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.readline", lambda: next(lines), raising=False)
    from tinylane.methods.decoding import Decoding

    steps, plain = [0], Decoding.step

    def step(self: Any) -> Any:
        steps[0] += 1
        if steps[0] == 3:
            signal.raise_signal(signal.SIGINT)
        return plain(self)

    monkeypatch.setattr(Decoding, "step", step)
    words = ["chat", "--model", str(talker), "-m", "30", "--seed", "1", "--logit-bias", "1:-100"]
    assert main(words) == 0
    assert steps[0] == 3 + 30
