"""MLX-quantized layers: how one is packed, as its shapes show, and its values in NumPy.

A layer is quantized if and only if `<path>.scales` is in the file. Values are packed in uint32 as
one little-endian bit stream along the input axis. affine: w = q * scale + bias per group, 2, 3, 4,
5, 6 or 8 bits. mxfp4 (OCP Microscaling 1.0): 4-bit floats, a power of two per group of 32, no bias.

Not handled: mxfp8, nvfp4, 1 bit.

    O rows (out)   I columns (in)   G groups of a row
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tinylane.core.errors import TinylaneError, show
from tinylane.files.safetensors import FLOATS

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
FP4 = np.concatenate([FP4, -FP4])  # code 8 is -0.0


class Packing(NamedTuple):
    """How a layer's values are packed."""

    mode: str  # affine, mxfp4
    bits: int
    group_size: int

    @property
    def native(self) -> bool:
        """Whether MLX has kernels for it; otherwise MLX's weights are dequantized at load too."""
        return self.mode == "mxfp4" or self.group_size in (32, 64, 128)


def declared(quantization: dict[str, Any], path: str) -> dict[str, Any] | bool:
    """config.json's entry for one layer: settings, True or False; {} if it has none.

    Converters name paths with or without the leading `model.`. Raises TinylaneError for an entry of
    another type.
    """
    for name in (path, path.removeprefix("model.")):
        entry = quantization.get(name)
        if isinstance(entry, (dict, bool)):
            return entry
        if entry is not None:
            raise TinylaneError(
                f"quantization of {name} is {show(entry)}; expected an object or a flag"
            )
    return {}


def packing(
    quantization: dict[str, Any] | None,
    path: str,
    shape: tuple[int, ...],
    parts: dict[str, tuple[str, tuple[int, ...]]],
) -> Packing:
    """How one quantized layer of the file is packed. Raises TinylaneError for a damaged one.

    quantization: config.json's record. shape: (O, I) of the dense layer, from the config. parts:
    dtype and shape in the file of `weight`, `scales` and, for affine, `biases`. The shapes decide,
    since converters mix bits without saying so; a setting given for this very path must agree.
    """

    def fail(what: str) -> TinylaneError:
        return TinylaneError(f"quantized layer {path}: {what}")

    if quantization is None:
        raise fail(f"{path}.scales is in the file, but config.json has no quantization")
    named = declared(quantization, path)
    if named is False:
        raise fail("config.json says it is not quantized, but its scales are in the file")
    if "weight" not in parts:
        raise fail("weight is missing")
    (weight_dtype, weight), (scale_dtype, scales) = parts["weight"], parts["scales"]
    rows, columns = shape
    if weight_dtype != "U32" or len(weight) != 2 or weight[0] != rows:
        raise fail(f"weight {weight_dtype} {weight}; expected U32 ({rows}, packed) of {shape}")
    if len(scales) != 2 or scales[0] != rows or not scales[1] or columns % scales[1]:
        raise fail(f"scales {scales}; expected ({rows}, a divisor of {columns})")
    bits, rest = divmod(weight[1] * 32, columns)
    group = columns // scales[1]
    mode = "affine" if scale_dtype in FLOATS else "mxfp4"
    if mode == "affine":
        if rest or bits not in AFFINE_BITS:
            raise fail(f"weight {weight} for {shape}: no whole number of bits among {AFFINE_BITS}")
        if parts.get("biases") is None:
            raise fail("biases are missing")
        if parts["biases"][0] not in FLOATS or parts["biases"][1] != scales:
            raise fail(f"biases {parts['biases'][1]}; expected {scales} as the scales have")
    elif scale_dtype != "U8" or (bits, rest, group) != (4, 0, 32) or parts.get("biases"):
        raise fail(f"scales {scale_dtype}, {bits} bits, groups of {group} are not affine or mxfp4")
    actual = {"mode": mode, "bits": bits, "group_size": group}
    for key, value in actual.items():
        given = named.get(key) if isinstance(named, dict) else None
        if given not in (None, value):
            raise fail(f"{key} {show(given)}, but the file holds {value}")
    return Packing(mode, bits, group)


def unpack(weight: np.ndarray, bits: int) -> np.ndarray:
    """uint32 (O, I * bits / 32) -> the codes, uint8 (O, I)."""
    span = math.lcm(bits, 8) // 8  # so many bytes hold a whole number of codes
    codes = span * 8 // bits
    stream = np.ascontiguousarray(weight, "<u4").view(np.uint8)
    stream = stream.reshape(len(weight), -1, span)
    word = stream[..., 0].astype(np.uint64 if span > 4 else np.uint32 if span > 1 else np.uint8)
    for byte in range(1, span):
        word |= stream[..., byte].astype(word.dtype) << word.dtype.type(8 * byte)
    out = np.empty((*word.shape, codes), np.uint8)
    mask = word.dtype.type((1 << bits) - 1)
    for code in range(codes):
        out[..., code] = (word >> word.dtype.type(code * bits)) & mask
    return out.reshape(len(weight), -1)


def dequantize(
    weight: np.ndarray, scales: np.ndarray, biases: np.ndarray | None, how: Packing
) -> np.ndarray:
    """Some rows of a layer -> float32 (O, I), equal to the bit to MLX's.

    weight: uint32 (O, I * bits / 32). scales, biases: float32 (O, G), upcast from what the file
    holds before anything is computed; for mxfp4 scales are uint8 exponents and biases None.
    """
    codes = unpack(weight, how.bits)
    rows, groups = scales.shape
    if how.mode == "mxfp4":
        values = FP4[codes]
        with np.errstate(over="ignore"):  # 2**128 is infinity, as in MLX
            scale = np.ldexp(np.float32(1), scales.astype(np.int32) - 127).astype(np.float32)
    else:
        values, scale = codes.astype(np.float32), scales
    grouped = values.reshape(rows, groups, how.group_size)
    with np.errstate(over="ignore", invalid="ignore"):  # damaged weights are reported by the loader
        grouped *= scale[..., None]
        if biases is not None:
            grouped += biases[..., None]
    return grouped.reshape(rows, groups * how.group_size)
