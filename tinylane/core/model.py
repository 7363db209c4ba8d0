"""Model: a decoder with its weights, its backend, and what it was trained with.

`model(tokens, positions, lanes)` checks its arguments, makes the plan of the pass, and calls
`decoder.forward`. With a cache the rows of the pass are added to it.

    T rows   V vocab   N lanes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import NoneType
from typing import Any

import numpy as np

from tinylane.core.cache import LaneCache
from tinylane.core.config import ModelConfig
from tinylane.core.decoder import PLAIN, Array, Ops, Params, Plan, forward, make_plan
from tinylane.core.errors import TinylaneError, of_kind
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Places, Rotation
from tinylane.core.rope import frequencies

FOR_LANES = {"lane_embed", "lane_kv", "bridge", "p_match", "lace"}  # tensors beside the decoder's


@dataclass
class Model:
    """A decoder with its weights: `model(tokens, positions, lanes)` gives logits.

    params: arrays of one library, matrices so that `x @ w` works. dtype: the activations'.
    lane_rope, visibility, lag, lane_prompts: what it was trained with, the defaults of every call.
    sampling: generation_config's defaults. identity: a digest of its files.
    ops: the functions of `decoder.py`, or a backend's faster versions (`tinylane.load` chooses).
    """

    config: ModelConfig
    params: Params
    backend: str = "numpy"
    dtype: str = "float32"
    tokenizer: Any = None  # `tinylane.checkpoints.tokenizer.Tokenizer`; None: prompts are ids
    lane_rope: LaneRoPE | None = None
    visibility: Any = None  # a name of `LaneMask.named`, or a matrix; None: not trained for lanes
    lag: int = 0
    lane_prompts: Callable[[int], list[str]] = lambda n: [""] * n  # how n lanes begin
    sampling: dict | None = None
    identity: str = ""
    task: dict | None = None  # the task it was trained on, if its adapter names one
    describe: Callable[[], dict] | None = None  # gives the report
    ops: Ops = PLAIN
    side: Any = None  # what uses tensors that are for lanes: `tinylane.checkpoints.side.Side`

    def __post_init__(self) -> None:
        beside = [name for name in self.params if not FOR_LANES.isdisjoint(name.split("."))]
        if beside and self.side is None:
            raise TinylaneError(f"{beside[0]} is for lanes; give side=checkpoints.side.Side")
        if self.backend == "mlx":  # weights that this thread left uncomputed no other could use
            import mlx.core as mx

            mx.eval(self.params)

    @cached_property
    def theta(self) -> np.ndarray:
        """What one position turns each pair of channels by: (D/2,) float64, radians."""
        return frequencies(self.config.rope, self.config.head_dim)[0]

    @cached_property
    def report(self) -> dict | None:
        """What the loader chose and from where; None for a model that was not loaded."""
        return self.describe() if self.describe is not None else None

    @property
    def ops_name(self) -> str:
        """Which operations run: "plain" or "fast"."""
        return "plain" if self.ops is PLAIN else "fast"

    @property
    def end_ids(self) -> frozenset[int]:
        """The union of the end tokens that config, generation_config and tokenizer name."""
        named = self.tokenizer.eos_ids if self.tokenizer is not None else ()
        return frozenset(self.config.eos_ids) | frozenset(named)

    @property
    def trained_for_lanes(self) -> bool:
        """Whether the checkpoint or its adapter says how its lanes read each other."""
        return self.visibility is not None

    def mask(self, n: int) -> LaneMask:
        """The mask for n lanes that this model was trained with, or `independent`."""
        if self.visibility is None or isinstance(self.visibility, str):
            return LaneMask.named(self.visibility or "independent", n, self.lag)
        if len(self.visibility) < n:
            raise TinylaneError(
                f"{n} lanes, but this model's visibility is a matrix for {len(self.visibility)}; "
                "give a visibility"
            )
        return LaneMask(np.asarray(self.visibility)[:n, :n], self.lag)

    def rope(self, lane_rope: Rotation | None = None, mask: LaneMask | None = None) -> Rotation:
        """`lane_rope`, checked; else the model's; else none. mask: none if no lane reads others."""
        rope: Any = self.lane_rope if lane_rope is None else lane_rope
        rope = LaneRoPE.none(self.theta) if rope is None else rope
        of_kind("lane_rope", rope, Rotation, "a LaneRoPE, or Hogwild()")
        sizes = (self.config.layers, self.config.head_dim // 2)
        if isinstance(rope, LaneRoPE) and rope.omega.shape not in (sizes, sizes[1:]):
            raise TinylaneError(
                f"Omega has shape {rope.omega.shape}; this model needs ({sizes[1]},) or {sizes}"
            )
        of_kind("mask", mask, (LaneMask, NoneType), "a LaneMask")
        if mask is not None and mask.alone and getattr(rope, "prompt_lane", None) == "own":
            return LaneRoPE.none(self.theta)  # law 7: the same numbers, with one rotation less
        return rope

    def array(self, x: np.ndarray) -> Array:
        """A NumPy array as this backend's."""
        if self.backend == "numpy":
            return x
        import mlx.core as mx

        return mx.array(x)

    def plan(self, rope: Rotation, mask: LaneMask, places: Places) -> Plan:
        """`make_plan` for this model, in its backend's arrays."""
        dtype = np.float64 if self.dtype == "float64" else np.float32
        plan = make_plan(self.config, rope, mask, places, dtype, self.array)
        if self.side is None:
            return plan
        of_pass = self.side.planned(self.params, self.config, rope, mask, places, self.array)
        return plan._replace(side=of_pass)

    def new_cache(
        self, lane_rope: Rotation | None = None, lane_mask: LaneMask | None = None
    ) -> LaneCache:
        """An empty cache for this model, whose keys will be turned by `lane_rope`."""
        return LaneCache(self, self.rope(lane_rope), lane_mask)

    def __call__(
        self,
        tokens: Any,
        positions: Any,
        lanes: Any,
        lane_rope: Rotation | None = None,
        lane_mask: LaneMask | None = None,
        cache: LaneCache | None = None,
        rows: Any = None,
    ) -> Array:
        """Logits (T, V), float32 (float64 where the model is), for T rows at their coordinates.

        tokens, positions, lanes: flat integer arrays of one length; lanes may hold SHARED. rows:
        which rows' logits to compute (indices; default all). With a cache, the rows see what it
        holds and are added to it. Raises TinylaneError for anything out of range.
        """
        ids = _integers("tokens", tokens)
        i, m = _integers("positions", positions), _integers("lanes", lanes)
        if not len(ids) == len(i) == len(m) or len(ids) == 0:
            raise TinylaneError(
                f"{len(ids)} tokens, {len(i)} positions, {len(m)} lanes; expected the same number, "
                "at least one"
            )
        if ids.min() < 0 or ids.max() >= self.config.vocab:
            bad = int(ids[(ids < 0) | (ids >= self.config.vocab)][0])
            raise TinylaneError(f"token {bad} is outside the vocabulary of {self.config.vocab}")
        keep = None if rows is None else _integers("rows", rows)
        if keep is not None and not ((keep >= 0) & (keep < len(ids))).all():
            raise TinylaneError(
                f"rows are {keep.min()} .. {keep.max()}; expected 0 .. {len(ids) - 1}"
            )
        if cache is not None:
            of_kind("cache", cache, LaneCache, "a LaneCache").check(self, lane_rope)
            lane_mask = cache.lane_mask if lane_mask is None else lane_mask
        rope = self.rope(lane_rope) if cache is None else cache.lane_rope
        places = Places(i, m, i, m) if cache is None else cache.places(i, m)
        n = max(int(places.key_lanes.max()) + 1, 1)
        mask = self.mask(n) if lane_mask is None else lane_mask
        of_kind("lane_mask", mask, LaneMask, "a LaneMask")
        if m.min() < SHARED or places.key_lanes.max() >= mask.n:
            wrong = m.min() if m.min() < SHARED else places.key_lanes.max()
            raise TinylaneError(
                f"lane {wrong} is outside the mask's 0 .. {mask.n - 1} (SHARED is {SHARED})"
            )
        logits = self.run(ids, rope, mask, places, cache, keep)
        if cache is not None:
            cache.commit(i, m, ids)
        return logits

    def run(
        self, ids: np.ndarray, rope: Rotation, mask: LaneMask, places: Places, cache: Any, keep: Any
    ) -> Array:
        """A pass of arguments that `__call__` has checked; a model of `tinylane.hf` has its own."""
        plan = self.plan(rope, mask, places)
        # MLX gathers by 32-bit indices, unchecked: an index out of range must not get there.
        index = self.array(ids.astype(np.int32))
        some = None if keep is None else self.array(keep.astype(np.int32))
        put = None if cache is None else cache.put
        return forward(self.params, self.config, index, plan, self.ops, put, some)


def _integers(name: str, x: Any) -> np.ndarray:
    array = np.asarray(x)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TinylaneError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; expected a flat integer array"
        )
    return array.astype(np.int64)
