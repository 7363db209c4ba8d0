"""What is tuned: Omega, attention biases, low-rank updates, or every weight, in groups.

A group is a dict of float32 arrays with a learning rate of its own. `Tuned.params` puts the groups
among the frozen weights, in the model's dtype, as `model.forward` and an adapter name them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from tinylane.checkpoints.adapter import OMEGA, Adapter
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, show
from tinylane.core.model import Model

Group = dict[str, mx.array]
BIASED = ("q_proj", "k_proj", "v_proj")
TARGETS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
ALL_TARGETS = (*TARGETS, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@dataclass(frozen=True)
class Choice:
    """What to tune. lora_rank 0: no low-rank updates. lora_scale: as mlx-lm's, of their product."""

    omega: bool = True
    omega_per_layer: bool = False
    biases: bool = True
    lora_rank: int = 0
    lora_scale: float = 2.0
    lora_targets: tuple[str, ...] = TARGETS
    full: bool = False

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
        if not (self.omega or self.biases or self.lora_rank or self.full):
            raise TinylaneError("nothing to tune: Omega, biases, --lora-rank, --full are all off")


@dataclass
class Tuned:
    """The trainable arrays by group, and how they become the decoder's parameters.

    start: Omega before tuning, float64, (D/2,) or (layers, D/2); the group "omega" holds what is
    added to it. kept: an adapter's tensors that stay as they are. groups: "omega", "biases",
    "lora", "weights" (matrices) and "vectors" (norms and other biases); only those that are tuned.
    """

    model: Model
    choice: Choice
    start: np.ndarray
    groups: dict[str, Group]
    kept: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def live(self) -> frozenset[str]:
        """Names of the parameters that change."""
        return frozenset(name for group in self.groups.values() for name in group)

    @property
    def count(self) -> int:
        """Numbers that are tuned."""
        return sum(value.size for group in self.groups.values() for value in group.values())

    @property
    def total(self) -> int:
        """Numbers in the model (a tied head counts once), with what tuning adds to it."""
        shapes = self.model.config.tensors()
        added = {k: v.shape for group in self.groups.values() for k, v in group.items()}
        return sum(int(np.prod(shape)) for shape in (shapes | added).values())

    def params(self, groups: Mapping[str, Group]) -> tuple[Group, mx.array]:
        """(the decoder's parameters, what Omega is to be turned by beyond its start)."""
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
        return params, mx.zeros(self.start.shape) if moved is None else moved

    def omega(self, groups: Mapping[str, Group]) -> np.ndarray:
        """Omega as it is now, float64."""
        moved = groups.get("omega", {}).get(OMEGA)
        return self.start if moved is None else self.start + np.asarray(moved, dtype=np.float64)

    def adapter_tensors(self, groups: Mapping[str, Group]) -> dict[str, np.ndarray]:
        """What `adapter.save_adapter` takes: Omega, biases and low-rank updates (not scaled)."""
        tensors: dict[str, np.ndarray] = {OMEGA: self.omega(groups), **self.kept}
        for name in ("biases", "lora"):
            tensors |= {key: np.asarray(value) for key, value in groups.get(name, {}).items()}
        return tensors


def tuned(
    model: Model,
    choice: Choice,
    start: np.ndarray,
    adapter: Adapter | None = None,
    seed: int = 0,
) -> Tuned:
    """The groups of an MLX model before the first step; they change nothing yet.

    Biases start from the model's, or at zero; low-rank updates as A uniform in +-1/sqrt(in), B = 0
    (LoRA, arXiv:2106.09685), or from those of `adapter`, which the model was loaded with. Raises
    TinylaneError for a full tuning of packed weights, and updates of another shape.
    """
    config, params = model.config, model.params
    if choice.omega_per_layer and start.ndim == 1:
        start = np.tile(start, (config.layers, 1))
    groups: dict[str, Group] = {}
    if choice.omega:
        groups["omega"] = {OMEGA: mx.zeros(start.shape, dtype=mx.float32)}
    if choice.biases:
        groups["biases"] = {
            name: params[name].astype(mx.float32) if name in params else mx.zeros(width)
            for name, width in _biases(config)
        }
    given = {} if adapter is None else adapter.tensors
    updates = {name: value for name, value in given.items() if ".lora_" in name}
    if choice.full and updates:
        raise TinylaneError(
            "--full on top of an adapter with low-rank updates; merge it first (tinylane fuse)"
        )
    if choice.lora_rank:
        groups["lora"] = _lora(config, choice, updates, seed)
    if choice.full:
        packed = [name for name in params if name.endswith(".scales")]
        if packed:
            raise TinylaneError(
                "--full cannot train a quantized checkpoint; give --lora-rank, or dequantize it "
                "(tinylane fuse --dequantize)"
            )
        taken = groups.get("biases", {})
        names = [name for name in config.tensors() if name not in taken]
        for group, wide in (("weights", True), ("vectors", False)):
            groups[group] = {
                name: params[name].astype(mx.float32)
                for name in names
                if (params[name].ndim == 2) == wide
            }
    live = {name for group in groups.values() for name in group}
    kept = {name: value for name, value in given.items() if name not in live}
    if choice.lora_scale != 1 and not choice.lora_rank:
        # what was read is scaled already; it is written with scale 1
        choice = Choice(**{**vars(choice), "lora_scale": 1.0})
    return Tuned(model, choice, start, groups, kept)


