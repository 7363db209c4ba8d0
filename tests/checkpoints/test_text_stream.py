"""Claims about streams: a lane's text, id by id, loses nothing and ends where it should."""

from __future__ import annotations

import itertools

import pytest
from helpers_text import KINDS, SENTENCES
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Core

from tinylane.checkpoints.text_stream import TextStream
from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.core.errors import TinylaneError

TOKENIZERS = {name: Tokenizer(Core.from_str(make())) for name, make in KINDS.items()}
SUITS = settings(max_examples=60, deadline=None)


def streamed(tok: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[str, TextStream]:
    stream = TextStream(tok, stop)
    return "".join([stream.push(id) for id in ids] + [stream.flush()]), stream


@pytest.mark.parametrize("name", list(KINDS))
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_stream_of_any_ids_adds_up_to_their_text(name, data):
    """Characters were cut at the flush, spaces lost between pushes (mlx-vlm 1778)."""
    tok = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tok.vocab_size + 3), max_size=60))
    text, stream = streamed(tok, ids)
    assert text == tok.decode(ids) == stream.text
    assert not stream.stopped


@pytest.mark.parametrize("name", ["byte_level", "byte_level_stripped", "llama2", "metaspace"])
@given(text=st.text(max_size=30))
@example(text="👨‍👩‍👧‍👦 日本語 naïve")
@SUITS
def test_a_stream_of_a_text_never_shows_half_a_character(name, text):
    """Every partial text is a beginning of the whole: no replacement character on the way."""
    tok = TOKENIZERS[name]
    ids = tok.encode(text)
    whole, stream = tok.decode(ids), TextStream(tok)
    shown = ""
    for id in ids:
        shown += stream.push(id)
        assert whole.startswith(shown)
        assert stream.text == shown
    assert shown + stream.flush() == whole


def test_a_stream_with_broken_decoding_is_noticed():
    """Negative control: token by token decoding loses characters and spaces."""
    for name in ("byte_level", "llama2"):
        tok = TOKENIZERS[name]
        ids = tok.encode("swap a 🦊")
        assert "".join(tok.decode([id]) for id in ids) != tok.decode(ids)


def test_invalid_bytes_do_not_hold_a_byte_level_stream_back():
    """Only an unfinished character waits; a byte that cannot begin one is shown at once."""
    tok = TOKENIZERS["byte_level"]
    byte = {bytes_: id for id in range(300) if len(bytes_ := tok.token_bytes(id)) == 1}
    stream = TextStream(tok)
    assert stream.push(byte[b"\xff"]) == "\ufffd"
    assert stream.push(byte[b"\xe2"]) == ""
    assert stream.push(byte[b"a"]) == "\ufffda"


def test_word_tokens_keep_their_spaces_in_a_stream():
    tok = TOKENIZERS["word_level"]
    stream = TextStream(tok)
    assert [stream.push(id) for id in tok.encode("swap A B")] == ["swap", " A", " B"]


def cut_by_character(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The definition: add characters until a stop string is complete, cut the longest complete."""
    for end in range(1, len(text) + 1):
        complete = [word for word in stop if text[:end].endswith(word)]
        if complete:
            return text[: end - len(max(complete, key=len))], True
    return text, False


@pytest.mark.parametrize("name", ["byte_level", "llama2", "word_level"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_stop_strings_cut_the_same_text_however_the_tokens_fall(name, data):
    """Inside a token, across tokens, several at once, one within another."""
    tok = TOKENIZERS[name]
    ids = tok.encode(data.draw(st.text(alphabet="swap AB🦊\n", max_size=30)))
    whole = tok.decode(ids)
    word = st.text(alphabet="swap AB🦊\n", min_size=1, max_size=4)
    stop = tuple(data.draw(st.lists(word, max_size=3)))
    text, stream = streamed(tok, ids, stop)
    assert (text, stream.stopped) == cut_by_character(whole, stop)
    assert stream.text == text


def test_what_may_begin_a_stop_string_waits_and_is_not_lost():
    tok = TOKENIZERS["byte_level"]
    stream = TextStream(tok, ("###", "\n\n"))
    shown = "".join(stream.push(id) for id in tok.encode("a ball ##"))
    assert shown == "a ball "
    assert stream.push(tok.encode(".")[0]) == "##."
    for id in tok.encode("x\n"):
        last = stream.push(id)
    assert last == ""
    assert stream.flush() == "\n"
    assert not stream.stopped


def test_nothing_follows_a_stop_string():
    tok = TOKENIZERS["byte_level"]
    text, stream = streamed(tok, tok.encode("ball. END and more"), ("END",))
    assert (text, stream.stopped) == ("ball. ", True)
    assert stream.push(tok.encode("x")[0]) == ""
    assert stream.flush() == ""
    assert stream.text == "ball. "


@pytest.mark.parametrize("stop", [("",), (3,), ("a", "")])
def test_stop_strings_that_are_none_are_refused(stop):
    with pytest.raises(TinylaneError, match="stop strings") as error:
        TextStream(TOKENIZERS["byte_level"], stop)
    assert "\n" not in str(error.value)
    assert TextStream(TOKENIZERS["byte_level"], "ab")._stop == ("ab",)


@pytest.mark.parametrize("name", list(KINDS))
def test_a_long_stream_costs_the_same_per_token(name):
    """Decoding all of it at each token would be 64 times the work for 8 times the length."""
    tok = TOKENIZERS[name]
    ids = list(itertools.islice(itertools.cycle(tok.encode(" ".join(SENTENCES))), 8000))
    longest = 0
    stream = TextStream(tok, ("never this",))
    for id in ids:
        stream.push(id)
        longest = max(longest, len(stream._window))
    assert longest < 64
    stream.flush()
    assert stream.text == tok.decode(ids)


def test_streaming_does_not_decode_what_it_has_said_again(monkeypatch):
    """A step of a small model is a millisecond; text must not be what one waits for."""
    decoded = []
    original = Tokenizer.decode

    def decode(self, ids, *args, **settings):
        decoded.append(len(ids))
        return original(self, ids, *args, **settings)

    monkeypatch.setattr(Tokenizer, "decode", decode)
    for tok in TOKENIZERS.values():
        ids = tok.encode(" ".join(SENTENCES))[:500] * 4
        decoded.clear()
        streamed(tok, ids, ("END", "\n\n\n"))
        assert sum(decoded) < 20 * len(ids)  # decoding everything at each token: 1000 * len(ids)
