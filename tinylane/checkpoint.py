"""A Hugging Face checkpoint folder, or a hub id, as a `Model` on NumPy or MLX.

Tensor by tensor, in pieces, so that the peak is the weights in their final type and little more.
How `params` is laid out: every matrix so that `x @ w` works, in one source line for both libraries.
MLX holds the file's (out, in) array and its `.T` view is in `params`. NumPy too for tall matrices;
wide ones are (in, out), as columns of one array where they read one input (`tinylane.blas`). A tied
head and its embedding are one array. MLX-quantized layers stay packed in MLX where it has kernels
for them; everywhere else they are dequantized here.
"""

from __future__ import annotations

import os
import platform
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.adapter import CONFIG as ADAPTER_CONFIG
from tinylane.adapter import Adapter, apply, load_adapter
from tinylane.config import ModelConfig
from tinylane.configcheck import token_ids
from tinylane.errors import TinylaneError
from tinylane.files import read_json, show
from tinylane.forecast import ITEMSIZE, Forecast, forecast
from tinylane.hub import resolve
from tinylane.weightfiles import CHUNK, EMBED, HEAD, WeightFiles, identity, inside, widen

if TYPE_CHECKING:
    from tinylane.model import Model
    from tinylane.tokenizer import Tokenizer

GENERATION = "generation_config.json"
DTYPES = {"numpy": ("float32", "float64"), "mlx": ("float32", "float16", "bfloat16")}
SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def load(
    source: str | os.PathLike[str],
    backend: str = "auto",
    dtype: str = "auto",
    adapter: str | os.PathLike[str] | bool | None = None,
    revision: str | None = None,
    *,
    lanes: int = 1,
    prompt_tokens: int = 0,
    max_tokens: int = 0,
) -> Model:
    """Load a checkpoint: a local folder, or a hub id (with `revision`).

    backend: "numpy", "mlx", or "auto" (MLX on Apple silicon, else NumPy). dtype: "auto" is float32
    in NumPy and on MLX's CPU, the checkpoint's own on a GPU; NumPy also takes float64, MLX float16
    and bfloat16. adapter: a folder or hub id; None takes the checkpoint's own `adapter/` if it has
    one, False takes none. lanes, prompt_tokens, max_tokens: what is planned, for the forecast.

    Warns of NaN or infinite weights. Raises TinylaneError, before anything large is read: missing
    or damaged files, other mathematics, tensors that do not fit config.json, an adapter of another
    model, a backend that is not installed, more memory than there is.
    """
    from tinylane.model import Model

    backend = choose_backend(backend)
    plan = Plan(resolve(source, revision), backend, dtype, adapter)
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
        read = _read_numpy if backend == "numpy" else _read_mlx
        params = read(files, dtype, damaged)
        if damaged:
            more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
            warnings.warn(
                f"{plan.folder}: NaN or infinite weights in {', '.join(damaged[:3])}{more}",
                stacklevel=2,
            )
        from tinylane.inspection import describe

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
    )


def choose_backend(name: str = "auto") -> str:
    """ "numpy" or "mlx". Raises TinylaneError for another name, or if MLX is not installed."""
    if name not in ("auto", *DTYPES):
        raise TinylaneError(f"backend {show(name)}, expected numpy, mlx or auto")
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    if name == "numpy" or (name == "auto" and not apple):
        return "numpy"
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        if name == "auto":
            return "numpy"
        raise TinylaneError(
            'backend mlx is not installed: pip install "tinylane[mlx]"; or choose numpy'
        ) from error
    return "mlx"


