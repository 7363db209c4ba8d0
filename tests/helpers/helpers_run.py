"""Lanes of a small random model that read each other, and one life of lanes; their run files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers_lanes import FREE, ids, model_of, omega

from tinylane.core.hogwild import Hogwild
from tinylane.core.lanes import LaneMask
from tinylane.methods.decoding import Decoding
from tinylane.view.run_file import load_run, save_run

F64 = model_of("numpy", "float64")


def decoded(model: Any, **more: Any) -> Decoding:
    """Three lanes that read each other, one of which is short."""
    given_ = {
        "lanes": 3,
        "lane_prompts": [[1], [2, 3], []],
        "max_tokens": [8, 2, 6],
        "lane_rope": omega(model),
        "lane_mask": LaneMask.joint(5, lag=1),
        "sampler": FREE,
        "seed": 4,
        **more,
    }
    return Decoding(model, ids(5), **given_)


def finished(model: Any, **more: Any) -> Any:
    decoding = decoded(model, **more)
    list(decoding)
    return decoding.result()


def reloaded(folder: Path, result: Any, model: Any, **more: Any) -> Any:
    save_run(folder / "run.json", result, model, "some/model", **more)
    return load_run(folder / "run.json")


def lived(hogwild: bool = False) -> Any:
    """Lanes that join, wait, are forked, sealed, given, told whom to read, dropped; 4 steps."""
    rope = Hogwild((1,)) if hogwild else omega(F64)
    decoding = Decoding(
        F64, [5, 6, 7], 2, max_tokens=9, lane_rope=rope, lane_mask=LaneMask.joint(2), sampler=FREE
    )
    decoding.step()
    decoding.pause(1)
    decoding.join([4, 5], sees=[0], max_tokens=9)
    decoding.step()
    decoding.resume(1)
    decoding.fork(2)
    decoding.give(3, [8])
    decoding.step()
    decoding.seal(0)
    decoding.read(1, 2)
    if hogwild:
        decoding.arrange([2, 1])
    decoding.step()
    decoding.drop(2)
    decoding.finish(1)
    return decoding.result()


def set_(*path: Any) -> Any:
    """What puts the last of `path` where the rest leads; without a value, it removes."""

    def change(raw: Any) -> None:
        *way, last, value = path
        for step in way:
            raw = raw[step]
        if value is KeyError:
            del raw[last]
        else:
            raw[last] = value

    return change
