"""Where a decoding step goes, by timing the decoder's seams.

The seams are replaced by timed ones in a copy of the model; what is in none of them (residual sums,
reshapes, the loop) is "rest". MLX computes late, so there every seam is made to compute at once:
that takes longer, and its parts are shares of the longer step, while "build" is the time in which
Python builds the graph of an undisturbed step. On NumPy the time that is Python's is that of a
model of the same layers whose arrays are next to nothing.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from tinylane.core import decoder, pipeline
from tinylane.core import model as core_model
from tinylane.core.model import Model
from tinylane.core.random_weights import random_params
from tutorials.bench.engines import Case, Tinylane, random_prompt

PARTS = ("projections", "head", "attention", "norms and gate", "cache", "sampling", "plan", "rest")
PASSES = (decoder, core_model)  # what uses make_plan and forward
TINY: dict[str, Any] = {
    "vocab": 32,
    "width": 8,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 4,
    "mlp_width": 8,
    "context": 4096,
}


def profile(engine: Tinylane, case: Case) -> dict[str, Any]:
    """Seconds, medians over the steps: of each part, of the undisturbed step, of building the graph
    (MLX, else None), and of Python for every layer of a step."""
    step = statistics.median(engine.run(case).steps)
    build = _building(engine, case) if engine.model.backend == "mlx" else None
    layers = engine.model.config.layers
    return {
        "parts": _parts(engine, case),
        "step": step,
        "build": build,
        "python_per_layer": _python(engine, case) if build is None else build / layers,
    }


def with_model(model: Model) -> Tinylane:
    """An engine around a model that is already there."""
    engine = object.__new__(Tinylane)
    engine.model, engine.versions = model, {}
    return engine


class _Clock:
    """Adds up what passes inside of the functions it wraps, by part."""

    def __init__(self, settle: Callable[[Any], Any] | None = None) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.settle = settle

    def wrap(
        self, part: str, function: Callable[..., Any], wait: bool = True
    ) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            found = function(*args, **kwargs)
            if wait and self.settle is not None:
                self.settle(found)
            head = part == "projections" and args[1] == "lm_head"
            self.spent["head" if head else part] += time.perf_counter() - began
            return found

        return timed


@contextmanager
def _replaced(name: str, new: Any, *modules: Any) -> Iterator[None]:
    """Each of the modules that use the function by this name sees `new`."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, new)
        yield


def _parts(engine: Tinylane, case: Case) -> dict[str, float]:
    settle = None
    if engine.model.backend == "mlx":
        import mlx.core as mx

        settle = mx.eval
    clock, seams, model = _Clock(settle), engine.model.ops, replace(engine.model)
    model.ops = decoder.Ops(
        linear=clock.wrap("projections", seams.linear),
        linears=clock.wrap("projections", seams.linears),
        embed=clock.wrap("rest", seams.embed),
        rms_norm=clock.wrap("norms and gate", seams.rms_norm),
        rotate=clock.wrap("attention", seams.rotate),
        gated=clock.wrap("norms and gate", seams.gated),
        attention=clock.wrap("attention", seams.attention),
    )
    decoding: Any = with_model(model).decoding(case)
    decoding.step()
    decoding.cache.put = clock.wrap("cache", decoding.cache.put)
    decoding._draw = clock.wrap("sampling", decoding._draw, wait=False)
    steps: list[dict[str, float]] = []
    plan = clock.wrap("plan", decoder.make_plan, wait=False)
    with _replaced("make_plan", plan, *PASSES), _replaced("SMALL", float("inf"), pipeline):
        while decoding.live:
            clock.spent.clear()
            began = time.perf_counter()
            decoding.step()
            whole = time.perf_counter() - began
            known = {part: clock.spent[part] for part in PARTS if part != "rest"}
            steps.append({**known, "rest": whole - sum(known.values())})
    return {part: statistics.median(step[part] for step in steps) for part in PARTS}


def _building(engine: Tinylane, case: Case) -> float:
    clock, steps = _Clock(), []
    with _replaced("forward", clock.wrap("build", decoder.forward), *PASSES):
        decoding = engine.decoding(case)
        decoding.step()
        while decoding.live:
            clock.spent.clear()
            decoding.step()
            steps.append(clock.spent["build"])
    return statistics.median(steps)


def _python(engine: Tinylane, case: Case) -> float:
    """What a layer of next to no arithmetic adds to a step."""
    layers = engine.model.config.layers

    def step(count: int) -> float:
        config = replace(engine.model.config, **TINY, layers=count)
        probe = replace(
            engine.model, config=config, params=random_params(config, 0), lane_rope=None, task=None
        )
        small = replace(case, prompt=random_prompt(config.vocab, 8, 0), count=65)
        return statistics.median(with_model(probe).run(small).steps)

    return (step(2 * layers) - step(layers)) / layers
