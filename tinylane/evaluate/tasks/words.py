"""The tokenizer of a game: one token a word."""

from __future__ import annotations

import json


def word_level(ids: dict[str, int], apart: str) -> str:
    """The text of a tokenizer.json for these words. apart: a pattern of the signs that are words of
    their own wherever they stand."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(apart), "isolated"), pre_tokenizers.WhitespaceSplit()]
    )
    tokenizer.add_special_tokens(["<unk>", "<end>"])
    return json.dumps(json.loads(tokenizer.to_str()), indent=1) + "\n"
