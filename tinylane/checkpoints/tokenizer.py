"""Text to token ids and back: a checkpoint's `tokenizer.json`, chat template and streaming text.

The `tokenizers` library encodes and decodes; what is here is what a decoder needs around it: the
checked files, the prompt (chat template, or raw text with BOS added once), and the ids that end a
text. `Tokenizer.stream` turns ids into text as they come.

Not handled: `tokenizer.model` without `tokenizer.json`; tools and images in messages;
`clean_up_tokenization_spaces` (it rewrites what the model wrote).
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.checkpoints.text_stream import TextStream
from tinylane.checkpoints.tokenizer_check import check_tokenizer, largest
from tinylane.core.errors import TinylaneError, show
from tinylane.files.display import one_line
from tinylane.files.io import check_bounds, inside, read_bytes

if TYPE_CHECKING:
    import tokenizers

MIB = 1 << 20
LARGEST_TOKENIZER = 64 * MIB  # bytes; Gemma's, the largest in use, has 34 MB
LARGEST_JSON = 8 * MIB
# A model's vocabulary is often padded (Qwen2.5-7B: 399 ids more than its tokenizer). Beyond this
# many, or a tenth of it, the tokenizer is another model's.
LARGEST_PADDING = 1024

# The command line sets this: one line per error. Not in a library, whose other threads write too.
SILENT_PANICS = False


class Tokenizer:
    """A `tokenizers` tokenizer with what its checkpoint says about special tokens and chats.

    `names`: special tokens by role, e.g. `{"bos_token": "<s>"}`. `add_bos`: whether raw text
    begins with BOS; None asks the tokenizer's post-processor. `vocab`: the model's vocabulary size.
    `chat_template`: Jinja source; `template_source`: the file it came from.
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
    ) -> None:
        self.core = core
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
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def from_folder(
        cls, folder: Path, config_eos: Iterable[int] = (), vocab: int | None = None
    ) -> Tokenizer:
        """The tokenizer of a Hugging Face folder.

        `config_eos`: the EOS ids of `config.json` and `generation_config.json`, joined with the
        tokenizer's own. `vocab`: rows of the model's embedding. Raises TinylaneError for files that
        are missing, oversized or not what they should be, and for a tokenizer of another model.
        """
        folder = Path(folder)
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
        """Ids of `text`, no special tokens added; those spelled out in it count as themselves."""
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
        raw: bool = False,
        system: str | None = None,
        prefill: str | None = None,
        template_args: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of a prompt that the model is to answer (a text, or chat messages) or go on with.

        With a chat template and not `raw`: `system` and the prompt as messages, then the opening of
        the assistant's turn and `prefill`, the first words of its answer. `template_args` go to the
        template (`enable_thinking`...). Else the text itself, with BOS in front if the tokenizer
        asks for it and the text has none, then `prefill`. Raises TinylaneError for an empty prompt
        and for what the template or a missing template cannot take.
        """
        messages = _messages(prompt, system)
        if not raw and self.chat_template is not None:
            text = self._render(messages, system, dict(template_args or {}))
            ids = self.encode(text + (prefill or ""))
        else:
            why = "raw text has" if raw else "this checkpoint has"
            if not isinstance(prompt, str):
                raise TinylaneError(f"{why} no chat template for messages: give the prompt as text")
            if system:
                raise TinylaneError(
                    f"{why} no chat template for the system prompt: put it in the prompt"
                )
            if template_args:
                raise TinylaneError(
                    f"{why} no chat template for {', '.join(map(repr, template_args))}: drop them"
                )
            ids = self.encode(prompt + (prefill or ""))
            if ids[: len(self._prefix)] != self._prefix:
                ids = self._in_vocab(self._prefix) + ids
        if not ids:
            raise TinylaneError("the prompt has no tokens: give a text")
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`; ids that the tokenizer does not have (a padded vocabulary) have none."""
        numbers = [int(id) for id in ids]
        if any(not 0 <= id < 1 << 32 for id in numbers):
            raise TinylaneError(f"token ids are 0 or more, got {min(numbers)} to {max(numbers)}")
        with _refusing("the tokenizer cannot decode its tokens"):
            return self.core.decode(numbers, skip_special_tokens=skip_special)

    def stream(self, stop: Iterable[str] = ()) -> TextStream:
        """A lane's text, given id by id; it ends before the first of the `stop` strings."""
        return TextStream(self, stop)

    def is_special(self, id: int) -> bool:
        """Whether `decode` leaves this id out: a special token, or one the tokenizer lacks."""
        token = self.core.id_to_token(int(id))
        return token is None or token in self._special

    def token_bytes(self, id: int) -> bytes:
        """UTF-8 bytes, perhaps part of a character, that `id` adds (byte-level tokenizers only)."""
        found = self._bytes.get(id)
        if found is None:
            token = self.core.id_to_token(id) or ""
            try:
                found = bytes(_BYTE_OF[character] for character in token)
            except KeyError:  # an added token holds its text as it is
                found = token.encode("utf-8")
            self._bytes[id] = found
        return found

    def _render(self, messages: list[dict[str, Any]], system: str | None, args: dict) -> str:
        from tinylane.checkpoints.chat_template import TemplateRefused, render, render_named

        assert self.chat_template is not None
        variables = {**self.names, "add_generation_prompt": True, **args}
        try:
            text = render_named(self.chat_template, messages, variables, named=args)
            if system and system.strip() not in text:
                warnings.warn("the chat template drops the system prompt: no effect", stacklevel=3)
            return text
        except TemplateRefused as error:
            if not system or error.kind not in ("raised", "failed"):
                raise
            refused = error
        try:  # is it the system message? Only the template can tell.
            render(self.chat_template, messages[1:], **variables)
        except TinylaneError:
            raise refused from None
        raise TinylaneError(
            f"this checkpoint's chat template has no system role ({refused.detail}): "
            "put the system prompt into the prompt"
        )

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
        for id in self.eos_ids:
            if id < 0:
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
        """What begins every raw text: the special tokens that the post-processor puts in front.

        What it puts behind (an EOS) is left out: the text is to be continued.
        """
        prefix: list[int] = []
        if self.core.post_processor is not None:
            with _refusing("the tokenizer cannot encode 'a'"):
                plain = self.core.encode("a", add_special_tokens=False).ids
                full = self.core.encode("a", add_special_tokens=True).ids
            for start in range(len(full) - len(plain) + 1):
                if full[start : start + len(plain)] == plain:
                    prefix = full[:start]
                    break
        if add_bos is None or self.bos_id is None:
            return prefix
        rest = [id for id in prefix if id != self.bos_id]
        return [self.bos_id, *rest] if add_bos else rest


