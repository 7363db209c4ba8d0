"""What is trained: Omega, attention biases, low-rank updates, embeddings of lanes and bridges, or
every weight, in groups.

A group is a dict of float32 arrays with its own learning rate. `Trainable.params` puts them among
the frozen weights, in the model's dtype, under the names that the decoder and adapters use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import mlx.core as mx
import numpy as np

from tinylane.checkpoints.adapter import OMEGA, Adapter
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, show
from tinylane.core.model import Model
from tinylane.train.extras import begin, check_kinds, in_file, still

Group = dict[str, mx.array]
Groups = dict[str, Group]  # by name: omega, biases, lora, weights, vectors
BIASED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
TARGETS = (*BIASED, "self_attn.o_proj")
ALL_TARGETS = (*TARGETS, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@dataclass(frozen=True)
class Choice:
    """What to train. lora_rank: 0 for no low-rank updates. lora_scale: the factor of their product
    A B, as in mlx-lm. extra: of `tinylane.checkpoints.extras.KINDS`; extra_lanes: of new tables, 0
    takes the data's; bridge_width: 0 takes the head dim. Raises TinylaneError for values out of
    range."""

    omega: bool = True
    omega_per_layer: bool = False
    biases: bool = True
    lora_rank: int = 0
    lora_scale: float = 2.0
    lora_targets: tuple[str, ...] = TARGETS
    full: bool = False
    extra: tuple[str, ...] = ()
    extra_lanes: int = 0
    bridge_width: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.lora_rank <= 4096:
            raise TinylaneError(f"--lora-rank is {self.lora_rank}; expected 0 to 4096")
        if not np.isfinite(self.lora_scale) or not 0 < abs(self.lora_scale) < 1e6:
            raise TinylaneError(f"--lora-scale is {self.lora_scale}; expected a number, not 0")
        for name in self.lora_targets:
            if name not in ALL_TARGETS:
                raise TinylaneError(
                    f"--lora-targets {show(name, 40)}; expected some of {', '.join(ALL_TARGETS)}"
                )
        if self.full and self.lora_rank:
            raise TinylaneError("--full trains every weight; leave --lora-rank out")
        check_kinds(self.extra, self.bridge_width, self.extra_lanes)
        if not (self.omega or self.biases or self.lora_rank or self.full or self.extra):
            raise TinylaneError(
                "nothing to tune: Omega, biases, --lora-rank, --extra, --full are all off"
            )


@dataclass
class Trainable:
    """The trainable arrays by group, and how they become the decoder's parameters.

    omega_start: Omega before the training, float64, (D/2,) or (layers, D/2). groups: of "omega"
    (what is added to omega_start), "biases", "lora", "extra" (as the decoder takes them), "weights"
    (matrices) and "vectors" (norms and other biases) those that are trained. kept: the other
    tensors of the adapter that the run began with.
    """

    model: Model
    choice: Choice
    omega_start: np.ndarray
    groups: Groups
    kept: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def live(self) -> frozenset[str]:
        """Names of the parameters that change."""
        return frozenset(name for group in self.groups.values() for name in group)

    @property
    def tunes_head(self) -> bool:
        """Whether the output head changes."""
        table = "model.embed_tokens" if self.model.config.tied else "lm_head"
        return f"{table}.weight" in self.live

    @property
    def count(self) -> int:
        """How many numbers are trained."""
        return sum(value.size for group in self.groups.values() for value in group.values())

    @property
    def total(self) -> int:
        """How many numbers the model has (a tied head counts once), with those that are added."""
        shapes = self.model.config.tensors()
        added = {k: v.shape for group in self.groups.values() for k, v in group.items()}
        return sum(int(np.prod(shape)) for shape in (shapes | added).values())

    def params(self, groups: Mapping[str, Group]) -> tuple[Group, mx.array]:
        """(the decoder's parameters, what is added to omega_start), in the model's dtype."""
        dtype = getattr(mx, self.model.dtype)
        params = dict(self.model.params)
        for name, group in groups.items():
            if name == "omega":
                continue
            for key, value in group.items():
                scale = self.choice.lora_scale if key.endswith(".lora_b") else 1.0
                params[key] = (value * scale).astype(dtype)
        if self.model.config.tied and "model.embed_tokens.weight" in groups.get("weights", {}):
            params["lm_head.weight"] = params["model.embed_tokens.weight"].T
        moved = groups.get("omega", {}).get(OMEGA)
        params = still(params) if "extra" in groups else params
        return params, mx.zeros(self.omega_start.shape) if moved is None else moved

    def adapter_tensors(self, groups: Mapping[str, Group]) -> dict[str, np.ndarray]:
        """The tensors for `adapter.save_adapter`: Omega as it is now (float64), biases, low-rank
        updates (not scaled), parameters for lanes."""
        moved = np.asarray(groups.get("omega", {}).get(OMEGA, 0.0), dtype=np.float64)
        tensors = {OMEGA: self.omega_start + moved, **self.kept}
        for name in ("biases", "lora"):
            tensors |= {key: np.asarray(value) for key, value in groups.get(name, {}).items()}
        return tensors | in_file(groups.get("extra", {}))


def trainable(
    model: Model,
    choice: Choice,
    start: np.ndarray,
    adapter: Adapter | None = None,
    seed: int = 0,
    lanes: int = 1,
) -> Trainable:
    """The trainable arrays of an MLX model before the first step: they change no result yet.

    start: Omega, float64. adapter: the one that the model was loaded with, if any. Biases start
    from the model's, or at zero. Low-rank updates start from those of the adapter, or with A
    uniform in +-1/sqrt(in) and B = 0 (LoRA, arXiv:2106.09685). lanes: how many a new table of lanes
    is for. Raises TinylaneError for `full` with a quantized model or an adapter with low-rank
    updates, for updates of another shape, and for DoRA.
    """
    config, params = model.config, model.params
    if choice.omega_per_layer and start.ndim == 1:
        start = np.tile(start, (config.layers, 1))
    groups: Groups = {}
    if choice.omega:
        groups["omega"] = {OMEGA: mx.zeros(start.shape, dtype=mx.float32)}
    if choice.biases:
        groups["biases"] = {}
        for layer, target in product(range(config.layers), BIASED):
            path = f"model.layers.{layer}.{target}"
            bias = params.get(path + ".bias", mx.zeros(config.tensors()[path + ".weight"][0]))
            groups["biases"][path + ".bias"] = bias.astype(mx.float32)
    loaded = {} if adapter is None else adapter.tensors
    updates = {name: value for name, value in loaded.items() if ".lora_" in name}
    if any(name.endswith(".m") for name in loaded):
        raise TinylaneError("training on top of a DoRA adapter; merge it first (tinylane fuse)")
    if choice.full and updates:
        raise TinylaneError(
            "--full on top of an adapter with low-rank updates; merge it first (tinylane fuse)"
        )
    if choice.extra:
        if 0 < choice.extra_lanes < lanes:
            raise TinylaneError(
                f"--extra-lanes is {choice.extra_lanes}; there are transcripts of {lanes} lanes"
            )
        how = (choice.extra_lanes or lanes, choice.bridge_width, seed, loaded)
        groups["extra"] = begin(config, choice.extra, *how)
    if choice.lora_rank:
        groups["lora"] = _lora(config, choice, updates, seed)
    if choice.full:
        if any(name.endswith(".scales") for name in params):
            raise TinylaneError(
                "--full cannot train a quantized checkpoint; give --lora-rank, or dequantize it "
                "(tinylane fuse --dequantize)"
            )
        names = [name for name in config.tensors() if name not in groups.get("biases", {})]
        for group, wide in (("weights", True), ("vectors", False)):
            groups[group] = {
                name: params[name].astype(mx.float32)
                for name in names
                if (params[name].ndim == 2) == wide
            }
    live = {name for group in groups.values() for name in group}
    kept = {name: value for name, value in loaded.items() if name not in live}
    if not choice.lora_rank:  # updates that are kept were scaled when they were read
        choice = replace(choice, lora_scale=1.0)
    return Trainable(model, choice, start, groups, kept)


def _lora(
    config: ModelConfig, choice: Choice, loaded: Mapping[str, np.ndarray], seed: int
) -> Group:
    rng = np.random.default_rng([seed, 0x10A])
    shapes, rank = config.tensors(), choice.lora_rank
    updates: dict[str, np.ndarray] = {}
    for layer, target in product(range(config.layers), choice.lora_targets):
        path = f"model.layers.{layer}.{target}"
        out, into = shapes[path + ".weight"]
        if rank > max(out, into):
            raise TinylaneError(f"--lora-rank is {rank}; {path} is {out} x {into}")
        bound = into**-0.5
        updates[path + ".lora_a"] = rng.uniform(-bound, bound, (into, rank)).astype(np.float32)
        updates[path + ".lora_b"] = np.zeros((rank, out), dtype=np.float32)
    if loaded:
        expected = {name: value.shape for name, value in updates.items()}
        if expected != {name: value.shape for name, value in loaded.items()}:
            raise TinylaneError(
                "the adapter's low-rank updates are of other projections or another rank than "
                "--lora-rank and --lora-targets; give the same, or merge it first (tinylane fuse)"
            )
        scale = np.float32(choice.lora_scale)
        updates = {k: v / scale if k.endswith(".lora_b") else v for k, v in loaded.items()}
    return {name: mx.array(value) for name, value in updates.items()}


def adapter_settings(trainable: Trainable, adapter: Adapter | None) -> dict[str, Any]:
    """What adapter_config.json says of the low-rank updates, under mlx-lm's names, and the task of
    the adapter that the run began with."""
    settings: dict[str, Any] = {}
    tensors = trainable.groups.get("lora", {}) | trainable.kept
    ranks = [value.shape[1] for name, value in tensors.items() if name.endswith(".lora_a")]
    if ranks:
        scale = trainable.choice.lora_scale
        paths = {k.rsplit(".", 1)[0] for k in tensors if ".lora_" in k}
        keys = {path.split(".", 3)[-1] for path in paths}
        parameters = {"rank": ranks[0], "scale": scale, "dropout": 0.0, "keys": sorted(keys)}
        settings = {
            "fine_tune_type": "lora",
            "num_layers": trainable.model.config.layers,
            "lora_parameters": parameters,
            "scale": scale,
        }
    task = None if adapter is None else adapter.settings.get("task")
    return settings | ({"task": task} if isinstance(task, dict) else {})
