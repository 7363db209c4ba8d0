"""MLX computes late: the next step's pass is built while the current one runs.

Which token a lane drew is not known until the current pass has been computed. But the pass that
feeds it can be built around it, on the guess that no lane ends. `Ahead` does that while the tokens
are being computed. `Ahead.start` lets the GPU run the pass once the tokens have been read, while
the program that decodes does something with them. `Ahead.logits_of` gives the logits if what is fed
is what was guessed. If not, the decoding makes the pass anew: the rows of a wrong guess stand
behind those that count and are overwritten, as after an interrupted pass.

On a CPU, whose queue is short, nothing would be gained. What has been handed to a device can be
used in another thread, and what MLX has only noted cannot: so `start` hands over every pass.

The pass is never handed to the device before the tokens are there. If it were, the cache's buffers
would still be held by the running pass and be copied before they are written, which costs more than
all this saves.

    N lanes   V vocab
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinylane.core.cache import LaneCache
from tinylane.core.decoder import forward
from tinylane.core.lanes import LaneMask, Row
from tinylane.core.model import Model
from tinylane.core.sampling import History, Sampler, check

Array = Any  # mlx.core.array
SMALL = 1 << 24  # weights of a model whose pass takes no longer than building the next one


class Ahead:
    """A pass with one row for each of `lanes` at `positions`, built before its tokens are known.

    drawn: the tokens and their log-probabilities, (N,) lazy arrays, which begin to be computed.
    """

    def __init__(
        self,
        model: Model,
        cache: LaneCache,
        mask: LaneMask,
        positions: list[int],
        lanes: list[int],
        drawn: tuple[Array, Array],
    ) -> None:
        import mlx.core as mx

        mx.async_eval(*drawn)
        self.positions, self.lanes = positions, lanes
        self.cache, self.before = cache, _state(cache)
        self.fed: list[Row] | None = None  # the rows that were fed, once they are known
        m = np.array(lanes, dtype=np.int64)
        places = cache.places(np.array(positions, dtype=np.int64), m)
        plan = model.plan(cache.lane_rope, mask, places)
        self.logits = forward(model.params, model.config, drawn[0], plan, model.ops, cache.put)

    def start(self, feed: list[Row]) -> None:
        """Let it run. It counts if `feed` is one row for every lane that drew a token."""
        import mlx.core as mx

        mx.async_eval(self.logits)
        if [(i, m) for _, i, m in feed] == list(zip(self.positions, self.lanes, strict=True)):
            self.fed = list(feed)

    def logits_of(self, feed: list[Row], cache: LaneCache) -> dict[int, Array] | None:
        """The logits of each lane's row, and commits the rows; None if the guess was wrong.

        It was wrong if something else is fed, or if the cache has changed since.
        """
        same = all(a is b for a, b in zip(_state(cache), self.before, strict=True))
        if cache is not self.cache or not same or feed != self.fed:
            return None
        m = np.array(self.lanes, dtype=np.int64)
        tokens = np.array([token for token, _, _ in feed], dtype=np.int64)
        cache.commit(np.array(self.positions, dtype=np.int64), m, tokens)
        return {lane: self.logits[k] for k, lane in enumerate(self.lanes)}


def draw(
    model: Model,
    sampler: Sampler,
    logits: Array,
    uniforms: np.ndarray,
    history: History,
    rows: tuple[LaneCache, LaneMask, list[int], list[int]],
) -> tuple[tuple[Array, Array], Ahead | None]:
    """As `Sampler.__call__`, and the next pass, which is built while the tokens are computed.

    rows: the cache, the mask, the positions and the lanes of the next pass. None in its place where
    nothing would be gained, and for a sampler of another class, which may look at what it draws.
    """
    if not pays(model) or type(sampler) is not Sampler:
        return sampler(logits, uniforms, history), None
    drawn = sampler.draw(logits, uniforms, history)
    ahead = Ahead(model, *rows, drawn)
    check(drawn[1])
    return drawn, ahead


def pays(model: Model) -> bool:
    """Whether building early saves time: for all but small models, on a GPU."""
    import mlx.core as mx

    c, gpu = model.config, mx.default_device().type == mx.DeviceType.gpu
    return gpu and 4 * c.layers * c.width * c.mlp_width > SMALL


def _state(cache: LaneCache) -> tuple[Any, ...]:
    return cache.positions, cache.lane_mask, cache.lane_rope
