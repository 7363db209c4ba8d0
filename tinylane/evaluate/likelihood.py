"""How likely a model finds texts: log-probabilities of given tokens, many texts in one pass.

Texts after one prompt stand in lanes that do not read each other, so that the prompt is computed
once (`LaneMask.independent`: each is scored as if it stood alone).

    T rows of a pass   V vocab
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.view.replay import log_softmax

if TYPE_CHECKING:
    from tinylane.core.model import Model

ROWS, LOGITS = 1024, 1 << 26  # the most that one pass may hold


def logprobs(
    model: Model, prompt: Sequence[int], texts: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Of each text after the prompt, the log-probability of each of its tokens, float64; see
    `scores`."""
    return [each for each, _ in scores(model, prompt, texts)]


def scores(
    model: Model, prompt: Sequence[int], texts: Sequence[Sequence[int]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each text after the prompt, the log-probability of each of its tokens, float64, and
    whether it is the likeliest.

    prompt: token ids, one or more. texts: token ids; none may be empty. Raises TinylaneError for a
    text that does not fit into the model's context, and for tokens outside the vocabulary.
    """
    P, context = len(prompt), model.config.context
    if not P or not all(map(len, texts)):
        raise TinylaneError("an empty prompt or text has no likelihood; expected a token or more")
    longest = P + max(map(len, texts), default=0)
    if longest - 1 > context:
        raise TinylaneError(f"a text of {longest} tokens; this model's context is {context}")
    none = LaneRoPE.none(model.theta)
    scored: list[tuple[np.ndarray, np.ndarray]] = []
    for part in _parts(texts, max(1, min(ROWS, LOGITS // model.config.vocab))):
        rows = [(token, i, SHARED) for i, token in enumerate(prompt)]
        asked: list[int] = []  # the row that each token is predicted by
        for m, text in enumerate(part):
            first = len(rows)
            rows += [(token, P + k, m) for k, token in enumerate(text[:-1])]
            asked += [P - 1, *range(first, len(rows))]
        mask = LaneMask.independent(len(part))
        wanted = np.unique(asked)
        tokens, positions, lanes = np.array(rows).T
        logits = np.asarray(model(tokens, positions, lanes, none, mask, rows=wanted))
        predicted = log_softmax(logits)[np.searchsorted(wanted, asked)]
        written = np.concatenate([np.array(text) for text in part])
        flat = predicted[np.arange(len(asked)), written], predicted.argmax(axis=-1) == written
        ends = np.cumsum([len(text) for text in part])[:-1]
        scored += zip(*(np.split(each, ends) for each in flat), strict=True)
    return scored


def _parts(texts: Sequence[Sequence[int]], most: int) -> Iterator[Sequence[Sequence[int]]]:
    """Consecutive texts, together at most `most` tokens, or one that is longer."""
    start = total = 0
    for k, text in enumerate(texts):
        if k > start and total + len(text) > most:
            yield texts[start:k]
            start, total = k, 0
        total += len(text)
    if start < len(texts):
        yield texts[start:]
