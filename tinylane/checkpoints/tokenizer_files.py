"""What a checkpoint's text files say: tokenizer.json and the small files beside it, checked.

`read_tokenizer` gives the `tokenizers` library only what it should be asked to read. Around that
file stand the names of special tokens, tokens that it lacks or marks otherwise, and chat templates.
Where two files disagree, the one that transformers follows counts.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.checkpoints.hub import MORE_TEMPLATES
from tinylane.core.errors import TinylaneError, show
from tinylane.files.display import one_line
from tinylane.files.io import check_bounds, inside, read_text, unique_keys

if TYPE_CHECKING:
    import tokenizers

MIB = 1 << 20
LARGEST_TOKENIZER = 64 * MIB  # bytes; Gemma's, the largest in use, has 34 MB
LARGEST_JSON = 8 * MIB
LARGEST_TEMPLATE = MIB
PLAIN, EACH = MIB, 256  # bytes of a file, and more for each token: those in use take 70 to 140
LARGEST_GROWTH = 64  # times that normalizing, or decoding, may lengthen a text
MOST_TEMPLATES = 64
MOST_STEPS = 256  # entries of all lists in a post-processor
LONGEST_ADDED = 1 << 20  # characters of all added tokens: the library's automaton takes 75 times it

EXTRA = ("extra_special_tokens", "additional_special_tokens")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

# Set by the command line, for one line per error; a library's other threads may write there too.
SILENT_PANICS = False


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn what the `tokenizers` library raises into a TinylaneError that begins with `what`."""
    stderr = -1
    if SILENT_PANICS:  # the library writes panics to descriptor 2 before it raises them
        stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    try:
        yield
    except BaseException as error:
        # That is plain Exception, or PanicException, which derives from BaseException and has no
        # importable name. Anything else (Ctrl-C, no memory) is not about the file.
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise TinylaneError(f"{what}: {one_line(str(error))}") from None
        raise
    finally:
        if stderr >= 0:
            os.dup2(stderr, 2)
            os.close(stderr)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object out of a file, empty if there is no such file."""
    if not os.path.exists(inside(path.parent, path.name)):
        return {}
    source = read_text(path, LARGEST_JSON)
    check_bounds(source, str(path))
    try:
        value = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise TinylaneError(f"{path} is not JSON: {one_line(str(error))}") from None
    if not isinstance(value, dict):
        raise TinylaneError(f"{path} holds {show(value)}; expected a JSON object")
    return value


def read_tokenizer(folder: Path, vocab: int | None) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Core

    path = inside(folder, "tokenizer.json")
    if not os.path.exists(path):
        has = " (it has tokenizer.model only)" if (folder / "tokenizer.model").exists() else ""
        raise TinylaneError(
            f"{folder} has no tokenizer.json{has}: save it with "
            "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    most = LARGEST_TOKENIZER if vocab is None else min(LARGEST_TOKENIZER, PLAIN + EACH * vocab)
    source = read_text(path, most)
    check_tokenizer(source, str(path))
    with refusing(f"{path} is not a tokenizer"):
        return Core.from_str(source)


def special_tokens(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings of the small files; and by role the special tokens that they name: `bos_token`,
    `eos_token`... are texts, or objects with a `content`.

    As in transformers: special_tokens_map.json wins over tokenizer_config.json, and is not read
    where that lists its added tokens.
    """
    settings = read_object(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in settings:
        settings |= read_object(folder / "special_tokens_map.json")
    extra = settings.get("extra_special_tokens")
    named = {**settings, **extra} if isinstance(extra, Mapping) else settings
    names = {}
    for key, value in named.items():
        text = _content(value)
        marked = key.endswith("_token") and not key.startswith("add_")
        if text is not None and (marked or key not in settings):
            if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
                raise TinylaneError(f"{key} {show(text)} is half a surrogate pair, not a text")
            names[key] = text
    return settings, names


def add_tokens(
    core: tokenizers.Tokenizer,
    folder: Path,
    settings: Mapping[str, Any],
    names: Mapping[str, str],
    vocab: int | None,
) -> None:
    """Give `core` the tokens and flags that only the small files have, as transformers does.

    Those are the tokens of `added_tokens_decoder` in tokenizer_config.json, else of
    added_tokens.json; then the special tokens that are listed without an id, if the model, of
    `vocab` ids, has rows for them. A UserWarning for an id that a
    token cannot get: ids are given in order. Raises TinylaneError for what is no token.
    """
    beside = folder / "added_tokens.json"
    if not settings.keys() & {"added_tokens_decoder", *EXTRA} and not os.path.lexists(beside):
        return
    known = core.get_added_tokens_decoder()
    listed = [text for key in EXTRA for text in _texts(settings.get(key))]
    special = {*names.values(), *listed}
    declared: dict[int, tokenizers.AddedToken] = {}
    if "added_tokens_decoder" in settings:
        source = f"{folder / 'tokenizer_config.json'}: added_tokens_decoder"
        for number, one in _items(settings["added_tokens_decoder"], source):
            declared[_id(number, source)] = _token(one, source)
    else:
        source = f"{folder / 'added_tokens.json'}"
        for text, id in _items(read_object(folder / "added_tokens.json"), source):
            declared[_id(id, source)] = _token(
                {"content": text, "special": text in special}, source
            )
        declared |= {id: token for id, token in known.items() if id in declared}
    if sum(len(token.content) for token in declared.values()) > LONGEST_ADDED:
        raise TinylaneError(f"{source}: more than {LONGEST_ADDED:,} characters of added tokens")
    marked = {token.content for token in known.values() if token.special}
    as_it_is = {repr(token) for token in known.values()}
    for id, token in sorted(declared.items()):
        if repr(token) in as_it_is:
            continue
        # The library goes on leaving out a token that was marked once.
        token.special |= token.content in special or token.content in marked
        with refusing(f"{source}: {show(token.content, 40)} cannot be a token"):
            core.add_tokens([token])
        got = core.token_to_id(token.content)
        if got != id:
            warnings.warn(
                f"{source} gives {show(token.content, 40)} the id {id}; in this tokenizer.json it "
                f"has {got}, as in transformers; text with it may mean nothing to the model",
                stacklevel=2,
            )
    added = {token.content for token in core.get_added_tokens_decoder().values()}
    for text in listed:
        room = vocab is None or core.get_vocab_size() < vocab
        if text not in added and (room or core.token_to_id(text) is not None):
            core.add_special_tokens([text])


def mark_special(core: tokenizers.Tokenizer, texts: Iterable[str]) -> set[str]:
    """Mark the texts that are tokens as special ones; all special tokens."""
    added = core.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    for text in sorted({*texts} - special):
        if core.token_to_id(text) is not None:
            core.add_special_tokens([text])
            special.add(text)
    return special


def _content(value: Any) -> str | None:
    """The text of a special token: a text itself, or an object with a `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _texts(value: Any) -> list[str]:
    given = value if isinstance(value, list) else []
    return [text for text in map(_content, given) if text]


def _items(value: Any, source: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise TinylaneError(f"{source} is {show(value, 40)}; expected a JSON object")
    return value.items()


def _id(value: Any, source: str) -> int:
    id = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 10 else value
    if type(id) is not int or not 0 <= id < 1 << 32:
        raise TinylaneError(f"{source} holds the id {show(value, 40)}; expected 0 or more")
    return id


def _token(value: Any, source: str) -> tokenizers.AddedToken:
    from tokenizers import AddedToken

    flags = {key: value.get(key) for key in FLAGS} if isinstance(value, Mapping) else {}
    text = _content(value) if flags else None
    if not text or any(flag not in (None, True, False) for flag in flags.values()):
        raise TinylaneError(f'{source} holds {show(value, 60)}; expected {{"content": text, ...}}')
    try:
        return AddedToken(text, **{key: flag for key, flag in flags.items() if flag is not None})
    except (TypeError, ValueError) as error:  # half a surrogate pair
        raise TinylaneError(f"{source}: {show(text, 40)}: {error}") from None


def find_templates(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    """The chat templates by name and the file they are from; the first of three places that has
    one, as transformers."""
    templates: dict[str, str] = {}
    path, more = inside(folder, "chat_template.jinja"), inside(folder, MORE_TEMPLATES)
    if os.path.exists(path):
        templates["default"] = read_text(path, LARGEST_TEMPLATE)
    if os.path.isdir(more):
        for file in sorted(Path(more).glob("*.jinja"))[:MOST_TEMPLATES]:
            templates[file.stem] = read_text(inside(Path(more), file.name), LARGEST_TEMPLATE)
    if templates:
        return templates, path.name if "default" in templates else more.name
    sources = {
        "chat_template.json": read_object(folder / "chat_template.json"),
        "tokenizer_config.json": settings,
    }
    for name, holder in sources.items():
        template = holder.get("chat_template")
        if isinstance(template, list):  # named ones: [{"name": "default", "template": "..."}]
            entries = [one if isinstance(one, dict) else {} for one in template]
            template = {str(one.get("name")): one.get("template") for one in entries}
        elif template is not None and not isinstance(template, dict):
            template = {"default": template}
        for text in (template or {}).values():
            if not isinstance(text, str):
                raise TinylaneError(
                    f"{folder / name}: chat_template is {show(text)}; expected a text"
                )
        if template:
            return template, name
    return {}, None


def step_kinds(step: Any, key: str) -> list[str]:
    """Names of a tokenizer's steps, sequences flattened; `key` is their list in a sequence."""
    if step is None:
        return []
    left, kinds = [json.loads(step.__getstate__())], []
    while left:
        one = left.pop(0)
        if one["type"] == "Sequence":
            left = one[key] + left
        else:
            kinds.append(one["type"])
    return kinds


# What is checked of a tokenizer.json before the `tokenizers` library sees it. The library ends the
# process, or takes gigabytes, on files of a few hundred bytes: a character map that claims 2^32
# units, a subword prefix that cuts a character in two, replacements that double a text thirty
# times. Expressions are left to it: its own search gives up after ten million steps.
_KNOWN = {
    "normalizer": "Sequence NFC NFD NFKC NFKD Nmt Lowercase Strip StripAccents Prepend Replace "
    "BertNormalizer ByteLevel",
    "decoder": "Sequence BPEDecoder ByteLevel WordPiece Metaspace CTC Replace Fuse Strip "
    "ByteFallback",
}


def check_tokenizer(source: str, path: str) -> None:
    """Raise TinylaneError, naming `path`, for what the library should not be asked to read."""
    try:
        # The library acts on the first of two equal keys, and Python would show the last.
        raw = json.loads(source, object_pairs_hook=unique_keys)
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
                what = f"continuing_subword_prefix {show(prefix, 40)}"
                raise TinylaneError(f"{what} is not implemented")
        added = sum(map(len, _texts(raw.get("added_tokens"))))  # the library says what is wrong
        if added > LONGEST_ADDED:
            raise TinylaneError(f"added tokens of {added:,} characters, limit {LONGEST_ADDED:,}")
    except TinylaneError as error:
        raise TinylaneError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise TinylaneError(f"{path} is not a tokenizer: {error}") from None


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
