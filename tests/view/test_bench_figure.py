"""Step times as a figure: a line for each engine and mode, and the same in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinylane import plot
from tinylane.view.bench_figure import step_times
from tinylane.view.palette import COLOURS, QUIET

pytest.importorskip("matplotlib")


def result(engine: str, mode: str, lanes: int) -> dict[str, Any]:
    seconds = 0.001 * lanes * (1 + len(engine))
    return {
        "engine": engine,
        "mode": mode,
        "lanes": lanes,
        "prompt_tokens": 8,
        "max_tokens": 4,
        "step_seconds": {"p10": 0.9 * seconds, "median": seconds, "p90": 1.2 * seconds},
        "steps_by_index": [seconds] * 3,
    }


def test_every_engine_and_mode_is_a_line_in_its_colour() -> None:
    """A peer whose batch has one cache for each row has no place on the axis of rows."""
    names = [("tinylane numpy", "joint"), ("tinylane numpy", "independent")]
    names += [("mlx-lm", "independent"), ("llama3.np", "independent")]
    results = [result(*name, lanes) for lanes in (4, 1) for name in names]
    figure = step_times({"results": results, "model": {"name": "tiny"}, "dtype": "float32"})
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.get_lines()}
    assert list(lines) == ["tinylane numpy, joint", "tinylane numpy", "mlx-lm", "llama3.np"]
    colours = [line.get_color() for line in lines.values()]
    assert colours == [COLOURS[0], COLOURS[0], COLOURS[3], QUIET]
    np.testing.assert_array_equal(lines["mlx-lm"].get_xdata(), [1, 4])
    np.testing.assert_allclose(lines["mlx-lm"].get_ydata(), [7, 28])
    rows = sorted(tuple(line.get_xdata()) for line in right.get_lines())
    assert rows == [(9, 10, 11)] * 2 + [(12, 16, 20)] * 2
    assert plot.alt(figure).startswith("tiny, float32. Median time of a step: ")
    assert "mlx-lm 28 ms at 4 lanes" in plot.alt(figure)
