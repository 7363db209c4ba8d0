"""MLX computes late: the next step's pass is built while the current one runs.

Which token a lane drew is not known until the current pass has been computed, but the pass that
feeds it can be built around it, on the guess that no lane ends. `draw` does that while the
computation of the tokens runs; `Ahead.start` lets a GPU run it when they have been read, while the
program that decodes does something with them. `Decoding.step` takes its logits if what it feeds is
what was guessed, and else makes the pass anew: the rows of a wrong guess stand behind those that
count and are written over, as after an interrupted pass (that pass was computed for nothing).

The pass is never handed to the device before the tokens are there. Before, the buffers of the cache
would still be held by the pass that runs, and be copied to be written: more than all this saves.

    N lanes   V vocab
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core import decoder
from tinylane.core.sampling import History, Sampler, check

if TYPE_CHECKING:
    from tinylane.core.decoding import Decoding, Lane
    from tinylane.core.lanes import Row
    from tinylane.core.model import Model

Array = Any  # mlx.core.array
SMALL = 1 << 24  # weights of a model whose pass takes no longer than building the next one


class Ahead:
    """A pass that feeds one token of every live lane, at the clock of `decoding`, built early."""

    def __init__(self, decoding: Decoding, lanes: list[int], logits: Array) -> None:
        cache = decoding.cache
        self.lanes, self.position, self.logits = lanes, decoding.clock, logits
        self.cache, self.before = cache, (cache.positions, cache.lane_mask, cache.lane_rope)
        self.fed: list[Row] | None = None

    def start(self, feed: list[Row]) -> None:
        """Let it run, if the tokens to be fed are those of every lane that drew one.

        A CPU's queue is short: there the call would return when most has been computed, and the
        step that was ready would be late.
        """
        if [row[1:] for row in feed] == [(self.position, m) for m in self.lanes]:
            import mlx.core as mx

            self.fed = list(feed)
            if mx.default_device().type == mx.DeviceType.gpu:
                mx.async_eval(self.logits)

    def taken(self, decoding: Decoding) -> dict[int, Array] | None:
        """The logits of every lane's row, whose coordinates are now committed; or None.

        None where the decoding feeds something else than was guessed, or its cache has changed.
        """
        cache = decoding.cache
        now = (cache.positions, cache.lane_mask, cache.lane_rope)
        same = cache is self.cache and all(a is b for a, b in zip(now, self.before, strict=True))
        if not same or decoding._feed != self.fed:
            return None
        positions = np.full(len(self.lanes), self.position, dtype=np.int64)
        cache.commit(positions, np.array(self.lanes, dtype=np.int64))
        return {m: self.logits[k] for k, m in enumerate(self.lanes)}


def draw(
    decoding: Decoding, live: list[Lane], logits: Array, uniforms: np.ndarray, history: History
) -> tuple[Array, Array]:
    """As `decoding.sampler`, (N, V) logits of the live lanes -> (N,) tokens and log-probabilities;
    while MLX computes them, `decoding._ahead` is built.

    Not on NumPy, which is never late; not for a small model; not for a sampler of another kind,
    which may look at what it draws; and not where no lane goes on, as all reach their limit.
    """
    decoding._ahead, sampler = None, decoding.sampler
    full = decoding.clock + 1 >= decoding.model.config.context
    last = full or all(len(lane.tokens) + 1 >= lane.max_tokens for lane in live)
    if last or type(sampler) is not Sampler or not _late(decoding.model):
        return sampler(logits, uniforms, history)
    import mlx.core as mx

    tokens, logprobs = sampler.draw(logits, uniforms, history)
    mx.async_eval(tokens, logprobs)
    lanes = [lane.index for lane in live]
    decoding._ahead = Ahead(decoding, lanes, _pass(decoding, np.array(lanes), tokens))
    check(logprobs)
    return tokens, logprobs


def _late(model: Model) -> bool:
    """Whether computing a pass takes longer than building one."""
    if model.backend != "mlx":
        return False
    gate = model.params["model.layers.0.mlp.gate_proj.weight"]
    return 4 * model.config.layers * gate.size > SMALL


def _pass(decoding: Decoding, lanes: np.ndarray, tokens: Array) -> Array:
    """Logits (N, V) of a row for every lane at the clock; its coordinates are not committed."""
    model, cache = decoding.model, decoding.cache
    positions = np.full(len(lanes), decoding.clock)
    keys = np.concatenate([cache.positions, positions]), np.concatenate([cache.lanes, lanes])
    places = (positions, lanes, *keys)
    rope, mask = cache.lane_rope, decoding.mask
    plan = decoder.make_plan(model.config, rope, mask, *places, np.float32, model.array)
    return decoder.forward(model.params, model.config, tokens, plan, model.seams, cache)
