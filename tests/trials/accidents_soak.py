"""A soak for `accidents.py`: lanes join, fork, finish and are dropped for thousands of joint steps.

A decoding goes on until the context of its model ends, then the next one begins. What a process
holds beyond the cache (traced by `tracemalloc`, which sees NumPy's buffers too; MLX's own counter;
the resident set) must not grow from decoding to decoding.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

from helpers_lanes import FREE, VOCAB, omega, small

from tinylane.core.lanes import LaneMask
from tinylane.methods.decoding import Decoding

MOST = 6  # lanes at a time
LANES = 256  # in a decoding's life
KEPT = 256 << 10  # bytes that what is held beyond the cache may differ by, first and last quarter
RESIDENT = 16 << 20


def resident() -> int:
    """Bytes of the process in memory; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * 4096


def soak(
    steps: int, seed: int, backend: str, context: int, leak: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """The totals, and what grew. leak: keep every decoding, the bug that must be found."""
    rng = random.Random(seed)
    model = small(backend, "float32", context=context)
    tally, kept, samples = Counter[str](), [], []
    began = time.monotonic()
    tracemalloc.start()
    while tally["steps"] < steps:
        decoding, peak = _one(model, rng, steps - tally["steps"], tally)
        tally["decodings"] += 1
        samples.append(_sample(decoding, backend, peak))
        if leak:
            kept.append(decoding)
        del decoding
        gc.collect()
        traced, active = tracemalloc.get_traced_memory()[0], _active(backend)
        samples[-1] |= {"steps": tally["steps"], "after": traced + active, "resident": resident()}
        if tally["decodings"] % max(1, steps // context // 8) == 0:
            _show(samples[-1])
    tracemalloc.stop()
    tally["most lanes"] = MOST
    row = {"job": f"soak {backend}", **tally, "seconds": round(time.monotonic() - began, 1)}
    row["peak cache"] = max(s["cache"] for s in samples)
    wrong = []
    for key, allowed in (("beyond", KEPT), ("after", KEPT), ("resident", RESIDENT)):
        first, last = _ends([s[key] for s in samples])
        row[f"{key}, first quarter"], row[f"{key}, last quarter"] = first, last
        if last > first + allowed:
            wrong.append(f"{key}: {first:,} bytes in the first quarter, {last:,} in the last")
    print(", ".join(f"{k} {v:,}" if isinstance(v, int) else f"{k} {v}" for k, v in row.items()))
    return [row], wrong


def _one(model: Any, rng: random.Random, steps: int, tally: Counter[str]) -> tuple[Any, int]:
    """One decoding to its end (or `steps`), while lanes join and leave; rows in its cache."""
    decoding = Decoding(
        model,
        [rng.randrange(4, VOCAB) for _ in range(8)],
        2,
        max_tokens=10**9,
        sampler=FREE,
        lane_rope=omega(model),
        lane_mask=LaneMask.joint(LANES, rng.choice((0, 0, 3))),
        seed=rng.randrange(1 << 32),
    )
    most = 0
    for _ in range(steps):
        live = decoding.live
        if not live:  # the context ended
            break
        decoding.step()
        tally["steps"] += 1
        tally["tokens"] += len(live)
        most = max(most, len(decoding.cache))
        room = len(decoding.lanes) < LANES and decoding.clock < model.config.context
        live = decoding.live
        if live and room and len(live) < MOST and rng.random() < 0.1:
            if rng.random() < 0.5:
                own = min(rng.randrange(4), decoding.clock - len(decoding.prompt))
                decoding.join([rng.randrange(4, VOCAB) for _ in range(own)])
                decoding.lanes[-1].max_tokens = 10**9
                tally["joined"] += 1
            else:
                decoding.fork(rng.choice(live).index, max_tokens=10**9)
                tally["forked"] += 1
        if len(live) > 1 and rng.random() < 0.1:
            lane = rng.choice(live).index
            decoding.finish(lane)
            tally["finished"] += 1
        if rng.random() < 0.1:  # what has finished is dropped: only then are its rows gone
            for old in decoding.lanes:
                if old.finish_reason is not None and old.dropped is None:
                    decoding.drop(old.index)
                    tally["dropped"] += 1
    return decoding, most


def _active(backend: str) -> int:
    if backend != "mlx":
        return 0
    import mlx.core as mx

    mx.clear_cache()
    return int(mx.get_active_memory())


def _sample(decoding: Any, backend: str, rows: int) -> dict[str, Any]:
    """At a decoding's end: the memory held beyond the cache."""
    decoding.cache.settle()
    traced, active = tracemalloc.get_traced_memory()[0], _active(backend)
    cache = int(decoding.cache.nbytes)
    return {"rows": rows, "cache": cache, "beyond": traced + active - cache}


def _ends(values: list[int]) -> tuple[int, int]:
    """Medians of the first and of the last quarter; the first decoding is left out."""
    values = values[1:] if len(values) > 2 else values
    part = max(1, len(values) // 4)
    return int(statistics.median(values[:part])), int(statistics.median(values[-part:]))


def _show(sample: dict[str, Any]) -> None:
    mib = {k: f"{sample[k] / 2**20:.2f}" for k in ("cache", "beyond", "after", "resident")}
    print(f"step {sample['steps']:6}: MiB {mib}, up to {sample['rows']} rows", flush=True)
