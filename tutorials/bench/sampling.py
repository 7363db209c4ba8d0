"""How long the draw of a step takes: 8 lanes, Qwen3's vocabulary of 151,936, settings of models.

    python tutorials/bench/sampling.py [numpy] [mlx]

Random logits. The median of nine steps and, in parentheses, the least and the most, in ms.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tinylane.core.sampling import Sampler, uniform

LANES, VOCAB, STEPS = 8, 151_936, 9
SETTINGS = {
    "greedy": Sampler(0.0),
    "temperature 1": Sampler(1.0),
    "0.6, top-k 20, top-p 0.95 (Qwen3's)": Sampler(0.6, 0.95, 20),
    "0.6, top-p 0.95": Sampler(0.6, 0.95),
}


def times(sampler: Sampler, library: str) -> list[float]:
    """Seconds of each step, the first, which warms up, left out."""
    logits = np.random.default_rng(0).standard_normal((LANES, VOCAB)).astype(np.float32) * 2.5
    rows = logits if library == "numpy" else import_module("mlx.core").array(logits)
    seconds = []
    for step in range(STEPS + 1):
        u = uniform(0, np.arange(LANES), step)
        began = time.perf_counter()
        tokens, _ = sampler(rows, u, [[]] * LANES)
        tokens.tolist()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def main(libraries: Sequence[str]) -> None:
    """Print a table."""
    for library in libraries or ("numpy", "mlx"):
        for name, sampler in SETTINGS.items():
            ms = [1000 * s for s in times(sampler, library)]
            middle = statistics.median(ms)
            print(f"{library:5}  {name:36} {middle:6.1f} ({min(ms):.1f} to {max(ms):.1f})")


if __name__ == "__main__":
    main(sys.argv[1:])
