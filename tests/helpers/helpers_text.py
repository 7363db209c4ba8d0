"""Small tokenizers of every kind that the text tests need, trained here, and folders of them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SENTENCES = [
    "The cups are swapped, swap 1-3 and swap 2-4: where is everything?",
    "Überall dasselbe Spiel, naïve façade, señor.",
    "我们在桌子上换杯子,球在哪里?",
    "Привет, где мяч?",
    "A ball 🎾 under a cup 🥤, a family 👨‍👩‍👧‍👦 and a flag 🇫🇷.",
    "def swap(a, b):\n    return b, a  # two spaces",
] * 4
BOS, EOS, TURN = "<s>", "</s>", "<|turn|>"


def _special(*tokens: str) -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in tokens]


@functools.cache
def byte_level() -> str:
    """Byte-level BPE, as GPT-2, Llama 3, Qwen: a character may be split over tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(SENTENCES, trainer)
    core.add_special_tokens(_special(BOS, EOS, TURN))
    core.add_tokens(["<think>", "ключ ✓"])  # added, and not special
    return core.to_str()


def _byte_fallback_vocab() -> dict[str, int]:
    vocab = {"<unk>": 0, BOS: 1, EOS: 2}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for character in dict.fromkeys("▁" + "".join(SENTENCES[:2]).replace(" ", "")):
        vocab[character] = len(vocab)
    return vocab


@functools.cache
def llama2() -> str:
    """SentencePiece BPE with byte fallback, as Llama 2 and TinyLlama: Prepend, Strip one space."""
    vocab = _byte_fallback_vocab()
    merges = []
    for left, right in [("s", "w"), ("sw", "a"), ("▁", "swa"), ("▁", "a"), ("t", "h"), ("▁", "▁")]:
        merges.append((left, right))
        vocab[left + right] = len(vocab)
    core = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=None, special_tokens=[(BOS, 1)]
    )
    core.add_special_tokens(_special("<unk>", BOS, EOS))
    return core.to_str()


@functools.cache
def metaspace() -> str:
    """Unigram with Metaspace and byte fallback, as Mistral's and T5's files."""
    pieces = [(token, 0.0 if token[0] == "<" else -5.0) for token in _byte_fallback_vocab()]
    pieces += [("▁swap", -2.0), ("▁the", -2.0), ("ball", -2.0)]
    core = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    core.add_special_tokens(_special("<unk>", BOS, EOS))
    return core.to_str()


@functools.cache
def word_level() -> str:
    """Words joined by spaces, as the embedded shell game."""
    words = ["<pad>", BOS, EOS, "<unk>", "swap", "A", "B", "C", "1-3", "2-4", "where", "?", ":"]
    core = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(_special("<pad>", BOS, EOS))
    return core.to_str()


@functools.cache
def word_piece() -> str:
    """BERT's: continuation marks, spaces and punctuation cleaned up at decoding."""
    words = ["[UNK]", "[PAD]", "swap", "##s", "##ping", "the", "ball", "##ball", ".", ",", "n't"]
    core = Tokenizer(
        models.WordPiece({word: id for id, word in enumerate(words)}, unk_token="[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.WordPiece(cleanup=True)
    core.add_special_tokens(_special("[PAD]"))
    return core.to_str()


@functools.cache
def byte_level_stripped() -> str:
    """Byte-level with a second decoder: the general path must hold back half characters."""
    core = Tokenizer.from_str(byte_level())
    core.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(Regex("q"), "Q")])
    return core.to_str()


KINDS = {
    "byte_level": byte_level,
    "llama2": llama2,
    "metaspace": metaspace,
    "word_level": word_level,
    "word_piece": word_piece,
    "byte_level_stripped": byte_level_stripped,
}


def write_folder(
    folder: Path,
    tokenizer: str | None,
    config: dict[str, Any] | None = None,
    **files: str | dict[str, Any],
) -> Path:
    """A checkpoint's text files. `files`: other names, with `__` for the dot, and their content."""
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder
