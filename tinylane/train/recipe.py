"""How to train and how to tune: the settings that decide a run. Of tuning also the learning rates
by step and the order of the data.

NumPy only. What is trained is chosen by `tinylane.train.parameters.Choice`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from tinylane.checkpoints.config_json import parse_config
from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.rope import frequencies
from tinylane.evaluate.tasks.frontier import Frontier
from tinylane.evaluate.tasks.shell_game import END, ShellGame
from tinylane.methods.modes import omega_start


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights of a model of a game, trained from scratch.

    Learning rates are peaks, of AdamW. game_name: "shell-game", of `cups` and `swaps`, or
    "frontier", of `nodes`, `edges` and `depth`, where lanes explore by `schedule` ("joint", or
    "fork": each its own part).
    """

    cups: int = 4
    swaps: int = 16
    lanes: tuple[int, ...] = (1, 2, 4, 8)
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)  # of the batches, for each number of lanes
    width: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    mlp_width: int = 256
    base: float = 10000.0
    steps: int = 6000
    rows: int = 1536  # rows of a batch: problems x (prompt + lanes x their rows)
    lr: float = 1e-3
    omega_lr: float = 1e-2
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    stay: float = 0.3  # share of the batches that have `--` among the swaps
    visibility: str = "joint"
    lag: int = 0
    omega: str = "group_think"  # where Omega starts: none, group_think, ntk
    slot: float = 32.0
    learn_omega: bool = True
    seed: int = 0
    prompt_lane: str = "own"  # or "0"
    game_name: str = "shell-game"
    nodes: int = 12
    edges: int = 14
    depth: int = 6
    schedule: str = "joint"
    extra: tuple[str, ...] = ()  # of `tinylane.checkpoints.extras.KINDS`
    bridge_width: int = 0  # 0: head_dim

    @property
    def game(self) -> Any:
        """The task: a ShellGame or a Frontier."""
        if self.game_name == "frontier":
            return Frontier(self.nodes, self.edges, self.depth, self.lanes, self.schedule)
        return ShellGame(self.cups, self.swaps, self.lanes)

    @property
    def settings(self) -> dict[str, Any]:
        """Every value but those of `LATER` that are the default: as a run of before has them."""
        return {k: v for k, v in asdict(self).items() if k not in LATER or v != LATER[k]}

    @property
    def config(self) -> ModelConfig:
        """The decoder, in the shape of Qwen3."""
        return parse_config(self.config_json, "recipe")

    @property
    def config_json(self) -> dict[str, Any]:
        """The config.json of the checkpoint."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": len(self.game.vocabulary),
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.mlp_width,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-6,
            "rope_theta": self.base,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "hidden_act": "silu",
            "eos_token_id": self.game.ids[END],
            "torch_dtype": "float32",
        }

    def start(self) -> LaneRoPE:
        """Omega before the first step. Raises TinylaneError for an unknown name."""
        theta, _ = frequencies(self.config.rope, self.head_dim)
        return omega_start(self.omega, theta, self.slot, max(self.lanes), self.lane_of_prompt)

    @property
    def lane_of_prompt(self) -> Any:
        """`prompt_lane` as a rotation takes it."""
        return 0 if self.prompt_lane == "0" else "own"


# Fields that runs of before do not have, and what they did.
LATER = {
    f.name: f.default
    for f in fields(Recipe)
    if f.name
    in ("prompt_lane", "game_name", "nodes", "edges", "depth", "schedule", "extra", "bridge_width")
}


@dataclass(frozen=True)
class TuneRecipe:
    """Settings of a run. Learning rates are peaks, of AdamW.

    objective: "sft" or "kto" (the losses are in `tinylane.train.step`). batch_size: transcripts of
    a microbatch. accumulate: microbatches of a step. final: the share of the peak rate at the last
    step. reduce: for KTO, a transcript's log-probability is the "sum" or the "mean" over its
    tokens. visibility: a name of `LaneMask.named`, or a matrix. group_by_shape: a microbatch holds
    transcripts of one shape only, so it is one pass. Raises TinylaneError for values out of range.
    """

    objective: str = "sft"
    steps: int = 1000
    batch_size: int = 8
    accumulate: int = 1
    lr: float = 1e-4
    omega_lr: float = 1e-2
    bias_lr: float = 1e-2
    extra_lr: float = 1e-3
    warmup: int = 20
    final: float = 0.02
    weight_decay: float = 0.01
    clip: float = 1.0
    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0
    reduce: str = "sum"
    visibility: Any = "joint"
    lag: int = 0
    prompt_lane: Any = "own"
    seed: int = 0
    group_by_shape: bool = False

    def __post_init__(self) -> None:
        if self.objective not in ("sft", "kto"):
            raise TinylaneError(f"objective {show(self.objective)}; expected sft or kto")
        if self.reduce not in ("sum", "mean"):
            raise TinylaneError(f"reduce {show(self.reduce)}; expected sum or mean")
        for f in fields(self):
            value, flag = getattr(self, f.name), "--" + f.name.replace("_", "-")
            if f.name in ("steps", "batch_size", "accumulate") and value < 1:
                raise TinylaneError(f"{flag} is {value}; expected 1 or more")
            if f.type == "float" and not (math.isfinite(value) and value >= 0):
                raise TinylaneError(f"{flag} is {value}; expected a number from 0")
            if f.name in ("clip", "beta", "desirable", "undesirable") and value == 0:
                raise TinylaneError(f"{flag} is 0; expected a number above 0")
        if self.warmup < 0:
            raise TinylaneError(f"--warmup is {self.warmup}; expected 0 or more")
        if self.final > 1:
            raise TinylaneError(f"--final is {self.final}; expected a share of the peak, 0 to 1")
        if not 0 <= self.seed < 1 << 64:
            raise TinylaneError(f"--seed is {self.seed}; expected 0 or more, below 2**64")
        if self.objective == "kto" and self.batch_size < 2:
            raise TinylaneError("--batch-size is 1; kto estimates its KL term from 2 or more")
        if self.group_by_shape and self.objective == "kto":
            raise TinylaneError("--group-by-shape is for sft; kto pairs transcripts of any shape")
        self.mask(1)

    def rate(self, group: str) -> tuple[float, float]:
        """(peak learning rate, weight decay) of a group of parameters; only matrices decay."""
        peaks = {"omega": self.omega_lr, "biases": self.bias_lr, "extra": self.extra_lr}
        peak = peaks.get(group, self.lr)
        return peak, self.weight_decay if group in ("lora", "weights") else 0.0

    def factor(self, step: int) -> float:
        """The factor of the learning rates at a step (from 0): it rises to 1 in `warmup` steps,
        then falls as half a cosine to `final` at the last step."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        gone = min((step - self.warmup) / max(self.steps - 1 - self.warmup, 1), 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * gone))

    def mask(self, n: int) -> LaneMask:
        """Who sees whom among n lanes. Raises TinylaneError for a matrix of fewer lanes."""
        if isinstance(self.visibility, str):
            return LaneMask.named(self.visibility, n, self.lag)
        whole = LaneMask(np.array(self.visibility), self.lag)
        if whole.n < n:
            raise TinylaneError(
                f"--visibility is {whole.n} x {whole.n}; there are transcripts of {n} lanes"
            )
        return LaneMask(whole.visibility[:n, :n], self.lag)


