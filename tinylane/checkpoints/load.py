"""A Hugging Face checkpoint folder, or a hub id, as a `Model` on NumPy or MLX.

A `LoadPlan` says what is chosen from the small files, before any tensor is read. `load` follows it;
`inspect` (and `tinylane inspect`) reports it, and which file said so.
"""

from __future__ import annotations

import math
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tinylane.checkpoints.adapter import CONFIG as ADAPTER_CONFIG
from tinylane.checkpoints.adapter import TENSORS, Adapter, apply, fill_all, load_adapter
from tinylane.checkpoints.config_json import (
    parse_config,
    read_raw,
    sampling_defaults,
    token_ids,
)
from tinylane.checkpoints.extras import put, summary
from tinylane.checkpoints.peft_adapter import check_copies
from tinylane.checkpoints.side import Side
from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.checkpoints.weights import WeightFiles, read_extra, read_mlx, read_numpy
from tinylane.core.config import ModelConfig
from tinylane.core.decoder import PLAIN, Ops
from tinylane.core.errors import TinylaneError, of_kind, show
from tinylane.core.model import Model
from tinylane.files.io import inside, read_json
from tinylane.files.memory import ITEMSIZE, Forecast, forecast, lace_channels

GENERATION = "generation_config.json"
OPS = ("auto", "plain", "fast")
SMALL = 1 << 21  # weights in the layers; see `choose_ops`
DTYPES = {"numpy": ("float32", "float64"), "mlx": ("float32", "float16", "bfloat16")}


def choose_ops(name: str, backend: str, config: ModelConfig, packed: bool = False) -> Ops:
    """The operations of a model. "auto" takes the plain ones where the fast ones save no time: for
    models of at most `SMALL` weights on a CPU (`python tutorials/bench/ops.py` shows the times). On
    a GPU, where nothing was timed, it takes the fast ones.

    packed: whether weights stay MLX-quantized, which only MLX's fast operations read.
    """
    small = config.layers * 4 * config.width * config.mlp_width < SMALL
    if name == "plain" or (name == "auto" and small and not packed and not _on_gpu(backend)):
        return PLAIN
    return fast_ops(backend)


def fast_ops(backend: str) -> Ops:
    """The faster versions of the decoder's operations that "numpy" or "mlx" has."""
    if backend == "mlx":
        from tinylane.core import mlx_ops

        return mlx_ops.OPS
    from tinylane.core import numpy_ops

    return numpy_ops.OPS


def _on_gpu(backend: str) -> bool:
    if backend != "mlx":
        return False
    import mlx.core as mx

    return mx.default_device().type == mx.DeviceType.gpu


def exact_products() -> str | None:
    """Have MLX multiply float32 as such; a line that says so where it does not.

    M5 Macs and NVIDIA cards round the factors to 10 bits (TF32) unless MLX_ENABLE_TF32 is 0. MLX
    reads that once, at its first product. So it is set here if it is not, and a product is tried.
    """
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    import mlx.core as mx

    factor = mx.full((256, 256), 1 + 2.0**-12)
    if mx.array_equal(mx.matmul(mx.eye(256), factor), factor):
        return None
    return (
        "float32 products are rounded to 10 bits here (TF32), which makes differences of about "
        "1e-3: set MLX_ENABLE_TF32=0 before the program starts"
    )


def choose_backend(name: str = "auto") -> str:
    """ "numpy" or "mlx". Raises TinylaneError for another name, or if MLX is not installed."""
    if name not in ("auto", *DTYPES):
        raise TinylaneError(f"backend {show(name)}; expected numpy, mlx or auto")
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    if name == "numpy" or (name == "auto" and not apple):
        return "numpy"
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        if name == "auto":
            return "numpy"
        raise TinylaneError(
            'backend mlx is not installed: pip install "tinylane[mlx]" (Linux; on a Mac Apple '
            "silicon and macOS 14 or later); or choose numpy"
        ) from error
    return "mlx"


