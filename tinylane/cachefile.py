"""A LaneCache in a .safetensors file, with the model's identity and its lane settings.

Tensors: `positions`, `lanes` (S,) int64; `layers.i.keys`, `layers.i.values` (K, S, D) in the
model's dtype; `lane_rope.omega`; `lane_mask.visibility`. The metadata holds format, identity,
sizes, dtype, prompt_lane and lag, all checked at load.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.cache import LaneCache
from tinylane.errors import TinylaneError
from tinylane.files import show
from tinylane.lanes import MAX_LANES, SHARED, LaneMask, LaneRoPE
from tinylane.tensorfile import TensorFile, write_tensors

if TYPE_CHECKING:
    from tinylane.model import Model

FORMAT = "tinylane cache 1"
_DTYPE = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def save_cache(cache: LaneCache, path: str | Path) -> None:
    """Write the rows, coordinates and lane settings, whole or not at all.

    Raises TinylaneError where the folder cannot be written.
    """
    tensors: dict[str, Any] = {"positions": cache.positions, "lanes": cache.lanes}
    tensors["lane_rope.omega"] = cache.lane_rope.omega
    if cache.lane_mask is not None:
        tensors["lane_mask.visibility"] = cache.lane_mask.visibility.astype(np.uint8)
    for layer in range(cache.model.config.layers if len(cache) else 0):
        tensors[f"layers.{layer}.keys"], tensors[f"layers.{layer}.values"] = cache.rows(layer)
    lag = "" if cache.lane_mask is None else str(cache.lane_mask.lag)
    meta = {"format": FORMAT, "lag": lag, "prompt_lane": str(cache.lane_rope.prompt_lane)}
    write_tensors(path, tensors, {**meta, **_stamp(cache.model)})


def _stamp(model: Model) -> dict[str, str]:
    c = model.config
    return {
        "identity": model.identity,
        "sizes": f"{c.family} {c.layers}x{c.kv_heads}x{c.head_dim} vocab {c.vocab}",
        "dtype": model.dtype,
    }


def load_cache(
    path: str | Path,
    model: Model,
    lane_rope: LaneRoPE | None = None,
    lane_mask: LaneMask | None = None,
) -> LaneCache:
    """Read what `save_cache` wrote.

    Raises TinylaneError if the file is damaged, was made by another model or in another dtype, or
    with another `lane_rope` or `lane_mask` than the ones given (if given).
    """
    with TensorFile.open(path) as file:
        meta = dict(file.metadata)
        if meta.get("format") != FORMAT:
            raise TinylaneError(f"{path}: not a cache saved by tinylane")

        def read(name: str, *shape: int) -> np.ndarray:
            if name not in file.names:
                raise TinylaneError(f"{path}: {name} is missing")
            if shape and tuple(file.shape(name)) != shape:
                raise TinylaneError(
                    f"{path}: {name} has shape {tuple(file.shape(name))}; expected {shape}"
                )
            return file.read(name)

        for key, value in _stamp(model).items():
            if meta.get(key) != value:
                raise TinylaneError(
                    f"{path}: this cache's {key} is {show(meta.get(key))}; the model's is {value!r}"
                )
        turn: Any = {"own": "own", "0": 0}.get(meta.get("prompt_lane", ""))
        try:
            rope = model.rope(LaneRoPE(read("lane_rope.omega"), turn))
        except TinylaneError as error:
            raise TinylaneError(f"{path}: {error}") from None
        if lane_rope is not None and not lane_rope.same_as(rope):
            raise TinylaneError(f"{path}: saved with another Omega or prompt_lane")
        mask = None
        if "lane_mask.visibility" in file.names:
            lag = meta.get("lag", "")
            if not (lag.isascii() and lag.isdigit() and len(lag) < 10):
                raise TinylaneError(f"{path}: lag is {show(lag)}; expected a whole number >= 0")
            try:
                mask = LaneMask(read("lane_mask.visibility"), int(lag))
            except TinylaneError as error:
                raise TinylaneError(f"{path}: {error}") from None
        if lane_mask is not None and not lane_mask.same_as(mask):
            raise TinylaneError(f"{path}: saved with another visibility or lag")
        cache = LaneCache(model, rope, mask)
        positions, lanes = read("positions"), read("lanes")
        S = len(positions) if positions.ndim == 1 else -1
        if S < 0 or lanes.shape != (S,) or {positions.dtype.kind, lanes.dtype.kind} != {"i"}:
            raise TinylaneError(f"{path}: positions and lanes are not two flat integer lists")
        top = MAX_LANES if mask is None else mask.n
        if S and (lanes.min() < SHARED or lanes.max() >= top):
            raise TinylaneError(f"{path}: it has lanes outside -1 .. {top - 1}")
        c = model.config
        for layer in range(c.layers if S else 0):
            for name, buffers in (("keys", cache.keys), ("values", cache.values)):
                at = f"layers.{layer}.{name}"
                raw = read(at, c.kv_heads, S, c.head_dim)
                if file.dtype(at) != _DTYPE[model.dtype]:
                    raise TinylaneError(f"{path}: {at} is {file.dtype(at)}, not {model.dtype}")
                buffers[layer] = model.typed(raw)
        cache.positions, cache.lanes = positions.astype(np.int64), lanes.astype(np.int64)
    return cache
