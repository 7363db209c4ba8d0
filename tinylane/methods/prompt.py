"""What goes into a decoding: its settings, and text as token ids, by the checkpoint's tokenizer.

What comes out stands in `tinylane.core.result`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.errors import TinylaneError, of_kind, show, whole
from tinylane.core.result import LoopSettings

if TYPE_CHECKING:
    from tinylane.core.cache import LaneCache
    from tinylane.core.model import Model

Prompt = str | list[dict] | Sequence[int]


@dataclass(frozen=True)
class Settings(LoopSettings):
    """What a `Decoding` takes beside the model, the prompt and the number of lanes: what a `Loop`
    takes (but lane_prompts may be texts), and more."""

    cache: LaneCache | None = None  # an earlier decoding's: what the prompt shares is not fed again
    stop: Any = None  # texts that end a lane (a special token's too), or ids of tokens
    template: dict[str, Any] | None = None  # keyword arguments of `Tokenizer.prompt_ids`
    total_tokens: int | None = None  # of all lanes together: no step is taken that goes beyond
    top_logprobs: int = 0  # so many likeliest tokens are given beside each drawn one
    schedule: Callable[[Any], None] | None = None  # called before every step, with the `Decoding`

    def of_lanes(self, model: Model, n: int) -> tuple[list[list[int]], list[int]]:
        """The prompts of n lanes as token ids, and max_tokens of each."""
        prompts = model.lane_prompts(n) if self.lane_prompts is None else self.lane_prompts
        of_kind("lane_prompts", prompts, (list, tuple), "a list: a text or ids for each lane")
        ids = [encode_lane_prompt(model, text) for text in prompts]
        if len(ids) != n:
            raise TinylaneError(f"{len(ids)} lane prompts for {n} lanes; expected one a lane")
        most: Any = self.max_tokens
        most = most.tolist() if hasattr(most, "tolist") else most
        limits = list(most) if isinstance(most, (list, tuple, range)) else [most] * n
        if len(limits) != n:
            raise TinylaneError(f"{len(limits)} values of max_tokens for {n} lanes")
        return ids, [whole("max_tokens", limit, 1) for limit in limits]


def ends(model: Model, stop: Any) -> tuple[tuple[str | int, ...], frozenset[int]]:
    """What ends a lane: `stop` as texts and token ids, and the ids of every token that ends it.

    stop: a text, a token id, a list of them, or None; else TinylaneError. A special token has no
    text in a lane, so one that `stop` names ends the lane by its id.
    """
    if stop is None or (isinstance(stop, tuple) and not stop):
        return (), model.end_ids
    several = (stop,) if isinstance(stop, (str, Integral)) else stop
    if not isinstance(several, (list, tuple)) or not all(
        (one and isinstance(one, str)) or (isinstance(one, Integral) and not isinstance(one, bool))
        for one in several
    ):
        raise TinylaneError(
            f"stop is {show(stop)}; expected texts that are not empty, or token ids"
        )
    several = tuple(one if isinstance(one, str) else int(one) for one in several)
    special = () if model.tokenizer is None else model.tokenizer.special_ids(several)
    return several, model.end_ids | {*special, *(x for x in several if isinstance(x, int))}


def encode_prompt(model: Model, prompt: Prompt, template: dict[str, Any] | None) -> list[int]:
    """Token ids of a prompt: text and messages by the checkpoint's tokenizer, ids as they are."""
    messages = isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], dict)
    if isinstance(prompt, str) or messages:
        if model.tokenizer is None:
            raise TinylaneError(
                "this checkpoint has no tokenizer.json; give the prompt as token ids"
            )
        given = of_kind("template", {} if template is None else template, dict, "an object")
        ids = model.tokenizer.prompt_ids(prompt, **given)
    else:
        ids = _checked_ids(model, prompt)
    if not ids:
        raise TinylaneError("the prompt is empty; expected at least one token")
    return ids


def encode_lane_prompt(model: Model, prompt: str | Sequence[int]) -> list[int]:
    """Token ids of a lane's own prompt, without special tokens; may be empty."""
    if isinstance(prompt, str):
        if prompt and model.tokenizer is None:
            raise TinylaneError("this checkpoint has no tokenizer.json; give lane prompts as ids")
        return model.tokenizer.encode(prompt) if prompt and model.tokenizer else []
    return _checked_ids(model, prompt)


def text_stream(model: Model, stop: Sequence[str | int]) -> Any:
    """A lane's text, token by token: `push(token)`, `flush()`, `stopped` (by a stop string).

    Without a tokenizer there is no text.
    """
    if model.tokenizer is None:
        return SimpleNamespace(stopped=False, push=lambda token: "", flush=lambda: "")
    return model.tokenizer.stream([text for text in stop if isinstance(text, str)])


def _checked_ids(model: Model, prompt: Sequence[Any]) -> list[int]:
    values = prompt.tolist() if isinstance(prompt, np.ndarray) else prompt
    of_kind("the prompt", values, (list, tuple, range), "text, messages or token ids")
    for token in values:
        if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
            raise TinylaneError(f"the prompt holds {show(token)}; expected text or token ids")
        if not 0 <= int(token) < model.config.vocab:
            raise TinylaneError(f"token {token} is outside the vocabulary of {model.config.vocab}")
    return [int(token) for token in values]
