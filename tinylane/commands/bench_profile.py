"""Where the time of a decoding step goes, by timing the decoder's operations.

In a copy of the model the operations are replaced by timed ones; what is in none of them (residual
sums, reshapes, the loop) is "rest". MLX computes lazily, so there every operation is made to
compute at once. That takes longer: the parts are shares of the longer step, while "build" is the
time in which Python builds the graph of an ordinary step. On NumPy Python's time is measured with a
model of as many layers whose arrays have almost no numbers.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from tinylane.commands.bench_engine import BenchCase, Tinylane, random_prompt
from tinylane.core import decoder, pipeline
from tinylane.core import model as core_model
from tinylane.core.random_weights import random_params

PARTS = ("projections", "head", "attention", "norms and gate", "cache", "sampling", "plan", "rest")
TINY: dict[str, Any] = {
    "vocab": 32,
    "width": 8,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 4,
    "mlp_width": 8,
    "context": 4096,
}


def profile(engine: Tinylane, case: BenchCase) -> dict[str, Any]:
    """Seconds, medians over the steps: of each part, of a step that is not taken apart, of building
    the graph (None on NumPy), and of Python for every layer of a step."""
    step = statistics.median(engine.run(case).steps)
    build = _building(engine, case) if engine.model.backend == "mlx" else None
    layers = engine.model.config.layers
    return {
        "parts": _parts(engine, case),
        "step": step,
        "build": build,
        "python_per_layer": _python(engine, case) if build is None else build / layers,
    }


class _Clock:
    """Adds up the time inside the functions that it wraps, by part."""

    def __init__(self, settle: Callable[[Any], Any] | None = None) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.settle = settle

    def wrap(
        self, part: str, function: Callable[..., Any], wait: bool = True
    ) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            if wait and self.settle is not None:
                self.settle(result)
            head = part == "projections" and args[1] == "lm_head"
            self.spent["head" if head else part] += time.perf_counter() - began
            return result

        return timed


@contextmanager
def _replaced(name: str, new: Any, *modules: Any) -> Iterator[None]:
    """In each of these modules the name stands for `new`."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, new)
        yield


def _parts(engine: Tinylane, case: BenchCase) -> dict[str, float]:
    settle = None
    if engine.model.backend == "mlx":
        import mlx.core as mx

        settle = mx.eval
    clock, ops, timed = _Clock(settle), engine.model.ops, Tinylane(engine.model)
    timed.model.ops = decoder.Ops(
        linear=clock.wrap("projections", ops.linear),
        linears=clock.wrap("projections", ops.linears),
        embed=clock.wrap("rest", ops.embed),
        rms_norm=clock.wrap("norms and gate", ops.rms_norm),
        rotate=clock.wrap("attention", ops.rotate),
        gated=clock.wrap("norms and gate", ops.gated),
        attention=clock.wrap("attention", ops.attention),
    )
    decoding: Any = timed.decoding(case)
    decoding.step()
    decoding.cache.put = clock.wrap("cache", decoding.cache.put)
    decoding._draw = clock.wrap("sampling", decoding._draw, wait=False)
    steps: list[dict[str, float]] = []
    plan = clock.wrap("plan", decoder.make_plan, wait=False)
    with _replaced("make_plan", plan, core_model):
        while decoding.live:
            clock.spent.clear()
            began = time.perf_counter()
            decoding.step()
            whole = time.perf_counter() - began
            known = {part: clock.spent[part] for part in PARTS if part != "rest"}
            steps.append({**known, "rest": whole - sum(known.values())})
    return {part: statistics.median(step[part] for step in steps) for part in PARTS}


def _building(engine: Tinylane, case: BenchCase) -> float:
    clock, steps = _Clock(), []
    with _replaced("forward", clock.wrap("build", decoder.forward), core_model, pipeline):
        decoding = engine.decoding(case)
        decoding.step()
        while decoding.live:
            clock.spent.clear()
            decoding.step()
            steps.append(clock.spent["build"])
    return statistics.median(steps)


def _python(engine: Tinylane, case: BenchCase) -> float:
    """Seconds that a layer with almost no arithmetic adds to a step."""
    layers = engine.model.config.layers

    def step(count: int) -> float:
        config = replace(engine.model.config, **TINY, layers=count)
        probe = replace(
            engine.model, config=config, params=random_params(config, 0), lane_rope=None, task=None
        )
        small = replace(case, prompt=random_prompt(config.vocab, 8, 0), count=65)
        return statistics.median(Tinylane(probe).run(small).steps)

    return (step(2 * layers) - step(layers)) / layers
