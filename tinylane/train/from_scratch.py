"""Train a small decoder from scratch on a game: the model in `weights/shell-game`, and frontier.

Every step draws new problems and a number of lanes, feeds whole runs (the prompt once, all lanes)
through the decoder with the mask of decoding, and fits what each lane should write next. Omega has
its own learning rate. The same seed gives the same bits on the same machine with the same number of
threads. A run that was killed goes on from its last state, and ends with the same bits.

    B problems   n lanes   P prompt rows   L rows of a lane   V vocab
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from tinylane.checkpoints import extras
from tinylane.checkpoints.adapter import OMEGA, save_adapter
from tinylane.checkpoints.export import write_checkpoint
from tinylane.core.decoder import Ops, Plan, forward
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import LaneMask
from tinylane.core.mlx_ops import OPS
from tinylane.evaluate.tasks.shell_game import END
from tinylane.files.io import inside
from tinylane.files.run_dir import Log, claim, locked
from tinylane.files.writing import make_folder, write_json, write_text
from tinylane.train.extras import begin, in_file, still
from tinylane.train.omega import TrainingPlan
from tinylane.train.recipe import Recipe
from tinylane.train.state import STATE, file_layout, load_state, random_mlx_params, save_state

FORMAT = "tinylane training 1"


class Trainer:
    """The state of a run (weights, Omega, optimizers, step) and its one training step."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.game, self.config = recipe, recipe.game, recipe.config
        self.step = 0
        weights = random_mlx_params(self.config, recipe.seed)
        weights.pop("lm_head.weight")  # it is the embedding
        of_lanes = (recipe.extra, max(recipe.lanes), recipe.bridge_width, recipe.seed)
        weights |= begin(self.config, *of_lanes, table_std=extras.STD)
        omega = mx.array(recipe.start().omega.astype(np.float32))
        self.state: dict[str, Any] = {"weights": weights, "omega": omega}
        self.optimizers = {
            "weights": optim.AdamW(self._rate(recipe.lr), weight_decay=recipe.weight_decay),
            "omega": optim.AdamW(self._rate(recipe.omega_lr), weight_decay=0.0),
        }
        self.optimizers["weights"].init(self.state["weights"])
        self.optimizers["omega"].init({"omega": self.state["omega"]})
        self.plans = {n: self._plan(n) for n in recipe.lanes}

    def _plan(self, n: int) -> TrainingPlan:
        mask, (positions, lanes) = self.mask_of(n), self.game.coordinates(n)
        where = (mask, positions, lanes, self.recipe.lane_of_prompt)
        return TrainingPlan(self.config, *where, params=self.state["weights"])

    def mask_of(self, n: int) -> LaneMask:
        """Who reads whom, of n lanes."""
        return LaneMask.named(self.recipe.visibility, n, self.recipe.lag)

    def _rate(self, peak: float) -> Callable:
        r = self.recipe
        warm = optim.linear_schedule(0.0, peak, r.warmup)
        cosine = optim.cosine_decay(peak, max(r.steps - r.warmup, 1), 0.02 * peak)
        return optim.join_schedules([warm, cosine], [r.warmup])

    def logits(
        self, weights: dict[str, mx.array], omega: mx.array, tokens: mx.array, n: int
    ) -> mx.array:
        """tokens (B, P + n*L) -> logits (B, n*L, V) of the lanes' rows."""
        params = {**still(weights), "lm_head.weight": weights["model.embed_tokens.weight"].T}
        rows = mx.arange(self.game.prompt_rows, tokens.shape[1])
        plan, ops = self.plan_of(n, omega), self.ops_of(weights, n)
        return forward(params, self.config, tokens, plan, ops, rows=rows)

    def plan_of(self, n: int, omega: mx.array) -> Plan:
        """Where the rows of n lanes stand and whom they see."""
        return self.plans[n].at(omega)

    def ops_of(self, weights: dict[str, mx.array], n: int) -> Ops:
        """The operations of the pass; a trainer with more parameters has others."""
        return OPS

    def chances(self, step: int) -> Sequence[float] | np.ndarray:
        """The probability of each number of lanes at a step."""
        return self.recipe.shares

    def batch(self, step: int) -> tuple[int, np.ndarray, np.ndarray]:
        """The problems of a step, a function of the seed and the step: (number of lanes, tokens
        (B, P + n*L), the tokens that follow (B, n*L), -1 where none does)."""
        rng = np.random.default_rng([self.recipe.seed, step])
        n = int(rng.choice(self.recipe.lanes, p=self.chances(step)))
        width = len(self.game.coordinates(n)[0])
        stay = rng.random() if rng.random() < self.recipe.stay else 0.0
        moves = self.game.draw(max(self.recipe.rows // width, 1), rng, stay)
        return n, *self.game.rows(moves, n)

    def advance(self) -> tuple[int, float]:
        """One training step. Returns the number of lanes that it drew, and its loss."""
        n, *drawn = self.batch(self.step)
        tokens, follows = map(mx.array, drawn)

        def loss(state: dict[str, Any]) -> mx.array:
            logits = self.logits(state["weights"], state["omega"], tokens, n)
            return nll(logits, follows)

        value, grads = mx.value_and_grad(loss)(self.state)
        clipped, _ = optim.clip_grad_norm(grads.pop("weights"), self.recipe.clip)
        weights = self.optimizers["weights"].apply_gradients(clipped, self.state["weights"])
        self.state["weights"] = weights
        if self.recipe.learn_omega:  # its gradient is not clipped
            omega = {"omega": self.state["omega"]}
            self.state |= self.optimizers["omega"].apply_gradients(grads, omega)
        mx.eval(value, self.state, [o.state for o in self.optimizers.values()])
        self.step += 1
        return n, value.item()  # type: ignore[return-value]

    def exact(self, n: int, count: int = 64) -> float:
        """The share of new problems for which every row of every lane is predicted right.

        Greedy decoding answers these right too: it writes exactly the tokens that were fed.
        """
        rng = np.random.default_rng([self.recipe.seed, 1 << 40, self.step, n])
        tokens, follows = self.game.rows(self.game.draw(count, rng), n)
        logits = self.logits(self.state["weights"], self.state["omega"], mx.array(tokens), n)
        right = (np.asarray(mx.argmax(logits, axis=-1)) == follows) | (follows < 0)
        return float(right.all(axis=-1).mean())

    # Files.

    def _tree(self) -> dict[str, Any]:
        return {"state": self.state, **{k: o.state for k, o in self.optimizers.items()}}

    def save(self, path: Path) -> None:
        """Weights, Omega, both optimizers and the step, in one file, whole or not at all."""
        save_state(path, self._tree(), FORMAT, self.step)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote. Raises TinylaneError if the file is of another run."""
        saved, self.step, _ = load_state(path, self._tree(), FORMAT)
        self.state.update(saved["state"])
        for part, optimizer in self.optimizers.items():
            optimizer.state = saved[part]

    def export(self, folder: Path) -> None:
        """Write a Hugging Face checkpoint with its lane adapter, as `tinylane.load` reads it."""
        game, recipe = self.game, self.recipe
        tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
        weights = self.state["weights"]
        make_folder(folder)
        for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            inside(folder, name)
        write_json(folder / "generation_config.json", {"eos_token_id": game.ids[END]})
        write_text(folder / "tokenizer.json", game.tokenizer_json())
        write_json(folder / "tokenizer_config.json", tokenizer)
        write_checkpoint(
            folder, recipe.config_json, lambda n: file_layout(n, weights), "float32", folder
        )
        settings = {
            "prompt_lane": recipe.lane_of_prompt,
            "visibility": recipe.visibility,
            "lag": recipe.lag,
            "lanes": list(recipe.lanes),
            "task": game.settings,
        }
        if recipe.game_name != "shell-game":
            settings["lane_prompt"] = "{lane}/{lanes}"
        tensors = {OMEGA: np.asarray(self.state["omega"]), **in_file(weights)}
        save_adapter(folder / "adapter", self.config, tensors, settings)


def nll(logits: mx.array, follows: mx.array) -> mx.array:
    """The mean negative log-likelihood of the tokens that follow, (B, R, V) and (B, R); rows that
    nothing follows (-1) do not count."""
    counted = follows >= 0
    chosen = mx.take_along_axis(logits, mx.maximum(follows, 0)[..., None], axis=-1)[..., 0]
    each = mx.where(counted, mx.logsumexp(logits, axis=-1) - chosen, 0.0)
    return each.sum() / counted.sum()


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    every: int = 100,
    check_every: int = 500,
    save_every: int = 500,
    stop_at: int | None = None,
    say: Callable[[dict], None] = lambda line: None,
    trainer_of: Callable[[Any], Trainer] = Trainer,
) -> Trainer:
    """Train to the recipe's end in folder `out`, from its last state on, and export there.

    Writes recipe.json, log.jsonl (every `every` steps a line: loss, seconds, and every
    `check_every` steps the share of exact problems), state.safetensors every `save_every` steps,
    and at the end the checkpoint. stop_at: end the run at this step; its schedule stays the
    recipe's. trainer_of: makes the trainer from the recipe. Raises TinylaneError if `out` holds a
    run of another configuration, if another process works there, or if the loss diverges.
    """
    out = Path(out)
    with locked(out):
        claim(out, recipe.settings)
        trainer, state = trainer_of(recipe), inside(out, STATE)
        if state.exists():
            trainer.load(state)
        log = Log(out, trainer.step)
        losses: dict[int, list[float]] = {}
        began = time.monotonic() - log.seconds
        end = min(stop_at or recipe.steps, recipe.steps)
        while trainer.step < end:
            n, loss = trainer.advance()
            if not math.isfinite(loss):
                kept = (
                    f"the last good state is {state}"
                    if state.exists()
                    else "no state was saved yet"
                )
                raise TinylaneError(
                    f"the loss is {loss} at step {trainer.step}; {kept}. Lower the learning rate"
                )
            losses.setdefault(n, []).append(loss)
            last = trainer.step == end
            if trainer.step % every == 0 or last:
                entry: dict[str, Any] = {
                    "step": trainer.step,
                    "seconds": round(time.monotonic() - began, 1),
                    "loss": {k: round(sum(v) / len(v), 5) for k, v in sorted(losses.items())},
                }
                losses = {}
                if trainer.step % check_every == 0 or last:
                    entry["exact"] = {n: trainer.exact(n) for n in recipe.lanes}
                log.add(entry)
                say(entry)
            if trainer.step % save_every == 0 or last:
                trainer.save(state)
        if trainer.step >= recipe.steps:
            trainer.export(out)
        return trainer
