"""Every method: its steps against the oracle, and what no other method does."""

from __future__ import annotations

from pathlib import Path

import helpers_methods
import pytest
from helpers_methods import run, small

from tinylane.methods import METHODS, NAMES
from tinylane.view.replay import replay
from tinylane.view.run_file import load_run, save_run

DECODED = [name for name in NAMES if name != "beam"]


@pytest.mark.parametrize("kind", ["numpy float64", "numpy float32", "mlx float32"])
@pytest.mark.parametrize("name", DECODED)
def test_a_method_decodes_what_passes_without_a_cache_give(name: str, kind: str) -> None:
    d = run(name, small(*kind.split(), extra=METHODS[name].needs))
    assert all(lane.finish_reason for lane in d.lanes)


@pytest.mark.parametrize("name", DECODED)
def test_a_method_s_run_file_replays_from_its_events_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a deep model, whose rows keep what they read when they were fed."""
    monkeypatch.setattr(helpers_methods, "check", lambda d: None)
    model = small(layers=3, extra=METHODS[name].needs)
    result = run(name, model).result()
    save_run(tmp_path / "run.json", result, model)
    saved = load_run(tmp_path / "run.json")
    assert saved.result == result and replay(saved, model).difference < 1e-10


if __name__ == "__main__":
    import sys
    import time

    for name in sys.argv[1:] or DECODED:
        began = time.time()
        try:
            d = run(name, small())
        except Exception as error:
            print(name, type(error).__name__, error)
            continue
        print(name, d.steps, "steps", f"{time.time() - began:.1f} s", len(d.events), "events")
        for x in d.lanes:
            print("   ", x.index, x.finish_reason, x.start, len(x.tokens), repr(x.text[:70]))
