"""Claims about text on its way to a terminal: nothing that it obeys is left in it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tinylane.files.display import one_line, printable


@given(text=st.text(alphabet=st.characters(exclude_categories=()), max_size=30))
@settings(max_examples=60, deadline=None)
def test_printable_text_has_nothing_that_a_terminal_obeys(text):
    shown = printable(text)
    for character in shown:
        code = ord(character)
        assert character in "\n\t" or code >= 0x20
        assert not 0x7F <= code < 0xA0
        assert not 0x202A <= code <= 0x202E
        assert not 0x2066 <= code <= 0x2069
    shown.encode("utf-8")
    assert printable(shown) == shown


def test_printable_keeps_ordinary_text_and_shows_the_rest():
    assert printable("naïve 日本 👨‍👩‍👧\n\t") == "naïve 日本 👨‍👩‍👧\n\t"
    assert printable("\x1b]0;x\x07\r\x9b\u202e\ud800") == r"\x1b]0;x\x07\x0d\x9b\u202e\ud800"
    assert one_line("a\n b\x1b" + "c" * 400, 20) == r"a b\x1bcccccccccc..."