class Order:
    """Which transcripts are in a microbatch: a function of the seed and the microbatch's number.

    An epoch is a permutation cut into microbatches of `size` transcripts, or a few more where the
    count does not divide. fixed: every epoch has the same microbatches, in another order. KTO needs
    that: its mismatched pairs stay the same, so each reference is computed once.
    kinds: for each transcript, what it has in common with all others of its microbatch.
    """

    def __init__(
        self, count: int, size: int, seed: int, fixed: bool, kinds: Sequence[Hashable] | None = None
    ) -> None:
        self.count, self.seed, self.fixed = count, seed, fixed
        self.kinds = np.zeros(count, int)  # as numbers
        if kinds is not None:
            numbers: dict[Hashable, int] = {}
            self.kinds = np.array([numbers.setdefault(kind, len(numbers)) for kind in kinds])
        self.parts = np.maximum(np.bincount(self.kinds) // size, 1)  # microbatches of each kind
        self.chunks = int(self.parts.sum())
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])  # the last one asked for, in order

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The microbatches of an epoch, unordered: arrays of indices, each of one kind."""
        rng = np.random.default_rng([self.seed, 0, 0 if self.fixed else epoch])
        order = rng.permutation(self.count)
        kinds = [order[self.kinds[order] == kind] for kind in range(len(self.parts))]
        return [
            chunk
            for kind, parts in zip(kinds, self.parts, strict=True)
            for chunk in np.array_split(kind, parts)
        ]

    def __call__(self, number: int) -> np.ndarray:
        """Indices of microbatch `number`, counted from the beginning of the run."""
        epoch, k = divmod(number, self.chunks)
        if self._epoch[0] != epoch:
            turn = np.random.default_rng([self.seed, 1, epoch]).permutation(self.chunks)
            these = self.epoch(epoch)
            self._epoch = (epoch, [these[t] for t in turn])
        return self._epoch[1][k]
