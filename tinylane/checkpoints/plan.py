"""What is chosen for a checkpoint from its small files, before its tensors are read.

`load` follows a `LoadPlan`; `inspect` (and `tinylane inspect`) reports it, and which file said so.
"""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path
from typing import Any

from tinylane.checkpoints.adapter import CONFIG as ADAPTER_CONFIG
from tinylane.checkpoints.adapter import Adapter, load_adapter
from tinylane.checkpoints.config_json import read_config, token_ids
from tinylane.checkpoints.extras import summary
from tinylane.checkpoints.tokenizer import Tokenizer
from tinylane.checkpoints.weights import WeightFiles, identity
from tinylane.core.config import ModelConfig
from tinylane.core.decoder import PLAIN, Ops
from tinylane.core.errors import TinylaneError, of_kind, show, whole
from tinylane.files.io import LARGEST, Fields, inside, read_json
from tinylane.files.memory import ITEMSIZE, Forecast, forecast, size

GENERATION = "generation_config.json"
OPS = ("auto", "plain", "fast")
SMALL = 1 << 21  # weights in the layers; see `choose_ops`
DTYPES = {"numpy": ("float32", "float64"), "mlx": ("float32", "float16", "bfloat16")}
NOTHING = "none"


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


class LoadPlan:
    """What is chosen from the small files of a checkpoint, before its tensors are read."""

    def __init__(
        self,
        folder: Path,
        backend: str,
        dtype: str = "auto",
        adapter: str | os.PathLike[str] | bool | None = None,
        ops: str = "auto",
    ) -> None:
        if ops not in OPS:
            raise TinylaneError(f"ops is {show(ops)}; expected {', '.join(OPS)}")
        self.ops_name = ops
        self.keeps_packed = backend == "mlx" and ops != "plain"  # plain operations read none
        if dtype != "auto" and dtype not in DTYPES[backend]:
            names = ", ".join(DTYPES[backend])
            raise TinylaneError(f"dtype {show(dtype)}; expected auto or, for {backend}, {names}")
        self.folder, self.backend, self.asked = folder, backend, dtype
        inside(folder, "config.json")
        self.config = read_config(folder)
        self.generation = {}
        if os.path.exists(inside(folder, GENERATION)):
            self.generation = read_json(folder / GENERATION)
        source = str(folder / GENERATION)
        self.sampling = sampling_defaults(self.generation, source)
        more = token_ids(
            self.generation.get("eos_token_id"), self.config.vocab, source, "eos_token_id"
        )
        self.eos_ids = tuple(sorted({*self.config.eos_ids, *more}))
        self.identity = identity(folder)
        self.adapter_folder = self._adapter_folder(adapter)

    def open(self) -> WeightFiles:
        """The weight files, checked; a context manager."""
        return WeightFiles(self.folder, self.config)

    def _adapter_folder(self, given: str | os.PathLike[str] | bool | None) -> Path | None:
        if given is True:
            raise TinylaneError("adapter True: expected a folder, a hub id, None or False")
        if given is None:
            folder = inside(self.folder, "adapter")
            return folder if os.path.exists(folder / ADAPTER_CONFIG) else None
        return None if given is False else find_folder(given)

    def adapter(self, config: ModelConfig) -> Adapter | None:
        """The adapter, checked against the model's sizes and identity; None if there is none."""
        if self.adapter_folder is None:
            return None
        return load_adapter(self.adapter_folder, config, self.identity)

    def tokenizer(self, config: ModelConfig) -> Tokenizer | None:
        """The folder's tokenizer, or None if it has none (prompts are then token ids)."""
        if not os.path.exists(inside(self.folder, "tokenizer.json")):
            return None
        return Tokenizer.from_folder(self.folder, config_eos=self.eos_ids, vocab=config.vocab)

    def dtype(self, files: WeightFiles) -> str:
        """The activations' dtype: what was asked for, or what is fast on the device."""
        if self.asked != "auto":
            return self.asked
        # MLX's CPU is 40 times slower in 16 bits
        return files.float_dtype if _on_gpu(self.backend) else "float32"

    def forecast(
        self, files: WeightFiles, lanes: int = 1, prompt_tokens: int = 0, max_tokens: int = 0
    ) -> Forecast:
        """The memory that a run will take."""
        whole("lanes", lanes, 1)
        whole("prompt_tokens", prompt_tokens, 0, LARGEST)
        whole("max_tokens", max_tokens, 0, LARGEST)
        dtype = self.dtype(files)
        weights = files.final_bytes(ITEMSIZE[dtype], native=self.keeps_packed)
        how = (lanes, prompt_tokens, max_tokens, weights, self.backend)
        return forecast(files.config, dtype, *how)


