"""A LaneCache in a .safetensors file, with the model's identity and its lane settings.

Tensors: `positions`, `lanes` (S,) int64; `layers.i.keys`, `layers.i.values` (K, S, D) in the
model's dtype; `lane_rope.omega`; `lane_mask.visibility`. The metadata holds format, identity,
sizes, dtype, prompt_lane and lag, all checked at load. Where Hogwild! rotated the keys, it holds
`rotation: hogwild` instead of Omega and prompt_lane.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.core.cache import LaneCache
from tinylane.core.errors import TinylaneError, show
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import MAX_LANES, MAX_STEPS, SHARED, LaneMask, LaneRoPE, Rotation
from tinylane.files.memory import available_memory, size
from tinylane.files.safetensors import TensorFile, widen, write_tensors

if TYPE_CHECKING:
    from tinylane.core.model import Model

FORMAT = "tinylane cache 1"
_DTYPE = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def save_cache(cache: LaneCache, path: str | Path) -> None:
    """Write the rows, coordinates and lane settings, whole or not at all.

    Raises TinylaneError where the folder cannot be written.
    """
    tensors: dict[str, Any] = {"positions": cache.positions, "lanes": cache.lanes}
    rope, meta = cache.lane_rope, {"format": FORMAT}
    if isinstance(rope, LaneRoPE):
        tensors["lane_rope.omega"] = rope.omega
        meta["prompt_lane"] = str(rope.prompt_lane)
    elif isinstance(rope, Hogwild):
        meta["rotation"] = "hogwild"
    else:
        raise TinylaneError(f"a cache with the rotation {type(rope).__name__} cannot be saved")
    if cache.lane_mask is not None:
        tensors["lane_mask.visibility"] = cache.lane_mask.visibility.astype(np.uint8)
    for layer in range(cache.model.config.layers if len(cache) else 0):
        tensors[f"layers.{layer}.keys"], tensors[f"layers.{layer}.values"] = cache.rows(layer)
    meta["lag"] = "" if cache.lane_mask is None else str(cache.lane_mask.lag)
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
    lane_rope: Rotation | None = None,
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

        def read(name: str, *allowed: tuple[int, ...], dtype: str) -> np.ndarray:
            """A tensor, after its dtype and shape were checked: a sparse file takes no room."""
            if name not in wanted:
                raise TinylaneError(f"{path}: {name} is missing")
            wanted.discard(name)
            shape, kind = file.shape(name), file.dtype(name)
            if shape not in allowed:
                expected = " or ".join(map(str, allowed))
                raise TinylaneError(f"{path}: {name} has shape {shape}; expected {expected}")
            if kind != dtype:
                raise TinylaneError(f"{path}: {name} is {kind}; expected {dtype}")
            return file.read(name)

        wanted = set(file.names)
        c = model.config
        for key, value in _stamp(model).items():
            if meta.get(key) != value:
                raise TinylaneError(
                    f"{path}: this cache's {key} is {show(meta.get(key))}; the model's is {value!r}"
                )
        rope: Rotation = Hogwild()
        if "rotation" not in meta:
            prompt_lane: Any = {"own": "own", "0": 0}.get(meta.get("prompt_lane", ""))
            half = c.head_dim // 2
            try:
                omega = read("lane_rope.omega", (half,), (c.layers, half), dtype="F64")
                rope = model.rope(LaneRoPE(omega, prompt_lane))
            except TinylaneError as error:
                raise _at(path, error) from None
        elif meta["rotation"] != "hogwild":
            raise TinylaneError(
                f"{path}: its rotation is {show(meta['rotation'])}; expected hogwild, or none named"
            )
        if lane_rope is not None and not lane_rope.same_as(rope):
            raise TinylaneError(f"{path}: saved with another Omega or prompt_lane, or rotation")
        mask = None
        if "lane_mask.visibility" in wanted:
            lag = meta.get("lag", "")
            if not (lag.isascii() and lag.isdigit() and len(lag) < 10):
                raise TinylaneError(f"{path}: lag is {show(lag)}; expected a whole number >= 0")
            n = min([*file.shape("lane_mask.visibility"), MAX_LANES])
            try:
                mask = LaneMask(read("lane_mask.visibility", (n, n), dtype="U8"), int(lag))
            except TinylaneError as error:
                raise _at(path, error) from None
        if lane_mask is not None and not lane_mask.same_as(mask):
            raise TinylaneError(f"{path}: saved with another visibility or lag")
        cache = LaneCache(model, rope, mask)
        S = file.shape("positions")[0] if "positions" in wanted and file.shape("positions") else 0
        _check_room(path, file)
        positions, lanes = (read(name, (S,), dtype="I64") for name in ("positions", "lanes"))
        top = MAX_LANES if mask is None else mask.n
        if S and (lanes.min() < SHARED or lanes.max() >= top):
            raise TinylaneError(f"{path}: it has lanes outside -1 .. {top - 1}")
        if S and (positions.min() < -MAX_STEPS or positions.max() > MAX_STEPS):
            raise TinylaneError(f"{path}: it has positions that no text reaches")
        if len(np.unique(np.stack([positions, lanes]), axis=1).T) != S:
            raise TinylaneError(f"{path}: two of its rows have the same position and lane")
        for layer in range(c.layers if S else 0):
            for name, buffers in (("keys", cache.keys), ("values", cache.values)):
                at = f"layers.{layer}.{name}"
                raw = read(at, (c.kv_heads, S, c.head_dim), dtype=_DTYPE[model.dtype])
                wide = widen(raw, file.dtype(at))
                if not (np.isfinite(wide.min()) and np.isfinite(wide.max())):
                    raise TinylaneError(f"{path}: {at} holds NaN or infinite values")
                buffers[layer] = typed(model, raw)
        if wanted:
            raise TinylaneError(f"{path}: {show(min(wanted))} is no tensor of a cache")
        cache.positions, cache.lanes = positions, lanes
    return cache


def typed(model: Model, x: np.ndarray) -> Any:
    """A NumPy array of floats (bfloat16 as uint16 bits) as the model's kind of array and dtype."""
    if model.backend == "numpy":
        return np.ascontiguousarray(x, dtype=model.dtype)
    import mlx.core as mx

    bits = mx.array(x)
    bits = bits.view(mx.bfloat16) if x.dtype == np.uint16 else bits
    return bits.astype(getattr(mx, model.dtype))


def _at(path: str | Path, error: TinylaneError) -> TinylaneError:
    """The same error, naming the file once."""
    text = str(error)
    return error if text.startswith(f"{path}: ") else TinylaneError(f"{path}: {text}")


def _check_room(path: str | Path, file: TensorFile) -> None:
    """Refuse a cache that cannot fit before any of it is read."""
    need, have = sum(map(file.nbytes, file.names)), available_memory()
    if have is not None and need > have:
        raise TinylaneError(f"{path}: it needs {size(need)} and {size(have)} are available")
