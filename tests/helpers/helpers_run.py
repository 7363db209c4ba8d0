"""Three lanes of a small random model that read each other; their run file, loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers_lanes import FREE, ids, model_of, omega

from tinylane.core.decoding import Decoding
from tinylane.core.lanes import LaneMask
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
