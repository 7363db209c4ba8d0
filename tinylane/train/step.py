"""One training step on lane transcripts: passes, losses, gradients, optimizers, saved state.

Transcripts whose rows have the same coordinates are stacked into one pass; every other transcript
is a pass of its own. There is no padding, so the loss of a transcript does not depend on the
others in its batch (`tests/train/test_forward.py`). The gradients of all passes of a step are
added, so accumulation changes only the memory that a step takes.

The loss of sft is the mean negative log-likelihood of the lanes' tokens. For KTO (Ethayarajh et
al. 2024, arXiv:2402.01306, section 4.1) one transcript of several lanes is one example: y is all
that its lanes wrote, and log pi(y|x) the sum over their tokens. (It factorises so because a token
sees in training what it saw in decoding, all of it written before.)

    r(x, y) = log pi(y|x) - log pi_ref(y|x)                                               (eq 7)
    z_0 = max(0, mean over mismatched pairs (x, y') of a microbatch of r(x, y'))   no gradient
    v(x, y) = lambda_D sigmoid(beta (r - z_0)) if y is good, lambda_U sigmoid(beta (z_0 - r)) if bad
    loss = mean over examples of lambda_y - v(x, y)                                       (eq 8)

pi_ref is the model before training, with the Omega and the mask that training starts from.

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
from mlx.utils import tree_map

from tinylane.core.errors import TinylaneError
from tinylane.train.data import Transcript, TranscriptRows, mismatched, rows
from tinylane.train.forward import hidden, logprobs
from tinylane.train.omega import TrainingPlan
from tinylane.train.parameters import Groups, Trainable
from tinylane.train.recipe import Order, TuneRecipe
from tinylane.train.state import load_state, save_state

FORMAT = "tinylane tuning 1"
Array = Any  # numpy.ndarray or mlx.core.array


@dataclass(frozen=True)
class Outcome:
    """What a step computed before it changed anything.

    nll: mean negative log-probability of a token of the good transcripts; None if there are none.
    tokens: how many tokens the loss is on. good, bad, kl: only with KTO, the mean r(x, y) of good
    and of bad transcripts, and the mean z_0.
    """

    loss: float
    nll: float | None
    tokens: int
    grads: Groups | None = None
    good: float | None = None
    bad: float | None = None
    kl: float | None = None


class Tuner:
    """The state of a run: groups, optimizers, step. One step is `outcome`, then `apply`.

    checkpoint: use gradient checkpoints (less memory, more time). reference: for KTO, by index of
    the transcript, the log-probability under pi_ref of its own lanes, and of the mismatched pair
    with its prompt (`pairs`).
    """

    def __init__(
        self,
        recipe: TuneRecipe,
        trainable: Trainable,
        transcripts: Sequence[Transcript],
        checkpoint: bool = False,
    ) -> None:
        self.kto = recipe.objective == "kto"
        if self.kto and len(transcripts) < 2:
            raise TinylaneError("kto needs two transcripts or more, to estimate its KL term")
        self.recipe, self.trainable, self.transcripts = recipe, trainable, transcripts
        self.config, self.checkpoint = trainable.model.config, checkpoint
        self.groups: Groups = trainable.groups
        kinds = [rows(t).shape for t in transcripts] if recipe.group_by_shape else None
        self.order = Order(len(transcripts), recipe.batch_size, recipe.seed, self.kto, kinds)
        self.step = 0
        self.reference: dict[int, tuple[float, float]] = {}
        self.optimizers = {}
        for name, group in self.groups.items():
            peak, decay = recipe.rate(name)
            optimizer = optim.AdamW(peak, weight_decay=decay, bias_correction=True)
            optimizer.init(group)
            self.optimizers[name] = optimizer
        self._plan = lru_cache(maxsize=32)(self._make_plan)

    # One pass.

    def _make_plan(self, positions: bytes, lanes: bytes) -> TrainingPlan:
        i, m = np.frombuffer(positions, np.int64), np.frombuffer(lanes, np.int64)
        mask = self.recipe.mask(max(int(m.max()) + 1, 1))
        start, params = self.trainable.omega_start, self.trainable.params(self.groups)[0]
        return TrainingPlan(self.config, mask, i, m, self.recipe.prompt_lane, start, params)

    def logprobs(
        self, groups: Groups, stack: Sequence[TranscriptRows], live: bool = False
    ) -> mx.array:
        """Log-probabilities (B, R) of the tokens that follow, for transcripts of one shape.

        live: inside a gradient, so gradient checkpoints are used if this run has them.
        """
        params, moved = self.trainable.params(groups)
        stack = [r.by_position() for r in stack]
        first = stack[0]
        plan = self._plan(first.positions.tobytes(), first.lanes.tobytes()).at(moved)
        tokens = mx.array(np.stack([r.tokens for r in stack]).astype(np.int32))
        follows = mx.array(np.stack([r.follows for r in stack]).astype(np.int32))
        sources = mx.array(first.sources.astype(np.int32))
        names = self.trainable.live if live and self.checkpoint else None
        x = hidden(params, self.config, tokens, plan, sources, names)
        return logprobs(params, x, follows, live and not self.trainable.tunes_head)

    def reduced(self, each: mx.array) -> mx.array:
        """(B, R) -> (B,): log pi(y|x), the recipe's sum or mean over the tokens."""
        return each.sum(axis=-1) if self.recipe.reduce == "sum" else each.mean(axis=-1)

    def scores(self, which: Sequence[Transcript]) -> np.ndarray:
        """log pi(y|x) of transcripts now, float64; NaN for one without tokens."""
        scores = np.full(len(which), np.nan)
        for places, stack in stacks([rows(t) for t in which]):
            if len(stack[0].follows):
                scores[places] = np.asarray(self.reduced(self.logprobs(self.groups, stack)))
        return scores

    def nll(self, which: Sequence[Transcript]) -> float:
        """Mean negative log-probability of a token of these transcripts now."""
        total, count = 0.0, 0
        for _, stack in stacks([rows(t) for t in which]):
            for k in range(0, len(stack), self.recipe.batch_size):
                each = self.logprobs(self.groups, stack[k : k + self.recipe.batch_size])
                total -= float(np.asarray(each, dtype=np.float64).sum())
                count += each.size
        return total / max(count, 1)

    # KTO's reference and its z_0.

    def pairs(self, chunk: np.ndarray) -> list[Transcript]:
        """The mismatched pairs (x, y') of a microbatch: y' was written for the next x."""
        context, these = self.config.context, [self.transcripts[i] for i in chunk]
        after = [*these[1:], these[0]]
        return [mismatched(x, y, context) for x, y in zip(these, after, strict=True)]

    def refer(self, chunk: np.ndarray) -> list[tuple[float, float]]:
        """The entries of `reference` for a microbatch. Call it before the first step."""
        matched = self.scores([self.transcripts[i] for i in chunk])
        return list(zip(matched.tolist(), self.scores(self.pairs(chunk)).tolist(), strict=True))

    def z0(self, chunk: np.ndarray) -> float:
        """z_0 of a microbatch; pairs that do not fit into the context are left out."""
        ratios = self.scores(self.pairs(chunk)) - [self.reference[int(i)][1] for i in chunk]
        return kl_estimate(ratios[~np.isnan(ratios)])

    # One step.

    def outcome(self, step: int, gradients: bool = True) -> Outcome:
        """The loss of a step's transcripts, and its gradients if asked for."""
        r = self.recipe
        chunks = [self.order(step * r.accumulate + k) for k in range(r.accumulate)]
        tokens = sum(self.transcripts[i].targets for chunk in chunks for i in chunk)
        share = 1 / (sum(map(len, chunks)) if self.kto else tokens)
        loss, nll, counted, grads = 0.0, 0.0, 0, None
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
                for label in (True, False):
                    ratios[label] += np.asarray(ratio)[good == label].tolist()
        log = [_mean(each) for each in (ratios[True], ratios[False], kl)] if self.kto else []
        return Outcome(loss, nll / counted if counted else None, tokens, grads, *log)

    def _good(self, which: np.ndarray) -> np.ndarray:
        return np.array([self.transcripts[i].label is not False for i in which])

    def _objective(self, which: np.ndarray, stack: Sequence[TranscriptRows], z0: float) -> Callable:
        """A function of the groups: (sum of the losses of one pass, logprobs (B, R), r(x, y) (B,)).

        With sft the last is not used.
        """
        r = self.recipe

        def objective(groups: Groups) -> tuple[mx.array, mx.array, mx.array]:
            each = self.logprobs(groups, stack, live=True)
            if not self.kto:
                return -each.sum(), each, each[:, 0]
            reference = mx.array([self.reference[int(i)][0] for i in which], dtype=mx.float32)
            ratios, good = self.reduced(each) - reference, mx.array(self._good(which))
            losses = kto_losses(ratios, good, z0, r.beta, r.desirable, r.undesirable)
            return losses.sum(), each, ratios

        return objective

    def apply(self, grads: Groups) -> float:
        """One step of AdamW with all gradients clipped together; the norm before the clipping."""
        clipped, norm = optim.clip_grad_norm(grads, self.recipe.clip)
        factor = self.recipe.factor(self.step)
        for name, optimizer in self.optimizers.items():
            optimizer.learning_rate = self.recipe.rate(name)[0] * factor
            self.groups[name] = optimizer.apply_gradients(clipped[name], self.groups[name])
        mx.eval(self.groups, [o.state for o in self.optimizers.values()])
        if mx.get_cache_memory() > mx.get_peak_memory():
            mx.clear_cache()  # freed buffers, of shapes that may not occur again
        self.step += 1
        return norm.item()

    # Files.

    def _tree(self) -> dict[str, Any]:
        state = {name: o.state for name, o in self.optimizers.items()}
        return {"groups": self.groups, "optimizers": state}

    def save(self, path: Path, notes: Mapping[str, str] | None = None) -> None:
        """Groups, optimizers and step in one file, whole or not at all."""
        save_state(path, self._tree(), FORMAT, self.step, notes)

    def load(self, path: Path) -> dict[str, str]:
        """Go on from what `save` wrote; its notes. Raises TinylaneError if it is of another run."""
        saved, self.step, notes = load_state(path, self._tree(), FORMAT)
        self.groups.update(saved["groups"])
        for name, optimizer in self.optimizers.items():
            optimizer.state = saved["optimizers"][name]
        return notes


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def stacks(every: Sequence[TranscriptRows]) -> Iterator[tuple[list[int], list[TranscriptRows]]]:
    """Groups of transcripts that can be one pass, each with their indices in `every`."""
    by_shape: dict[tuple[bytes, bytes, bytes], list[int]] = {}
    for place, one in enumerate(every):
        by_shape.setdefault(one.shape, []).append(place)
    for places in by_shape.values():
        yield places, [every[place] for place in places]


def kl_estimate(ratios: np.ndarray) -> float:
    """z_0 from the r(x, y') of a microbatch's mismatched pairs, (pairs,); 0 without any.

    Not an unbiased estimate of the KL divergence: it is clamped at 0, and y' was not drawn from
    pi(.|x). KTO uses it only as the point where v saturates.
    """
    return max(0.0, float(np.mean(ratios))) if len(ratios) else 0.0


def kto_losses(
    ratios: Array,
    good: Array,
    z0: float,
    beta: float = 0.1,
    desirable: float = 1.0,
    undesirable: float = 1.0,
) -> Array:
    """lambda_y - v(x, y) of every example: ratios r(x, y) (B,), good (B,) booleans -> (B,).

    NumPy or MLX. z0 is a number, so no gradient flows through it. desirable, undesirable:
    lambda_D and lambda_U.
    """
    xp = ratios.__array_namespace__()
    gain = beta * (ratios - z0)
    gain = xp.where(good, gain, -gain)
    weight = xp.where(good, desirable, undesirable)
    return weight * (1 - 0.5 * (1 + xp.tanh(0.5 * gain)))  # sigmoid, without an exp that overflows
