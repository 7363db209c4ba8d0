"""The cache of a model of transformers, with the coordinates of its rows, as a `LaneCache`.

The rows of all lanes are one sequence of the model's own cache, in order of arrival; where a row
stands and who sees it is kept beside it. Keys do not depend on the lane, so a fork copies nothing,
and rows that are dropped stay in the model's cache, unseen.

    T rows   S cached rows
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tinylane.core.cache import LaneCache
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask, Places, Rotation
from tinylane.hf.attention import LanePass, standing

OF_ROWS = ("positions", "lanes", "tokens", "physical", "stand", "written")  # (S,) integers each


class HFCache(LaneCache):
    """The coordinates of the rows in a cache of transformers (`past`), which holds the keys.

    physical: (S,) the row of `past` that each row is; a forked lane shares rows with its source.
    stand: (S,) the position by which each key should be turned (`attention.standing`).
    written: (S,) the lane that wrote it: another than it is in where a fork copied it.
    """

    def __init__(self, model: Any, lane_rope: Rotation, lane_mask: LaneMask | None = None) -> None:
        super().__init__(model, lane_rope, lane_mask)
        self.past = model.new_past()
        self.used = 0  # rows of `past`
        self.physical = np.zeros(0, dtype=np.int64)
        self.stand = np.zeros(0, dtype=np.int64)
        self.written = np.zeros(0, dtype=np.int64)
        self._new = self.stand  # where the rows of the pass that is not yet committed stand

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors in the model's cache."""
        return sum(_bytes(vars(layer)) for layer in self.past.layers)

    def make(self, rope: Rotation, mask: LaneMask, places: Places) -> LanePass:
        """The pass over these rows and the new ones. Raises TinylaneError where they have no room
        in a cache of a fixed length."""
        rows = self.used + len(places.positions)
        for layer in self.past.layers:
            room = getattr(layer, "max_cache_len", rows)
            if rows > room:
                raise TinylaneError(
                    f"{type(self.past).__name__} has room for {room} rows, of the prompt and all "
                    f"lanes together; {rows} are needed: make it longer"
                )
        self._new = standing(rope, mask, places)
        physical = np.concatenate([self.physical, self.used + np.arange(len(self._new))])
        stand = np.concatenate([self.stand, self._new])
        written = np.concatenate([self.written, places.lanes])
        return self.model.lane_pass(rope, mask, places, None, stand, physical, written)

    def commit(self, positions: np.ndarray, lanes: np.ndarray, tokens: Any = -1) -> None:
        """The rows that the model has just put into its cache have these coordinates, tokens."""
        super().commit(positions, lanes, tokens)
        new = self.used + np.arange(len(positions))
        self.physical = np.concatenate([self.physical, new])
        self.stand = np.concatenate([self.stand, self._new])
        self.written = np.concatenate([self.written, lanes])
        self.used += len(positions)

    def rewind(self, rows: int) -> None:
        """Forget the rows behind the first `rows`, and what a broken pass left of itself."""
        layers = self.past.layers
        lengths = {int(layer.get_seq_length()) for layer in layers}
        crops = all(map(croppable, layers))
        if not crops and len(lengths) > 1:
            raise TinylaneError(
                f"a pass was interrupted, and {type(self.past).__name__} cannot forget its rows; "
                "decode anew"
            )
        if not crops:  # they stay in it, unseen
            self.used = max(lengths, default=0)
        elif rows < len(self):  # the rows of a peek: the last ones of the model's cache, too
            self.used = int(self.physical[rows:].min())
        super().rewind(rows)
        self.physical, self.stand = self.physical[:rows], self.stand[:rows]
        self.written = self.written[:rows]
        for layer in layers if crops else ():
            extra = int(layer.get_seq_length()) - self.used
            if extra:
                layer.crop(-extra)

    def settle(self, *more: Any) -> None:
        """Nothing: torch has computed already."""

    def fork(self, source: int, target: int) -> None:
        """Give lane `target` the rows of lane `source`. Raises as `LaneCache.fork` does."""
        self.check_fork(source, target)
        rows = np.flatnonzero(self.lanes == source)
        for name in OF_ROWS:
            held = getattr(self, name)
            setattr(self, name, np.concatenate([held, held[rows]]))
        self.lanes[len(self.lanes) - len(rows) :] = target

    def copy(self, lanes: list[int] | None = None) -> HFCache:
        """Refused: caches of transformers cannot all be copied."""
        raise TinylaneError("a cache of transformers has no copy here; decode anew")

    def rows(self, layer: int) -> tuple[Any, Any]:
        """Keys and values (K, S, D) of a layer as tensors; the keys are turned by position only."""
        held = self.past.layers[layer]
        if not croppable(held):
            raise TinylaneError(f"{type(self.past).__name__} does not give its rows; decode anew")
        index = torch.as_tensor(self.physical, device=held.keys.device)
        return held.keys[0][:, index], held.values[0][:, index]

    def keep(self, which: np.ndarray, force: bool = False) -> None:
        """Forget the rows where `which` (S,) is false; the model's cache still holds them."""
        for name in OF_ROWS:
            setattr(self, name, getattr(self, name)[which])


def croppable(layer: Any) -> bool:
    """Whether a layer of a cache can forget its last rows: a quantized one cannot."""
    return bool(getattr(layer, "is_croppable", "Quantized" not in type(layer).__name__))


def _bytes(held: Any) -> int:
    """Of all tensors in it; a quantized layer has them in tuples and dicts."""
    if isinstance(held, (dict, list, tuple)):
        return sum(map(_bytes, held.values() if isinstance(held, dict) else held))
    return held.nbytes if torch.is_tensor(held) else 0
