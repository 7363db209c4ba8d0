"""Text to token ids and back: a checkpoint's `tokenizer.json`, chat template and streaming text.

The `tokenizers` library encodes and decodes. This adds what a decoder needs: checked files, the
prompt (by the chat template, or raw text with BOS added once), and the ids that end a text.
`Tokenizer.stream` turns ids into text as they come.

Not handled: `tokenizer.model` without `tokenizer.json`; images in messages;
`clean_up_tokenization_spaces` (it rewrites what the model wrote).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from tinylane.checkpoints.tokenizer_files import (
    add_tokens,
    find_templates,
    mark_special,
    read_tokenizer,
    refusing,
    special_tokens,
    step_kinds,
)
from tinylane.core.errors import TinylaneError, of_kind, show
from tinylane.files.display import one_line

if TYPE_CHECKING:
    import tokenizers

    from tinylane.checkpoints.text_stream import TextStream

# A model's vocabulary is often padded (Qwen2.5-7B: 399 ids more than its tokenizer). Beyond this
# many, or a tenth of it, the tokenizer is another model's.
LARGEST_PADDING = 1024


class Tokenizer:
    """A `tokenizers` tokenizer with what its checkpoint says about special tokens and chats.

    `names`: special tokens by role, e.g. `{"bos_token": "<s>"}`. `add_bos`: whether raw text
    begins with BOS; None asks the tokenizer's post-processor. `vocab`: the model's vocabulary size.
    `chat_template`: Jinja source, or several by name; `template_source`: where they came from.
    `raw`: whether prompts are raw text unless a call says otherwise (an adapter that was trained
    so).
    """

    def __init__(
        self,
        core: tokenizers.Tokenizer,
        names: Mapping[str, str] | None = None,
        *,
        config_eos: Iterable[int] = (),
        vocab: int | None = None,
        add_bos: bool | None = None,
        chat_template: str | Mapping[str, str] | None = None,
        template_source: str | None = None,
        raw: bool = False,
    ) -> None:
        self.core, self.raw = core, raw
        self.names = dict(names or {})
        self.vocab = vocab
        if chat_template is None or isinstance(chat_template, str):
            chat_template = {} if chat_template is None else {"default": chat_template}
        self.templates = dict(chat_template)
        self.chat_template = self.templates.get("default")
        self.template_source = template_source
        core.no_truncation()  # a saved setting that would silently shorten prompts
        core.no_padding()
        # As transformers does: a token that is named special is never plain text.
        self._special = mark_special(core, self.names.values())
        self.vocab_size: int = core.get_vocab_size(with_added_tokens=True)
        self.bos_id = self._named_id("bos_token")
        eos = self._named_id("eos_token")
        self.eos_ids = frozenset(map(int, config_eos)) | (frozenset() if eos is None else {eos})
        self._check_vocab()
        self._prefix = self._raw_prefix(add_bos)
        # The vocabulary is byte-level wherever its texts are cut so; some conversions then kept a
        # decoder of sentencepiece, which would show the bytes' stand-ins.
        decoders = step_kinds(core.decoder, "decoders")
        cuts = step_kinds(core.pre_tokenizer, "pretokenizers")
        if "ByteLevel" not in decoders and "ByteLevel" in cuts:
            from tokenizers.decoders import ByteLevel

            core.decoder, decoders = ByteLevel(), ["ByteLevel"]
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
        core = read_tokenizer(folder, vocab)
        settings, names = special_tokens(folder)
        add_tokens(core, folder, settings, names, vocab)
        for role, token in names.items():
            if role in ("bos_token", "eos_token") and core.token_to_id(token) is None:
                raise TinylaneError(
                    f"{folder}: {role} is {one_line(repr(token), 60)}, which no file of it "
                    "has as a token; take all files from one checkpoint"
                )
        add_bos = settings.get("add_bos_token")
        templates, source = find_templates(folder, settings)
        try:
            return cls(
                core,
                names,
                config_eos=config_eos,
                vocab=vocab,
                add_bos=add_bos if isinstance(add_bos, bool) else None,
                chat_template=templates,
                template_source=source,
            )
        except TinylaneError as error:
            raise TinylaneError(f"{folder}: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without added special tokens; one spelled out in it gets its own id."""
        try:
            of_kind("the text", text, str, "a text").encode("utf-8")
        except UnicodeEncodeError as error:
            raise TinylaneError(
                f"character {error.start} of the text is half a surrogate pair, not Unicode text"
            ) from None
        with refusing("the tokenizer cannot encode the text"):
            ids = self.core.encode(text, add_special_tokens=False).ids
        return self._in_vocab(ids)

    def prompt_ids(
        self,
        prompt: str | list[dict[str, Any]],
        /,
        *,
        raw: bool | None = None,
        system: str | None = None,
        prefill: str | None = None,
        template_args: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> list[int]:
        """Ids of a prompt that the model is to answer (a text, or chat messages) or go on with.

        raw: None takes `self.raw`. With a chat template and not raw: `system` and the prompt as
        messages, then the opening of the assistant's turn, or its turn as far as `prefill`, the
        first words of its answer. `template_args` go to the template (`tools`,
        `enable_thinking`...); what transformers' own `chat_template` and `continue_final_message`
        do, they do here. Else the text itself, with BOS in front if the tokenizer asks for it and
        the text has none, then `prefill`; so an empty text may be BOS alone. Raises TinylaneError
        for a prompt without tokens, an empty message, and what the template or a missing template
        cannot take.
        """
        for name, value, kinds, expected in (
            ("the prompt", prompt, (str, list, tuple), "text, or a list of messages"),
            ("raw", raw, (bool, NoneType), "true or false"),
            ("system", system, (str, NoneType), "a text"),
            ("prefill", prefill, (str, NoneType), "a text"),
            ("template_args", template_args, (Mapping, NoneType), "an object"),
        ):
            of_kind(name, value, kinds, expected)
        if unknown:
            raise TinylaneError(
                f"{show(min(unknown, key=str))} is no way to write a prompt; expected raw, system, "
                "prefill or template_args (what is for the chat template is in template_args)"
            )
        raw, args = self.raw if raw is None else raw, template_args or {}
        if not raw and (self.templates or "chat_template" in args):
            if prompt == "":
                raise TinylaneError("the prompt is empty: give a text")
            from tinylane.checkpoints.chat_template import prompt_text

            ids = self.encode(
                prompt_text(self.templates, self.names, prompt, system, args, prefill)
            )
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
            raise TinylaneError("the prompt is empty, and there is no BOS: give a text")
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`; an id that the tokenizer lacks (a padded vocabulary) has no text."""
        try:  # each token of each lane comes by here: quick
            numbers = [int(id) for id in ids]
        except (TypeError, ValueError, OverflowError):
            raise TinylaneError(f"ids are {show(ids)}; expected token ids") from None
        if any(not 0 <= id < 1 << 32 for id in numbers):
            raise TinylaneError(f"token ids are 0 or more, got {min(numbers)} to {max(numbers)}")
        with refusing("the tokenizer cannot decode its tokens"):
            return self.core.decode(numbers, skip_special_tokens=bool(skip_special))

    def stream(self, stop: Iterable[str] = ()) -> TextStream:
        """A lane's text, given id by id; it ends before the first of the `stop` strings."""
        from tinylane.checkpoints.text_stream import TextStream

        return TextStream(self, of_kind("stop", stop, (str, list, tuple), "texts"))

    def is_special(self, id: int) -> bool:
        """Whether `decode` leaves this id out: a special token, or one the tokenizer lacks."""
        token = self.core.id_to_token(int(id))
        return token is None or token in self._special

    def special_ids(self, texts: Iterable[Any]) -> list[int]:
        """Ids of those texts that are special tokens; other values are passed over."""
        ids = [self.core.token_to_id(text) for text in texts if isinstance(text, str)]
        return [id for id in ids if id is not None and self.is_special(id)]

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
            with refusing("the tokenizer cannot encode 'a'"):
                plain = self.core.encode("a", add_special_tokens=False).ids
                full = self.core.encode("a", add_special_tokens=True).ids
            starts = range(len(full) - len(plain) + 1)
            start = next((k for k in starts if full[k : k + len(plain)] == plain), 0)
            prefix = full[:start]
        if add_bos is None or self.bos_id is None:
            return prefix
        rest = [id for id in prefix if id != self.bos_id]
        return [self.bos_id, *rest] if add_bos else rest
