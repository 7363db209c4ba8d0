"""What the machine is, how fast its memory is read, and the surroundings in which it is timed."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

READ = 1 << 29  # bytes: far more than any cache holds
LIBRARIES = ("OPENBLAS", "OMP", "MKL")
THREADS = (*(f"{name}_NUM_THREADS" for name in LIBRARIES), "VECLIB_MAXIMUM_THREADS")


def cores() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Processor, system and Python, as far as they can be told without rights."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "processor": name,
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def environment(name: str, threads: int) -> dict[str, str]:
    """An engine's environment: threads; no network; OpenBLAS for MLX where its wheel lacks one.

    On Linux MLX's wheel links the reference BLAS, 40 times slower; engines on MLX get the system's
    OpenBLAS if there is one, by LD_PRELOAD, unless LD_PRELOAD is set. Other engines bring their own
    BLAS and never get one by LD_PRELOAD: torch is five times slower with it.
    """
    env = dict(os.environ)
    env.update({variable: str(threads) for variable in THREADS})
    env.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    here = str(Path(__file__).parents[2])  # this package, wherever it was started from
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [here, env.get("PYTHONPATH")]))
    preload = env.pop("LD_PRELOAD", "").replace(":", " ").split()
    kernels = env.pop("OPENBLAS_CORETYPE", None)
    if "mlx" not in name:
        preload = [library for library in preload if "blas" not in Path(library).name]
    elif sys.platform == "linux":
        if not preload and (library := ctypes.util.find_library("openblas")) is not None:
            preload = [library]
        if kernels := kernels or next(filter(None, map(core_type, preload)), None):
            env["OPENBLAS_CORETYPE"] = kernels
    return env | ({"LD_PRELOAD": ":".join(preload)} if preload else {})


def core_type(library: str) -> str | None:
    """OPENBLAS_CORETYPE for an OpenBLAS that does not know this processor; None if it does.

    One older than the processor takes the kernels of 2004, up to six times slower.
    """
    try:
        corename = ctypes.CDLL(library).openblas_get_corename
    except (OSError, AttributeError):  # not an OpenBLAS
        return None
    corename.restype = ctypes.c_char_p
    if corename() != b"Prescott":
        return None
    flags = Path("/proc/cpuinfo").read_text()
    return "SkylakeX" if "avx512bw" in flags else "Haswell" if "avx2" in flags else None


def bandwidth(threads: int, backend: str = "numpy", size: int = READ, tries: int = 4) -> float:
    """Bytes per second that can be read from memory: the best of several plain ways to read.

    A vector product (what decoding does), sums and maxima, by one and by all threads; with MLX its
    own sum too, which on a GPU is the one that counts.
    """
    x = np.ones(size // 4, dtype=np.float32)
    tall, flat = x.reshape(-1, 1024), x.reshape(1024, -1)
    ways: list[Callable[[], Any]] = [
        lambda: np.dot(x, x),
        lambda: tall[0] @ flat,
        lambda: tall @ tall[0],
        lambda: x.max(),
    ]
    pool = ThreadPoolExecutor(threads)
    parts = np.array_split(x, threads)
    ways += [lambda: list(pool.map(np.max, parts)), lambda: list(pool.map(np.sum, parts))]
    if backend == "mlx":
        import mlx.core as mx

        y = mx.array(x)
        ways += [lambda: mx.eval(y.sum()), lambda: mx.eval(y.max())]
    best = float("inf")
    with pool:
        for _ in range(tries):
            for way in ways:
                began = time.perf_counter()
                way()
                best = min(best, time.perf_counter() - began)
    if backend == "mlx":
        del y, ways[-2:]
        mx.clear_cache()
    return x.nbytes / best
