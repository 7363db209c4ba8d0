"""From a checkpoint, a file of transcripts and what was asked, to a `Tuner` and what it writes.

The model is loaded by MLX with its adapter, or made of random weights from a config (from scratch).
What decides a run's numbers is gathered here into one dict, by digests and not by paths.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from tinylane.checkpoints.adapter import OMEGA, Adapter, save_adapter
from tinylane.checkpoints.config_json import read_config
from tinylane.checkpoints.export import write_checkpoint
from tinylane.checkpoints.hub import resolve
from tinylane.checkpoints.load import load
from tinylane.checkpoints.plan import Plan
from tinylane.core import __version__
from tinylane.core.errors import TinylaneError
from tinylane.core.model import Model
from tinylane.core.modes import lane_rope
from tinylane.core.random_weights import random_params
from tinylane.files.io import read_json
from tinylane.train.data import Data, read_transcripts
from tinylane.train.parameters import Choice, Tuned, settings, tuned
from tinylane.train.recipe import Recipe
from tinylane.train.step import Tuner


@dataclass(frozen=True)
class Start:
    """A model to tune, on MLX. identity: of the checkpoint, or of config and seed from scratch."""

    folder: Path
    model: Model
    adapter: Adapter | None
    identity: str
    dtype: str  # of the files that a full tuning writes
    scratch: bool = False


def start(
    source: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    scratch: bool = False,
    seed: int = 0,
) -> Start:
    """Load a checkpoint with its adapter; scratch: only its config and tokenizer, and weights drawn
    from the seed. Raises TinylaneError as `tinylane.load` does."""
    folder = resolve(source, revision)
    if scratch:
        if adapter is not None or dtype not in ("auto", "float32"):
            raise TinylaneError("--from-scratch takes no --adapter-path and no --dtype but float32")
        return _from_scratch(folder, seed)
    plan = Plan(folder, "mlx", dtype, adapter)
    model = load(folder, backend="mlx", dtype=dtype, adapter=adapter)
    with plan.open() as files:
        return Start(folder, model, plan.adapter(files.config), plan.identity, files.float_dtype)


def _from_scratch(folder: Path, seed: int) -> Start:
    config = replace(read_config(folder), quantization=None)
    tokenizer = None
    if os.path.exists(folder / "tokenizer.json"):
        from tinylane.checkpoints.tokenizer import Tokenizer

        tokenizer = Tokenizer.from_folder(folder, config_eos=config.eos_ids, vocab=config.vocab)
    params = {
        name: mx.array(np.ascontiguousarray(value))
        for name, value in random_params(config, seed).items()
    }
    if config.tied:
        params["lm_head.weight"] = params["model.embed_tokens.weight"].T
    raw = json.dumps(read_json(folder / "config.json"), sort_keys=True)
    identity = hashlib.sha256(f"{raw}\n{seed}".encode()).hexdigest()
    model = Model(config, params, "mlx", "float32", tokenizer, identity=identity)
    return Start(folder, model, None, identity, "float32", True)


@dataclass(frozen=True)
class Session:
    """All that `tune.run` takes. decides: what makes two runs the same run."""

    tuner: Tuner
    start: Start
    data: Data
    decides: dict[str, Any]
    notes: dict[str, Any]

    def export(self, tuner: Tuner, out: Path) -> None:
        """Write the adapter (or, tuned in full, the checkpoint with its adapter) as it is now."""
        export(tuner, self.start, self.data, out)


def prepare(
    begin: Start,
    data_path: str | os.PathLike[str],
    recipe: Recipe,
    choice: Choice,
    *,
    omega: str | np.ndarray | None = None,
    slot: float | None = None,
    omega_scale: float | None = None,
    lanes: Sequence[int] | None = None,
    template: dict[str, Any] | None = None,
    checkpoint: bool = False,
) -> Session:
    """Read the data and set up the run.

    omega: where it starts, a name of `modes.STARTS` or radians; None: the model's own, or ntk if it
    has none. slot: default the longest lane; omega_scale: default the most lanes. Raises
    TinylaneError for data and settings that do not fit the model.
    """
    if begin.scratch:
        choice = replace(choice, full=True)
    labels = recipe.objective == "kto"
    data = read_transcripts(data_path, begin.model, labels=labels, lanes=lanes, template=template)
    longest = max(t.length - len(t.prompt) for t in data.transcripts)
    slot = float(longest) if slot is None else slot
    scale = float(max(data.counts)) if omega_scale is None else omega_scale
    if omega is None:
        omega = "ntk" if begin.model.lane_rope is None else "learned"
    first = lane_rope(begin.model, max(data.counts), omega, slot, scale, recipe.prompt_lane).omega
    recipe.mask(max(data.counts))
    what = tuned(begin.model, choice, first, begin.adapter, recipe.seed)
    tuner = Tuner(recipe, what, data.transcripts, checkpoint)
    named = omega if isinstance(omega, str) else "numbers"
    decides = {
        "format": "tinylane tuning 1",
        "model": begin.identity,
        "adapter": None if begin.adapter is None else begin.model.identity,
        "data": data.digest,
        "transcripts": len(data.transcripts),
        **asdict(recipe),
        **{f"tune_{k}" if k in ("omega", "biases") else k: v for k, v in asdict(choice).items()},
        "omega_start": named,
        "omega_digest": hashlib.sha256(what.start.tobytes()).hexdigest(),
        "lanes": data.counts,
        "template": template or {},
        "dtype": begin.model.dtype,
    }
    notes = {
        "model": str(begin.folder),
        "data": os.fspath(data_path),
        "slot": slot,
        "omega_scale": scale,
        "tuned": what.count,
        "of": what.total,
        "tinylane": __version__,
        "mlx": version("mlx"),
    }
    return Session(tuner, begin, data, decides, notes)


def export(tuner: Tuner, begin: Start, data: Data, out: Path) -> None:
    """Write what was tuned: an adapter into `out` itself, or a checkpoint and its `adapter/`."""
    what, r = tuner.tuned, tuner.recipe
    record = {
        "prompt_lane": r.prompt_lane,
        "visibility": r.visibility,
        "lag": r.lag,
        "lanes": data.counts,
        **settings(what, begin.adapter),
    }
    tensors = what.adapter_tensors(tuner.groups)
    if not what.choice.full:
        save_adapter(out, begin.model.config, tensors, {**record, "identity": begin.identity})
        return
    raw = read_json(begin.folder / "config.json")
    for key in ("quantization", "quantization_config"):  # of a config to begin from scratch with
        raw.pop(key, None)
    params, _ = what.params(tuner.groups)
    names = begin.model.config.tensors()
    raw["tie_word_embeddings"] = begin.model.config.tied

    def tensor(name: str) -> np.ndarray:
        value = np.asarray(params[name].astype(mx.float32))
        return value if value.ndim == 1 or name == "model.embed_tokens.weight" else value.T

    write_checkpoint(out, raw, tensor, begin.dtype, begin.folder)
    others = {k: v for k, v in tensors.items() if k == OMEGA or k not in names}
    save_adapter(out / "adapter", begin.model.config, others, record)


def describe(what: Tuned) -> str:
    """The share of parameters that is tuned, in a line."""
    share = what.count / what.total
    parts = ", ".join(
        f"{name} {sum(v.size for v in group.values()):,}" for name, group in what.groups.items()
    )
    return f"tunes {what.count:,} of {what.total:,} parameters ({share:.3%}): {parts}"