def sampling_defaults(generation: dict[str, Any], source: str = GENERATION) -> dict[str, Any]:
    """generation_config.json's sampling, as `Sampler.from_config` takes it. Raises TinylaneError.

    As in transformers, decoding is greedy (temperature 0) without `do_sample: true`, whatever
    temperature the file gives. Only the file's settings are returned: transformers' default of
    top_k 50 is not applied.
    """
    read = Fields(generation, source)
    sample = read.flag("do_sample", False)
    top_k = read.real("top_k", None, least=-1, most=LARGEST)
    if top_k is not None and top_k != int(top_k):
        read.fail("top_k", "a whole number")
    chosen = {
        "temperature": read.real("temperature", 1.0, least=0, most=1e6) if sample else 0.0,
        "top_p": read.real("top_p", None, least=0, most=1),
        "top_k": None if top_k is None else max(int(top_k), 0),  # -1 is vLLM's spelling of off
        "min_p": read.real("min_p", None, least=0, most=1),
        "repetition_penalty": read.real("repetition_penalty", None, above=0, most=1e6),
    }
    if chosen["top_p"] == 0:  # transformers then keeps the likeliest token
        chosen["top_p"] = 1e-9
    given = {name: value for name, value in chosen.items() if value is not None}
    return {"do_sample": sample, **given}


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
    plan = LoadPlan(find_folder(source, revision), choose_backend(backend), dtype, adapter, ops)
    with plan.open() as files:
        tokenizer = plan.tokenizer(files.config)
        needs = plan.forecast(files, lanes, prompt_tokens, max_tokens)
        tuned = plan.adapter(files.config)
        summary = None if tuned is None else tuned.summary
        return describe(plan, files, summary, tokenizer, needs)


def describe(
    plan: LoadPlan,
    files: WeightFiles,
    adapter: dict[str, Any] | None,
    tokenizer: Tokenizer | None,
    needs: Forecast,
) -> dict[str, Any]:
    """The report of a plan; a loaded model's is `Model.report`. adapter: its `summary`."""
    config, weights = files.config, _names([path.name for path in files.paths])
    report: dict[str, Any] = {}

    def say(key: str, value: Any, where: str) -> None:
        report[key] = {"value": value, "from": where}

    say("model", str(plan.folder), "")
    say("identity", plan.identity, f"config.json, {weights}")
    say("backend", plan.backend, "chosen")
    packed = plan.keeps_packed and files.native
    ops = choose_ops(plan.ops_name, plan.backend, config, packed)
    say("ops", "plain" if ops is PLAIN else "fast", "chosen")
    say("family", config.family, "config.json")
    sizes = ("layers", "width", "heads", "kv_heads", "head_dim", "mlp_width", "vocab", "context")
    say("sizes", {name: getattr(config, name) for name in sizes}, "config.json")
    shapes = [*config.tensors().values(), *files.extra.values()]
    say("parameters", sum(map(math.prod, shapes)), "config.json")
    used = plan.dtype(files)
    say("dtype", {"files": files.float_dtype, "config": config.dtype, "used": used}, weights)
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
    say("eos_ids", sorted({*plan.eos_ids, *more_eos}), _names(where) or NOTHING)
    if tokenizer is None:
        say("tokenizer", None, "no tokenizer.json")
        say("chat_template", False, NOTHING)
    else:
        say("tokenizer", tokenizer.vocab_size, "tokenizer.json")
        source = tokenizer.template_source or "tokenizer_config.json"
        has_template = bool(tokenizer.chat_template)
        say("chat_template", has_template, Path(source).name if has_template else NOTHING)
    say("sampling", plan.sampling, GENERATION if plan.generation else f"no {GENERATION}")
    say("adapter", adapter, NOTHING if adapter is None else str(plan.adapter_folder))
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


def format_report(report: dict[str, Any]) -> list[str]:
    """The report as plain lines: name, value, file."""
    lines = []
    for key, entry in report.items():
        if key == "forecast":
            continue
        text = _text(key, entry["value"])
        where = f"  [{entry['from']}]" if entry["from"] else ""
        lines.append(f"{key.replace('_', ' '):<14} {text}{where}")
    needs = report["forecast"]["value"]
    lines.append(
        f"{'forecast':<14} weights {size(needs['weights'])}, prompt of "
        f"{needs['prompt_tokens']:,} tokens {size(needs['prompt_kv'])} (once), "
        f"{needs['lanes']:,} lanes of {needs['max_tokens']:,} tokens {size(needs['lane_kv'])}: "
        f"{size(needs['total'])} in all"
    )
    have = needs["available"]
    verdict = "fits" if needs["fits"] else "DOES NOT FIT"
    whose = " (the GPU's share)" if needs["gpu"] == have else ""
    state = "unknown on this system" if have is None else f"{size(have)}{whose}: {verdict}"
    lines.append(f"{'available':<14} {state}")
    return lines


def _text(key: str, value: Any) -> str:
    if key == "tied":
        return "yes: the output head is the embedding" if value else "no: a separate output head"
    if value is None or value == [] or value is False:
        return NOTHING
    if value is True:
        return "yes"
    if key == "parameters":
        return f"{value:,}"
    if key == "tokenizer":
        return f"{value:,} tokens"
    if key == "identity":
        return value[:16]
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return _plain(value)


def _plain(item: Any) -> str:
    return f"{item:g}" if isinstance(item, float) else str(item).replace("\n", " ")
