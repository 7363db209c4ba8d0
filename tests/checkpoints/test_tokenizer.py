"""Claims about text: what is read, and what a prompt becomes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from helpers_text import BOS, EOS, KINDS, TURN, byte_level, llama2, word_level
from helpers_text import write_folder as folder_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Core
from tokenizers import processors

from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.errors import TinylaneError

CHATML = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% if think is defined and not think %}"
    "<think></think>{% endif %}{% endif %}"
)
TOKENIZERS = {name: Tokenizer(Core.from_str(make())) for name, make in KINDS.items()}
SUITS = settings(max_examples=60, deadline=None)


def one_line_error(error: pytest.ExceptionInfo[TinylaneError], *words: str) -> None:
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value), str(error.value)


# ------------------------------------------------------------------------------------------ ids


@pytest.mark.parametrize("name", ["byte_level", "llama2", "metaspace"])
@given(text=st.text(max_size=40))
@example(text="👨‍👩‍👧‍👦 日本語 naïve\t\n")
@SUITS
def test_text_survives_encoding_and_decoding(name, text):
    """Any text that the tokenizer does not normalise comes back from its ids."""
    tok = TOKENIZERS[name]
    if "▁" in text or any(special in text for special in (BOS, EOS, "<unk>", TURN)):
        return
    if name == "metaspace" and text.startswith(" "):  # it adds no space where there is one
        return
    assert tok.decode(tok.encode(text)) == text


def test_encode_adds_no_special_tokens_and_reads_those_in_the_text():
    tok = TOKENIZERS["llama2"]
    assert tok.encode("swap")[0] != 1
    assert tok.encode(f"{BOS}swap")[0] == 1


def test_ids_that_the_tokenizer_lacks_decode_to_nothing():
    """A model's padded vocabulary can be sampled; its extra rows are no text."""
    tok = TOKENIZERS["byte_level"]
    assert tok.decode([tok.vocab_size + 5, *tok.encode("ball")]) == "ball"
    assert tok.is_special(tok.vocab_size + 5)
    with pytest.raises(TinylaneError) as error:
        tok.decode([-1])
    one_line_error(error, "-1")


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TinylaneError) as error:
        TOKENIZERS["byte_level"].encode("ab\ud800")
    one_line_error(error, "character 2")


def test_a_token_beyond_the_models_vocabulary_is_refused_when_it_is_used(tmp_path):
    """Added tokens beyond the embedding (a pad token, often) hurt only the text that has them."""
    size = Core.from_str(byte_level()).get_vocab_size(with_added_tokens=False)
    tok = Tokenizer.from_folder(folder_of(tmp_path, byte_level()), vocab=size)
    assert tok.decode(tok.encode("a ball")) == "a ball"
    with pytest.raises(TinylaneError) as error:
        tok.encode(f"a {TURN}")
    one_line_error(error, TURN, f"ends at {size - 1}")
    core = Core.from_str(with_bos_processor())
    with pytest.raises(TinylaneError):
        Tokenizer(core, {"bos_token": BOS}, vocab=size).prompt_ids("a ball")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_by_name(tmp_path):
    with pytest.raises(TinylaneError) as error:
        Tokenizer.from_folder(folder_of(tmp_path, word_level()), vocab=6)
    one_line_error(error, "'B'", "id 6", str(tmp_path))


def test_a_tokenizer_that_lacks_the_models_ids_is_refused(tmp_path):
    folder = folder_of(tmp_path, word_level())
    assert Tokenizer.from_folder(folder, vocab=700).vocab_size == 13  # padding, as Qwen's 151,936
    with pytest.raises(TinylaneError) as error:
        Tokenizer.from_folder(folder, vocab=32000)
    one_line_error(error, "13 tokens", "32000")


def test_eos_ids_are_the_union_of_the_configs_and_the_tokenizers(tmp_path):
    """One source replacing another left generation without an end (mlx-vlm 2112)."""
    folder = folder_of(tmp_path, byte_level(), {"eos_token": {"content": EOS, "special": True}})
    tok = Tokenizer.from_folder(folder, config_eos=(7, 9))
    assert tok.eos_ids == {7, 9, tok.core.token_to_id(EOS)}
    assert Tokenizer.from_folder(folder_of(tmp_path / "b", byte_level())).eos_ids == frozenset()


