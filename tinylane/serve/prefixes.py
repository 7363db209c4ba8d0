"""Keys and values of prompts that were seen before, so that they are not computed again.

They are kept in blocks of C rows. A prompt is always fed in passes of C rows that begin at
multiples of C (its last rows are a shorter pass), and only whole blocks are kept. So the rows of a
block always come from a pass of the same shape over the same rows: what is reused has the very bits
that would be computed, and what the store holds changes no answer.

    C rows of a block   K kv heads   D head dim
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.lanes import SHARED

if TYPE_CHECKING:
    from tinylane.core.cache import LaneCache

Block = list[tuple[Any, Any]]  # for each layer keys and values, (K, C, D)


class Prefixes:
    """Blocks of earlier prompts, at most `limit` bytes; what was not used for long goes first.

    A block is known by all tokens up to its end. size: C.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size, self.limit, self.nbytes = size, limit, 0
        self._blocks: dict[tuple[int, ...], Block] = {}  # the one used last stands last

    def whole(self, tokens: list[int]) -> int:
        """How many rows of a prompt stand in whole blocks. Its last row never does: its logits are
        needed."""
        return (len(tokens) - 1) // self.size * self.size

    def fill(self, cache: LaneCache, tokens: list[int]) -> int:
        """Put the known beginning of a prompt into an empty cache; returns how many rows."""
        names: list[tuple[int, ...]] = []
        for end in range(self.size, self.whole(tokens) + 1, self.size):
            if (name := tuple(tokens[:end])) not in self._blocks:
                break
            names.append(name)
        if not names:
            return 0
        blocks = [self._blocks[name] for name in names]
        xp = blocks[0][0][0].__array_namespace__()
        for layer in range(len(blocks[0])):
            keys, values = (
                xp.concatenate([block[layer][which] for block in blocks], axis=1)
                for which in (0, 1)
            )
            cache.put(layer, keys, values)
        rows = len(names[-1])
        positions = np.arange(rows)
        cache.commit(positions, np.full(rows, SHARED), np.array(tokens[:rows]))
        cache.settle()
        self._touch(names)
        return rows

    def keep(self, cache: LaneCache, tokens: list[int], end: int) -> None:
        """Keep the block of a prompt that ends before row `end`; the cache has just computed it."""
        name, rows = tuple(tokens[:end]), slice(end - self.size, end)
        if not self.limit or name in self._blocks:
            return
        copy = cache.model.array(np.arange(rows.start, rows.stop, dtype=np.int32))
        block = [
            (keys[:, copy, :], values[:, copy, :])  # an index copies, a slice may be a view
            for keys, values in (cache.rows(layer) for layer in range(len(cache.keys)))
        ]
        size = sum(array.nbytes for pair in block for array in pair)
        if size > self.limit:
            return
        if cache.model.backend == "mlx":
            import mlx.core as mx

            mx.eval(block)
        self._blocks[name] = block
        self.nbytes += size
        self._touch([tuple(tokens[:e]) for e in range(self.size, end + 1, self.size)])
        while self.nbytes > self.limit:
            oldest = next(iter(self._blocks))
            gone = self._blocks.pop(oldest)
            self.nbytes -= sum(array.nbytes for pair in gone for array in pair)

    def _touch(self, chain: list[tuple[int, ...]]) -> None:
        """These were used now, the first one last: a block is of no use without those before it."""
        for name in reversed(chain):
            if name in self._blocks:
                self._blocks[name] = self._blocks.pop(name)