class Plan:
    """What is chosen from the small files of a checkpoint, before its tensors are read."""

    def __init__(
        self,
        folder: Path,
        backend: str,
        dtype: str = "auto",
        adapter: str | os.PathLike[str] | bool | None = None,
    ) -> None:
        if dtype != "auto" and dtype not in DTYPES[backend]:
            names = ", ".join(DTYPES[backend])
            raise TinylaneError(f"dtype {show(dtype)}, expected auto or, for {backend}, {names}")
        self.folder, self.backend, self.asked = folder, backend, dtype
        inside(folder, "config.json")
        self.config = ModelConfig.from_folder(folder)
        self.generation = {}
        if os.path.exists(inside(folder, GENERATION)):
            self.generation = read_json(folder / GENERATION)
        source = str(folder / GENERATION)
        self.sampling = sampling_defaults(self.generation, source)
        own = token_ids(
            self.generation.get("eos_token_id"), self.config.vocab, source, "eos_token_id"
        )
        self.eos_ids = tuple(sorted({*self.config.eos_ids, *own}))
        self.identity = identity(folder)
        self.adapter_folder = self._adapter_folder(adapter)

    def open(self) -> WeightFiles:
        return WeightFiles(self.folder, self.config)

    def _adapter_folder(self, given: str | os.PathLike[str] | bool | None) -> Path | None:
        if given is True:
            raise TinylaneError("adapter True: expected a folder, a hub id, None or False")
        if given is None:
            own = inside(self.folder, "adapter")
            return own if os.path.exists(own / ADAPTER_CONFIG) else None
        return None if given is False else resolve(given)

    def adapter(self, config: ModelConfig) -> Adapter | None:
        if self.adapter_folder is None:
            return None
        return load_adapter(self.adapter_folder, config, self.identity)

    def tokenizer(self, config: ModelConfig) -> Tokenizer | None:
        """The folder's tokenizer, or None if it has none (prompts are then token ids)."""
        if not os.path.exists(inside(self.folder, "tokenizer.json")):
            return None
        from tinylane.tokenizer import Tokenizer

        return Tokenizer.from_folder(self.folder, config_eos=self.eos_ids, vocab=config.vocab)

    def dtype(self, files: WeightFiles) -> str:
        if self.asked != "auto":
            return self.asked
        if self.backend == "mlx":
            import mlx.core as mx

            if mx.default_device().type == mx.DeviceType.gpu:
                return files.float_dtype
        return "float32"  # MLX's CPU is 40 times slower in 16 bits

    def forecast(
        self, files: WeightFiles, lanes: int = 1, prompt_tokens: int = 0, max_tokens: int = 0
    ) -> Forecast:
        dtype = self.dtype(files)
        weights = files.final_bytes(ITEMSIZE[dtype], native=self.backend == "mlx")
        return forecast(files.config, dtype, lanes, prompt_tokens, max_tokens, weights)


def sampling_defaults(generation: dict[str, Any], source: str = GENERATION) -> dict[str, Any]:
    """generation_config.json's sampling, as `Sampler.from_config` takes it. Raises TinylaneError.

    As in transformers, without `do_sample: true` decoding is greedy (temperature 0), whatever
    temperature stands there. Only what the file says is returned: transformers' own default of
    top_k 50 is not applied.
    """
    from tinylane.sampling import Sampler

    sample = generation.get("do_sample")
    if sample is not None and not isinstance(sample, bool):
        raise TinylaneError(f"{source}: do_sample {show(sample)}, expected true or false")
    found = {key: generation[key] for key in SETTINGS if generation.get(key) is not None}
    if any(isinstance(value, bool) for value in found.values()):
        raise TinylaneError(f"{source}: {show(found)}, expected numbers")
    if not sample:
        found["temperature"] = 0.0
    found.setdefault("temperature", 1.0)
    try:
        Sampler(**found)
    except TinylaneError as error:
        raise TinylaneError(f"{source}: {error}") from error
    return {"do_sample": bool(sample), **found}


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
        params[name] = array if straight else array.T  # `tinylane.blas` likes the file's order
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


def _read_mlx(files: WeightFiles, dtype: str, damaged: list[str]) -> dict[str, Any]:
    """All tensors as MLX arrays, each made and evaluated before the next is read."""
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
        if how is None or not how.native:
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
