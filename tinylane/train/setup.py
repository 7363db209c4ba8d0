"""From a checkpoint, a file of transcripts and settings to a `Tuner`, and to what it writes.

The model is loaded by MLX with its adapter, or has random weights for a config (from scratch). The
settings that decide a run's numbers are gathered here in one dict; data and model are in it by
their digests, not by their paths.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tinylane.checkpoints.adapter import OMEGA, Adapter, save_adapter
from tinylane.checkpoints.config_json import read_config
from tinylane.checkpoints.export import write_checkpoint
from tinylane.checkpoints.load import find_folder, load, planned
from tinylane.checkpoints.side import LANE_EMBED, LANE_KV, Side
from tinylane.core import __version__
from tinylane.core.errors import TinylaneError
from tinylane.core.model import Model
from tinylane.files.io import read_json
from tinylane.methods.modes import lane_rope
from tinylane.train.data import Data, read_transcripts
from tinylane.train.extras import in_file
from tinylane.train.parameters import Choice, Trainable, adapter_settings, trainable
from tinylane.train.recipe import TuneRecipe
from tinylane.train.state import file_layout, random_mlx_params
from tinylane.train.step import FORMAT, Tuner


@dataclass(frozen=True)
class StartModel:
    """The MLX model that a run begins with.

    identity: the checkpoint's, or a digest of config and seed for a model from scratch. dtype: of
    the weights that a full tuning writes.
    """

    folder: Path
    model: Model
    adapter: Adapter | None
    identity: str
    dtype: str
    scratch: bool = False


def start_model(
    source: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    scratch: bool = False,
    seed: int = 0,
) -> StartModel:
    """Load a checkpoint with its adapter. Raises TinylaneError as `tinylane.load` does.

    scratch: take only its config and tokenizer, with random weights drawn from the seed.
    """
    folder = find_folder(source, revision)
    if scratch:
        if adapter is not None or dtype not in ("auto", "float32"):
            raise TinylaneError("--from-scratch takes no --adapter-path and no --dtype but float32")
        return _from_scratch(folder, seed)
    model = load(folder, backend="mlx", dtype=dtype, adapter=adapter)
    with planned(folder, "mlx", dtype, adapter) as plan:
        return StartModel(folder, model, plan.adapter(), plan.identity, plan.files.float_dtype)


def _from_scratch(folder: Path, seed: int) -> StartModel:
    config = replace(read_config(folder), quantization=None)
    tokenizer = None
    if os.path.exists(folder / "tokenizer.json"):
        from tinylane.checkpoints.tokenizer import Tokenizer

        tokenizer = Tokenizer.from_folder(folder, config_eos=config.eos_ids, vocab=config.vocab)
    params = random_mlx_params(config, seed)
    raw = json.dumps(read_json(folder / "config.json"), sort_keys=True)
    identity = hashlib.sha256(f"{raw}\n{seed}".encode()).hexdigest()
    model = Model(config, params, "mlx", "float32", tokenizer, identity=identity, side=Side)
    return StartModel(folder, model, None, identity, "float32", True)


@dataclass(frozen=True)
class Session:
    """The arguments of `loop.tune`. raw: whether prompts are raw text. settings: two runs with
    equal settings are the same run."""

    tuner: Tuner
    start: StartModel
    data: Data
    raw: bool
    settings: dict[str, Any]
    notes: dict[str, Any]

    def export(self, out: Path) -> None:
        """Write the adapter to `out`; after a full tuning a checkpoint, and its `adapter/`."""
        tuner, start = self.tuner, self.start
        tuned, recipe = tuner.trainable, tuner.recipe
        config = start.model.config
        tensors = tuned.adapter_tensors(tuner.groups)
        settings = {
            "prompt_lane": recipe.prompt_lane,
            "visibility": recipe.visibility,
            "lag": recipe.lag,
            "lanes": self.data.counts,
            **({"raw": True} if self.raw else {}),
            **({"lane_prompt": self.data.lane_prompt} if self.data.lane_prompt else {}),
            **adapter_settings(tuned, start.adapter),
        }
        if not tuned.choice.full:
            save_adapter(out, config, tensors, {**settings, "identity": start.identity})
            return
        raw = read_json(start.folder / "config.json")
        for key in ("quantization", "quantization_config"):  # a model from scratch has none
            raw.pop(key, None)
        raw["tie_word_embeddings"] = config.tied
        params, _ = tuned.params(tuner.groups)
        write_checkpoint(out, raw, lambda n: file_layout(n, params), start.dtype, start.folder)
        names = config.tensors()
        others = {k: v for k, v in tensors.items() if k == OMEGA or k not in names}
        others = {**in_file(start.model.params), **others}
        save_adapter(out / "adapter", config, others, settings)


def prepare(
    start: StartModel,
    data_path: str | os.PathLike[str],
    recipe: TuneRecipe,
    choice: Choice,
    *,
    omega: str | np.ndarray | None = None,
    slot: float | None = None,
    omega_scale: float | None = None,
    lanes: Sequence[int] | None = None,
    template: dict[str, Any] | None = None,
    checkpoint: bool = False,
    told: Callable[[], None] = lambda: None,
) -> Session:
    """Read the data and set up the run.

    omega: where Omega starts, a name of `modes.STARTS` or radians; None: the model's own, or ntk if
    it has none. slot: default the longest lane. omega_scale: default the most lanes. lanes,
    template, told: of `read_transcripts`. checkpoint: gradient checkpoints. Raises TinylaneError
    for data and settings that do not fit the model.
    """
    if start.scratch:
        choice = replace(choice, full=True)
    labels = recipe.objective == "kto"
    data = read_transcripts(
        data_path, start.model, labels=labels, lanes=lanes, template=template, told=told
    )
    most = max(data.counts)
    if slot is None:
        slot = float(max(t.length - len(t.prompt) for t in data.transcripts))
    scale = float(most) if omega_scale is None else omega_scale
    if omega is None:
        omega = "ntk" if start.model.lane_rope is None else "learned"
    rope = lane_rope(start.model, most, omega, slot, scale, recipe.prompt_lane)
    recipe.mask(most)  # raises for a matrix of fewer lanes
    tuned = trainable(start.model, choice, rope.omega, start.adapter, recipe.seed, most)
    chosen = {f"tune_{k}" if k in ("omega", "biases") else k: v for k, v in asdict(choice).items()}
    how = asdict(recipe)
    if not recipe.group_by_shape:
        del how["group_by_shape"]  # so runs that began before there was this setting go on
    if not choice.extra:  # and here
        del how["extra_lr"], chosen["extra"], chosen["extra_lanes"], chosen["bridge_width"]
    settings = {
        "format": FORMAT,
        "model": start.identity,
        "adapter": None if start.adapter is None else start.model.identity,
        "data": data.digest,
        "transcripts": len(data.transcripts),
        **how,
        **chosen,
        "omega_start": omega if isinstance(omega, str) else "numbers",
        "omega_digest": hashlib.sha256(tuned.omega_start.tobytes()).hexdigest(),
        "lanes": data.counts,
        "template": template or {},
        "dtype": start.model.dtype,
    }
    notes = {
        "model": str(start.folder),
        "data": os.fspath(data_path),
        "slot": slot,
        "omega_scale": scale,
        "tuned": tuned.count,
        "of": tuned.total,
        "tinylane": __version__,
        "mlx": version("mlx"),
    }
    tuner = Tuner(recipe, tuned, data.transcripts, checkpoint)
    tokenizer = start.model.tokenizer
    raw = (template or {}).get("raw", tokenizer is not None and tokenizer.raw)
    return Session(tuner, start, data, raw, settings, notes)


def alike(session: Session) -> bool:
    """Whether nothing that is trained can make greedy lanes of a transcript differ.

    Rows with one token, one position and the same keys have the same logits. Lanes' first rows are
    such rows if every lane reads all others at once, no Omega turns them, no table of lanes is
    added, and their prompts end in one token.
    """
    tuner, data = session.tuner, session.data
    tuned, recipe = tuner.trainable, tuner.recipe
    params = tuned.params(tuner.groups)[0]
    apart = tuned.omega_start.any() or "omega" in tuned.groups
    apart = apart or recipe.lag > 0 or not recipe.mask(max(data.counts)).visibility.all()
    if apart or {LANE_EMBED, LANE_KV} & params.keys():
        return False
    several = [t.lane_prompts for t in data.transcripts if len(t.lanes) > 1]
    ends = [{tuple(prompt[-1:]) for prompt in prompts} for prompts in several]
    return bool(several) and all(len(last) == 1 for last in ends)


def describe(tuned: Trainable) -> str:
    """One line: how many parameters are trained, in all and by group."""
    share = tuned.count / tuned.total
    parts = ", ".join(
        f"{name} {sum(v.size for v in group.values()):,}" for name, group in tuned.groups.items()
    )
    return f"tunes {tuned.count:,} of {tuned.total:,} parameters ({share:.3%}): {parts}"
