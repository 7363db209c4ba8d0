"""MLX's fused versions of the decoder's operations: the same results, up to rounding.

What `mx.fast` needs to stay fused on Metal: a boolean mask or none, grouped heads unrepeated, and
either up to 8 rows, `rows * (heads / kv_heads) <= 32`, head_dim 64, 96, 128 or 256 (a step of up to
8 lanes), or more rows and head_dim 64, 72, 80, 96 or 128. Anything else is three operations, with
the same result. Nothing here was timed on Metal. Portable MLX only: no float64, nothing that a GPU
lacks. Each function has the signature of its plain version and a test against it.

    T rows   S keys   H heads   K kv heads   D head dim   C width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mlx.core as mx

from tinylane.core import decoder, pipeline, rope
from tinylane.core.decoder import BlockOf, Mask
from tinylane.core.numpy_ops import spans

Array = mx.array
Params = dict[str, mx.array]


def linear(params: Params, name: str, x: Array) -> Array:
    """As `decoder.linear`; a layer with scales is MLX-quantized and stays so."""
    if name + ".scales" not in params:
        return decoder.linear(params, name, x)
    y = mx.quantized_matmul(x, *_packed(params, name, x.shape[-1]))
    return decoder.add_updates(params, name, x, y)


def linears(params: Params, names: Sequence[str], x: Array) -> list[Array]:
    """As `decoder.linears`."""
    return [linear(params, name, x) for name in names]


def embed(params: Params, tokens: Array) -> Array:
    """As `decoder.embed`; of a quantized table only the rows asked for are unpacked."""
    name = "model.embed_tokens"
    if name + ".scales" not in params:
        return decoder.embed(params, tokens)
    norm = params["model.norm.weight"]
    w, scales, biases, _, group, bits, mode = _packed(params, name, norm.shape[0])
    biases = None if biases is None else biases[tokens]
    return mx.dequantize(w[tokens], scales[tokens], biases, group, bits, mode).astype(norm.dtype)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """As `decoder.rms_norm`."""
    return mx.fast.rms_norm(x, weight, eps)


def _compiled(function: Callable[..., Array]) -> Callable[..., Array]:
    """One kernel on a GPU. On a CPU mx.compile calls a C++ compiler, which may not be there."""
    return mx.compile(function) if mx.default_device() == mx.Device(mx.gpu) else function


rotate = _compiled(rope.rotate)  # in one kernel


@_compiled
def gated(gate: Array, up: Array) -> Array:
    """As `decoder.gated`, in one kernel."""
    return gate * mx.sigmoid(gate) * up


def attention(
    queries: tuple[Array, ...], keys: Array, values: Array, mask: Mask, block_of: BlockOf
) -> Array:
    """As `decoder.attention`; fused where one array of queries serves all keys."""
    if len(queries) > 1:  # blocks under one softmax cannot be one fused call
        return blocks(partial(mx.softmax, axis=-1), queries, keys, values, mask, block_of)
    q, flat = queries[0], queries[0].ndim == 3
    if flat:
        q, keys, values = q[None], keys[None], values[None]
    out = mx.fast.scaled_dot_product_attention(
        q, keys, values, scale=q.shape[-1] ** -0.5, mask=mask
    )
    return out[0] if flat else out


def blocks(
    softmax: Any, queries: tuple[Array, ...], keys: Array, values: Array, mask: Any, block_of: Any
) -> Array:
    """`decoder.attention` with the softmax in one kernel: five fewer for every layer. Scores are
    float32, as in MLX's fused kernel: rounded to 16 bits they would be wrong by 1%."""
    *batch, H, T, D = queries[0].shape
    K, S = keys.shape[-3:-1]
    folded, keys = [decoder.fold(decoder.widen(q), K) for q in queries], decoder.widen(keys)
    if block_of is not None and (places := spans(block_of, len(queries))) is not None:
        parts = zip(folded, places, strict=True)
        products = [q @ keys[..., a:b, :].swapaxes(-1, -2) for q, (a, b) in parts]
        scores = mx.concatenate(products, axis=-1)
    else:
        scores = decoder.scores(folded, keys, block_of)
    if mask is not None:
        hidden = mx.where(decoder.matrix(mask, T, S, mx), 0.0, -mx.inf)  # adding is quick on a CPU
        scores = (scores.reshape(*batch, H, T, S) + hidden).reshape(scores.shape)
    return (softmax(scores).astype(values.dtype) @ values).reshape(*batch, H, T, D)


def _packed(params: Params, name: str, width: int) -> tuple[Any, ...]:
    """What MLX's quantized functions take, in order; the file's shapes say how it was packed."""
    weight, scales = params[name + ".weight"], params[name + ".scales"]
    biases = params.get(name + ".biases")
    group, bits = width // scales.shape[-1], weight.shape[-1] * 32 // width
    return weight, scales, biases, True, group, bits, "mxfp4" if biases is None else "affine"


OPS = decoder.Ops(linear, linears, embed, rms_norm, rotate, gated, attention, pipeline.draw)
