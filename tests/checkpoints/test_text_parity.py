"""Claims: files that speak of the same tokens, and templates, are read as transformers reads them.

What transformers made of them was recorded (`tests/record/record_text.py`); where it is installed
it is asked again.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from helpers_text import byte_level, write_folder
from template_cases import cases, lasts, ours, theirs
from tokenizer_cases import FOLDERS, NEXT, decoder, seen_in_ours, seen_in_theirs, token, write

from tinylane.checkpoints.export import copy_beside
from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.errors import TinylaneError

RECORD = json.loads((Path(__file__).parents[1] / "data" / "text.json").read_text("utf-8"))


@pytest.mark.filterwarnings("ignore:.*gives '<new>' the id")
@pytest.mark.parametrize("name", list(FOLDERS))
def test_tokens_flags_and_names_of_all_files_are_those_of_transformers(
    name: str, tmp_path: Path
) -> None:
    """`<think>` only in tokenizer_config.json was cut into letters without a word."""
    assert seen_in_ours(write(tmp_path, name)) == RECORD["folders"][name]


def test_templates_get_what_transformers_gives_them() -> None:
    """`tools is not none` was true where no tools were given, and the prompt was refused."""
    seen = {name: ours(*case) for name, *case in cases() if lasts(name)}
    assert seen == RECORD["templates"]


@pytest.mark.filterwarnings("ignore:.*gives '<new>' the id")
def test_the_installed_transformers_makes_the_same_of_them(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    for k, name in enumerate(FOLDERS):
        folder = write(tmp_path / str(k), name)
        assert seen_in_ours(folder) == seen_in_theirs(folder), name
    for name, *case in cases():  # those with today's date too
        assert ours(*case) == theirs(*case), name


def test_an_id_that_a_token_cannot_get_is_said(tmp_path: Path) -> None:
    """transformers gives it the next id without a word, and the model knows nothing of that one."""
    folder = write_folder(tmp_path, byte_level(), decoder(token("<new>"), first=NEXT + 7))
    with pytest.warns(UserWarning, match=f"'<new>' the id {NEXT + 7}; .* it has {NEXT}"):
        Tokenizer.from_folder(folder)


def test_a_listed_token_that_the_model_has_no_row_for_stays_text(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, byte_level(), {"extra_special_tokens": ["<new>"]})
    for vocab, tokens in ((NEXT, 5), (NEXT + 1, 1)):
        tok = Tokenizer.from_folder(folder, vocab=vocab)
        assert len(tok.encode("<new>")) == tokens


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"added_tokens_decoder": [1]}, "expected a JSON object"),
        ({"added_tokens_decoder": {"x": token("a")}}, "the id 'x'"),
        ({"added_tokens_decoder": {"-1": token("a")}}, "the id '-1'"),
        ({"added_tokens_decoder": {"405": "a"}}, 'expected {"content": text'),
        ({"added_tokens_decoder": {"405": {"content": ""}}}, "expected"),
        ({"added_tokens_decoder": {"405": {"content": "a", "special": "yes"}}}, "expected"),
        ({"added_tokens_decoder": {"405": token("a\ud800")}}, "ud800"),
        ({"added_tokens_decoder": {"405": token("a" * (1 << 20) + "b")}}, "characters"),
    ],
)
def test_added_tokens_that_are_none_are_refused_in_one_line(
    config: dict[str, Any], word: str, tmp_path: Path
) -> None:
    with pytest.raises(TinylaneError) as error:
        Tokenizer.from_folder(write_folder(tmp_path, byte_level(), config))
    assert word in str(error.value) and str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_added_tokens_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, byte_level(), {}, added_tokens__json='{"a": "405x"}')
    with pytest.raises(TinylaneError, match=r"added_tokens\.json holds the id '405x'"):
        Tokenizer.from_folder(folder)


def test_a_byte_level_vocabulary_is_decoded_as_bytes_whatever_decoder_a_file_has(
    tmp_path: Path,
) -> None:
    """Broken conversions kept sentencepiece's decoder: spaces were shown as Ġ (mlx-lm 1041)."""
    raw = json.loads(byte_level())
    text = "hello how é 杯子 🎾"
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    sequence = {
        "type": "Sequence",
        "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, strip],
    }
    cut = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}]}
    nested = {**cut, "pretokenizers": [*cut["pretokenizers"], raw["pre_tokenizer"]]}
    for decoder_, cuts in ((sequence, raw["pre_tokenizer"]), (None, nested), (replace, nested)):
        source = json.dumps({**raw, "decoder": decoder_, "pre_tokenizer": cuts})
        tok = Tokenizer.from_folder(write_folder(tmp_path, source))
        ids = tok.encode(text)
        stream = tok.stream()
        assert tok.decode(ids) == text
        assert "".join(map(stream.push, ids)) + stream.flush() == text


def test_a_prefill_begins_the_assistant_s_turn(tmp_path: Path) -> None:
    """It was glued to the user's turn where a template writes no opening (transformers 36404)."""
    turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tok = Tokenizer.from_folder(write_folder(tmp_path, byte_level(), {"chat_template": turns}))

    def text(prompt: Any, **options: Any) -> str:
        return tok.decode(tok.prompt_ids(prompt, **options), skip_special=False)

    assert text("hi", prefill="Sure ") == "user: hi\nassistant: Sure "
    asked = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Su"}]
    assert text(asked, template_args={"continue_final_message": True}) == (
        "user: hi\nassistant: Su"
    )
    parts = [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image"}]}]
    assert text(parts, template_args={"continue_final_message": True}) == (
        "user: [{'type': 'text', 'text': 'hi"
    )
    assert parts[0]["content"][0]["text"] == "hi"  # the caller's own message is left alone
    with pytest.raises(TinylaneError, match="no text in 'reasoning_content'"):
        text("hi", template_args={"continue_final_message": "reasoning_content"})


def test_the_templates_of_a_folder_are_all_found(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, byte_level(), {"chat_template": "in config"})
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("R")
    tok = Tokenizer.from_folder(folder)
    assert (tok.templates, tok.chat_template) == ({"rag": "R"}, None)
    with pytest.warns(UserWarning, match="does not read 'documents'"):
        ids = tok.prompt_ids("x", template_args={"chat_template": "rag", "documents": []})
    assert tok.decode(ids) == "R"
    with pytest.raises(TinylaneError) as error:
        tok.prompt_ids("x")
    assert "no chat template 'default'; this checkpoint has ['rag']" in str(error.value)
    (folder / "chat_template.jinja").write_text("D")
    tok = Tokenizer.from_folder(folder)
    assert tok.templates == {"default": "D", "rag": "R"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tok.decode(tok.prompt_ids("x", template_args={"chat_template": "{{ 1 }}"})) == "1"
    (tmp_path / "copy").mkdir()
    copy_beside(folder, tmp_path / "copy")
    assert Tokenizer.from_folder(tmp_path / "copy").templates == tok.templates
