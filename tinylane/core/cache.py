"""LaneCache: the keys (already rotated) and values of every row so far, with their coordinates.

One buffer per layer, rows in order of arrival: the shared prompt once, then the lanes' rows as they
were written. Putting rows behind the others never moves or rotates a row. Buffers grow in blocks,
layer by layer. Dropping and trimming gather what stays into new buffers, so that no array that was
handed out is ever written into.

Not handled: a batch of unrelated prompts; eviction of old rows.

    T rows of a pass   S cached rows   K kv heads   D head dim
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError, of_kind, whole
from tinylane.core.lanes import SHARED, LaneMask, Places, Rotation
from tinylane.core.rope import Array, rotate, table

BLOCK = 256  # rows


class LaneCache:
    """The rows that a model has seen, for one `lane_rope`; made by `Model.new_cache`.

    positions, lanes, tokens: (S,) int64, of every row. lane_mask: the default of the calls that
    use this cache. Keys and values per layer: (K, capacity, D) in the model's dtype.
    """

    def __init__(self, model: Any, lane_rope: Rotation, lane_mask: LaneMask | None = None) -> None:
        self.lane_rope, self.lane_mask = lane_rope, lane_mask
        self.positions = self.lanes = self.tokens = np.zeros(0, dtype=np.int64)
        self.model = model
        beside = [] if model.side is None else model.side.layers(model.params, model.config)
        self.layers = [*range(model.config.layers), *beside]  # of each entry
        self.keys: list[Array] = [None] * len(self.layers)
        self.values: list[Array] = [None] * len(self.layers)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, spare rows included."""
        return sum(b.nbytes for b in [*self.keys, *self.values] if b is not None)

    def check(self, model: Any, lane_rope: Rotation | None) -> None:
        """Raise TinylaneError unless this cache was made by `model` for `lane_rope` (or None)."""
        if model is not self.model:
            raise TinylaneError("this cache was made by another model; use model.new_cache()")
        if lane_rope is not None and not model.rope(lane_rope).same_as(self.lane_rope):
            raise TinylaneError(
                "this cache's keys were turned by another Omega or prompt_lane, or by another "
                "rotation; start a new cache"
            )

    # One pass: every layer puts its rows behind the cached ones, then the caller commits the
    # coordinates. Until then the rows do not count, so a pass that is interrupted leaves no trace.

    def put(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Keys and values (K, T, D) of this pass -> of all rows, these last: (K, S + T, D)."""
        start, stop = len(self), len(self) + keys.shape[-2]
        out = []
        for buffers, new in ((self.keys, keys), (self.values, values)):
            if buffers[layer] is None or buffers[layer].shape[1] < stop:
                buffers[layer] = _grown(buffers[layer], start, stop, new)
            buffers[layer][:, start:stop, :] = new  # in place: nobody holds rows from `start` on
            out.append(buffers[layer][:, :stop, :])
        return out[0], out[1]

    def places(self, positions: np.ndarray, lanes: np.ndarray) -> Places:
        """The coordinates of a pass over these rows, which see the cached ones."""
        key_positions = np.concatenate([self.positions, positions])
        return Places(positions, lanes, key_positions, np.concatenate([self.lanes, lanes]))

    def commit(self, positions: np.ndarray, lanes: np.ndarray, tokens: Any = -1) -> None:
        """The rows just put have these coordinates and tokens (-1: unknown, like no prompt's)."""
        self.positions = np.concatenate([self.positions, positions])
        self.lanes = np.concatenate([self.lanes, lanes])
        self.tokens = np.concatenate([self.tokens, np.broadcast_to(tokens, positions.shape)])

    def rewind(self, rows: int) -> None:
        """Forget what was committed behind the first `rows` rows, by a pass that was broken off."""
        self.positions, self.lanes = self.positions[:rows], self.lanes[:rows]
        self.tokens = self.tokens[:rows]

    def settle(self, *more: Array) -> None:
        """MLX computes late, and only in the thread that asked for it: compute now, so that another
        thread can go on, and the graph of a long prompt does not pile up."""
        if self.model.backend == "mlx":
            import mlx.core as mx

            mx.eval([b for b in [*self.keys, *self.values, *more] if b is not None])

    # Operations on whole lanes.

    def fork(self, source: int, target: int) -> None:
        """Give lane `target`, which has no rows, a copy of the rows of lane `source`.

        The copies stand at the same positions in lane `target`: their keys are turned on by what
        the lanes' angles differ, without the attention factor, which they already carry.
        """
        self.check_fork(source, target)
        rows = np.flatnonzero(self.lanes == source)
        if len(rows) == 0:
            return
        index = self.model.array(rows.astype(np.int32))
        host = np.float64 if self.model.dtype == "float64" else np.float32
        for entry, layer in enumerate(self.layers):
            before, after = self.lane_rope.angles(np.array([source, target]), layer)
            keys, values = self.keys[entry][:, index, :], self.values[entry][:, index, :]
            if not np.array_equal(after, before):
                turn = table((after - before)[None, :], dtype=host)
                keys = rotate(keys, *(self.model.array(t) for t in turn))
            self.put(entry, keys, values)
        self.commit(self.positions[rows], np.full_like(rows, target), self.tokens[rows])
        self.settle()

    def check_fork(self, source: int, target: int) -> None:
        """Raise TinylaneError unless both are lanes of this cache, and the target has no rows."""
        for lane in (source, target):
            whole("fork: the lane", lane, 0, self.lane_mask.n - 1 if self.lane_mask else None)
        if (self.lanes == target).any():
            raise TinylaneError(f"fork: lane {target} already has rows; drop it first")

    def drop(self, lane: int) -> None:
        """Forget every row of a lane, as if it had never written."""
        if whole("drop: the lane", lane, SHARED) == SHARED:
            raise TinylaneError("drop: the shared prompt cannot be dropped; start a new cache")
        self.keep(self.lanes != lane)

    def trim(self, position: int) -> None:
        """Forget every row at `position` and later, in all lanes."""
        whole("trim: the position", position, 0)
        self.keep(self.positions < position)

    def copy(self, lanes: list[int] | None = None) -> LaneCache:
        """An independent cache with the same rows; `lanes`: the prompt's rows and theirs alone."""
        twin = LaneCache(self.model, self.lane_rope, self.lane_mask)
        twin.positions, twin.lanes, twin.tokens = self.positions, self.lanes, self.tokens
        twin.keys, twin.values = list(self.keys), list(self.values)
        of_kind("copy: lanes", lanes, (list, tuple, NoneType), "a list of lanes, or None")
        kept = self.lanes if lanes is None else [SHARED, *(whole("a lane", m, 0) for m in lanes)]
        twin.keep(np.isin(self.lanes, kept), force=True)
        return twin

    def keep(self, which: np.ndarray, force: bool = False) -> None:
        """Forget the rows where `which` (S,) is false. force: new buffers even if none is."""
        if which.all() and not force:
            return
        index = self.model.array(np.flatnonzero(which).astype(np.int32))
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                buffers[layer] = None if buffer is None else buffer[:, index, :]
        self.positions, self.lanes = self.positions[which], self.lanes[which]
        self.tokens = self.tokens[which]
        self.settle()

    def rows(self, layer: int) -> tuple[Array, Array]:
        """Keys and values (K, S, D) of a layer, at the coordinates `positions`, `lanes`."""
        return self.keys[layer][:, : len(self), :], self.values[layer][:, : len(self), :]

    # Files stand above the core and import it. So these two find theirs when they are called.

    def save(self, path: str | Path) -> None:
        """Write this cache to a .safetensors file; see `tinylane.files.cache_file`."""
        import_module("tinylane.files.cache_file").save_cache(self, path)

    @classmethod
    def load(
        cls, path: str | Path, model: Any, lane_rope: Any = None, lane_mask: Any = None
    ) -> LaneCache:
        """Read what `save` wrote; see `tinylane.files.cache_file`."""
        load_cache = import_module("tinylane.files.cache_file").load_cache
        return load_cache(path, model, lane_rope, lane_mask)


def _grown(buffer: Array | None, used: int, needed: int, like: Array) -> Array:
    """A buffer with room for `needed` rows and an eighth more, in whole blocks."""
    xp = like.__array_namespace__()
    rows = -(-max(needed, used + used // 8) // BLOCK) * BLOCK
    new = xp.zeros((like.shape[0], rows, like.shape[2]), dtype=like.dtype)
    if buffer is not None and used:
        new[:, :used, :] = buffer[:, :used, :]
    return new
