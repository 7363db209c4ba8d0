"""A lane's text, id by id: `TextStream` decodes incrementally and watches for stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any, Protocol

from tinylane.core.errors import TinylaneError


class Decoder(Protocol):
    """The part of `Tokenizer` that a stream uses."""

    core: Any
    byte_level: bool
    byte_fallback: bool
    lossy_window: bool

    def decode(self, ids: Iterable[int]) -> str: ...
    def is_special(self, id: int) -> bool: ...


class TextStream:
    """The text of one lane, id by id; what `push` and `flush` return adds up to `decode(all ids)`.

    A character is returned when all its bytes have come. Text that may be the beginning of a stop
    string waits until it cannot be one any more. A stop string ends the text before it, wherever it
    lies across tokens: the first one to be complete, or the longest of those complete at once.
    With byte-fallback tokenizers, a run of byte tokens waits for its end, since the tokenizer
    decodes it as a whole. Not handled: decoders that look ahead over text (a regular expression
    with `$`) or strip several spaces; none of the supported families has one.
    """

    def __init__(self, tok: Decoder, stop: Iterable[str] = ()) -> None:
        if isinstance(stop, str):
            stop = (stop,)
        self._stop = tuple(stop)
        if not all(isinstance(text, str) and text for text in self._stop):
            raise TinylaneError(f"stop strings {self._stop}; expected texts that are not empty")
        self.stopped = False
        self._tok = tok
        self._parts: list[str] = []  # returned
        self._held = ""  # decoded, and may begin a stop string
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        # Decoded again with each token. The ids from `_read` on are not returned yet; those before
        # are kept because a token's text can depend on its left neighbour (spaces).
        self._window: list[int] = []
        self._read = 0

    @property
    def text(self) -> str:
        """All the text returned so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def push(self, id: int) -> str:
        """Add a token; the text that became final."""
        id = int(id)
        if self.stopped or self._tok.is_special(id):
            return ""
        if self._tok.byte_level:
            return self._emit(self._bytes.decode(bytes_of(self._tok.core.id_to_token(id) or "")))
        self._window.append(id)
        if self._tok.byte_fallback and _is_byte(self._tok.core.id_to_token(id)):
            return ""
        return self._emit(self._advance(final=False))

    def flush(self) -> str:
        """End the text; what was held back."""
        if self.stopped:
            return ""
        if self._tok.byte_level:
            rest = self._bytes.decode(b"", final=True)
        else:
            rest = self._advance(final=True)
        return self._emit(rest, final=True)

    def _advance(self, final: bool) -> str:
        """The window's text beyond what was returned, if it will not change any more."""
        before = self._tok.decode(self._window[: self._read]) if self._read else ""
        now = self._tok.decode(self._window)
        if len(now) <= len(before) or (
            self._tok.lossy_window and now.endswith("\ufffd") and not final
        ):
            return ""
        self._window = self._window[self._read :]
        self._read = len(self._window)
        return now[len(before) :]

    def _emit(self, new: str, final: bool = False) -> str:
        """Pass on decoded text, up to a stop string or what may be the beginning of one."""
        held = self._held + new
        ends = [
            (start + len(stop), start) for stop in self._stop if (start := held.find(stop)) >= 0
        ]
        if ends:
            self.stopped = True
            kept, self._held = held[: min(ends)[1]], ""
        else:
            cut = len(held) if final else len(held) - self._beginning(held)
            kept, self._held = held[:cut], held[cut:]
        if kept:
            self._parts.append(kept)
        return kept

    def _beginning(self, held: str) -> int:
        """Length of the longest end of `held` that a stop string begins with."""
        longest = min(len(held), max(map(len, self._stop), default=1) - 1)
        for length in range(longest, 0, -1):
            tail = held[-length:]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0


def _is_byte(token: str | None) -> bool:
    """Whether ByteFallback reads the token as a byte: `<0xE2>`."""
    return token is not None and len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def bytes_of(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:  # an added token holds its text as it is
        return token.encode("utf-8")


def _byte_characters() -> dict[str, int]:
    """GPT-2's table: the character that stands for each byte in a byte-level vocabulary."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {
        chr(256 + place): byte for place, byte in enumerate(hidden)
    }


_BYTE_OF = _byte_characters()
