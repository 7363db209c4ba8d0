"""How much memory a run will take, computed before anything is loaded, and how much is available.

Counted: weights in their final type, keys and values of the prompt (cached once for all lanes) and
of what the lanes will write, as far as the context goes. Not counted: activations of a pass, spare
rows of growing buffers, Python and its libraries.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.core.config import ModelConfig
from tinylane.core.errors import TinylaneError, whole
from tinylane.core.lanes import MAX_LANES
from tinylane.files.io import LARGEST

if TYPE_CHECKING:
    from tinylane.core.model import Model

ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Forecast:
    """Bytes. available: None where the system does not say. gpu: what a GPU may take of it."""

    weights: int
    prompt_kv: int
    lane_kv: int
    kv_per_token: int
    lanes: int
    prompt_tokens: int
    max_tokens: int
    available: int | None
    gpu: int | None = None

    @property
    def total(self) -> int:
        return self.weights + self.prompt_kv + self.lane_kv

    @property
    def fits(self) -> bool:
        return self.available is None or self.total <= self.available

    def check(self, name: str = "this model") -> None:
        """Raise TinylaneError with the figures when it cannot fit in the available memory."""
        if not self.fits:
            have = size(self.available or 0)
            whose = " to the GPU" if self.gpu == self.available else ""
            raise TinylaneError(
                f"{name} needs {size(self.total)} ({size(self.weights)} weights, "
                f"{size(self.prompt_kv)} for {self.prompt_tokens:,} prompt tokens, "
                f"{size(self.lane_kv)} for {self.lanes:,} lanes of {self.max_tokens:,}) and "
                f"{have} are available{whose}: fewer lanes or tokens, or a smaller "
                "or quantized model"
            )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "total": self.total, "fits": self.fits}


def size(count: int) -> str:
    """Bytes as a person reads them: 512 B, 1.5 MiB, 2.2 GiB."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def forecast(
    config: ModelConfig,
    dtype: str = "float32",
    lanes: int = 1,
    prompt_tokens: int = 0,
    max_tokens: int = 0,
    weights: int | None = None,
    backend: str = "numpy",
    lace: int = 0,
) -> Forecast:
    """The forecast of one run. weights: bytes, if known better than the dense count in `dtype`.
    lace: as `lace_channels` counts them.

    A lane never holds more tokens than the context behind the prompt, whatever max_tokens is.
    Raises TinylaneError for a dtype or counts that no run can have.
    """
    if dtype not in ITEMSIZE:
        raise TinylaneError(f"dtype {dtype!r}; expected one of {', '.join(ITEMSIZE)}")
    lanes = whole("lanes", lanes, 1, MAX_LANES)
    prompt_tokens = whole("prompt_tokens", prompt_tokens, 0, LARGEST)
    max_tokens = whole("max_tokens", max_tokens, 0, LARGEST)
    max_tokens = min(max_tokens, max(config.context - prompt_tokens, 0))
    if weights is None:
        weights = sum(math.prod(shape) for shape in config.tensors().values()) * ITEMSIZE[dtype]
    have, gpu = available_memory(), gpu_memory() if backend == "mlx" else None
    if gpu is not None:
        have = gpu if have is None else min(have, gpu)
    channels = config.layers * config.kv_heads * config.head_dim + lace
    per_token = 2 * channels * ITEMSIZE[dtype]
    return Forecast(
        weights=weights,
        prompt_kv=per_token * prompt_tokens,
        lane_kv=per_token * lanes * max_tokens,
        kv_per_token=per_token,
        lanes=lanes,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        available=have,
        gpu=gpu,
    )


def forecast_rows(
    model: Model, lanes: int = 1, prompt_tokens: int = 0, max_tokens: int = 0
) -> Forecast:
    """What a run of a loaded model will take more: `forecast` without its weights."""
    how = (lanes, prompt_tokens, max_tokens, 0)
    return forecast(model.config, model.dtype, *how, lace=lace_channels(model.params))


def lace_channels(params: Mapping[str, Any]) -> int:
    """The channels of a row's keys that LACE caches beside the layers'. params: arrays, or their
    shapes, by name."""
    channels = 0
    for name, w in params.items():
        if name.endswith(".lace.k_proj.weight"):
            channels += int(getattr(w, "shape", w)[0])
    return channels


def available_memory() -> int | None:
    """Bytes this process may still take: the least of the machine's and its control group's."""
    machine, group = _machine(), _control_group()
    if machine is None or group is None:
        return group if machine is None else machine
    return min(machine, group)


def gpu_memory() -> int | None:
    """Bytes that MLX's GPU may still take; None without one, and where MLX does not say.

    On a Mac the GPU may use two thirds to three quarters of all memory. Beyond that it gets slow.
    """
    import mlx.core as mx

    most = _working_set()
    return None if most is None else max(0, most - mx.get_active_memory())


def _working_set() -> int | None:
    """What macOS recommends that MLX's GPU takes; None on other systems and devices."""
    import mlx.core as mx

    if mx.default_device().type != mx.DeviceType.gpu:
        return None
    most = mx.device_info().get("max_recommended_working_set_size")
    return None if most is None else int(most)


def wire(gib: float) -> None:
    """Let MLX keep up to `gib` GiB where macOS cannot page them out; 0: what is recommended.

    Wiring more than that takes a Mac down. Raises TinylaneError where there is nothing to wire.
    """
    import mlx.core as mx

    most = _working_set()
    if most is None:
        raise TinylaneError("--wired-limit: for MLX on a Mac's GPU only; leave it out")
    wanted = int(gib * 2**30) or most
    if not 0 < wanted <= most:
        raise TinylaneError(
            f"--wired-limit is {gib:g} GiB; this Mac's GPU may use {size(most)}: give less"
        )
    mx.set_wired_limit(wanted)


def _machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:  # macOS: all of it, since most of what is in use can be freed
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _control_group(root: str = "/sys/fs/cgroup") -> int | None:
    """A container's limit minus what it uses and cannot free (names of version 2, then 1)."""
    for folder, limit, used in (
        (Path(root), "memory.max", "memory.current"),
        (Path(root) / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most = int((folder / limit).read_text())  # "max" where there is none
            now = int((folder / used).read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
            stat = dict(line.split()[:2] for line in lines if " " in line)
            cached = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
        except (OSError, ValueError):
            continue
        return max(0, most - max(0, now - cached))
    return None


def reset_peak() -> None:
    """Begin a new peak, where the system can (Linux); elsewhere it is the process's peak so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory(which: str = "VmHWM") -> int | None:
    """Bytes of memory this process holds (VmRSS) or held at most (VmHWM), None if unknown."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(which + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
