"""What is checked of a `tokenizer.json` before the `tokenizers` library sees it.

The library ends the process, or takes gigabytes, on files of a few hundred bytes: a character map
that claims 2^32 units, a subword prefix that cuts a character in two, replacements that double a
text thirty times. Expressions are left to it: its own search gives up after ten million steps.
"""

from __future__ import annotations

import json
from typing import Any

from tinylane.core.errors import TinylaneError, show
from tinylane.files.io import unique_keys

PLAIN, EACH = 1 << 20, 256  # bytes of a file, and as many for each token: those in use take 70-140
LARGEST_GROWTH = 64  # times that normalizing, or decoding, may lengthen a text
MOST_STEPS = 256  # entries of all lists in a post-processor
LONGEST_ADDED = 1 << 20  # characters of all added tokens: the library's automaton takes 75 times it

_KNOWN = {
    "normalizer": "Sequence NFC NFD NFKC NFKD Nmt Lowercase Strip StripAccents Prepend Replace "
    "BertNormalizer ByteLevel",
    "decoder": "Sequence BPEDecoder ByteLevel WordPiece Metaspace CTC Replace Fuse Strip "
    "ByteFallback",
}


def largest(vocab: int | None, limit: int) -> int:
    """Bytes that the tokenizer.json of a model of `vocab` tokens may have, at most `limit`."""
    return limit if vocab is None else min(limit, PLAIN + EACH * vocab)


def check_tokenizer(source: str, path: str) -> None:
    """Raise TinylaneError, naming `path`, for what the library should not be asked to read."""
    try:
        # The library acts on the first of two equal keys, and Python would show the last.
        _check(json.loads(source, object_pairs_hook=unique_keys))
    except TinylaneError as error:
        raise TinylaneError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise TinylaneError(f"{path} is not a tokenizer: {error}") from None


def _check(raw: Any) -> None:
    if not isinstance(raw, dict):
        raise TinylaneError(f"not a tokenizer but {show(raw, 40)}")
    for part, known in _KNOWN.items():
        growth = 1.0 if raw.get(part) is None else _growth(raw[part], part, known.split())
        if growth > LARGEST_GROWTH:
            raise TinylaneError(f"its {part} lengthens a text {growth:.3g} times; refused")
    if (steps := _entries(raw.get("post_processor"))) > MOST_STEPS:
        raise TinylaneError(f"its post-processor has {steps:,} parts, limit {MOST_STEPS}")
    model = raw.get("model")
    if isinstance(model, dict) and model.get("type") != "WordPiece":
        prefix = model.get("continuing_subword_prefix")
        if prefix not in (None, ""):
            raise TinylaneError(f"continuing_subword_prefix {show(prefix, 40)} is not implemented")
    added = raw.get("added_tokens")
    tokens = added if isinstance(added, list) else []  # the library says what else is wrong
    texts = [token.get("content") for token in tokens if isinstance(token, dict)]
    length = sum(len(text) for text in texts if isinstance(text, str))
    if length > LONGEST_ADDED:
        raise TinylaneError(f"added tokens of {length:,} characters, limit {LONGEST_ADDED:,}")


def _growth(step: Any, part: str, kinds: list[str]) -> float:
    """How many times longer a step may make a text."""
    kind = step.get("type") if isinstance(step, dict) else None
    if kind not in kinds:
        raise TinylaneError(f"{part} {show(kind or step, 40)} is not implemented")
    if kind == "Sequence":
        inner, growth = step.get(part + "s"), 1.0
        for one in inner if isinstance(inner, list) else ():
            growth *= _growth(one, part, kinds)
            if growth > LARGEST_GROWTH:
                break
        return growth
    if kind == "Prepend":
        return 1.0 + _length(step.get("prepend"))
    if kind == "Replace":
        pattern, new = step.get("pattern"), _length(step.get("content"))
        plain = _length(pattern.get("String")) if isinstance(pattern, dict) else 0
        return max(1.0, new / plain) if plain else 1.0 + new  # an expression may match nothing
    return 4.0 if (part, kind) == ("normalizer", "ByteLevel") else 1.0


def _length(text: Any) -> int:
    return len(text) if isinstance(text, str) else 0


def _entries(value: Any) -> int:
    """Entries of all lists in a value."""
    if isinstance(value, dict):
        return sum(map(_entries, value.values()))
    return len(value) + sum(map(_entries, value)) if isinstance(value, list) else 0
