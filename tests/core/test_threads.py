"""MLX notes an operation in one thread and refuses to compute it in another: nothing is left open
where a decoding may be handed over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from helpers_lanes import ids, model_of, omega, small

from tinylane.core import pipeline
from tinylane.core.lanes import LaneMask
from tinylane.core.model import Model
from tinylane.core.sampling import Sampler
from tinylane.methods.decoding import Decoding

mx = pytest.importorskip("mlx.core")


def elsewhere(do: Callable[[], Any]) -> Any:
    """What `do` returns or raises in a thread of its own, which has ended then."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(do())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def script(run: Callable[[Callable[[], Any]], Any]) -> list[Any]:
    """A decoding with all its operations, each called by `run`."""
    model = run(lambda: small("mlx", "float32", eos_ids=()))
    settings: dict[str, Any] = {
        "max_tokens": [30, 30, 9],
        "seed": 3,
        "sampler": Sampler(0.9, 0.95, 20),
        "lane_rope": omega(model),
        "lane_mask": LaneMask.joint(8),
        "lane_prompts": [[], [4, 5], []],
        "chunk": 100,
    }
    d = run(lambda: Decoding(model, ids(300), lanes=3, **settings))
    for do in (
        d.step, d.step, lambda: d.fork(0), d.step, lambda: d.drop(1), d.step,
        lambda: d.join([5, 6], max_tokens=9), d.step, lambda: d.cache.trim(d.clock - 1), d.step,
        lambda: d.finish(2), d.step,
    ):  # fmt: skip
        run(do)
    d.cache = run(d.cache.copy)
    while d.live:
        run(d.step)
    return [(lane.tokens, lane.finish_reason) for lane in d.lanes]


@pytest.mark.parametrize("early", [False, True], ids=["as on a CPU", "passes built early"])
def test_a_decoding_goes_on_in_another_thread(early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers and windows: made in one thread, and every operation in another, each time new."""
    expected = script(lambda do: do())
    monkeypatch.setattr(pipeline, "pays", lambda model: early)
    assert script(elsewhere) == expected


def test_weights_that_were_left_uncomputed_are_computed_where_the_model_is_made() -> None:
    given = model_of("mlx", "float32")
    lazy = {name: w * 2 * 0.5 for name, w in given.params.items()}
    model = Model(given.config, lazy, "mlx", "float32", ops=given.ops)
    step = elsewhere(lambda: Decoding(model, ids(4), max_tokens=2).step())
    assert step.tokens == Decoding(given, ids(4), max_tokens=2).step().tokens


def test_mlx_refuses_what_another_thread_left_open() -> None:
    """Negative control: without computing first none of the above would pass."""
    x = mx.ones(3) + 1
    with pytest.raises(RuntimeError, match="Stream"):
        elsewhere(lambda: mx.eval(x + 1))
