"""OpenAI's penalties: a token is the less likely the more often its lane has drawn it.

    logit - frequency_penalty * count - presence_penalty * (count > 0)

count: of the tokens that the lane has drawn; those of the prompt do not count. (The repetition
penalty of transformers, which the core's sampler has, looks at the prompt, too, and multiplies.)

    N lanes   V vocab
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinylane.core.sampling import Sampler

MOST = 2.0  # as OpenAI's service has it


@dataclass(frozen=True, eq=False)
class Penalised(Sampler):
    """A sampler with both penalties. written: gives what every lane that draws has drawn so far, in
    the order of the rows; it is set when there are lanes."""

    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    written: Callable[[], Sequence[Sequence[int]]] = list

    def _scores(self, logits: Any, history: Any) -> Any:
        """(N, V): as those of `Sampler`, less the penalties."""
        scores, (N, V) = super()._scores(logits, history), logits.shape
        lanes = self.written()
        assert len(lanes) == N, (len(lanes), N)
        counts = np.stack([np.bincount(tokens, minlength=V)[:V] for tokens in lanes])
        less = self.frequency_penalty * counts + self.presence_penalty * (counts > 0)
        return scores - logits.__array_namespace__().array(less.astype(np.float32))
