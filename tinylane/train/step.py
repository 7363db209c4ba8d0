"""One training step on lane transcripts: passes, gradients, optimizers, and their saved state.

Transcripts whose rows stand at the same coordinates are stacked into one pass; all others are
passes of their own. There is no padding anywhere, so what a transcript is worth does not depend on
its company (`tests/train/test_forward.py`). Gradients of the passes of a step are added up, so
accumulation changes nothing but the memory it takes.

    B stacked transcripts   T rows   R rows that predict
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_map_with_path

from tinylane.core.errors import TinylaneError
from tinylane.files.safetensors import TensorFile, write_tensors
from tinylane.train.data import Rows, Transcript, mismatched, rows
from tinylane.train.forward import hidden, logprobs
from tinylane.train.objectives import kl_estimate, kto_losses
from tinylane.train.omega import TrainingPlan
from tinylane.train.parameters import Group, Tuned, rates
from tinylane.train.recipe import Order, Recipe

FORMAT = "tinylane tuning 1"
Groups = dict[str, Group]


@dataclass(frozen=True)
class Outcome:
    """What a step computed before it changed anything.

    nll: mean negative log-probability of a token of the good transcripts, None if there were none.
    good, bad, kl (kto): the mean r(x, y) of good and of bad transcripts, and of the z_0.
    """

    loss: float
    nll: float | None
    tokens: int
    grads: Groups | None = None
    good: float | None = None
    bad: float | None = None
    kl: float | None = None


class Tuner:
    """The state of a run (groups, optimizers, step); `outcome`, then `apply`, is one step.

    reference: per transcript of kto the untuned model's log-probability of its own lanes, and of
    the mismatched pair that its prompt makes (`pairs`).
    """

    def __init__(
        self,
        recipe: Recipe,
        tuned: Tuned,
        transcripts: Sequence[Transcript],
        checkpoint: bool = False,
    ) -> None:
        self.kto = recipe.objective == "kto"
        if self.kto and len(transcripts) < 2:
            raise TinylaneError("kto needs two transcripts or more, to estimate its KL term")
        self.recipe, self.tuned, self.transcripts = recipe, tuned, transcripts
        self.config, self.checkpoint = tuned.model.config, checkpoint
        self.groups: Groups = tuned.groups
        self.order = Order(len(transcripts), recipe.batch_size, recipe.seed, self.kto)
        self.step = 0
        self.reference: dict[int, tuple[float, float]] = {}
        r = recipe
        self.rates = rates(list(self.groups), r.lr, r.omega_lr, r.bias_lr, r.weight_decay)
        self.optimizers = {
            name: optim.AdamW(rate, weight_decay=decay, bias_correction=True)
            for name, (rate, decay) in self.rates.items()
        }
        for name, optimizer in self.optimizers.items():
            optimizer.init(self.groups[name])
        self._plan = lru_cache(maxsize=32)(self._make_plan)

    # One pass.

    def _make_plan(self, positions: bytes, lanes: bytes) -> TrainingPlan:
        i, m = np.frombuffer(positions, np.int64), np.frombuffer(lanes, np.int64)
        mask = self.recipe.mask(max(int(m.max()) + 1, 1))
        return TrainingPlan(self.config, mask, i, m, self.recipe.prompt_lane, self.tuned.start)

    def logprobs(self, groups: Groups, stack: Sequence[Rows], live: bool = False) -> mx.array:
        """Log-probabilities (B, R) of what follows, of transcripts of one shape.

        live: with gradient checkpoints, if this run has them.
        """
        params, moved = self.tuned.params(groups)
        first = stack[0]
        plan = self._plan(first.positions.tobytes(), first.lanes.tobytes()).at(moved)
        tokens = mx.array(np.stack([r.tokens for r in stack]).astype(np.int32))
        follows = mx.array(np.stack([r.follows for r in stack]).astype(np.int32))
        sources = mx.array(first.sources.astype(np.int32))
        names = self.tuned.live if live and self.checkpoint else None
        x = hidden(params, self.config, tokens, plan, sources, names)
        return logprobs(params, x, follows)

    def reduced(self, each: mx.array) -> mx.array:
        """(B, R) -> (B,): a transcript's log-probability as kto's recipe has it."""
        return each.sum(axis=-1) if self.recipe.reduce == "sum" else each.mean(axis=-1)

    def scores(self, which: Sequence[Transcript]) -> np.ndarray:
        """log pi(y|x) of transcripts with the groups as they are, float64; NaN without tokens."""
        found = np.full(len(which), np.nan)
        for places, stack in stacks([rows(t) for t in which]):
            if len(stack[0].follows):
                found[places] = np.asarray(self.reduced(self.logprobs(self.groups, stack)))
        return found

    def nll(self, which: Sequence[Transcript]) -> float:
        """Mean negative log-probability of a token of transcripts, with the groups as they are."""
        total, count = 0.0, 0
        for _, stack in stacks([rows(t) for t in which]):
            for k in range(0, len(stack), self.recipe.batch_size):
                each = self.logprobs(self.groups, stack[k : k + self.recipe.batch_size])
                total -= float(np.asarray(each, dtype=np.float64).sum())
                count += each.size
        return total / max(count, 1)

    # KTO's reference and its z_0.

    def pairs(self, chunk: np.ndarray) -> list[Transcript]:
        """The mismatched pairs (x, y') of a microbatch: y' is what belongs to the next x."""
        context, these = self.config.context, [self.transcripts[i] for i in chunk]
        after = [*these[1:], these[0]]
        return [mismatched(x, y, context) for x, y in zip(these, after, strict=True)]

    def refer(self, chunk: np.ndarray) -> list[tuple[float, float]]:
        """What `reference` holds of a microbatch, by the groups as they are now: untuned, that is
        before the first step."""
        own = self.scores([self.transcripts[i] for i in chunk])
        return list(zip(own.tolist(), self.scores(self.pairs(chunk)).tolist(), strict=True))

    def z0(self, chunk: np.ndarray) -> float:
        """The KL estimate of a microbatch; pairs that the context has no room for are left out."""
        ratios = self.scores(self.pairs(chunk)) - [self.reference[int(i)][1] for i in chunk]
        return kl_estimate(ratios[~np.isnan(ratios)])

    # One step.

    def outcome(self, step: int, gradients: bool = True) -> Outcome:
        """The loss (and gradients) of a step's transcripts with the groups as they are."""
        r = self.recipe
        chunks = [self.order(step * r.accumulate + k) for k in range(r.accumulate)]
        tokens = sum(self.transcripts[i].targets for chunk in chunks for i in chunk)
        share = 1 / (sum(map(len, chunks)) if self.kto else tokens)
        loss, grads = 0.0, None
        nll, counted = 0.0, 0
        kl: list[float] = []
        ratios: dict[bool, list[float]] = {True: [], False: []}
        for chunk in chunks:
            kl.append(self.z0(chunk) if self.kto else 0.0)
            for places, stack in stacks([rows(self.transcripts[i]) for i in chunk]):
                objective = self._objective(chunk[places], stack, kl[-1])
                if gradients:
                    (value, each, ratio), new = mx.value_and_grad(objective)(self.groups)
                    new = tree_map(lambda g: g * share, new)
                    grads = new if grads is None else tree_map(mx.add, grads, new)
                else:
                    value, each, ratio = objective(self.groups)
                mx.eval(value, each, ratio, grads if grads is not None else [])
                loss += value.item() * share
                good = self._good(chunk[places])
                nll -= float(np.asarray(each, dtype=np.float64)[good].sum())
                counted += int(good.sum()) * each.shape[1]
                values: Any = ratio.tolist()
                for label, one in zip(good.tolist(), values, strict=True):
                    ratios[label].append(one)
        return Outcome(
            loss,
            nll / counted if counted else None,
            tokens,
            grads,
            _mean(ratios[True]) if self.kto else None,
            _mean(ratios[False]) if self.kto else None,
            _mean(kl) if self.kto else None,
        )

    def _good(self, which: np.ndarray) -> np.ndarray:
        return np.array([self.transcripts[i].label is not False for i in which])

    def _objective(self, which: np.ndarray, stack: Sequence[Rows], z0: float) -> Callable:
        """groups -> (what one pass adds to the loss, undivided; logprobs (B, R); r(x, y) (B,))."""
        r = self.recipe
        if not self.kto:

            def sft(groups: Groups) -> tuple[mx.array, mx.array, mx.array]:
                each = self.logprobs(groups, stack, live=True)
                return -each.sum(), each, each[:, 0]

            return sft
        good = mx.array(self._good(which))
        reference = mx.array([self.reference[int(i)][0] for i in which], dtype=mx.float32)

        def kto(groups: Groups) -> tuple[mx.array, mx.array, mx.array]:
            each = self.logprobs(groups, stack, live=True)
            ratios = self.reduced(each) - reference
            losses = kto_losses(ratios, good, z0, r.beta, r.desirable, r.undesirable)
            return losses.sum(), each, ratios

        return kto

    def apply(self, grads: Groups) -> float:
        """Change the groups by one step of AdamW, all gradients clipped together; their norm."""
        clipped, norm = optim.clip_grad_norm(grads, self.recipe.clip)
        factor = self.recipe.factor(self.step)
        for name, optimizer in self.optimizers.items():
            optimizer.learning_rate = self.rates[name][0] * factor
            self.groups[name] = optimizer.apply_gradients(clipped[name], self.groups[name])
        mx.eval(self.groups, [o.state for o in self.optimizers.values()])
        if mx.get_cache_memory() > mx.get_peak_memory():
            mx.clear_cache()  # freed buffers of shapes that may never come again
        self.step += 1
        return norm.item()

    # Files.

    def _tree(self) -> dict[str, Any]:
        state = {name: o.state for name, o in self.optimizers.items()}
        return {"groups": self.groups, "optimizers": state}

    def save(self, path: Path, notes: Mapping[str, str] | None = None) -> None:
        """Groups, optimizers and step in one file, whole or not at all."""
        tensors = {k: np.asarray(v) for k, v in _flat(self._tree())}
        write_tensors(path, tensors, {"format": FORMAT, "step": str(self.step), **(notes or {})})

    def load(self, path: Path) -> dict[str, str]:
        """Go on from what `save` wrote; its notes. Raises TinylaneError if it is of another run."""
        now = self._tree()
        expected = {k: tuple(v.shape) for k, v in _flat(now)}
        with TensorFile.open(path) as file:
            step = file.metadata.get("step", "")
            if file.metadata.get("format") != FORMAT or not step.isdigit():
                raise TinylaneError(f"{path}: not a state saved by tinylane train")
            if {k: tuple(file.shape(k)) for k in file.names} != expected:
                raise TinylaneError(f"{path}: its tensors are not those of this recipe")
            tree = tree_map_with_path(lambda name, _: mx.array(file.read(name)), now)
            notes = dict(file.metadata)
        self.groups.update(tree["groups"])
        for name, optimizer in self.optimizers.items():
            optimizer.state = tree["optimizers"][name]
        self.step = int(step)
        return notes


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _flat(tree: Any) -> list[tuple[str, mx.array]]:
    return list(tree_flatten(tree))  # type: ignore[arg-type]


def stacks(every: Sequence[Rows]) -> Iterator[tuple[list[int], list[Rows]]]:
    """Transcripts that can be one pass, and their places: same coordinates, same rows predict."""
    found: dict[tuple[bytes, bytes, bytes], list[int]] = {}
    for place, one in enumerate(every):
        found.setdefault(one.shape, []).append(place)
    for places in found.values():
        yield places, [every[place] for place in places]