def test_special_names_come_from_either_file(tmp_path):
    """As in transformers: the map wins, and is not read beside a list of added tokens."""
    config = {"eos_token": EOS, "bos_token": None}
    more = {"special_tokens_map__json": {"eos_token": TURN, "bos_token": {"content": BOS}}}
    folder = folder_of(tmp_path, byte_level(), config, **more)
    assert Tokenizer.from_folder(folder).names == {"eos_token": TURN, "bos_token": BOS}
    folder = folder_of(tmp_path, byte_level(), {**config, "added_tokens_decoder": {}}, **more)
    assert Tokenizer.from_folder(folder).names == {"eos_token": EOS}


def test_a_token_that_is_named_special_is_never_plain_text(tmp_path):
    """Some files add their end token without marking it; transformers marks it by its role."""
    core = Core.from_str(word_level())
    core.add_tokens(["<end>"])
    tok = Tokenizer.from_folder(folder_of(tmp_path, core.to_str(), {"eos_token": "<end>"}))
    assert tok.encode("swap<end>")[-1] in tok.eos_ids
    assert tok.decode(tok.encode("swap<end>")) == "swap"


def test_saved_truncation_and_padding_do_not_touch_prompts():
    core = Core.from_str(word_level())
    core.enable_truncation(2)
    core.enable_padding(length=64)
    assert len(Tokenizer(core).encode("swap A B C")) == 4


# --------------------------------------------------------------------------------------- prompts


def with_bos_processor() -> str:
    core = Core.from_str(byte_level())
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        pair=None,
        special_tokens=[(token, core.token_to_id(token)) for token in (BOS, EOS)],
    )
    return core.to_str()


@pytest.mark.parametrize(
    ("processor", "add_bos", "expected"),
    [(True, None, 1), (True, True, 1), (True, False, 0), (False, True, 1), (False, None, 0)],
)
def test_raw_text_gets_bos_once_as_the_tokenizer_says(tmp_path, processor, add_bos, expected):
    """By `add_bos_token`, else by the post-processor; never twice; never an EOS behind."""
    config = {"bos_token": BOS, "eos_token": EOS, "add_bos_token": add_bos}
    source = with_bos_processor() if processor else byte_level()
    tok = Tokenizer.from_folder(folder_of(tmp_path, source, config))
    ids = tok.prompt_ids("a ball", raw=True)
    assert ids.count(tok.bos_id) == expected
    assert ids[-1] not in tok.eos_ids
    assert tok.prompt_ids(f"{BOS}a ball", raw=True).count(tok.bos_id) == 1


def test_a_checkpoint_without_template_takes_the_prompt_as_raw_text():
    tok = TOKENIZERS["llama2"]
    assert tok.prompt_ids("swap") == tok.prompt_ids("swap", raw=True) == [1, *tok.encode("swap")]
    assert tok.prompt_ids("swap", prefill=" a") == [1, *tok.encode("swap a")]


def test_a_template_that_writes_bos_itself_does_not_double_it(tmp_path):
    config = {"bos_token": BOS, "add_bos_token": True, "chat_template": "{{ bos_token }}" + CHATML}
    tok = Tokenizer.from_folder(folder_of(tmp_path, with_bos_processor(), config))
    ids = tok.prompt_ids("a ball")
    assert ids[0] == tok.bos_id
    assert ids.count(tok.bos_id) == 1


