"""A LaneCache in a .safetensors file, with the model's identity and its lane settings.

Tensors: `positions`, `lanes`, `tokens` (S,) int64; `layers.i.keys`, `layers.i.values` (K, S, D) in
the model's dtype; `lane_rope.omega`; `lane_mask.visibility`, and where that changes over time
`lane_mask.since` and `.until` (N, N) int64; `lane_mask.side`, if it has one. The metadata holds
format, identity, sizes, dtype, prompt_lane and lag, all checked at load. Where Hogwild! rotated the
keys, it holds `rotation: hogwild`, and the `order` of its lanes, instead of Omega and prompt_lane.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from tinylane.core.cache import LaneCache
from tinylane.core.errors import TinylaneError, of_kind, show
from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import MAX_LANES, MAX_STEPS, NEVER, SHARED, LaneMask, LaneRoPE, Rotation
from tinylane.core.model import Model
from tinylane.files.memory import available_memory, gpu_memory, size
from tinylane.files.safetensors import TensorFile, widen, write_tensors

FORMAT = "tinylane cache 1"
_ROWS = ("positions", "lanes", "tokens")
_TIMES = ("since", "until")
_DTYPE = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def save_cache(cache: LaneCache, path: str | Path) -> None:
    """Write the rows, coordinates and lane settings, whole or not at all.

    Raises TinylaneError where the folder cannot be written.
    """
    tensors: dict[str, Any] = {name: getattr(cache, name) for name in _ROWS}
    rope, meta = cache.lane_rope, {"format": FORMAT}
    if isinstance(rope, LaneRoPE):
        tensors["lane_rope.omega"] = rope.omega
        meta["prompt_lane"] = str(rope.prompt_lane)
    elif isinstance(rope, Hogwild):
        meta |= {"rotation": "hogwild", "order": ",".join(map(str, rope.order))}
    else:
        raise TinylaneError(f"a cache with the rotation {type(rope).__name__} cannot be saved")
    if cache.lane_mask is not None:
        tensors["lane_mask.visibility"] = cache.lane_mask.visibility.astype(np.uint8)
        times = {name: getattr(cache.lane_mask, name) for name in _TIMES}
        tensors |= {f"lane_mask.{name}": x for name, x in times.items() if x is not None}
        if cache.lane_mask.side is not None:
            tensors["lane_mask.side"] = cache.lane_mask.side.astype(np.uint8)
    for entry, (name, _) in enumerate(_entries(cache) if len(cache) else []):
        tensors[f"{name}.keys"], tensors[f"{name}.values"] = cache.rows(entry)
    meta["lag"] = "" if cache.lane_mask is None else str(cache.lane_mask.lag)
    write_tensors(path, tensors, {**meta, **_stamp(cache.model)})


def _entries(cache: LaneCache) -> list[tuple[str, int]]:
    """What the file calls each entry of a cache, and how many kv heads it has."""
    c, params = cache.model.config, cache.model.params
    names = [(f"layers.{layer}", c.kv_heads) for layer in range(c.layers)]
    for layer in cache.layers[c.layers :]:  # LACE's, behind those of the layers
        width = params[f"model.layers.{layer}.lace.up_proj.weight"].shape[0]
        names.append((f"lace.{layer}", width // c.head_dim))
    return names


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
    with another `lane_rope` or `lane_mask` than the ones given (if given). Masks of more and of
    fewer lanes are alike if the lanes of both read each other alike.
    """
    of_kind("path", path, (str, Path), "the name of a file")
    of_kind("model", model, Model, "a model: tinylane.load gives one")
    of_kind("lane_mask", lane_mask, (LaneMask, NoneType), "a LaneMask, or None")
    expected = None if lane_rope is None else model.rope(lane_rope)
    with TensorFile(path) as file, _naming(path):
        if file.metadata.get("format") != FORMAT:
            raise TinylaneError("not a cache saved by tinylane")
        for key, value in _stamp(model).items():
            if file.metadata.get(key) != value:
                saved = show(file.metadata.get(key))
                what = "made by another model: its" if key == "identity" else "this cache's"
                raise TinylaneError(
                    f"{what} {key} is {saved}; the model's is {value!r}. Give another file"
                )
        tensors = _Tensors(file)
        rope, mask = _rotation(tensors, model), _mask(tensors)
        if expected is not None and not expected.same_as(rope):
            raise TinylaneError("saved with another Omega or prompt_lane, or rotation")
        if lane_mask is not None and not _alike(lane_mask, mask):
            raise TinylaneError("saved with another visibility or lag")
        need = sum(tensor.nbytes for tensor in file.tensors.values())
        gpu = gpu_memory() if model.backend == "mlx" else None
        have = available_memory() if gpu is None else gpu
        if have is not None and need > have:
            raise TinylaneError(f"it needs {size(need)} and {size(have)} are available")
        cache, c = LaneCache(model, rope, mask), model.config
        S = (file["positions"].shape or (0,))[0] if "positions" in tensors.left else 0
        positions, lanes = (tensors.take(name, (S,), dtype="I64") for name in _ROWS[:2])
        tokens = np.full(S, -1)  # of files that are older than this tensor, unknown
        if "tokens" in tensors.left:
            tokens = tensors.take("tokens", (S,), dtype="I64")
        top = MAX_LANES if mask is None else mask.n
        if S and (lanes.min() < SHARED or lanes.max() >= top):
            raise TinylaneError(f"it has lanes outside -1 .. {top - 1}")
        if S and (positions.min() < -MAX_STEPS or positions.max() > MAX_STEPS):
            raise TinylaneError("it has positions that no text reaches")
        if S and (tokens.min() < -1 or tokens.max() >= c.vocab):
            raise TinylaneError(f"it has tokens outside the vocabulary of {c.vocab}")
        if len(np.unique(np.stack([positions, lanes]), axis=1).T) != S:
            raise TinylaneError("two of its rows have the same position and lane")
        for entry, (of, heads) in enumerate(_entries(cache) if S else []):
            for part, buffers in (("keys", cache.keys), ("values", cache.values)):
                name, dtype = f"{of}.{part}", _DTYPE[model.dtype]
                raw = tensors.take(name, (heads, S, c.head_dim), dtype=dtype)
                wide = widen(raw, dtype)
                if not (np.isfinite(wide.min()) and np.isfinite(wide.max())):
                    raise TinylaneError(f"{name} holds NaN or infinite values")
                buffers[entry] = typed(model, raw)
        if tensors.left:
            raise TinylaneError(f"{show(min(tensors.left))} is no tensor of a cache")
        cache.positions, cache.lanes, cache.tokens = positions, lanes, tokens
    return cache


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Errors in the block begin with the file's name."""
    try:
        yield
    except TinylaneError as error:
        text = str(error)
        raise TinylaneError(text if text.startswith(f"{path}: ") else f"{path}: {text}") from None


