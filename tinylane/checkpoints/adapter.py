"""Adapters: what was trained for lanes on top of a checkpoint, in a folder of two files.

`adapters.safetensors` may hold `lane_rope.omega` ((D/2,) or (layers, D/2)), attention biases
`model.layers.I.self_attn.{q,k,v}_proj.bias` (they replace the checkpoint's, if it has any), and
low-rank updates `PATH.lora_a` (in, r), `PATH.lora_b` (r, out), scaled by `scale`, and the tensors
of `extras` (embeddings of lanes, bridges), in a checkpoint's layout.
`adapter_config.json` says which model it was made for (`base` sizes, and `identity` if recorded)
and how its lanes read each other (`prompt_lane`, `visibility`, `lag`, `lanes`). It may also say
how prompts are written: `raw` (without the chat template), and `lane_prompt`, how every lane
begins, such as `{lane}/{lanes}:`. These are defaults; what a call or a flag says wins.

LoRA and DoRA adapters of others are read as well: mlx-lm's (`lora_parameters.scale`; full ones are
refused) and PEFT's (`peft_adapter`). DoRA (arXiv:2402.09353) has magnitudes `PATH.m` (out,), the
lengths of the rows of W + A B: `apply` and `fuse` scale those to them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinylane.checkpoints import extras
from tinylane.checkpoints import peft_adapter as peft
from tinylane.checkpoints.weights import WeightFiles
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import MAX_LANES, LaneMask, LaneRoPE
from tinylane.files.io import Fields, inside, read_json
from tinylane.files.safetensors import DENSE, TensorFile, widen, write_tensors
from tinylane.files.writing import make_folder, write_json

CONFIG, TENSORS, OMEGA = "adapter_config.json", "adapters.safetensors", "lane_rope.omega"
SIZES = ("family", "vocab", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width")
FORMAT = "tinylane adapter 1"
LONGEST_LANE_PROMPT = 1000  # characters
_BIAS = re.compile(r"model\.layers\.\d+\.self_attn\.[qkv]_proj\.bias")
_LORA = re.compile(r"(model\.layers\.\d+\.(?:self_attn|mlp)\.\w+|lm_head)\.(lora_a|lora_b|m)")


@dataclass(frozen=True)
class Adapter:
    """A checked adapter. tensors: float32 by the model's names, `lora_b` already scaled."""

    folder: Path
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of the tensors
    lane_rope: LaneRoPE | None = None
    visibility: Any = None  # a name, or a list of rows of booleans
    lag: int = 0
    lanes: tuple[int, ...] = ()  # the lane counts it was trained with
    raw: bool = False
    lane_prompt: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # adapter_config.json
    copies: tuple[tuple[str, str], ...] = ()  # of whole layers, as `peft_adapter.check_copies`

    @property
    def task(self) -> dict[str, Any] | None:
        """The task that the adapter was trained on, and for which numbers of lanes."""
        task = self.settings.get("task")
        return {"lanes": list(self.lanes), **task} if isinstance(task, dict) else None

    @property
    def summary(self) -> dict[str, Any]:
        """What the report on a checkpoint says of it."""
        rope = self.lane_rope
        return {
            "omega": None if rope is None else list(rope.omega.shape),
            "prompt_lane": None if rope is None else rope.prompt_lane,
            "visibility": self.visibility,
            "lag": self.lag,
            "lanes": list(self.lanes),
            "raw": self.raw,
            "lane_prompt": self.lane_prompt,
            "updates": len(self.shapes),
            "extra": extras.summary(self.shapes),
        }

    def identity(self, base: str) -> str:
        """The identity of a model with these updates, of which there is one at least."""
        digest = hashlib.sha256(base.encode())
        for name in sorted(self.tensors):
            digest.update(f"\n{name} {self.tensors[name].shape}\n".encode())
            digest.update(np.ascontiguousarray(self.tensors[name]).data)
        return digest.hexdigest()


def fill(text: str, n: int, lane: int | None = None) -> str:
    """A text with `{lanes}` and `{lane}` (from 1; None leaves it) filled in for one of n lanes."""
    text = text.replace("{lanes}", str(n))
    return text if lane is None else text.replace("{lane}", str(lane + 1))


def fill_all(text: str, n: int) -> list[str]:
    """`fill` for each of n lanes."""
    return [fill(text, n, m) for m in range(n)]