def find_folder(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a checkpoint or adapter: `source` itself, or a hub id's files (`hub.resolve`).

    Raises TinylaneError if there is none.
    """
    of_kind("source", source, (str, os.PathLike), "a folder or a hub id")
    folder = Path(os.path.expanduser(os.fspath(source)))
    if revision is None and os.path.isdir(folder):
        return folder
    from tinylane.checkpoints.hub import resolve

    return resolve(source, revision)


@dataclass(frozen=True)
class LoadPlan:
    """What is chosen from the small files of a checkpoint, before its tensors are read.

    config, generation: of the files. eos_ids: of both. files: the weight files, open. dtype: the
    activations'. identity: without the adapter. keeps_packed: MLX-quantized layers stay packed.
    """

    folder: Path
    backend: str
    dtype: str
    ops: Ops
    keeps_packed: bool
    config: ModelConfig
    generation: dict[str, Any]
    sampling: dict[str, Any]
    eos_ids: tuple[int, ...]
    files: WeightFiles
    identity: str
    adapter_folder: Path | None

    def adapter(self) -> Adapter | None:
        """The adapter, checked against the model's sizes and identity; None if there is none."""
        if self.adapter_folder is None:
            return None
        return load_adapter(self.adapter_folder, self.files.config, self.identity)

    def tokenizer(self) -> Tokenizer | None:
        """The folder's tokenizer, or None if it has none (prompts are then token ids)."""
        if not os.path.exists(inside(self.folder, "tokenizer.json")):
            return None
        return Tokenizer.from_folder(self.folder, self.eos_ids, self.config.vocab)

    def forecast(
        self, lanes: int, prompt_tokens: int, max_tokens: int, tuned: Adapter | None
    ) -> Forecast:
        """The memory that a run will take, with this adapter."""
        weights = self.files.final_bytes(ITEMSIZE[self.dtype], native=self.keeps_packed)
        shapes = {**self.files.extra, **(tuned.shapes if tuned else {})}
        lace = lace_channels(shapes) if shapes else 0
        how = (lanes, prompt_tokens, max_tokens, weights, self.backend, lace)
        return forecast(self.files.config, self.dtype, *how)


@contextmanager
def planned(
    source: str | os.PathLike[str],
    backend: str = "auto",
    dtype: str = "auto",
    adapter: str | os.PathLike[str] | bool | None = None,
    revision: str | None = None,
    ops: str = "auto",
) -> Iterator[LoadPlan]:
    """The plan for a checkpoint; arguments as of `load`. Its weight files are open in the block."""
    backend, folder = choose_backend(backend), find_folder(source, revision)
    if ops not in OPS:
        raise TinylaneError(f"ops is {show(ops)}; expected {', '.join(OPS)}")
    if dtype != "auto" and dtype not in DTYPES[backend]:
        names = ", ".join(DTYPES[backend])
        raise TinylaneError(f"dtype {show(dtype)}; expected auto or, for {backend}, {names}")
    raw = read_raw(folder)
    config = parse_config(raw, str(folder / "config.json"))
    generation, name = {}, str(folder / GENERATION)
    if os.path.exists(inside(folder, GENERATION)):
        generation = read_json(name)
    sampling = sampling_defaults(generation, name)
    more = token_ids(generation.get("eos_token_id"), config.vocab, name, "eos_token_id")
    if adapter is True:
        raise TinylaneError("adapter True: expected a folder, a hub id, None or False")
    home, inner = None, inside(folder, "adapter")
    # A copy that lost one of the two files, or the right to look into the folder, is refused by
    # `load_adapter`, not read without Omega.
    closed = os.path.isdir(inner) and not os.access(inner, os.R_OK | os.X_OK)
    parts = (os.path.exists(inner / name) for name in (ADAPTER_CONFIG, TENSORS))
    if adapter is None and (closed or any(parts)):
        home = folder / "adapter"
    elif adapter is not None and adapter is not False:
        home = find_folder(adapter)
    with WeightFiles(folder, config) as files:
        if dtype == "auto":  # MLX's CPU is 40 times slower in 16 bits
            dtype = files.float_dtype if _on_gpu(backend) else "float32"
        keeps_packed = backend == "mlx" and ops != "plain"  # plain operations read none
        yield LoadPlan(
            folder=folder,
            backend=backend,
            dtype=dtype,
            ops=choose_ops(ops, backend, config, keeps_packed and files.native),
            keeps_packed=keeps_packed,
            config=config,
            generation=generation,
            sampling=sampling,
            eos_ids=tuple(sorted({*config.eos_ids, *more})),
            files=files,
            identity=files.identity(raw),
            adapter_folder=home,
        )


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
    versions of them; "auto" takes the plain ones where the fast ones save nothing. lanes,
    prompt_tokens, max_tokens: what is planned, for the forecast of memory.

    Warns of NaN or infinite weights. Raises TinylaneError, before anything large is read: missing
    or damaged files, other mathematics, tensors that do not fit config.json, an adapter of another
    model, a backend that is not installed, more memory than there is.
    """
    with planned(source, backend, dtype, adapter, revision, ops) as plan:
        files, backend, dtype = plan.files, plan.backend, plan.dtype
        tuned, tokenizer = plan.adapter(), plan.tokenizer()
        needs = plan.forecast(lanes, prompt_tokens, max_tokens, tuned)
        needs.check(str(source))
        if files.untied:
            warnings.warn(
                f"{plan.folder}: tie_word_embeddings is true, but lm_head.weight differs from the "
                "embedding; both are used",
                stacklevel=2,
            )
        damaged: list[str] = []
        if backend == "numpy":
            params = read_numpy(files, dtype, damaged)
        else:
            params = read_mlx(files, dtype, damaged, plan.keeps_packed)
        if files.extra:
            put(params, read_extra(files, damaged), backend, dtype)
        if damaged:
            more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
            warnings.warn(
                f"{plan.folder}: NaN or infinite weights in {', '.join(damaged[:3])}{more}",
                stacklevel=2,
            )
        if tuned is not None and tuned.copies:
            check_copies(tuned.folder, tuned.copies, files)
        identity = plan.identity
        if tuned is not None and tuned.tensors:
            apply(params, tuned, files, backend, dtype)
            identity = tuned.identity(identity)
    eos_ids = plan.eos_ids
    if tokenizer is not None:
        eos_ids = tuple(sorted({*eos_ids, *tokenizer.eos_ids}))
        tokenizer.raw = tuned is not None and tuned.raw
    model = Model(
        replace(files.config, eos_ids=eos_ids),
        params,
        backend=backend,
        dtype=dtype,
        tokenizer=tokenizer,
        sampling=plan.sampling,
        identity=identity,
        ops=plan.ops,
        side=Side,
    )
    shown = None  # the report must not keep the adapter's tensors
    if tuned is not None:
        shown = replace(tuned, tensors={})
        model.lane_rope, model.visibility, model.lag = tuned.lane_rope, tuned.visibility, tuned.lag
        model.task = tuned.task
        if tuned.lane_prompt:
            model.lane_prompts = partial(fill_all, tuned.lane_prompt)
    model.describe = partial(describe, plan, shown, tokenizer, needs)
    return model


def inspect(
    source: str | os.PathLike[str],
    lanes: int = 1,
    prompt_tokens: int = 0,
    max_tokens: int = 0,
    adapter: str | os.PathLike[str] | bool | None = None,
    *,
    backend: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    ops: str = "auto",
) -> dict[str, Any]:
    """The report on a checkpoint without reading its tensors; arguments as in `load`.

    Each entry is {"value": ..., "from": file names}; everything in it can be written as JSON.
    Raises TinylaneError for whatever `load` would refuse, but not for too little memory: the
    forecast says whether it fits.
    """
    with planned(source, backend, dtype, adapter, revision, ops) as plan:
        tuned = plan.adapter()
        needs = plan.forecast(lanes, prompt_tokens, max_tokens, tuned)
        return describe(plan, tuned, plan.tokenizer(), needs)


def describe(
    plan: LoadPlan, adapter: Adapter | None, tokenizer: Tokenizer | None, needs: Forecast
) -> dict[str, Any]:
    """The report of a plan; a loaded model's is `Model.report`."""
    files, config = plan.files, plan.files.config
    weights = _names([path.name for path in files.paths])
    report: dict[str, Any] = {}

    def say(key: str, value: Any, where: str) -> None:
        report[key] = {"value": value, "from": where}

    say("model", str(plan.folder), "")
    say("identity", plan.identity, f"config.json, {weights}")
    say("backend", plan.backend, "chosen")
    say("ops", "plain" if plan.ops is PLAIN else "fast", "chosen")
    say("family", config.family, "config.json")
    sizes = ("layers", "width", "heads", "kv_heads", "head_dim", "mlp_width", "vocab", "context")
    say("sizes", {name: getattr(config, name) for name in sizes}, "config.json")
    shapes = [*config.tensors().values(), *files.extra.values()]
    say("parameters", sum(map(math.prod, shapes)), "config.json")
    dtypes = {"files": files.float_dtype, "config": config.dtype, "used": plan.dtype}
    say("dtype", dtypes, weights)
    optional = ("qkv_bias", "out_bias", "mlp_bias", "qk_norm")
    has = [name for name in optional if getattr(config, name)]
    say("optional", has + summary(files.extra), f"config.json, {weights}")
    tied = "config.json" if config.tied == plan.config.tied else f"{weights}, against config.json"
    say("tied", config.tied, tied)
    rope = {"kind": config.rope.kind, "base": config.rope.base}
    if config.rope.kind != "default":
        rope["factor"] = config.rope.factor
    if config.rope.original_context:
        rope["original_context"] = config.rope.original_context
    say("rope", rope, "config.json")
    say("quantization", _packed(files), f"{weights}, config.json" if files.packings else weights)
    where = ["config.json"] if plan.config.eos_ids else []
    where += [GENERATION] if plan.generation.get("eos_token_id") is not None else []
    more_eos = set() if tokenizer is None else set(tokenizer.eos_ids) - set(plan.eos_ids)
    where += ["tokenizer"] if more_eos else []
    say("eos_ids", sorted({*plan.eos_ids, *more_eos}), _names(where) or "none")
    if tokenizer is None:
        say("tokenizer", None, "no tokenizer.json")
        say("chat_template", False, "none")
    else:
        say("tokenizer", tokenizer.vocab_size, "tokenizer.json")
        source = tokenizer.template_source or "tokenizer_config.json"
        has_template = bool(tokenizer.chat_template)
        say("chat_template", has_template, Path(source).name if has_template else "none")
    say("sampling", plan.sampling, GENERATION if plan.generation else f"no {GENERATION}")
    if adapter is None:
        say("adapter", None, "none")
    else:
        say("adapter", adapter.summary, str(adapter.folder))
    say("forecast", needs.to_dict(), "computed")
    return report


def _packed(files: WeightFiles) -> list[str]:
    """How many layers are packed in each way: ["28 x affine 4 bits, groups of 64", ...]."""
    count: dict[str, int] = {}
    for how in files.packings.values():
        text = f"{how.mode} {how.bits} bits, groups of {how.group_size}"
        count[text] = count.get(text, 0) + 1
    return [f"{number} x {text}" for text, number in sorted(count.items())]


def _names(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} .. {names[-1]} ({len(names)})"
