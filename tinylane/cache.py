"""LaneCache: the keys (already rotated) and values of every row so far, with their coordinates.

One buffer per layer, rows in order of arrival: the shared prompt once, then the lanes' rows as they
were written. Putting rows behind the others never moves or rotates a row. Buffers grow in blocks,
layer by layer. Dropping and trimming gather what stays into new buffers, so that no array that was
handed out is ever written into.

Not handled: a batch of unrelated prompts; eviction of old rows.

    T rows of a pass   S cached rows   K kv heads   D head dim
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.errors import TinylaneError
from tinylane.lanes import MAX_LANES, SHARED, LaneMask, LaneRoPE
from tinylane.rope import rotate, table

if TYPE_CHECKING:
    from tinylane.model import Model

Array = Any
BLOCK = 256  # rows


class LaneCache:
    """The rows that a model has seen, for one `lane_rope`; made by `Model.new_cache`.

    positions, lanes: (S,) int64, the coordinate of every row. lane_mask: the default of the calls
    that use this cache. Keys and values per layer: (K, capacity, D) in the model's dtype.
    """

    def __init__(
        self, model: Model, lane_rope: LaneRoPE, lane_mask: LaneMask | None = None
    ) -> None:
        self.lane_rope, self.lane_mask = lane_rope, lane_mask
        self.positions = np.zeros(0, dtype=np.int64)
        self.lanes = np.zeros(0, dtype=np.int64)
        self._model = model
        layers = model.config.layers
        self._keys: list[Array] = [None] * layers
        self._values: list[Array] = [None] * layers

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, spare rows included."""
        return sum(b.nbytes for b in [*self._keys, *self._values] if b is not None)

    def check(self, model: Model, lane_rope: LaneRoPE | None) -> None:
        """Raise TinylaneError unless this cache was made by `model` for `lane_rope` (or None)."""
        if model is not self._model:
            raise TinylaneError("this cache was made by another model; use model.new_cache()")
        if lane_rope is not None and not lane_rope.same_as(self.lane_rope):
            raise TinylaneError(
                "this cache's keys were turned by another Omega or prompt_lane; start a new cache"
            )

    # One pass: every layer puts its rows behind the cached ones, then the caller commits the
    # coordinates. Until then the rows do not count, so a pass that is interrupted leaves no trace.

    def put(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Keys and values (K, T, D) of this pass -> those of all rows, these last: (K, S + T, D)."""
        start, stop = len(self), len(self) + keys.shape[-2]
        out = []
        for buffers, new in ((self._keys, keys), (self._values, values)):
            if buffers[layer] is None or buffers[layer].shape[1] < stop:
                buffers[layer] = _grown(buffers[layer], start, stop, new)
            buffers[layer][:, start:stop, :] = new  # in place: nobody holds rows from `start` on
            out.append(buffers[layer][:, :stop, :])
        return out[0], out[1]

    def commit(self, positions: np.ndarray, lanes: np.ndarray) -> None:
        """The rows just put have these coordinates."""
        self.positions = np.concatenate([self.positions, positions])
        self.lanes = np.concatenate([self.lanes, lanes])

    # Operations on whole lanes.

    def fork(self, source: int, target: int) -> None:
        """Give lane `target`, which has no rows, a copy of the rows of lane `source`.

        The copies stand at the same positions in lane `target`: their keys are turned on by
        Omega * (target - source), without the attention factor, which they already carry.
        """
        for lane in (source, target):
            if lane < 0 or (self.lane_mask is not None and lane >= self.lane_mask.n):
                raise TinylaneError(f"fork: {lane} is not a lane of this cache")
        if (self.lanes == target).any():
            raise TinylaneError(f"fork: lane {target} already has rows; drop it first")
        rows = np.flatnonzero(self.lanes == source)
        if len(rows) == 0:
            return
        index = self._model.array(rows.astype(np.int32))
        step = np.array([target - source])
        for layer in range(len(self._keys)):
            omega = self.lane_rope.omega
            angles = step[:, None] * (omega if omega.ndim == 1 else omega[layer])
            host = np.float64 if self._model.dtype == "float64" else np.float32
            c, s = (self._model.array(t) for t in table(angles, dtype=host))
            keys, values = self._keys[layer][:, index, :], self._values[layer][:, index, :]
            self.put(layer, rotate(keys, c, s), values)
        self.commit(self.positions[rows], np.full(len(rows), target, dtype=np.int64))

    def drop(self, lane: int) -> None:
        """Forget every row of a lane, as if it had never written."""
        if lane == SHARED:
            raise TinylaneError("drop: the shared prompt cannot be dropped; start a new cache")
        self._keep(self.lanes != lane)

    def trim(self, position: int) -> None:
        """Forget every row at `position` and later, in all lanes."""
        self._keep(self.positions < position)

    def copy(self) -> LaneCache:
        """An independent cache with the same rows."""
        twin = LaneCache(self._model, self.lane_rope, self.lane_mask)
        twin.positions, twin.lanes = self.positions, self.lanes
        twin._keys, twin._values = list(self._keys), list(self._values)
        twin._keep(np.ones(len(self), dtype=bool), force=True)
        return twin

    def _keep(self, which: np.ndarray, force: bool = False) -> None:
        if which.all() and not force:
            return
        index = self._model.array(np.flatnonzero(which).astype(np.int32))
        for buffers in (self._keys, self._values):
            for layer, buffer in enumerate(buffers):
                buffers[layer] = None if buffer is None else buffer[:, index, :]
        self.positions, self.lanes = self.positions[which], self.lanes[which]

    # Files.

    def rows(self, layer: int) -> tuple[Array, Array]:
        """Keys and values (K, S, D) of a layer, in order of arrival; `positions`, `lanes` name them."""
        return self._keys[layer][:, : len(self), :], self._values[layer][:, : len(self), :]

    def save(self, path: str | Path) -> None:
        """Write the rows, coordinates and lane settings to a .safetensors file, whole or not at all.

        Raises TinylaneError where the folder cannot be written.
        """
        from tinylane.tensorfile import write_tensors

        tensors: dict[str, Array] = {"positions": self.positions, "lanes": self.lanes}
        tensors["lane_rope.omega"] = self.lane_rope.omega
        if self.lane_mask is not None:
            tensors["lane_mask.visibility"] = self.lane_mask.visibility.astype(np.uint8)
        for layer in range(len(self._keys) if len(self) else 0):
            tensors[f"layers.{layer}.keys"], tensors[f"layers.{layer}.values"] = self.rows(layer)
        lag = "" if self.lane_mask is None else str(self.lane_mask.lag)
        write_tensors(path, tensors, {**self._stamp(), "lag": lag})

    def _stamp(self) -> dict[str, str]:
        c = self._model.config
        return {
            "format": "tinylane cache 1",
            "identity": self._model.identity,
            "sizes": f"{c.family} {c.layers}x{c.kv_heads}x{c.head_dim} vocab {c.vocab}",
            "dtype": self._model.dtype,
            "prompt_lane": str(self.lane_rope.prompt_lane),
        }

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: Model,
        lane_rope: LaneRoPE | None = None,
        lane_mask: LaneMask | None = None,
    ) -> LaneCache:
        """Read what `save` wrote. Raises TinylaneError if the file is damaged, was made by another
        model or dtype, or with another `lane_rope` or `lane_mask` than the ones given (if given)."""
        from tinylane.tensorfile import TensorFile

        with TensorFile.open(path) as file:
            meta = dict(file.metadata)

            def read(name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
                if name not in file.names or (shape and tuple(file.shape(name)) != shape):
                    found = tuple(file.shape(name)) if name in file.names else "missing"
                    raise TinylaneError(f"{path}: {name} is {found}; expected shape {shape}")
                return file.read(name)

            if meta.get("format") != "tinylane cache 1":
                raise TinylaneError(f"{path}: not a cache saved by tinylane")
            prompt_lane: Any = 0 if meta.get("prompt_lane") == "0" else "own"
            cache = cls(model, model.rope(LaneRoPE(read("lane_rope.omega"), prompt_lane)))
            for key, value in cache._stamp().items():
                if meta.get(key) != value:
                    raise TinylaneError(
                        f"{path}: this cache's {key} is {meta.get(key)!r}; the model's is {value!r}"
                    )
            if "lane_mask.visibility" in file.names:
                lag = meta.get("lag", "")
                if not (lag.isascii() and lag.isdigit() and len(lag) < 10):
                    raise TinylaneError(f"{path}: lag is {lag!r}; expected a whole number >= 0")
                cache.lane_mask = LaneMask(read("lane_mask.visibility"), int(lag))
            if lane_rope is not None and not lane_rope.same_as(cache.lane_rope):
                raise TinylaneError(f"{path}: saved with another Omega or prompt_lane")
            if lane_mask is not None and not lane_mask.same_as(cache.lane_mask):
                raise TinylaneError(f"{path}: saved with another visibility or lag")
            positions, lanes = read("positions"), read("lanes")
            S = len(positions) if positions.ndim == 1 else -1
            if S < 0 or lanes.shape != (S,) or {positions.dtype.kind, lanes.dtype.kind} != {"i"}:
                raise TinylaneError(f"{path}: positions and lanes are not two flat integer lists")
            top = MAX_LANES if cache.lane_mask is None else cache.lane_mask.n
            if S and (lanes.min() < SHARED or lanes.max() >= top):
                raise TinylaneError(f"{path}: lanes outside -1 .. {top - 1}")
            c = model.config
            for layer in range(c.layers if S else 0):
                for name, buffers in (("keys", cache._keys), ("values", cache._values)):
                    raw = read(f"layers.{layer}.{name}", (c.kv_heads, S, c.head_dim))
                    buffers[layer] = model.typed(raw)
            cache.positions, cache.lanes = positions.astype(np.int64), lanes.astype(np.int64)
        return cache


def _grown(buffer: Array | None, used: int, needed: int, like: Array) -> Array:
    """A buffer with room for `needed` rows and an eighth more, in whole blocks, the used rows kept."""
    xp = like.__array_namespace__()
    rows = -(-max(needed, used + used // 8) // BLOCK) * BLOCK
    new = xp.zeros((like.shape[0], rows, like.shape[2]), dtype=like.dtype)
    if buffer is not None and used:
        new[:, :used, :] = buffer[:, :used, :]
    return new