def save_adapter(
    folder: str | os.PathLike[str],
    config: ModelConfig,
    tensors: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write an adapter for a model of these sizes; each file is replaced whole or not at all.

    tensors: NumPy or MLX arrays by name (see the module). settings: `prompt_lane`, `visibility`,
    `lag`, `lanes`, `raw`, `lane_prompt`, `scale`, `identity` and anything else worth keeping. What
    `load_adapter` would refuse is refused here. Raises TinylaneError.
    """
    folder = Path(folder)
    sizes = {name: getattr(config, name) for name in SIZES}
    record = {"format": FORMAT, "base": sizes, **(settings or {})}
    if isinstance(record.get("visibility"), np.ndarray):
        record["visibility"] = record["visibility"].astype(int).tolist()
    # angles are kept in float64 throughout
    plain = {k: _plain(v, np.float64 if k == OMEGA else np.float32) for k, v in tensors.items()}
    _check_shapes(folder, config, {name: value.shape for name, value in plain.items()})
    _build(folder, plain, record)
    make_folder(folder)
    for name in (TENSORS, CONFIG):
        inside(folder, name)  # no link to a file of another adapter is written through
    write_tensors(folder / TENSORS, plain, {"format": FORMAT})
    write_json(folder / CONFIG, record)


def load_adapter(
    folder: str | os.PathLike[str], config: ModelConfig, identity: str | None = None
) -> Adapter:
    """Read and check an adapter for a model. identity: the model's, if it is known.

    Raises TinylaneError for missing or damaged files and for an adapter of another model.
    """
    folder = Path(folder)
    if not os.path.exists(inside(folder, CONFIG)):
        raise TinylaneError(f"{folder}: no {CONFIG}; expected an adapter folder")
    record = read_json(folder / CONFIG)
    read = Fields(record, str(folder / CONFIG))
    foreign = "peft_type" in record
    file_name = peft.TENSORS if foreign else TENSORS
    if not os.path.exists(inside(folder, file_name)):
        pickled = foreign and os.path.exists(folder / "adapter_model.bin")
        hint = " (adapter_model.bin is not read: save it as safetensors)" if pickled else ""
        raise TinylaneError(f"{folder}: no {file_name}{hint}; expected an adapter folder")
    base, other = (read.fields("base").raw if read.has("base") else {}), []
    for key, value in base.items():
        ours = getattr(config, key) if key in SIZES else None
        if value != ours:
            other.append(f"{key} {show(value, 40)} instead of {ours!r}")
    if other:
        raise TinylaneError(f"{folder}: adapter of another model: {', '.join(other[:4])}")
    made_for = record.get("identity")
    if made_for is not None and identity and made_for != identity:
        raise TinylaneError(
            f"{folder}: adapter of another model: made for {show(made_for, 40)}, but this one "
            f"is {identity[:16]}... (same sizes, other weights)"
        )
    if foreign:
        peft.check(read)
    tensors: dict[str, np.ndarray] = {}
    copies: list[tuple[str, str]] = []
    with TensorFile(folder / file_name) as file:
        stored = dict(file.tensors)
        if foreign:
            stored = {peft.our_name(name): tensor for name, tensor in file.tensors.items()}
            peft.refuse_rest(stored, file.path)
            for key in (peft.HEAD, peft.TABLE):
                if key not in stored:
                    continue
                copy = stored.pop(key)
                if copy.shape != (config.vocab, config.width):
                    raise TinylaneError(
                        f"{file.path}: {show(copy.name)} is {copy.shape}, not ({config.vocab}, "
                        f"{config.width}): a vocabulary that was changed; {peft.MERGE}"
                    )
                copies.append((key, copy.name))
        # check names and shapes before reading: a sparse file of terabytes takes no room on disk
        order = -1 if foreign else 1  # PEFT's matrices are (out, in)
        shapes = {key: tensor.shape[::order] for key, tensor in stored.items()}
        _check_shapes(folder, config, shapes)
        for key, tensor in stored.items():
            if tensor.dtype not in DENSE:
                raise TinylaneError(
                    f"{file.path}: {show(tensor.name)} is {tensor.dtype}, not floats"
                )
            wide = widen(tensor.read(), tensor.dtype)
            wide = wide.T if foreign else wide
            tensors[key] = wide if key == OMEGA else wide.astype(np.float32)
    return replace(_build(folder, tensors, record), copies=tuple(copies))


def _plain(value: Any, dtype: type) -> np.ndarray:
    if type(value).__module__.partition(".")[0] == "mlx":
        import mlx.core as mx

        value = value.astype(mx.float32)  # NumPy cannot take bfloat16
    return np.array(value, dtype=dtype)


def _build(folder: Path, tensors: dict[str, np.ndarray], record: dict[str, Any]) -> Adapter:
    """Check values and settings of tensors whose names and shapes fit the model."""
    read = Fields(record, str(folder / CONFIG))
    if record.get("fine_tune_type", "lora") not in ("lora", "dora"):
        read.fail("fine_tune_type", "lora or dora; others are not implemented")
    dora = record.get("use_dora") is True or record.get("fine_tune_type") == "dora"
    visibility, lag = record.get("visibility"), read.whole("lag") if "lag" in record else 0
    lanes = record.get("lanes", [])
    lanes = lanes if isinstance(lanes, list) else [lanes]
    if any(type(n) is not int or not 1 <= n <= MAX_LANES for n in lanes):
        read.fail("lanes", f"counts from 1 to {MAX_LANES}")
    updates = dict(tensors)
    omega = updates.pop(OMEGA, None)
    try:
        rope = None if omega is None else LaneRoPE(omega, record.get("prompt_lane", "own"))
        if isinstance(visibility, str):
            LaneMask.named(visibility, 2, lag)
        elif visibility is not None:
            LaneMask(_matrix(visibility), lag)
        elif lag:
            raise TinylaneError(f"lag is {lag} without a visibility that it could delay")
    except TinylaneError as error:
        raise TinylaneError(f"{read.source}: {error}") from error
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise TinylaneError(f"{folder}: {name} holds NaN or infinite values")
    halves, foreign = [name for name in updates if name.endswith(".lora_b")], "peft_type" in record
    scale = _scale(read) if not foreign and (halves or read.has("scale")) else 1.0
    for name in halves:
        path = name.removesuffix(".lora_b")
        if dora != (path + ".m" in updates):
            state = "no magnitude m" if dora else "a magnitude m, but the settings do not say DoRA"
            raise TinylaneError(f"{folder}: {path} has {state}")
        factor = peft.scale(read, path, len(updates[name])) if foreign else scale
        updates[name] = updates[name] * np.float32(factor)
    raw = read.flag("raw", False)
    begins = record.get("lane_prompt", "")
    if not isinstance(begins, str) or len(begins) > LONGEST_LANE_PROMPT:
        read.fail("lane_prompt", f"a text of at most {LONGEST_LANE_PROMPT} characters")
    shapes = {name: value.shape for name, value in updates.items()}
    return Adapter(
        folder, updates, shapes, rope, visibility, lag, tuple(lanes), raw, begins, record
    )


def _scale(read: Fields) -> float:
    """The factor of all updates: `scale` of ours, `lora_parameters.scale` of mlx-lm's."""
    source = Fields(read.get("lora_parameters") or {}, read.source, "lora_parameters")
    if read.has("scale") or (not source.has("scale") and read.get("format") == FORMAT):
        source = read
    elif not source.has("scale"):
        alpha = "; alpha is another program's, and no factor" * source.has("alpha")
        source.fail("scale", f"the factor of the updates, as mlx-lm writes it{alpha}")
    return source.real("scale", 1.0, above=-1e6, below=1e6)


def _matrix(visibility: Any) -> np.ndarray:
    rows = visibility if isinstance(visibility, list) else []
    if not rows or any(not isinstance(row, list) or len(row) != len(rows) for row in rows):
        raise TinylaneError(f"visibility {show(visibility)}; expected a name or a square matrix")
    if any(value not in (0, 1) for row in rows for value in row):
        raise TinylaneError(f"visibility {show(visibility)} holds values other than 0 and 1")
    return np.array(rows, dtype=bool)


def _check_shapes(folder: Path, config: ModelConfig, shapes: Mapping[str, tuple]) -> None:
    """Refuse tensors that this model cannot take, by name and shape."""
    base, half = replace(config, tied=False).tensors(), config.head_dim // 2
    more = {name: x for name, x in shapes.items() if name != OMEGA and extras.is_extra(name)}
    if more:
        try:
            extras.check(config, more)
        except TinylaneError as error:
            raise TinylaneError(f"{folder}: {error}") from error
    for name, shape in shapes.items():
        if name in more:
            continue
        if name == OMEGA:
            if shape not in ((half,), (config.layers, half)):
                raise TinylaneError(
                    f"{folder}: Omega has shape {shape}; expected ({half},) or "
                    f"({config.layers}, {half}) for this model"
                )
            continue
        lora = _LORA.fullmatch(name)
        path, part = lora.groups() if lora else (name.removesuffix(".bias"), "bias")
        known = lora or _BIAS.fullmatch(name) or (name in base and part == "bias" and path != name)
        if not known or path + ".weight" not in base:
            why = ": updates of embeddings are not implemented" * ("embed_tokens" in name)
            raise TinylaneError(f"{folder}: {show(name)} is not a tensor this model can take{why}")
        out, into = base[path + ".weight"]
        if part in ("bias", "m"):
            if shape != (out,):
                raise TinylaneError(f"{folder}: {name} is {shape}; expected ({out},)")
            if part == "bias":
                continue
        a, b = (shapes.get(f"{path}.lora_{x}") for x in "ab")
        if a is None or b is None:
            raise TinylaneError(f"{folder}: {name} without the other half of its update")
        rank = a[-1] if a else 0
        if a != (into, rank) or b != (rank, out) or rank > max(into, out):
            raise TinylaneError(
                f"{folder}: {path}.lora_a {a} and lora_b {b}; expected ({into}, r) and (r, {out})"
            )
        if part == "m" and path == "lm_head" and config.tied:
            raise TinylaneError(
                f"{folder}: {name} of a head that is the embedding: not implemented"
            )


def apply(
    params: dict[str, Any], adapter: Adapter, files: WeightFiles, backend: str, dtype: str
) -> None:
    """Put the adapter's tensors among a loaded model's, in its library and dtype, in place.

    The weights of DoRA's layers are multiplied to their magnitudes; a packed layer stays packed.
    Raises TinylaneError for one that cannot.
    """
    tensors = {name: value for name, value in adapter.tensors.items() if not name.endswith(".m")}
    for name in adapter.tensors.keys() - tensors.keys():
        path = name.removesuffix(".m")
        norms = [
            lengths(adapter, path, updated(adapter, path, start, rows))
            for start, rows in files.chunks(path + ".weight")
        ]
        factor = (adapter.tensors[name] / np.concatenate(norms)).astype(np.float32)
        tensors[path + ".lora_b"] = tensors[path + ".lora_b"] * factor
        _multiply(params, path, factor)
    extras.put(params, tensors, backend, dtype)


def updated(adapter: Adapter, path: str, start: int, rows: np.ndarray) -> np.ndarray:
    """Rows (out, in) of a weight, from `start` on, with the update A B of them; float64."""
    a, b = (adapter.tensors[f"{path}.lora_{x}"].astype(np.float64) for x in "ab")
    return rows + (a @ b[:, start : start + len(rows)]).T


def lengths(adapter: Adapter, path: str, rows: np.ndarray) -> np.ndarray:
    """The lengths of updated rows. Raises TinylaneError where one is 0: it has no direction."""
    norms = np.linalg.norm(rows, axis=1)
    if not norms.all():
        raise TinylaneError(f"{adapter.folder}: {path} has a row of zeros, which DoRA cannot scale")
    return norms


def _multiply(params: dict[str, Any], path: str, factor: np.ndarray) -> None:
    """Multiply the outputs of a loaded layer."""
    weight = params[path + ".weight"]
    if isinstance(weight, np.ndarray):
        weight *= factor.astype(weight.dtype)  # (in, out), perhaps a part of a larger array
        return
    import mlx.core as mx

    column = mx.array(factor)[:, None]
    if path + ".scales" not in params:  # the file's order in memory stays
        params[path + ".weight"] = (weight.T * column.astype(weight.dtype)).T
    elif path + ".biases" not in params:
        raise TinylaneError(f"{path}: DoRA of an mxfp4 layer needs it unpacked; give --ops plain")
    else:
        for part in (path + ".scales", path + ".biases"):
            params[part] = params[part] * column.astype(params[part].dtype)
