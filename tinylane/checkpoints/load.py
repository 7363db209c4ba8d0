"""A Hugging Face checkpoint folder, or a hub id, as a `Model` on NumPy or MLX.

Tensor by tensor, in pieces, so that the peak is the weights in their final type and little more.
How `params` is laid out: every matrix so that `x @ w` works, in one source line for both libraries.
MLX holds the file's (out, in) array and its `.T` view is in `params`. NumPy too for tall matrices;
wide ones are (in, out), as columns of one array where they read one input (`tinylane.core.numpy_ops`). A tied
head and its embedding are one array. MLX-quantized layers stay packed in MLX where it has kernels
for them; everywhere else they are dequantized here.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.checkpoints.adapter import apply
from tinylane.checkpoints.hub import resolve
from tinylane.checkpoints.plan import Plan, choose_backend, choose_ops
from tinylane.checkpoints.weights import CHUNK, EMBED, HEAD, WeightFiles
from tinylane.files.safetensors import widen

if TYPE_CHECKING:
    from tinylane.core.model import Model


def load(
    source: str | os.PathLike[str],
    backend: str = "auto",
    dtype: str = "auto",
    adapter: str | os.PathLike[str] | bool | None = None,
    revision: str | None = None,
    *,
    ops: str = "auto",
    lanes: int = 1,
    prompt_tokens: int = 0,
    max_tokens: int = 0,
) -> Model:
    """Load a checkpoint: a local folder, or a hub id (with `revision`).

    backend: "numpy", "mlx", or "auto" (MLX on Apple silicon, else NumPy). dtype: "auto" is float32
    in NumPy and on MLX's CPU, the checkpoint's own on a GPU; NumPy also takes float64, MLX float16
    and bfloat16. adapter: a folder or hub id; None takes the checkpoint's own `adapter/` if it has
    one, False takes none. ops: "plain" runs the decoder's plain functions, "fast" the backend's
    versions of them; "auto" takes the plain ones where the fast ones save nothing. lanes, prompt_tokens, max_tokens: what is planned, for the forecast.

    Warns of NaN or infinite weights. Raises TinylaneError, before anything large is read: missing
    or damaged files, other mathematics, tensors that do not fit config.json, an adapter of another
    model, a backend that is not installed, more memory than there is.
    """
    from tinylane.core.model import Model

    backend = choose_backend(backend)
    plan = Plan(resolve(source, revision), backend, dtype, adapter, ops)
    with plan.open() as files:
        config, dtype = replace(files.config, eos_ids=plan.eos_ids), plan.dtype(files)
        needs = plan.forecast(files, lanes, prompt_tokens, max_tokens)
        needs.check(str(source))
        tuned = plan.adapter(files.config)
        tokenizer = plan.tokenizer(config)
        if files.untied:
            warnings.warn(
                f"{plan.folder}: tie_word_embeddings is true, but lm_head.weight differs from the "
                "embedding; both are used",
                stacklevel=2,
            )
        damaged: list[str] = []
        if backend == "numpy":
            params = _read_numpy(files, dtype, damaged)
        else:
            params = _read_mlx(files, dtype, damaged, plan.keeps_packed)
        if damaged:
            more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
            warnings.warn(
                f"{plan.folder}: NaN or infinite weights in {', '.join(damaged[:3])}{more}",
                stacklevel=2,
            )
        from tinylane.checkpoints.plan import describe

        report = describe(plan, files, tuned, tokenizer, needs)
    if tuned is not None:
        apply(params, tuned, backend, dtype)
    if tokenizer is not None:
        config = replace(config, eos_ids=tuple(sorted({*config.eos_ids, *tokenizer.eos_ids})))
    return Model(
        config,
        params,
        backend=backend,
        dtype=dtype,
        tokenizer=tokenizer,
        lane_rope=None if tuned is None else tuned.lane_rope,
        visibility=None if tuned is None else tuned.visibility,
        lag=0 if tuned is None else tuned.lag,
        sampling=plan.sampling,
        identity=plan.identity if tuned is None else tuned.identity(plan.identity),
        task=None if tuned is None else tuned.task,
        report=report,
        ops=choose_ops(ops, backend, config, any(name.endswith(".scales") for name in params)),
    )


def _finite(chunk: np.ndarray) -> bool:
    # NaN survives both min and max, and neither needs a second array
    return not chunk.size or bool(np.isfinite(chunk.min()) and np.isfinite(chunk.max()))


def _read_numpy(files: WeightFiles, dtype: str, damaged: list[str]) -> dict[str, Any]:
    """All tensors as NumPy arrays; names with NaN or infinite values are added to `damaged`."""
    params: dict[str, Any] = {}
    tied, shapes = files.config.tied, files.config.tensors()
    stacked = _stacked(shapes, dtype)
    for name, shape in shapes.items():
        table = name == f"{HEAD}.weight" or (name == f"{EMBED}.weight" and tied)
        flipped = table or name in stacked
        array = stacked.pop(name) if name in stacked else np.empty(shape[:: 1 - 2 * table], dtype)
        rows, clean = (array.T if flipped else array), True
        for start, chunk in files.chunks(name):
            with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite: reported
                final = chunk.astype(dtype, copy=False)
            clean = clean and _finite(final)
            rows[start : start + len(final)] = final
        if not clean:
            damaged.append(name)
        straight = flipped or len(shape) == 1 or name == f"{EMBED}.weight"
        params[name] = (
            array if straight else array.T
        )  # `tinylane.core.numpy_ops` likes the file's order
    if tied:
        params[f"{HEAD}.weight"] = params[f"{EMBED}.weight"]
        params[f"{EMBED}.weight"] = params[f"{HEAD}.weight"].T
    return params


def _stacked(shapes: dict[str, tuple[int, ...]], dtype: str) -> dict[str, np.ndarray]:
    """Room, (in, out), for layers that read one input: columns of one array (`blas.linears`)."""
    found: dict[str, np.ndarray] = {}
    for kinds in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
        for first in [name for name in shapes if name.endswith(f"{kinds[0]}.weight")]:
            names = [first.replace(kinds[0], kind) for kind in kinds]
            ends = np.cumsum([shapes[name][0] for name in names])
            whole = np.empty((shapes[first][1], ends[-1]), dtype)
            found.update(zip(names, np.split(whole, ends[:-1], axis=1), strict=True))
    return found


def _read_mlx(
    files: WeightFiles, dtype: str, damaged: list[str], keeps_packed: bool
) -> dict[str, Any]:
    """All tensors as MLX arrays, each made and evaluated before the next is read.

    keeps_packed: layers for which MLX has kernels stay packed.
    """
    import mlx.core as mx

    final = getattr(mx, dtype)
    most = 65504.0 if dtype == "float16" else np.inf  # beyond it a float16 is infinite

    def dense(name: str) -> Any:
        raw, kind = files.read(name), files.dtype(name)
        with np.errstate(over="ignore"):
            raw = raw.astype(np.float32) if kind == "F64" else raw
        flat, step = raw.reshape(-1), CHUNK // 4
        for start in range(0, flat.size, step):
            some = widen(flat[start : start + step], kind)
            if not (_finite(some) and -most <= some.min() and some.max() <= most):
                damaged.append(name)
                break
        array = mx.array(raw)
        del raw, flat  # before the conversion: the peak is one tensor, not two
        array = (array.view(mx.bfloat16) if kind == "BF16" else array).astype(final)
        mx.eval(array)
        return array

    def unpacked(name: str, shape: tuple[int, ...]) -> Any:
        rows = np.empty(shape, np.float32)
        for start, chunk in files.chunks(name):
            rows[start : start + len(chunk)] = chunk
            if not _finite(chunk) and name not in damaged:
                damaged.append(name)
        array = mx.array(rows)
        del rows
        array = array.astype(final)
        mx.eval(array)
        return array

    params: dict[str, Any] = {}
    for name, shape in files.config.tensors().items():
        path = name.removesuffix(".weight")
        how = files.packings.get(path)
        if how is None or not (keeps_packed and how.native):
            array = dense(name) if how is None else unpacked(name, shape)
            params[name] = array.T if len(shape) == 2 and path != EMBED else array
        else:
            params[name] = mx.array(files.read(name))
            for part in (f"{path}.scales", f"{path}.biases"):
                if how.mode == "mxfp4" and files.has(part):
                    params[part] = mx.array(files.read(part))
                elif files.has(part):
                    params[part] = dense(part)
        mx.eval(params[name])
        mx.clear_cache()  # freed buffers would count against the peak
    if files.config.tied:
        for part in ("scales", "biases"):
            if f"{EMBED}.{part}" in params:
                params[f"{HEAD}.{part}"] = params[f"{EMBED}.{part}"]
        table = params[f"{EMBED}.weight"]
        params[f"{HEAD}.weight"] = table if f"{EMBED}.scales" in params else table.T
        mx.eval(params[f"{HEAD}.weight"])
    return params
