"""MLX computes late: the next step's pass is built while the current one runs.

Which token a lane drew is not known until the current pass has been computed. But the pass that
feeds it can be built around it, on the guess that no lane ends. `Ahead` does that while the tokens
are being computed. `Ahead.start` lets the GPU run the pass once the tokens have been read, while
the program that decodes does something with them. `Ahead.logits_of` gives the logits if what is fed
is what was guessed. If not, the decoding makes the pass anew: the rows of a wrong guess stand
behind those that count and are overwritten, as after an interrupted pass.

`draw` is one of MLX's operations (`mlx_ops.OPS`); the plain ones build nothing early. On a CPU,
whose queue is short, nothing would be gained. What has been handed to a device can be used in
another thread, and what MLX has only noted cannot: so `start` hands over every pass.

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
Rows = tuple[LaneCache, LaneMask, list[int], list[int]]  # cache, mask, positions, lanes
SMALL = 1 << 24  # weights of a model whose pass takes no longer than building the next one


class Ahead:
    """A pass with one row for each lane, built before its tokens are known.

    drawn: the tokens and their log-probabilities, (N,) lazy arrays, which begin to be computed.
    """

    def __init__(self, model: Model, rows: Rows, drawn: tuple[Array, Array]) -> None:
        import mlx.core as mx

        mx.async_eval(*drawn)
        cache, mask, positions, lanes = rows
        self.positions, self.lanes = np.array(positions), np.array(lanes)
        self.cache, self.before = cache, _state(cache)
        self.fed: list[Row] | None = None  # the rows that were fed, once they are known
        plan = model.plan(cache.lane_rope, mask, cache.places(self.positions, self.lanes))
        self.logits = forward(model.params, model.config, drawn[0], plan, model.ops, cache.put)

    def start(self, feed: list[Row]) -> None:
        """Let it run. It counts if `feed` is one row for every lane that drew a token."""
        import mlx.core as mx

        mx.async_eval(self.logits)
        guessed = zip(self.positions.tolist(), self.lanes.tolist(), strict=True)
        if [(i, m) for _, i, m in feed] == list(guessed):
            self.fed = list(feed)

    def logits_of(self, feed: list[Row], cache: LaneCache) -> dict[int, Array] | None:
        """The logits of each lane's row, and commits the rows; None if the guess was wrong.

        It was wrong if something else is fed, or if the cache has changed since.
        """
        same = all(a is b for a, b in zip(_state(cache), self.before, strict=True))
        if cache is not self.cache or not same or feed != self.fed:
            return None
        cache.commit(self.positions, self.lanes, np.array([token for token, _, _ in feed]))
        return {lane: self.logits[k] for k, lane in enumerate(self.lanes.tolist())}


def draw(
    model: Model,
    sampler: Sampler,
    logits: Array,
    uniforms: np.ndarray,
    history: History,
    rows: Rows | None,
) -> tuple[tuple[Array, Array], Ahead | None]:
    """As `decoder.draw`, and the next pass, which is built while the tokens are computed.

    rows: None if those of the next pass are not known. No pass is built then, nor behind the
    context, nor where nothing would be gained, nor for a sampler of another class, which may look
    at what it draws.
    """
    room = rows is not None and max(rows[2]) + 1 < model.config.context
    if rows is None or not room or not pays(model) or type(sampler) is not Sampler:
        return sampler(logits, uniforms, history), None
    drawn = sampler.draw(logits, uniforms, history)
    ahead = Ahead(model, rows, drawn)
    check(drawn[1])
    return drawn, ahead


def pays(model: Model) -> bool:
    """Whether building early saves time: for all but small models, on a GPU."""
    import mlx.core as mx

    c, gpu = model.config, mx.default_device().type == mx.DeviceType.gpu
    return gpu and 4 * c.layers * c.width * c.mlp_width > SMALL


def _state(cache: LaneCache) -> tuple[Any, ...]:
    return cache.positions, cache.lane_mask, cache.lane_rope
