"""Plain operations against a backend's fast ones, by the size of the model.

    python tutorials/bench/ops.py numpy        a table: time of a step, plain over fast
    python tutorials/bench/ops.py mlx

Random weights, float32, joint lanes. In each round both kinds decode the same prompt, one after the
other, in an order that changes from round to round. Above 1 the fast operations are faster. This is
where `SMALL` in `tinylane/checkpoints/load.py` comes from.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

from tinylane.checkpoints.load import fast_ops
from tinylane.checkpoints.weights import _stacked
from tinylane.core.config import ModelConfig
from tinylane.core.decoder import PLAIN
from tinylane.core.lanes import LaneMask, LaneRoPE
from tinylane.core.model import Model
from tinylane.core.random_weights import random_params
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding

SIZES = ((3, 128), (4, 192), (4, 256), (6, 256), (6, 384), (8, 512), (12, 512))  # layers, width
CASES = ((1, 64, 24), (4, 64, 24), (4, 512, 8))  # lanes, tokens of the prompt, steps
Times = tuple[float, float]  # seconds of the prefill, median of the steps


def models(backend: str, layers: int, width: int) -> dict[str, Model]:
    """The same random weights with both kinds of operations, laid out as the loader does it."""
    config = ModelConfig(
        vocab=512, width=width, layers=layers, heads=max(width // 64, 1),
        kv_heads=max(width // 128, 1), head_dim=64, mlp_width=3 * width, context=4096,
    )  # fmt: skip
    params: dict[str, Any] = random_params(config, 0)
    if backend == "numpy":
        for name, room in _stacked(config.tensors(), "float32").items():
            room[:] = params[name]
            params[name] = room
    else:
        import mlx.core as mx

        for name, w in params.items():
            tall = w.ndim == 2 and "embed" not in name
            params[name] = mx.array(np.ascontiguousarray(w.T)).T if tall else mx.array(w)
    kinds = {"plain": PLAIN, "fast": fast_ops(backend)}
    return {name: Model(config, params, backend, ops=ops) for name, ops in kinds.items()}


def times(model: Model, lanes: int, prompt: int, steps: int) -> Times:
    """Decode `steps` steps behind a prompt of `prompt` tokens."""
    decoding = Decoding(
        model,
        [k % 500 for k in range(prompt)],
        lanes,
        max_tokens=steps + 1,
        sampler=Sampler(temperature=0),
        lane_mask=LaneMask.joint(lanes),
        lane_rope=LaneRoPE.ntk(model.theta, 64, lanes),
    )
    decoding.step()
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        decoding.step()
        seconds.append(time.perf_counter() - began)
    return decoding.prefill_seconds, statistics.median(seconds)


def compare(both: dict[str, Model], lanes: int, prompt: int, steps: int, rounds: int = 5) -> str:
    """ "step 0.84 (0.81 to 0.90), prefill 0.89; fast 1.04 ms": medians of plain over fast."""
    step, prefill, fast = [], [], []
    for k in range(rounds):
        order = list(both)[:: 1 - 2 * (k % 2)]
        taken = {name: times(both[name], lanes, prompt, steps) for name in order}
        prefill.append(taken["plain"][0] / taken["fast"][0])
        step.append(taken["plain"][1] / taken["fast"][1])
        fast.append(taken["fast"][1])
    return (
        f"step {statistics.median(step):.2f} ({min(step):.2f} to {max(step):.2f}), "
        f"prefill {statistics.median(prefill):.2f}; fast {1e3 * statistics.median(fast):.2f} ms"
    )


def main(argv: Sequence[str], sizes: Any = SIZES, cases: Any = CASES, rounds: int = 5) -> int:
    """Print the table; returns the exit code."""
    backend = argv[0] if argv else "numpy"
    for layers, width in sizes:
        both = models(backend, layers, width)
        weights = 12 * layers * width**2 / 1e6
        print(f"{backend}, {layers} layers of {width}: {weights:.2f} M weights")
        for lanes, prompt, steps in cases:
            told = compare(both, lanes, prompt, steps, rounds)
            print(f"  {lanes} lanes behind {prompt} tokens: {told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