def _byte_characters() -> dict[str, int]:
    """GPT-2's table: the character that stands for each byte in a byte-level vocabulary."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {
        chr(256 + place): byte for place, byte in enumerate(hidden)
    }


_BYTE_OF = _byte_characters()


def _decoder_kinds(core: tokenizers.Tokenizer) -> list[str]:
    """Names of the tokenizer's decoders, sequences flattened; none joins tokens by spaces."""
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
def _without_stderr() -> Iterator[None]:
    """The library's panics write to descriptor 2 before they become exceptions: to nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn what the `tokenizers` library raises into a TinylaneError that begins with `what`."""
    try:
        with _without_stderr() if SILENT_PANICS else nullcontext():
            yield
    except BaseException as error:
        # That is plain Exception, or PanicException, which derives from BaseException and has no
        # importable name. Anything else (Ctrl-C, no memory) is not about the file.
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise TinylaneError(f"{what}: {one_line(str(error))}") from None
        raise


def _messages(prompt: str | Sequence[Mapping[str, Any]], system: str | None) -> list[dict]:
    """The conversation, checked, without the keys whose value is None: templates print them."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise TinylaneError("the prompt is empty: give a text")
        messages = [{"role": "user", "content": prompt}]
    else:
        messages = []
        for place, message in enumerate(prompt):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise TinylaneError(
                    f"message {place} is {one_line(repr(message), 80)}, expected "
                    '{"role": "user", "content": "..."}'
                )
            messages.append({key: value for key, value in message.items() if value is not None})
        if not messages:
            raise TinylaneError("the prompt has no messages: give one")
        if system and messages[0]["role"] == "system":
            raise TinylaneError("two system prompts, an argument and the first message: drop one")
    return [{"role": "system", "content": system}, *messages] if system else messages


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
    try:
        source = _read_bounded(path, LARGEST_JSON)
        check_bounds(source, str(path))
        value = json.loads(source)
    except TinylaneError:
        raise
    except (ValueError, RecursionError) as error:
        raise TinylaneError(f"{path} is not JSON: {one_line(str(error))}") from None
    if not isinstance(value, dict):
        raise TinylaneError(f"{path} holds a {type(value).__name__}, expected a JSON object")
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
    source = _read_bounded(path, largest(vocab, LARGEST_TOKENIZER))
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
    from tinylane.checkpoints.chat_template import LONGEST_TEMPLATE

    path = inside(folder, "chat_template.jinja")
    if os.path.exists(path):
        return _read_bounded(path, LONGEST_TEMPLATE), path.name
    sources = {
        "chat_template.json": _read_object(folder / "chat_template.json"),
        "tokenizer_config.json": settings,
    }
    for name, holder in sources.items():
        found = holder.get("chat_template")
        if isinstance(found, list):  # named ones: [{"name": "default", "template": "..."}]
            named = {
                str(item.get("name")): item.get("template")
                for item in found
                if isinstance(item, dict)
            }
            found = named.get("default")
            if found is None:
                raise TinylaneError(
                    f"{folder / name} has chat templates {one_line(str(list(named)), 100)}, "
                    "and none named 'default'"
                )
        if found is None:
            continue
        if not isinstance(found, str):
            raise TinylaneError(
                f"{folder / name}: chat_template is a {type(found).__name__}, expected a text"
            )
        return found, name
    return None, None
