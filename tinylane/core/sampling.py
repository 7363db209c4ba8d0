"""From logits to one token per lane.

A lane's draw is its own: one uniform number, computed on the host from `(seed, lane, index)`, and
the inverse of the cumulative distribution over that lane's row. Rows share nothing and there is no
generator to keep: neither other lanes nor the array library can change what a lane draws.

The order is that of transformers' `_get_logits_processor`: logit bias, repetition penalty,
temperature, top-k, top-p, min-p (`distribution`). Equal tokens are kept or removed together; the
top-p of transformers cuts ties in the order of its sort.

Not here: stop conditions, beam search, grammars. Dimensions: N lanes, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from tinylane.core.distribution import draw_from, logsumexp
from tinylane.core.errors import TinylaneError, of_kind, show

Array = Any  # a NumPy or MLX array
History = Sequence[Sequence[int]]  # for each lane, the ids that the repetition penalty looks at


def uniform(seed: int, lane: Any, index: int) -> Any:
    """A number in (0, 1], of 53 bits, that depends on `(seed, lane, index)` and nothing else.

    Lane m takes output m of NumPy's Philox4x64 with the seed as its 128-bit key and the index in
    the second counter word (the first counts blocks of outputs).

    seed: 0 <= seed < 2**128, else TinylaneError. lane: >= 0, one or an array (cheaper: one
    generator serves all). index: 0 <= index < 2**64. Returns a float, or an array like `lane`.
    """
    if not isinstance(seed, Integral) or not 0 <= seed < 2**128:
        raise TinylaneError(f"seed {seed!r}: expected an integer from 0 to 2**128 - 1")
    stream = np.random.Philox(key=int(seed), counter=int(index) << 64)  # lists go through float64
    lanes = np.asarray(lane)
    assert lanes.min(initial=0) >= 0, lane  # it would wrap around
    bits = stream.random_raw(int(lanes.max(initial=0)) + 1)[lanes]
    numbers = ((bits >> np.uint64(11)) + np.uint64(1)) * 2.0**-53
    return float(numbers) if lanes.ndim == 0 else numbers


@dataclass(frozen=True)
class Sampler:
    """How a token is chosen from its logits. The defaults sample the model's own distribution.

    temperature: 0 takes the largest logit, the lowest id among equals. top_p: keeps the likeliest
    tokens that together hold this much, 1 keeps all. top_k: keeps the k likeliest, 0 keeps all.
    min_p: keeps tokens at least this likely relative to the likeliest. repetition_penalty: divides
    positive logits, multiplies negative ones, of every token in the history. logit_bias: token id
    -> number added to its logit; -inf bans it. Raises TinylaneError for a value out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | None = None

    def __post_init__(self) -> None:
        for name, zero, most, expected in (  # zero: whether it may be 0
            ("temperature", True, 1e6, "a number in [0, 1e6] (0 is greedy)"),
            ("top_p", False, 1, "a number in (0, 1] (1 keeps every token)"),
            ("min_p", True, 1, "a number in [0, 1] (0 keeps every token)"),
            ("repetition_penalty", False, 1e6, "a number in (0, 1e6] (1 is none)"),
        ):
            value: Any = getattr(self, name)
            inside = isinstance(value, Real) and 0 <= value <= most  # type: ignore[operator]
            if not inside or (value == 0 and not zero):  # NaN is not inside
                raise TinylaneError(f"{name} {value!r}: expected {expected}")
            object.__setattr__(self, name, float(value))  # np.float64 would promote the logits
        if not isinstance(self.top_k, Integral) or self.top_k < 0:
            raise TinylaneError(f"top_k {self.top_k!r}: expected an integer >= 0 (0 is off)")
        object.__setattr__(self, "top_k", int(self.top_k))
        for token, bias in of_kind("logit_bias", self.logit_bias or {}, Mapping, "a dict").items():
            numbers = isinstance(token, Integral) and isinstance(bias, Real)
            if not (numbers and token >= 0 and bias < math.inf):
                raise TinylaneError(f"logit_bias {token!r}: {bias!r}: expected an id and a number")

    @classmethod
    def from_config(cls, defaults: Mapping[str, Any] | None) -> Sampler:
        """From the fields of generation_config.json; greedy unless it says otherwise."""
        given = of_kind("defaults", {} if defaults is None else defaults, Mapping, "an object")
        known = {k: v for k, v in given.items() if k in cls.__dataclass_fields__}
        return cls(**{"temperature": 0.0, **known})

    def __call__(self, logits: Array, uniforms: Any, history: History) -> tuple[Array, Array]:
        """`draw`, then `check`: with MLX this waits for the values."""
        tokens, logprobs = self.draw(logits, uniforms, history)
        check(logprobs)
        return tokens, logprobs

    def draw(self, logits: Array, uniforms: Any, history: History) -> tuple[Array, Array]:
        """One token per lane, and its log-probability under the raw logits; lazy in MLX.

        logits (N, V) of either library; uniforms (N,) in (0, 1], unused when greedy; history: N
        sequences of ids (prompt and output in transformers), unused without a penalty. Returns
        tokens (N,), integers, and log-probabilities (N,), float32 (float64 for float64 logits).
        A row without a distribution gets a log-probability of NaN, an error in `check`.
        """
        xp = logits.__array_namespace__()
        if logits.dtype not in (xp.float32, xp.float64):
            logits = logits.astype(xp.float32)
        if xp is np:
            logits = np.ascontiguousarray(logits)  # a row's sums must not depend on its strides
        with np.errstate(all="ignore"):  # `check` reports what matters
            scores = self._scores(logits, history)
            tokens = draw_from(scores, uniforms, self)
            at = lambda x: xp.take_along_axis(x, tokens[:, None], axis=-1)[:, 0]
            logprobs = at(logits) - logsumexp(logits)
            possible = xp.isfinite(logprobs) & xp.isfinite(at(scores))
            return tokens, xp.where(possible, logprobs, math.nan)

    def _scores(self, logits: Array, history: History) -> Array:
        """Logits after bias and repetition penalty."""
        if not self.logit_bias and self.repetition_penalty == 1:
            return logits
        xp, (N, V) = logits.__array_namespace__(), logits.shape
        scores = xp.array(logits)  # a copy: the log-probabilities still need the raw logits
        if self.logit_bias:
            if (largest := max(self.logit_bias)) >= V:
                raise TinylaneError(f"logit_bias token {largest}: expected an id below {V}")
            ids = xp.array([*self.logit_bias])
            scores[:, ids] += xp.array([*self.logit_bias.values()], dtype=scores.dtype)
        if self.repetition_penalty != 1:
            assert len(history) == N, len(history)
            rows = np.repeat(np.arange(N, dtype=np.int32), [len(ids) for ids in history])
            ids = np.concatenate([np.asarray(ids, dtype=np.int32) for ids in history])
            known = (ids >= 0) & (ids < V)  # an embedding may have more rows than the head
            seen = xp.array(rows[known]), xp.array(ids[known])
            s, penalty = scores[seen], self.repetition_penalty
            scores[seen] = xp.where(s < 0, s * penalty, s / penalty)  # repeated ids count once
        return scores


def check(logprobs: Any) -> None:
    """Raises TinylaneError naming the first row from which no token can be drawn (NaN)."""
    for row in np.flatnonzero(np.isnan(np.asarray(logprobs))):
        cause = "NaN, +inf, or every token at -inf; look for bad weights or a logit_bias of -inf"
        raise TinylaneError(f"logits of row {row}: no token can be drawn ({cause})")


def as_lists(told: Any, n: int, vocab: int) -> tuple[list[int], list[float]]:
    """What a sampler gave, as lists. Raises TinylaneError unless it is a token of the vocabulary
    and a number for each of n lanes: a class of somebody's own may give anything."""
    with contextlib.suppress(TypeError, ValueError):
        tokens, logprobs = (np.asarray(x) for x in told)
        fit = tokens.shape == logprobs.shape == (n,) and logprobs.dtype.kind == "f"
        if fit and tokens.dtype.kind in "iu" and tokens.min() >= 0 and tokens.max() < vocab:
            return tokens.tolist(), logprobs.tolist()
    raise TinylaneError(f"sampler gave {show(told)}; expected {n} tokens, {n} log-probabilities")
