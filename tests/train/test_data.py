"""Transcripts as files: what a line may say, what it becomes, and the line that is refused."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helpers_text
import pytest
from helpers_checkpoint import small
from helpers_checkpoint import write_checkpoint as checkpoint
from helpers_cli import GAME, write_checkpoint
from helpers_templates import SMOLLM2
from tokenizers import Tokenizer as Core

import tinylane
from tinylane.checkpoints import chat_template
from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.commands import common, progress
from tinylane.core.errors import TinylaneError
from tinylane.core.model import Model
from tinylane.methods.prompt import encode_prompt
from tinylane.train.data import Data, read_transcripts, rows

END = GAME.ids["<end>"]
PROMPT = "cups ABC, swap 1-2 --: where?"
LINE: dict[str, Any] = {"prompt": PROMPT, "lanes": ["ABC BAC", "CAB"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tinylane.load(write_checkpoint(tmp_path_factory.mktemp("data") / "game"), "numpy")


@pytest.fixture
def read(base: Model, tmp_path: Path) -> Any:
    """Read lines (objects, or text as it is) as a file of transcripts."""

    def reader(*lines: Any, **how: Any) -> Data:
        path = tmp_path / "data.jsonl"
        text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(text) + "\n")
        return read_transcripts(path, base, **how)

    return reader


def ids(text: str) -> list[int]:
    return [GAME.ids[word] for word in text.split()]


def test_a_line_becomes_ids_with_an_end_token_on_every_lane(read: Any) -> None:
    (one,) = read({**LINE, "lane_prompts": ["1/2", ""], "label": True}).transcripts
    assert one.lanes == [[*ids("ABC BAC"), END], [*ids("CAB"), END]] and one.ended == [True, True]
    assert one.lane_prompts == [ids("1/2"), []] and one.label is True
    assert one.prompt == ids("cups ABC , swap 1-2 -- : where ?")
    assert one.clock == 10 and one.length == 13 and one.targets == 5
    found = rows(one)
    assert END not in found.tokens and len(found.tokens) == 9 + 1 + 2 + 1
    assert found.positions.tolist()[9:] == [9, 10, 11, 10]
    assert found.sources.tolist() == [9, 10, 11, 8, 12]  # the lane without a prompt: the shared row


def test_a_lane_that_was_cut_off_has_no_end_token_and_feeds_its_last(read: Any) -> None:
    (one,) = read({**LINE, "finished": [False, True]}).transcripts
    assert one.lanes == [ids("ABC BAC"), [*ids("CAB"), END]] and one.ended == [False, True]
    assert len(rows(one).tokens) == 9 + 2 + 1


def test_ids_say_themselves_what_was_drawn(read: Any) -> None:
    """A text may encode to other ids than it came from; with `lane_ids` they are the drawn ones."""
    drawn = [[*ids("ABC BAC"), END], ids("CAB")]
    line = {**LINE, "lane_ids": drawn, "prompt_ids": ids("cups ABC"), "lane_prompt_ids": [[], [9]]}
    (one,) = read(line).transcripts
    assert one.lanes == drawn and one.ended == [True, False]
    assert one.prompt == ids("cups ABC") and one.lane_prompts == [[], [9]]
    (bare,) = read({"prompt": [2, 3], "lanes": drawn}).transcripts
    assert bare.lanes == drawn and bare.ended == [True, False]


def test_bad_transcripts_are_left_out_of_sft_and_counted(read: Any) -> None:
    """What is labelled bad must not be imitated."""
    lines = [{**LINE, "label": False}, {**LINE, "label": True}, LINE]
    data = read(*lines)
    assert len(data.transcripts) == 2 and data.left_out == 1
    assert len(read(*lines[:2], labels=True).transcripts) == 2


def test_blank_lines_count_and_other_fields_are_ignored(read: Any) -> None:
    good = {**LINE, "task": "x", "seed": 3}
    assert len(read("", good, "").transcripts) == 1
    with pytest.raises(TinylaneError, match="line 4: "):
        read("", good, "", {**LINE, "lanes": []})


def test_the_digest_is_of_what_is_learned(read: Any) -> None:
    one = read(LINE).digest
    assert read({**LINE, "note": "other"}).digest == one
    assert read({**LINE, "finished": [True, False]}).digest != one
    assert read(LINE, LINE).digest != one
    assert read({**LINE, "label": True}).digest != one


def test_several_numbers_of_lanes_only_where_they_are_asked_for(read: Any) -> None:
    three = {**LINE, "lanes": ["ABC"] * 3}
    assert read(LINE, three, lanes=[2, 3]).counts == [2, 3]
    with pytest.raises(TinylaneError, match=r"line 2: 3 lanes where 2 .* --lanes 2 3"):
        read(LINE, three)


def test_a_stop_string_ends_a_lane_unseen(read: Any) -> None:
    """Its last token was drawn and never fed: text lacks it, ids have it."""
    (one,) = read({**LINE, "lane_ids": [ids("ABC BAC CBA"), ids("CAB")]}).transcripts
    assert one.ended == [True, False] and len(rows(one).tokens) == 9 + 2 + 1
    assert one.lanes[0] == ids("ABC BAC CBA")


def test_what_a_lane_was_given_is_seen_but_not_learned(read: Any) -> None:
    """A nudge, a forced finish: fed like any other, no loss on them."""
    line = {**LINE, "lanes": ["ABC BAC CAB", "CAB"], "given": [[["nudge", 1, 3]], []]}
    (one,) = read(line).transcripts
    found = rows(one)
    assert one.targets == 4 and one.given == [[1, 2], []]
    assert found.follows.tolist() == [*ids("ABC"), END, *ids("CAB"), END]
    assert len(found.tokens) == 9 + 3 + 1
    without = read({**line, "given": [[], []]})
    assert rows(without.transcripts[0]).follows.shape == (6,)
    assert without.digest == read({**line, "given": None}).digest != read(line).digest


BAD = {
    "given beyond the lane": ({**LINE, "given": [[[1, 9]], []]}, "line 2: .*range of its 3"),
    "given that is no range": ({**LINE, "given": [[3], []]}, "line 2: .*expected .start, stop."),
    "not JSON": ('{"prompt": "cups",', "line 2: not valid JSON"),
    "not an object": ("[1, 2]", "line 2: expected a JSON object"),
    "a key twice": ('{"prompt": "a", "prompt": "b"}', "line 2: key 'prompt' occurs twice"),
    "no prompt": ({"lanes": ["ABC", "ABC"]}, 'line 2: no "prompt" and no "messages"'),
    "no lanes": ({"prompt": PROMPT}, 'line 2: no "lanes"'),
    "no lane": ({**LINE, "lanes": []}, 'line 2: "lanes" is empty'),
    "a lane that is no text": ({**LINE, "lanes": ["ABC", 3]}, "line 2: lanes is"),
    "a prompt that is no text": ({**LINE, "prompt": 3}, "line 2: prompt is 3"),
    "an empty prompt": ({**LINE, "prompt": ""}, "line 2: .*(empty|no tokens)"),
    "messages without a template": (
        {"messages": [{"role": "user", "content": "x"}], "lanes": ["ABC", "ABC"]},
        "line 2: .*chat template",
    ),
    "lane prompts of unequal number": (
        {**LINE, "lane_prompts": ["1/2"]},
        'line 2: 1 "lane_prompts" for 2 lanes',
    ),
    "finished of unequal number": ({**LINE, "finished": [True]}, 'line 2: 1 "finished" for 2'),
    "finished that is no flag": ({**LINE, "finished": [1, 0]}, "line 2: finished is"),
    "ids of unequal number": ({**LINE, "lane_ids": [[3]]}, 'line 2: 1 "lane_ids" for 2'),
    "lanes of unequal number": ({**LINE, "lanes": ["ABC"]}, "line 2: 1 lanes where 2"),
    "a label that is no flag": ({**LINE, "label": "good"}, "line 2: label is 'good'"),
    "an id outside": ({**LINE, "prompt_ids": [3, 99]}, "line 2: token 99 is outside"),
    "an id that is none": ({**LINE, "prompt_ids": [3, True]}, "line 2: prompt_ids is"),
    "ids of another text": (
        {**LINE, "lane_ids": [ids("CAB"), ids("CAB")]},
        'line 2: "lane_ids" of lane 0 spell',
    ),
    "on after the end": ({**LINE, "lanes": ["ABC <end> BAC", "ABC"]}, "line 2: lane 0 goes on"),
    "nothing written": (
        {**LINE, "lanes": ["", ""], "finished": [False, False]},
        "line 2: its lanes wrote nothing",
    ),
    "longer than the context": (
        {**LINE, "lanes": ["ABC " * 60, "ABC"]},
        "line 2: takes 70 positions.* context is 64",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_line_is_refused_by_file_and_line(read: Any, name: str) -> None:
    line, expected = BAD[name]
    with pytest.raises(TinylaneError, match=expected) as error:
        read(LINE, line)
    assert "data.jsonl" in str(error.value) and "\n" not in str(error.value)


def test_an_empty_file_is_refused(read: Any) -> None:
    with pytest.raises(TinylaneError, match="no transcripts to learn from"):
        read("")
    with pytest.raises(TinylaneError, match="all 1 are labelled false"):
        read({**LINE, "label": False})


def test_kto_needs_a_label_on_every_line(read: Any) -> None:
    with pytest.raises(TinylaneError, match='line 1: no "label"'):
        read(LINE, labels=True)


def test_a_transcript_that_just_fits_the_context_is_read(read: Any) -> None:
    """Positions 0..63 of a context of 64, as far as decoding goes."""
    (one,) = read({**LINE, "lanes": ["ABC " * 55, ""], "finished": [False, True]}).transcripts
    assert one.length == 64


def test_a_file_that_is_none(base: Model, tmp_path: Path) -> None:
    with pytest.raises(TinylaneError, match="cannot be read"):
        read_transcripts(tmp_path / "missing.jsonl", base)
    with pytest.raises(TinylaneError, match="not a regular file"):
        read_transcripts(tmp_path, base)


CHAT = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def test_messages_and_texts_go_through_the_chat_template_as_in_generate(tmp_path: Path) -> None:
    """The prompt ends with the opening of the assistant's turn; lanes write what follows, and end
    with the token that ends it."""
    raw = small("llama", vocab_size=512, eos_token_id=2)
    folder = checkpoint(tmp_path / "chat", raw)
    settings = {"eos_token": helpers_text.TURN, "bos_token": helpers_text.BOS}
    core = helpers_text.byte_level()
    helpers_text.write_folder(folder, core, {**settings, "chat_template": CHAT})
    model = tinylane.load(folder, "numpy")
    assert model.tokenizer is not None
    lines = [
        {"messages": [{"role": "user", "content": "Where is it?"}], "lanes": ["Überall 🎾", "no"]},
        {"prompt": "Where is it?", "lanes": ["Überall 🎾", "no"]},
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    one, other = read_transcripts(path, model).transcripts
    spelled = model.tokenizer.decode(one.prompt, skip_special=False)
    assert spelled.endswith("<|turn|>assistant\n") and "Where is it?" in spelled
    assert one.prompt == other.prompt == encode_prompt(model, "Where is it?", None)
    turn = model.tokenizer.encode(helpers_text.TURN)
    assert [lane[-1:] for lane in one.lanes] == [turn, turn] and one.ended == [True, True]
    assert model.tokenizer.decode(one.lanes[0]) == "Überall 🎾"
    raw_text = read_transcripts(path_of(tmp_path, lines[1]), model, template={"raw": True})
    assert raw_text.transcripts[0].prompt == encode_prompt(model, "Where is it?", {"raw": True})


def path_of(folder: Path, line: dict[str, Any]) -> Path:
    path = folder / "one.jsonl"
    path.write_text(json.dumps(line) + "\n")
    return path


def test_twelve_thousand_transcripts_are_prepared_by_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each prompt's template started a process of its own: 17 minutes without a word. Real size."""
    started: list[subprocess.Popen] = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            started.append(self)

    core = Core.from_str(helpers_text.byte_level())
    names = {"bos_token": helpers_text.BOS, "eos_token": helpers_text.EOS}
    tokenizer = Tokenizer(core, names, chat_template=SMOLLM2)
    config = SimpleNamespace(eos_ids=(), vocab=tokenizer.vocab_size, context=4096)
    ends = frozenset(tokenizer.eos_ids)
    model: Any = SimpleNamespace(tokenizer=tokenizer, config=config, end_ids=ends)
    lines = [
        {"messages": [{"role": "user", "content": f"What is {k}?"}], "lanes": [f"{k}", "so"]}
        for k in range(12_000)
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(subprocess, "Popen", Recorded)
    chat_template._worker.close()
    told: list[int] = []
    data = read_transcripts(path, model, told=lambda: told.append(1))
    assert len(data.transcripts) == len(told) == 12_000 and len(started) == 1
    spelled = tokenizer.decode(data.transcripts[-1].prompt, skip_special=False)
    assert "user\nWhat is 11999?" in spelled


def test_reading_is_shown_if_it_takes_long_and_not_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": 1}\n\n' * 20)
    for silent, words in ((60.0, []), (0.0, ["reading: 2 of 20", "reading: 20 of 20"])):
        monkeypatch.setattr(progress, "SILENT", silent)
        with progress.reading(path, 100, False, "reading") as told:
            for _ in range(20):
                told()
        said = capsys.readouterr().err
        assert all(word in said for word in words) and bool(said) == bool(words)


def test_a_long_wait_is_told_on_a_terminal_or_anywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "SILENT", 0.0)
    for terminal, quiet, anywhere in (
        (True, False, False), (True, True, True), (False, False, False), (False, False, True),
    ):  # fmt: skip
        tells = (terminal or anywhere) and not quiet
        monkeypatch.setattr("sys.stderr.isatty", lambda t=terminal: t)
        with common.told_if_slow("loading the model", quiet, anywhere):
            deadline = time.monotonic() + 10.0
            said = ""
            while tells and not said and time.monotonic() < deadline:
                said = capsys.readouterr().err
        assert said == ("tinylane: loading the model\n" if tells else "")
        assert not capsys.readouterr().err
