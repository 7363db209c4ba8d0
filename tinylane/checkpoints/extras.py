"""The parameters for lanes that a decoder may have beside its own: names, shapes, how they start.

    model.lane_embed.weight                            (1 + N, C)   added to the token embedding
    model.layers.L.self_attn.lane_kv.weight            (1 + N, D)   added to keys and values
    model.layers.L.bridge.norm.weight                  (C,)         exchange within a step (Bridge)
    model.layers.L.bridge.{q,k,v}_proj.weight          (W, C)
    model.layers.L.bridge.o_proj.weight                (C, W)
    model.layers.L.p_match.norm.weight                 (C,)         Bridge's control: a SwiGLU
    model.layers.L.p_match.{gate,up}_proj.weight       (F, C)
    model.layers.L.p_match.down_proj.weight            (C, F)
    model.layers.L.lace.down_proj.weight               (W, H D)     a narrow attention (LACE)
    model.layers.L.lace.{q,k,v}_proj.weight            (W, W)
    model.layers.L.lace.gate_proj.weight               (1, H D)
    model.layers.L.lace.up_proj.weight                 (H D, W)

Shapes are those of the file, matrices (out, in). Row 0 of a table of lanes is for rows that all
lanes share, row m + 1 for lane m. Each kind is in every layer or in none; LACE is in every second
layer from the middle on. W of a bridge is at most head_dim, or a multiple of it; of LACE a multiple
of it: its heads are turned as the layer's. `tinylane.core.decoder` uses them where they are.

    N lanes   C width   H heads   D head dim   W width of a bridge or of LACE   F of the control
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np

from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, show

KINDS = {  # what each adds, for people
    "lane_embed": "an embedding of the lane at the input (Multi-Stream)",
    "lane_kv": "an embedding of the lane in keys and values (ParaThinker)",
    "bridge": "attention between the lanes of one step (Bridge)",
    "p_match": "Bridge's control: as many parameters, no exchange",
    "lace": "a narrow attention beside attention, through a gate (LACE)",
}
OUT = {"bridge": "o_proj", "p_match": "down_proj", "lace": "up_proj"}  # what writes: zero at first
STD = 0.02  # of matrices that do not start at zero
_NAME = re.compile(
    r"model\.lane_embed\.weight|model\.layers\.\d+\."
    r"(self_attn\.lane_kv|bridge\.(norm|[qkvo]_proj)|p_match\.(norm|(gate|up|down)_proj)"
    r"|lace\.(down|[qkv]|gate|up)_proj)\.weight"
)


def is_extra(name: str) -> bool:
    """Whether a tensor of this name is one of these."""
    return _NAME.fullmatch(name) is not None


def kinds_of(names: Iterable[str]) -> list[str]:
    """The kinds of KINDS that tensors of these names make up, in its order."""
    known = {kind for name in names if is_extra(name) for kind in KINDS if f".{kind}." in name}
    return [kind for kind in KINDS if kind in known]


def shapes(config: ModelConfig, kind: str, size: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one kind, as in a file. size: N of a table of lanes, W or F."""
    C, layers = config.width, [f"model.layers.{layer}." for layer in range(config.layers)]
    if kind == "lace":
        HD, W = config.heads * config.head_dim, size
        of_one = {"down": (W, HD), **dict.fromkeys("qkv", (W, W)), "gate": (1, HD), "up": (HD, W)}
        named = product(layers[config.layers // 2 :: 2], of_one.items())
        return {f"{at}lace.{name}_proj.weight": shape for at, (name, shape) in named}
    if kind == "lane_embed":
        return {"model.lane_embed.weight": (1 + size, C)}
    if kind == "lane_kv":
        return {at + "self_attn.lane_kv.weight": (1 + size, config.head_dim) for at in layers}
    into = ("q_proj", "k_proj", "v_proj") if kind == "bridge" else ("gate_proj", "up_proj")
    of_kind: dict[str, tuple[int, ...]] = {}
    for at in layers:
        of_kind[f"{at}{kind}.norm.weight"] = (C,)
        of_kind |= {f"{at}{kind}.{name}.weight": (size, C) for name in into}
        of_kind[f"{at}{kind}.{OUT[kind]}.weight"] = (C, size)
    return of_kind


def sizes(given: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """For each kind among these tensors of a file its N, W or F: what `shapes` takes."""
    known = {}
    for kind in kinds_of(given):
        part = f".{kind}.{OUT[kind]}.weight" if kind in OUT else f".{kind}.weight"
        shape = next((shape for name, shape in given.items() if name.endswith(part)), ())
        size = shape[kind in OUT] if len(shape) == 2 else 0
        known[kind] = size if kind in OUT else size - 1
    return known


def check(config: ModelConfig, given: Mapping[str, tuple[int, ...]]) -> None:
    """Raise TinylaneError, without a file's name, for tensors that do not fit together or do not
    fit this model. given: names for which `is_extra` is true, and their shapes in the file."""
    for kind, size in sizes(given).items():
        says = "(out, in)" if kind in OUT else "(1 + lanes, width): the first row is the prompt's"
        where = "every second layer from the middle on" if kind == "lace" else "every layer"
        expected = shapes(config, kind, max(size, 1))
        for name, shape in expected.items():
            if name not in given:
                raise TinylaneError(f"{name} is missing; {kind} is in {where} or in none")
            if given[name] != shape:
                raise TinylaneError(f"{name} is {given[name]}; expected {shape}, {says}")
        if kind == "bridge" and size % min(size, config.head_dim):
            raise TinylaneError(
                f"the bridge is {size} wide; expected at most {config.head_dim} (the head dim), or "
                "a multiple of it"
            )
        if kind == "lace" and size % config.head_dim:
            raise TinylaneError(
                f"lace is {size} wide; expected a multiple of {config.head_dim} (the head dim)"
            )
        for name in given:
            if f".{kind}." in name and name not in expected:
                raise TinylaneError(
                    f"{show(name)}: this model has {config.layers} layers; {kind} is in {where}"
                )


def start(
    config: ModelConfig,
    kinds: Iterable[str],
    lanes: int,
    width: int = 0,
    seed: int = 0,
    table_std: float = 0.0,
) -> dict[str, np.ndarray]:
    """Untrained parameters of some kinds, float32, as the decoder takes them: matrices (in, out).

    What they add is exactly zero: tables of lanes are (unless `table_std` is given: then the lanes'
    rows are drawn), and so is the matrix that writes to the residual stream. Other matrices are
    normal with deviation `STD`. width: W of a bridge, 0 takes `head_dim`; its control is as wide as
    gives it as many parameters, to within half a channel; LACE takes whole heads, at least W wide.
    """
    params: dict[str, np.ndarray] = {}
    width = width or config.head_dim
    for kind in kinds:
        rng = np.random.default_rng([seed, list(KINDS).index(kind)])
        whole = -(-width // config.head_dim) * config.head_dim
        wide = {"bridge": width, "p_match": round(4 * width / 3), "lace": whole}
        size = wide.get(kind, lanes)
        for name, shape in shapes(config, kind, size).items():
            writes = kind in OUT and OUT[kind] in name
            std = 0.0 if writes else STD if kind in OUT else table_std
            value = np.ones(shape) if ".norm." in name else rng.standard_normal(shape) * std
            if kind not in OUT:
                value[0] = 0.0  # the shared prompt
            params[name] = turned(name, value.astype(np.float32))
    return params


def turned(name: str, value: Any) -> Any:
    """A parameter from a file's layout to the decoder's, or back: matrices are transposed."""
    return value.T if name.endswith("_proj.weight") else value


def put(
    params: dict[str, Any], tensors: Mapping[str, np.ndarray], backend: str, dtype: str
) -> None:
    """Put tensors among a loaded model's, in its library and dtype, in place.

    Those of this module come in a file's layout, and stay so in memory, as the model's own do: BLAS
    rounds by it. All others come as the decoder takes them.
    """
    for name, value in tensors.items():
        array: Any = np.ascontiguousarray(value, dtype="float32" if backend == "mlx" else dtype)
        if backend == "mlx":
            import mlx.core as mx

            array = mx.array(array).astype(getattr(mx, dtype))
            mx.eval(array)
        params[name] = turned(name, array) if is_extra(name) else array


def summary(given: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What a report says of them: ["lane_embed for 4 lanes", "bridge 64 wide"]."""
    return [
        f"{kind} {size} wide" if kind in OUT else f"{kind} for {size} lanes"
        for kind, size in sizes(given).items()
    ]