def _biases(config: ModelConfig) -> list[tuple[str, int]]:
    wide = {"q_proj": config.heads, "k_proj": config.kv_heads, "v_proj": config.kv_heads}
    return [
        (f"model.layers.{layer}.self_attn.{name}.bias", wide[name] * config.head_dim)
        for layer in range(config.layers)
        for name in BIASED
    ]


def _lora(config: ModelConfig, choice: Choice, given: Mapping[str, np.ndarray], seed: int) -> Group:
    rng = np.random.default_rng([seed, 0x10A])
    shapes, found = config.tensors(), {}
    for layer in range(config.layers):
        for target in choice.lora_targets:
            path = f"model.layers.{layer}.{target}"
            out, into = shapes[path + ".weight"]
            rank = choice.lora_rank
            if rank > max(out, into):
                raise TinylaneError(f"--lora-rank is {rank}; {path} is {out} x {into}")
            bound = into**-0.5
            found[path + ".lora_a"] = rng.uniform(-bound, bound, (into, rank)).astype(np.float32)
            found[path + ".lora_b"] = np.zeros((rank, out), dtype=np.float32)
    if given:
        mine = {name: value.shape for name, value in found.items()}
        if mine != {name: value.shape for name, value in given.items()}:
            raise TinylaneError(
                "the adapter's low-rank updates are of other projections or another rank than "
                "--lora-rank and --lora-targets; give the same, or merge it first (tinylane fuse)"
            )
        scale = np.float32(choice.lora_scale)
        found = {k: v / scale if k.endswith(".lora_b") else v for k, v in given.items()}
    return {name: mx.array(value) for name, value in found.items()}


def rates(
    groups: Sequence[str], lr: float, omega_lr: float, bias_lr: float, decay: float
) -> dict[str, tuple[float, float]]:
    """(peak learning rate, weight decay) of every group; only matrices decay."""
    every: dict[str, tuple[float, float]] = {
        "omega": (omega_lr, 0.0),
        "biases": (bias_lr, 0.0),
        "lora": (lr, decay),
        "weights": (lr, decay),
        "vectors": (lr, 0.0),
    }
    return {name: every[name] for name in groups}


def settings(tuned: Tuned, adapter: Adapter | None) -> dict[str, Any]:
    """What adapter_config.json says of the tensors; mlx-lm's names, so that it reads its share."""
    choice = tuned.choice
    carried = any(".lora_" in name for name in tuned.kept)
    found: dict[str, Any] = {}
    if choice.lora_rank or carried:
        rank = choice.lora_rank or next(
            v.shape[1] for k, v in tuned.kept.items() if k.endswith(".lora_a")
        )
        keys = sorted({k.split(".", 3)[3].rsplit(".", 1)[0] for k in _updates(tuned)})
        found = {
            "fine_tune_type": "lora",
            "num_layers": tuned.model.config.layers,
            "lora_parameters": {
                "rank": rank,
                "scale": choice.lora_scale,
                "dropout": 0.0,
                "keys": keys,
            },
            "scale": choice.lora_scale,
        }
    task = None if adapter is None else adapter.settings.get("task")
    return found | ({"task": task} if isinstance(task, dict) else {})


def _updates(tuned: Tuned) -> list[str]:
    return [k for k in (*tuned.live, *tuned.kept) if ".lora_" in k]
