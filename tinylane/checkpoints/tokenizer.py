"""Text to token ids and back: a checkpoint's `tokenizer.json`, chat template and streaming text.

The `tokenizers` library encodes and decodes. This adds what a decoder needs: checked files, the
prompt (by the chat template, or raw text with BOS added once), and the ids that end a text.
`Tokenizer.stream` turns ids into text as they come.

Not handled: `tokenizer.model` without `tokenizer.json`; tools and images in messages;
`clean_up_tokenization_spaces` (it rewrites what the model wrote).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError, show
from tinylane.files.display import one_line
from tinylane.files.io import check_bounds, inside, read_bytes, unique_keys

if TYPE_CHECKING:
    import tokenizers

    from tinylane.checkpoints.text_stream import TextStream

MIB = 1 << 20
LARGEST_TOKENIZER = 64 * MIB  # bytes; Gemma's, the largest in use, has 34 MB
LARGEST_JSON = 8 * MIB
LARGEST_TEMPLATE = MIB
PLAIN, EACH = MIB, 256  # bytes of a file, and more for each token: those in use take 70 to 140
LARGEST_GROWTH = 64  # times that normalizing, or decoding, may lengthen a text
MOST_STEPS = 256  # entries of all lists in a post-processor
LONGEST_ADDED = 1 << 20  # characters of all added tokens: the library's automaton takes 75 times it
# A model's vocabulary is often padded (Qwen2.5-7B: 399 ids more than its tokenizer). Beyond this
# many, or a tenth of it, the tokenizer is another model's.
LARGEST_PADDING = 1024

# Set by the command line, for one line per error; a library's other threads may write there too.
SILENT_PANICS = False


class Tokenizer:
    """A `tokenizers` tokenizer with what its checkpoint says about special tokens and chats.

    `names`: special tokens by role, e.g. `{"bos_token": "<s>"}`. `add_bos`: whether raw text
    begins with BOS; None asks the tokenizer's post-processor. `vocab`: the model's vocabulary size.
    `chat_template`: Jinja source; `template_source`: the file it came from. `raw`: whether prompts
    are raw text unless a call says otherwise (an adapter that was trained so).
    """

    def __init__(
        self,
        core: tokenizers.Tokenizer,
        names: Mapping[str, str] | None = None,
        *,
        config_eos: Iterable[int] = (),
        vocab: int | None = None,
        add_bos: bool | None = None,
        chat_template: str | None = None,
        template_source: str | None = None,
        raw: bool = False,
    ) -> None:
        self.core, self.raw = core, raw
        self.names = dict(names or {})
        self.vocab = vocab
        self.chat_template = chat_template
        self.template_source = template_source
        core.no_truncation()  # a saved setting that would silently shorten prompts
        core.no_padding()
        added = core.get_added_tokens_decoder()
        marked = {token.content for token in added.values() if token.special}
        unmarked = [
            token
            for token in dict.fromkeys(self.names.values())
            if token not in marked and core.token_to_id(token) is not None
        ]
        if unmarked:  # as transformers does: a token that is named special is never plain text
            core.add_special_tokens(unmarked)
        self._special = marked | set(unmarked)
        self.vocab_size: int = core.get_vocab_size(with_added_tokens=True)
        self.bos_id = self._named_id("bos_token")
        eos = self._named_id("eos_token")
        self.eos_ids = frozenset(map(int, config_eos)) | (frozenset() if eos is None else {eos})
        self._check_vocab()
        self._prefix = self._raw_prefix(add_bos)
        decoders = _decoder_kinds(core)
        self.byte_level = decoders == ["ByteLevel"]
        self.byte_fallback = "ByteFallback" in decoders
        self.lossy_window = "ByteLevel" in decoders and not self.byte_level

    @classmethod
    def from_folder(
        cls, folder: Path, config_eos: Iterable[int] = (), vocab: int | None = None
    ) -> Tokenizer:
        """The tokenizer of a Hugging Face folder.

        `config_eos`: the EOS ids of `config.json` and `generation_config.json`, joined with the
        tokenizer's own. `vocab`: rows of the model's embedding. Raises TinylaneError for files that
        are missing, oversized or not what they should be, and for a tokenizer of another model.
        """
        core = _read_tokenizer(folder, vocab)
        settings = _read_object(folder / "tokenizer_config.json")
        names = _special_names(_read_object(folder / "special_tokens_map.json"))
        names |= _special_names(settings)
        for role, token in names.items():
            if role in ("bos_token", "eos_token") and core.token_to_id(token) is None:
                raise TinylaneError(
                    f"{folder}: {role} is {one_line(repr(token), 60)}, which tokenizer.json does "
                    "not have; take both files from one checkpoint"
                )
        add_bos = settings.get("add_bos_token")
        template, source = _find_template(folder, settings)
        try:
            return cls(
                core,
                names,
                config_eos=config_eos,
                vocab=vocab,
                add_bos=add_bos if isinstance(add_bos, bool) else None,
                chat_template=template,
                template_source=source,
            )
        except TinylaneError as error:
            raise TinylaneError(f"{folder}: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without added special tokens; one spelled out in it gets its own id."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TinylaneError(
                f"character {error.start} of the text is half a surrogate pair, not Unicode text"
            ) from None
        with _refusing("the tokenizer cannot encode the text"):
            ids = self.core.encode(text, add_special_tokens=False).ids
        return self._in_vocab(ids)

    def prompt_ids(
        self,
        prompt: str | list[dict[str, Any]],
        *,
        raw: bool | None = None,
        system: str | None = None,
        prefill: str | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of a prompt that the model is to answer (a text, or chat messages) or go on with.

        raw: None takes `self.raw`. With a chat template and not raw: `system` and the prompt as
        messages, then the opening of the assistant's turn and `prefill`, the first words of its
        answer. `template_args` go to the template (`enable_thinking`...). Else the text itself,
        with BOS in front if the tokenizer asks for it and the text has none, then `prefill`. Raises
        TinylaneError for an empty prompt and for what the template or a missing template cannot
        take.
        """
        if isinstance(prompt, str) and not prompt.strip():
            raise TinylaneError("the prompt is empty: give a text")
        raw = self.raw if raw is None else raw
        if not raw and self.chat_template is not None:
            from tinylane.checkpoints.chat_template import prompt_text

            args = template_args or {}
            text = prompt_text(self.chat_template, self.names, prompt, system, args)
            ids = self.encode(text + (prefill or ""))
        else:
            for given, what, instead in (
                (not isinstance(prompt, str), "messages", "give the prompt as text"),
                (system, "the system prompt", "put it in the prompt"),
                (template_args, ", ".join(map(repr, template_args or ())), "drop them"),
            ):
                if given:
                    why = "raw text has" if raw else "this checkpoint has"
                    raise TinylaneError(f"{why} no chat template for {what}: {instead}")
            ids = self.encode(str(prompt) + (prefill or ""))
            if ids[: len(self._prefix)] != self._prefix:
                ids = self._in_vocab(self._prefix) + ids
        if not ids:
            raise TinylaneError("the prompt has no tokens: give a text")
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`; an id that the tokenizer lacks (a padded vocabulary) has no text."""
        numbers = [int(id) for id in ids]
        if any(not 0 <= id < 1 << 32 for id in numbers):
            raise TinylaneError(f"token ids are 0 or more, got {min(numbers)} to {max(numbers)}")
        with _refusing("the tokenizer cannot decode its tokens"):
            return self.core.decode(numbers, skip_special_tokens=skip_special)

    def stream(self, stop: Iterable[str] = ()) -> TextStream:
        """A lane's text, given id by id; it ends before the first of the `stop` strings."""
        from tinylane.checkpoints.text_stream import TextStream

        return TextStream(self, stop)

    def is_special(self, id: int) -> bool:
        """Whether `decode` leaves this id out: a special token, or one the tokenizer lacks."""
        token = self.core.id_to_token(int(id))
        return token is None or token in self._special

    def token_bytes(self, id: int) -> bytes:
        """UTF-8 bytes, perhaps part of a character, that `id` adds (byte-level tokenizers only)."""
        from tinylane.checkpoints.text_stream import bytes_of

        return bytes_of(self.core.id_to_token(id) or "")

    def _named_id(self, role: str) -> int | None:
        return self.core.token_to_id(self.names[role]) if role in self.names else None

    def _in_vocab(self, ids: list[int]) -> list[int]:
        """`ids`, if the model has rows for all of them."""
        if self.vocab is not None:
            for id in ids:
                if id >= self.vocab:
                    raise TinylaneError(
                        f"token {one_line(repr(self.core.id_to_token(id)), 60)} has id {id}, and "
                        f"the model's vocabulary ends at {self.vocab - 1}: leave it out of the text"
                    )
        return ids

    def _check_vocab(self) -> None:
        """Refuse a tokenizer that is not this model's."""
        if self.vocab is None:
            return
        if self.eos_ids and (id := min(self.eos_ids)) < 0:
            raise TinylaneError(f"EOS id {id} is negative")
        plain = self.core.get_vocab_size(with_added_tokens=False)
        if plain > self.vocab:
            ids = {id: t for t, id in self.core.get_vocab(with_added_tokens=False).items()}
            id = min((id for id in ids if id >= self.vocab), default=max(ids))  # ids may repeat
            raise TinylaneError(
                f"the tokenizer has {plain} tokens and the model {self.vocab}: token "
                f"{one_line(repr(ids[id]), 60)} has id {id}; it belongs to another model"
            )
        if self.vocab - self.vocab_size > max(LARGEST_PADDING, self.vocab // 10):
            raise TinylaneError(
                f"the tokenizer has {self.vocab_size} tokens and the model {self.vocab}: "
                "the tokenizer lacks ids that the model has; it belongs to another model"
            )

    def _raw_prefix(self, add_bos: bool | None) -> list[int]:
        """The special tokens that the post-processor puts in front of every raw text.

        Those that it puts behind (an EOS) are left out: the text is to be continued.
        """
        prefix: list[int] = []
        if self.core.post_processor is not None:
            with _refusing("the tokenizer cannot encode 'a'"):
                plain = self.core.encode("a", add_special_tokens=False).ids
                full = self.core.encode("a", add_special_tokens=True).ids
            starts = range(len(full) - len(plain) + 1)
            start = next((k for k in starts if full[k : k + len(plain)] == plain), 0)
            prefix = full[:start]
        if add_bos is None or self.bos_id is None:
            return prefix
        rest = [id for id in prefix if id != self.bos_id]
        return [self.bos_id, *rest] if add_bos else rest


def _decoder_kinds(core: tokenizers.Tokenizer) -> list[str]:
    """Names of the tokenizer's decoders, sequences flattened; none if it joins tokens by spaces."""
    if core.decoder is None:
        return []
    left, kinds = [json.loads(core.decoder.__getstate__())], []
    while left:
        decoder = left.pop(0)
        if decoder["type"] == "Sequence":
            left = decoder["decoders"] + left
        else:
            kinds.append(decoder["type"])
    return kinds


@contextmanager
def _refusing(what: str) -> Iterator[None]:
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


def _read_bounded(path: Path, limit: int) -> str:
    """A regular file's text of at most `limit` bytes, else TinylaneError."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TinylaneError(f"{path} is not UTF-8: byte {error.start}") from None


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object out of a file, empty if there is no such file."""
    if not os.path.exists(inside(path.parent, path.name)):
        return {}
    source = _read_bounded(path, LARGEST_JSON)
    check_bounds(source, str(path))
    try:
        value = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise TinylaneError(f"{path} is not JSON: {one_line(str(error))}") from None
    if not isinstance(value, dict):
        raise TinylaneError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def _read_tokenizer(folder: Path, vocab: int | None) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Core

    path = inside(folder, "tokenizer.json")
    if not os.path.exists(path):
        has = " (it has tokenizer.model only)" if (folder / "tokenizer.model").exists() else ""
        raise TinylaneError(
            f"{folder} has no tokenizer.json{has}: save it with "
            "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    most = LARGEST_TOKENIZER if vocab is None else min(LARGEST_TOKENIZER, PLAIN + EACH * vocab)
    source = _read_bounded(path, most)
    check_tokenizer(source, str(path))
    with _refusing(f"{path} is not a tokenizer"):
        return Core.from_str(source)


def _special_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """The `bos_token`, `eos_token`... of a settings file: texts, or objects with a `content`."""
    names = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            value = value.get("content")
        if key.endswith("_token") and not key.startswith("add_") and isinstance(value, str):
            if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
                raise TinylaneError(f"{key} {show(value)} is half a surrogate pair, not a text")
            names[key] = value
    return names


def _find_template(folder: Path, settings: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The chat template and the file it is from; the first of three places, as transformers."""
    path = inside(folder, "chat_template.jinja")
    if os.path.exists(path):
        return _read_bounded(path, LARGEST_TEMPLATE), path.name
    sources = {
        "chat_template.json": _read_object(folder / "chat_template.json"),
        "tokenizer_config.json": settings,
    }
    for name, holder in sources.items():
        template = holder.get("chat_template")
        if isinstance(template, list):  # named ones: [{"name": "default", "template": "..."}]
            named = {str(t.get("name")): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
            if template is None:
                raise TinylaneError(
                    f"{folder / name} has chat templates {one_line(str(list(named)), 100)}; "
                    "expected one named 'default'"
                )
        if template is not None and not isinstance(template, str):
            raise TinylaneError(
                f"{folder / name}: chat_template is a {type(template).__name__}; expected a text"
            )
        if template is not None:
            return template, name
    return None, None


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
