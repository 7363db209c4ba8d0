"""Folders in which several files speak of the same tokens, and what is looked at in each.

`tests/record/record_text.py` keeps what transformers makes of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers_text import BOS, EOS, TURN, byte_level, write_folder
from tokenizers import Tokenizer as Core

PLAIN = Core.from_str(byte_level())
NEXT = PLAIN.get_vocab_size()  # the id of the next token that is added
KINDS = {"tokenizer_class": "PreTrainedTokenizerFast"}


def token(content: str, special: bool = False, **flags: bool) -> dict[str, Any]:
    """An entry of `added_tokens_decoder`."""
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False} | flags
    return {"content": content, "special": special, **flags}


def decoder(*tokens: dict[str, Any], first: int = NEXT) -> dict[str, Any]:
    return {"added_tokens_decoder": {str(first + k): one for k, one in enumerate(tokens)}}


def known(content: str, **flags: bool) -> dict[str, Any]:
    """`added_tokens_decoder` with a token that tokenizer.json has, with other flags."""
    return decoder(token(content, **flags), first=PLAIN.token_to_id(content))


# name: (tokenizer_config.json, other files)
FOLDERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain token in the decoder": (decoder(token("<new>")), {}),
    "special token in the decoder": (decoder(token("<new>", True)), {}),
    "two in the decoder": (decoder(token("<new>"), token("<new2>", True)), {}),
    "end token in the decoder": ({"eos_token": "<new>", **decoder(token("<new>"))}, {}),
    "an object for an end token": (
        {"eos_token": {"__type": "AddedToken", **token("<new>")}, **decoder(token("<new>"))},
        {},
    ),
    "end token in added_tokens": ({"eos_token": "<new>"}, {"added_tokens": {"<new>": NEXT}}),
    "plain token in added_tokens": ({}, {"added_tokens": {"<new>": NEXT, "<new2>": NEXT + 1}}),
    "decoder beside added_tokens": (
        decoder(token("<new>", True)),
        {"added_tokens": {"<new2>": NEXT}},
    ),
    "added_tokens that tokenizer.json has": ({}, {"added_tokens": {TURN: 402, "<new>": NEXT}}),
    "made special": (known("<think>", special=True), {}),
    "made plain": (known(TURN, special=False), {}),
    "takes the space in front": (known("<think>", lstrip=True), {}),
    "takes the space behind": (decoder(token("<new>", rstrip=True)), {}),
    "a word of its own": (decoder(token("new", single_word=True)), {}),
    "a token of the vocabulary": (known("ap"), {}),
    "listed as special": ({"extra_special_tokens": ["<new>", "<think>"]}, {}),
    "listed under the old name": ({"additional_special_tokens": ["<new>", "<think>"]}, {}),
    "listed by role": ({"extra_special_tokens": {"image_token": "<think>"}}, {}),
    "the map over the config": (
        {"eos_token": EOS},
        {"special_tokens_map": {"eos_token": TURN, "bos_token": {"content": BOS}}},
    ),
    "the map beside a decoder": (
        {"eos_token": EOS, **decoder(token("<new>"))},
        {"special_tokens_map": {"eos_token": TURN, "bos_token": BOS}},
    ),
    "an id with a gap": (decoder(token("<new>"), first=NEXT + 7), {}),
    "an end token that is plain": ({"eos_token": "<think>"}, {}),
}
TEXTS = (
    "a<new>ball <new2> <think> x",
    f"{BOS}ball{EOS} {TURN}new newball new",
    "<new> ball  <think>  ball <new>  ball",
)


def write(folder: Path, name: str) -> Path:
    config, files = FOLDERS[name]
    named = {f"{key}__json": json.dumps(value) for key, value in files.items()}
    return write_folder(folder, byte_level(), {**KINDS, **config}, **named)


def seen_in_theirs(folder: Path) -> dict[str, Any]:
    """What transformers makes of a folder."""
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(folder)
    ids = [tok(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    return {
        "ids": ids,
        "texts": [tok.decode(one, skip_special_tokens=True) for one in ids],
        "eos": tok.eos_token_id,
        "bos": tok.bos_token_id,
        "names": {k: str(v) for k, v in tok.special_tokens_map.items()},
    }


def seen_in_ours(folder: Path) -> dict[str, Any]:
    from tinylane.checkpoints.tokenizer import Tokenizer

    tok = Tokenizer.from_folder(folder)
    ids = [tok.encode(text) for text in TEXTS]
    streams = []
    for one in ids:  # what a stream says is what decoding says
        stream = tok.stream()
        streams.append("".join(map(stream.push, one)) + stream.flush())
    texts = [tok.decode(one) for one in ids]
    assert streams == texts
    return {
        "ids": ids,
        "texts": texts,
        "eos": min(tok.eos_ids, default=None),
        "bos": tok.bos_id,
        "names": tok.names,
    }