def test_chat_prompts_hold_system_user_prefill_and_template_arguments(tmp_path):
    tok = Tokenizer.from_folder(folder_of(tmp_path, byte_level(), {"chat_template": CHATML}))
    text = tok.decode(
        tok.prompt_ids(
            "Where?", system="Be brief.", prefill="Under", template_args={"think": False}
        ),
        skip_special=False,
    )
    # As in mlx-lm: what only the template's opening of a turn writes is not there.
    said = f"{TURN}system\nBe brief.{TURN}\n{TURN}user\nWhere?{TURN}\n{TURN}assistant\n"
    assert text == f"{said}Under"
    opened = tok.prompt_ids("Where?", system="Be brief.", template_args={"think": False})
    assert tok.decode(opened, skip_special=False) == f"{said}<think></think>"
    messages = [{"role": "user", "content": "Where?", "tool_calls": None}]
    assert tok.prompt_ids(messages) == tok.prompt_ids("Where?")
    assert tok.prompt_ids("Where?", raw=True) == tok.encode("Where?")


def test_a_template_argument_without_effect_is_reported(tmp_path):
    """`enable_thinking` without effect, and nobody said so (mlx-swift-lm 154)."""
    tok = Tokenizer.from_folder(folder_of(tmp_path, byte_level(), {"chat_template": CHATML}))
    with pytest.warns(UserWarning, match="does not read 'enable_thinking'"):
        tok.prompt_ids("Where?", template_args={"enable_thinking": False})


def test_a_template_without_system_role_is_named_as_the_reason(tmp_path):
    strict = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}" + CHATML
    )
    tok = Tokenizer.from_folder(folder_of(tmp_path, byte_level(), {"chat_template": strict}))
    with pytest.raises(TinylaneError) as error:
        tok.prompt_ids("Where?", system="Be brief.")
    one_line_error(error, "no system role", "System role not supported")


def test_a_template_that_drops_the_system_prompt_is_reported(tmp_path):
    config = {"chat_template": "{{ messages[-1]['content'] }}"}
    tok = Tokenizer.from_folder(folder_of(tmp_path, byte_level(), config))
    with pytest.warns(UserWarning, match="drops the system prompt"):
        tok.prompt_ids("Where?", system="Be brief.")


def test_white_space_and_bos_alone_are_prompts(tmp_path):
    """A story begins with BOS (llama.cpp, llama2.c) or with a newline (nanoGPT)."""
    tok = Tokenizer.from_folder(folder_of(tmp_path, byte_level(), {"chat_template": CHATML}))
    newline = tok.encode("\n")
    assert tok.prompt_ids("\n", raw=True)[-1:] == newline[-1:]
    assert newline[0] in tok.prompt_ids(" \n")
    tok._prefix = [3]
    assert tok.prompt_ids("", raw=True) == [3]
    assert tok.prompt_ids("\n", raw=True) == [3, *newline]
    assert tok.prompt_ids("", raw=True, prefill="a") == [3, *tok.encode("a")]


@pytest.mark.parametrize(
    ("prompt", "options", "word"),
    [
        ("", {}, "empty"),
        ("", {"raw": True}, "empty, and there is no BOS"),
        ([], {}, "no messages"),
        ([{"content": "x"}], {}, "message 0"),
        (["x"], {}, "message 0"),
        ([{"role": "user", "content": "x"}], {"raw": True}, "raw text has no chat template"),
        ("x", {"raw": True, "system": "y"}, "system prompt"),
        ("x", {"raw": True, "template_args": {"think": True}}, "'think'"),
        ([{"role": "system", "content": "x"}], {"system": "y"}, "two system prompts"),
        ("x", {"template_args": {"messages": []}}, "'messages'"),
        ("x", {"template_args": {"think": object()}}, "plain JSON"),
    ],
)
def test_prompts_that_cannot_be_made_are_refused_in_one_line(tmp_path, prompt, options, word):
    tok = Tokenizer.from_folder(folder_of(tmp_path, byte_level(), {"chat_template": CHATML}))
    with pytest.raises(TinylaneError) as error:
        tok.prompt_ids(prompt, **options)
    one_line_error(error, word)


# ----------------------------------------------------------------------------------------- files


def test_templates_are_found_where_transformers_finds_them(tmp_path):
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "in a list"}]
    folder = folder_of(tmp_path, byte_level(), {"chat_template": named})
    assert Tokenizer.from_folder(folder).chat_template == "in a list"
    folder_of(tmp_path, None, chat_template__json={"chat_template": "in json"})
    assert Tokenizer.from_folder(folder).chat_template == "in json"
    folder_of(tmp_path, None, chat_template__jinja="in jinja")
    tok = Tokenizer.from_folder(folder)
    assert (tok.chat_template, tok.template_source) == ("in jinja", "chat_template.jinja")


def test_broken_files_are_refused_in_one_line_that_names_them(tmp_path):
    good = json.loads(byte_level())
    unknown_merge = {**good, "model": {**good["model"], "merges": [["zz", "qq"]]}}
    cases = {
        "nothing": (None, None, "no tokenizer.json"),
        "empty": ("", None, "not a tokenizer"),
        "text": ("hello", None, "not a tokenizer"),
        "array": ("[]", None, "not a tokenizer"),
        "nomodel": ('{"version": "1.0"}', None, "not a tokenizer"),
        "merges": (json.dumps(unknown_merge), None, "not a tokenizer"),
        "deep": ("[" * 100_000, None, "not a tokenizer"),
        "eos": (byte_level(), {"eos_token": "<nowhere>"}, "<nowhere>"),
        "template": (byte_level(), {"chat_template": 3}, "chat_template is 3; expected"),
        "named": (
            byte_level(),
            {"chat_template": [{"name": "rag"}]},
            "chat_template is None; expected",
        ),
    }
    for name, (tokenizer, config, word) in cases.items():
        with pytest.raises(TinylaneError) as error:
            Tokenizer.from_folder(folder_of(tmp_path / name, tokenizer, config))
        one_line_error(error, word, name)
    for name, content in {"a": "{", "b": "[1]", "c": '{"x": ' * 100_000, "d": "1" * 5000}.items():
        folder = folder_of(tmp_path / name, byte_level(), tokenizer_config__json=content)
        with pytest.raises(TinylaneError) as error:
            Tokenizer.from_folder(folder)
        one_line_error(error, "tokenizer_config.json")


def test_a_folder_with_only_a_sentencepiece_file_says_what_to_do(tmp_path):
    with pytest.raises(TinylaneError) as error:
        Tokenizer.from_folder(folder_of(tmp_path, None, tokenizer__model="x"))
    one_line_error(error, "tokenizer.model only", "save_pretrained")


def test_files_that_are_not_utf8_too_large_or_not_files_are_refused(tmp_path, monkeypatch):
    path = folder_of(tmp_path, byte_level()) / "tokenizer.json"
    monkeypatch.setattr("tinylane.checkpoints.tokenizer_files.LARGEST_TOKENIZER", 1000)
    with pytest.raises(TinylaneError) as error:
        Tokenizer.from_folder(tmp_path)
    one_line_error(error, "larger than 1,000 bytes")
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(TinylaneError) as error:
        Tokenizer.from_folder(tmp_path)
    one_line_error(error, "not UTF-8 text (byte 7)")
    path.unlink()
    os.mkfifo(path)  # a plain open() would wait for a writer
    with pytest.raises(TinylaneError) as error:
        Tokenizer.from_folder(tmp_path)
    one_line_error(error, "not a regular file")
    path.unlink()
    path.mkdir()
    with pytest.raises(TinylaneError) as error:
        Tokenizer.from_folder(tmp_path)
    one_line_error(error, "tokenizer.json")


@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
@SUITS
def test_a_damaged_tokenizer_file_is_read_or_refused(tmp_path_factory, place, byte):
    """One changed byte: a tokenizer or a TinylaneError, never another exception."""
    data = bytearray(llama2().encode())
    data[place % len(data)] = byte
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "tokenizer.json").write_bytes(data)
    try:
        Tokenizer.from_folder(folder).prompt_ids("swap a ball 🎾")
    except TinylaneError as error:
        assert "\n" not in str(error)


def test_importing_the_tokenizer_imports_no_library():
    names = "tinylane.checkpoints.tokenizer, tinylane.checkpoints.chat_template"
    code = f"import sys, {names}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tokenizers", "jinja2", "mlx", "transformers", "rich"} & set(done.stdout.split())
