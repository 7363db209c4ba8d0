"""What ends a lane beside the model's end tokens: texts, special tokens, ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import helpers_cli
import pytest
from helpers_checkpoint import small, write_checkpoint
from helpers_text import EOS, TURN, byte_level

import tinylane
from tinylane.core.errors import TinylaneError

ask = helpers_cli.ask  # a fixture
FORCE = 1e4  # a bias that decides which token is drawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose own end token is EOS, and whose turns end with another special token."""
    raw = small(vocab_size=420, eos_token_id=None)
    folder = write_checkpoint(tmp_path_factory.mktemp("m") / "plain", raw)
    (folder / "tokenizer.json").write_text(byte_level())
    (folder / "tokenizer_config.json").write_text(f'{{"eos_token": "{EOS}"}}')
    return folder


def drawing(folder: Path, text: str, stop: Any) -> Any:
    """A lane that draws one token again and again."""
    model = tinylane.load(folder, "numpy")
    id = model.tokenizer.core.token_to_id(text)
    sampler = tinylane.Sampler(temperature=0, logit_bias={id: FORCE})
    return id, tinylane.generate(model, "a", max_tokens=4, stop=stop, sampler=sampler)


@pytest.mark.parametrize("given, expected", [("END", ["END"]), (["a", "b"], ["a", "b"])])
def test_one_text_is_one_stop(folder: Path, given: Any, expected: list[str]) -> None:
    """As transformers' `stop_strings`, vLLM and OpenAI: a text or a list."""
    assert drawing(folder, "a", given)[1].settings["stop"] == expected


@pytest.mark.parametrize("none", [None, (), []])
def test_no_stop_is_none(folder: Path, none: Any) -> None:
    result = drawing(folder, "a", none)[1]
    assert result.settings["stop"] == [] and result.lanes[0].finish_reason == "length"


def test_a_stop_that_is_a_special_token_ends_the_lane(folder: Path) -> None:
    """Its text is never part of a lane's text, so as a text it would never be found."""
    for stop in (TURN, ["x", TURN]):
        id, result = drawing(folder, TURN, stop)
        lane = result.lanes[0]
        assert (lane.tokens, lane.finish_reason, lane.text) == ([id], "stop", "")
    assert drawing(folder, TURN, "x")[1].lanes[0].finish_reason == "length"  # the control


def test_a_stop_may_be_the_id_of_a_token(folder: Path) -> None:
    model = tinylane.load(folder, "numpy")
    id = model.tokenizer.core.token_to_id("a")
    lane = drawing(folder, "a", [id])[1].lanes[0]
    assert (lane.tokens, lane.finish_reason, lane.text) == ([id], "stop", "")
    assert drawing(folder, "a", id + 1)[1].lanes[0].text == "aaaa"


@pytest.mark.parametrize("bad", ["", [""], b"x", [b"x"], 1.5, {"a": 1}, [None], True, [["a"]]])
def test_other_stops_are_refused_in_one_line(folder: Path, bad: Any) -> None:
    with pytest.raises(TinylaneError, match=r"stop is .*; expected texts that are not empty"):
        drawing(folder, "a", bad)


@pytest.mark.parametrize("flag", ["--stop", "--extra-eos-token"])
def test_a_special_token_is_a_flag_s_value(ask: Any, folder: Path, flag: str) -> None:
    """mlx-lm has --extra-eos-token; the saved run can be read again."""
    id = tinylane.load(folder, "numpy").tokenizer.core.token_to_id(TURN)
    words = ["generate", "--model", str(folder), "--prompt", "a", "--max-tokens", "4", "--json"]
    saved = str(folder / "saved.json")
    words += ["--logit-bias", f"{id}:{FORCE}", "--temp", "0", "--save", saved]
    for name in [TURN] + [str(id)] * (flag == "--extra-eos-token"):
        lane = lane_of(ask(*words, flag, name))
        assert (lane["tokens"], lane["finish_reason"]) == ([id], "stop")
        assert ask("replay", saved)[0] == 0
    assert lane_of(ask(*words))["finish_reason"] == "length"


def lane_of(answer: tuple[int, str, str]) -> dict[str, Any]:
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)["lanes"][0]


def test_a_token_that_the_model_lacks_is_named(ask: Any, folder: Path) -> None:
    words = ["generate", "--model", str(folder), "--prompt", "a", "--extra-eos-token"]
    for word in ("<|none|>", "420", ""):
        code, _, err = ask(*words, word)
        assert code == 2 and f"--extra-eos-token {word!r}: this model has no such" in err
    for word in ("9" * 5000, "٤٢٠"):  # more digits than Python turns into a number; no ASCII digits
        code, _, err = ask(*words, word)
        assert code == 2 and "this model has no such token" in err and "Traceback" not in err
