"""A training step beside other programs: low-rank updates of rank 16 on all seven projections.

    python tutorials/bench/training.py FOLDER         tinylane, torch (with peft), mlx-lm; seconds

FOLDER is a Llama checkpoint; the transcripts are random tokens. tinylane: 4 transcripts of a prompt
of 60 and 4 lanes of 50, joint, Omega and biases too. torch: 4 sequences of the same 260 rows. Then
one sequence of 260, by tinylane (one lane) and mlx-lm. float32; the median of the steps after the
first. Each runs in a process of its own, with the environment of the bench.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

from tinylane.commands.bench_machine import cores, environment

PROMPT, ROWS, RANK = 60, 260, 16
CASES = (("tinylane mlx", 4, 4), ("torch", 4, 1), ("tinylane mlx", 1, 1), ("mlx-lm", 1, 1))


def tinylane_step(folder: str, batch: int, lanes: int) -> Callable[[], object]:
    """One step of `tinylane train sft`."""
    from tinylane.methods.modes import lane_rope
    from tinylane.train.data import Transcript
    from tinylane.train.parameters import ALL_TARGETS, Choice, trainable
    from tinylane.train.recipe import TuneRecipe
    from tinylane.train.setup import start_model
    from tinylane.train.step import Tuner

    model, rng = start_model(folder, dtype="float32").model, np.random.default_rng(0)
    length = (ROWS - PROMPT) // lanes

    def drawn(n: int) -> list[int]:
        return [int(token) for token in rng.integers(0, model.config.vocab, n)]

    transcripts = [
        Transcript(drawn(PROMPT), [[]] * lanes, [drawn(length + 1) for _ in range(lanes)],
                   [True] * lanes, None)
        for _ in range(2 * batch)
    ]  # fmt: skip
    recipe = TuneRecipe(steps=100, batch_size=batch)
    start = lane_rope(model, lanes, "ntk", float(length), float(lanes), "own").omega
    choice = Choice(lora_rank=RANK, lora_targets=ALL_TARGETS)
    tuner = Tuner(recipe, trainable(model, choice, start), transcripts)
    return lambda: tuner.apply(tuner.outcome(tuner.step).grads or {})


def torch_step(folder: str, batch: int, lanes: int) -> Callable[[], object]:
    """The same with transformers and peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear"))
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    ids = torch.randint(0, model.config.vocab_size, (batch, ROWS))
    labels = ids.clone()
    labels[:, :PROMPT] = -100

    def step() -> None:
        model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def mlx_lm_step(folder: str, batch: int, lanes: int) -> Callable[[], object]:
    """What `mlx_lm.lora` does in a step."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx_lm.tuner.trainer import default_loss
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(folder))
    model.set_dtype(mx.float32)
    model.freeze()
    linear_to_lora_layers(model, len(model.layers), {"rank": RANK, "scale": 2.0, "dropout": 0.0})
    optimizer, graded = optim.AdamW(1e-4), nn.value_and_grad(model, default_loss)
    ids = mx.random.randint(0, model.args.vocab_size, (batch, ROWS + 1))
    lengths = mx.array([[PROMPT, ROWS]] * batch)

    def step() -> None:
        _, grads = graded(model, ids, lengths)
        optimizer.update(model, grads)
        mx.eval(model.state, optimizer.state)

    return step


STEPS = {"tinylane mlx": tinylane_step, "torch": torch_step, "mlx-lm": mlx_lm_step}


def main(argv: Sequence[str], steps: int = 3) -> int:
    """Time every program, or, with its name and sizes behind the folder, one."""
    folder, *one = argv
    if one:
        name, batch, lanes = one[0], int(one[1]), int(one[2])
        step, seconds = STEPS[name](folder, batch, lanes), []
        for _ in range(steps + 1):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        rest = seconds[1:]
        told = f"{statistics.median(rest):.2f} s ({min(rest):.2f} to {max(rest):.2f})"
        print(f"{name}, batch of {batch}, {lanes} lanes, {ROWS} rows: {told}", flush=True)
        return 0
    for name, *sizes in CASES:
        command = [sys.executable, __file__, folder, name, *map(str, sizes)]
        if code := subprocess.run(command, env=environment(name, cores())).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