def _alike(one: LaneMask, other: LaneMask | None) -> bool:
    n = 0 if other is None else min(one.n, other.n)
    if other is None or one.n == other.n == n:
        return one.same_as(other)
    small = np.ix_(range(n), range(n))
    a, b = (
        LaneMask(
            mask.visibility[small] | np.eye(n, dtype=bool),
            **{name: x[small] for name in _TIMES if (x := getattr(mask, name)) is not None},
            side=None if mask.side is None else mask.side[small] | np.eye(n, dtype=bool),
        )
        for mask in (one, other)
    )
    return a.same_as(b) and (one.lag == other.lag or a.alone)


class _Tensors:
    """The tensors of a file. left: those that nobody has taken."""

    def __init__(self, file: TensorFile) -> None:
        self.file, self.left = file, set(file.tensors)

    def take(self, name: str, *shapes: tuple[int, ...], dtype: str) -> np.ndarray:
        """A tensor, after its dtype and shape were checked: a sparse file takes no room."""
        if name not in self.left:
            raise TinylaneError(f"{name} is missing")
        self.left.discard(name)
        tensor = self.file[name]
        if tensor.shape not in shapes:
            expected = " or ".join(map(str, shapes))
            raise TinylaneError(f"{name} has shape {tensor.shape}; expected {expected}")
        if tensor.dtype != dtype:
            raise TinylaneError(f"{name} is {tensor.dtype}; expected {dtype}")
        return tensor.read()


def _rotation(tensors: _Tensors, model: Model) -> Rotation:
    meta, half = tensors.file.metadata, model.config.head_dim // 2
    if "rotation" not in meta:
        omega = tensors.take("lane_rope.omega", (half,), (model.config.layers, half), dtype="F64")
        prompt_lane: Any = {"own": "own", "0": 0}.get(meta.get("prompt_lane", ""))
        return model.rope(LaneRoPE(omega, prompt_lane))
    if meta["rotation"] != "hogwild":
        raise TinylaneError(
            f"its rotation is {show(meta['rotation'])}; expected hogwild, or none named"
        )
    order = [lane for lane in meta.get("order", "").split(",") if lane]
    if not all(m.isascii() and m.isdigit() and len(m) < 5 for m in order) or len({*order}) != len(
        order
    ):
        raise TinylaneError(f"its order is {show(meta['order'])}; expected different lanes")
    return Hogwild(tuple(map(int, order)))


def _mask(tensors: _Tensors) -> LaneMask | None:
    name, lag = "lane_mask.visibility", tensors.file.metadata.get("lag", "")
    if name not in tensors.left:
        return None
    if not (lag.isascii() and lag.isdigit() and len(lag) < 10):
        raise TinylaneError(f"lag is {show(lag)}; expected a whole number >= 0")
    n = min([*tensors.file[name].shape, MAX_LANES])
    visibility, times = tensors.take(name, (n, n), dtype="U8"), {}
    if any(f"lane_mask.{name}" in tensors.left for name in _TIMES):
        times = {k: tensors.take(f"lane_mask.{k}", (n, n), dtype="I64") for k in _TIMES}
        if min(x.min() for x in times.values()) < 0 or max(x.max() for x in times.values()) > NEVER:
            raise TinylaneError("lane_mask.since or .until holds positions that no text reaches")
    side = "lane_mask.side"
    across = tensors.take(side, (n, n), dtype="U8") if side in tensors.left else None
    return LaneMask(visibility, int(lag), **times, side=across)


def typed(model: Model, x: np.ndarray) -> Any:
    """A NumPy array of floats (bfloat16 as uint16 bits) as the model's kind of array and dtype."""
    if model.backend == "numpy":
        return np.ascontiguousarray(x, dtype=model.dtype)
    import mlx.core as mx

    bits = mx.array(x)
    bits = bits.view(mx.bfloat16) if x.dtype == np.uint16 else bits
    return bits.astype(getattr(mx, model.dtype))
