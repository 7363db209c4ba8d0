"""`tinylane doctor`: what is installed here, which backend and device run, and what is missing."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np

from tinylane.commands import bench_machine, common
from tinylane.core import __version__
from tinylane.files.memory import available_memory, gpu_memory

# An extra, what it is for, the distributions that it brings; "": what tinylane cannot be without.
EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "": ("", ("numpy", "tokenizers", "huggingface_hub", "jinja2", "rich", "filelock")),
    "mlx": ("a Mac's GPU, and training", ("mlx",)),
    "eval": ("judging mathematics, intervals", ("scipy", "math-verify", "sympy")),
    "plot": ("figures", ("matplotlib",)),
    "serve": ("serve, chat and play", ("starlette", "uvicorn", "prompt_toolkit")),
    "hf": ("lanes for any model of transformers", ("torch", "transformers")),
}


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    facts = examine()
    if args.json:
        common.print_json(facts)
        return 0
    machine = facts["machine"]
    rows = [
        ("tinylane", f"{__version__}, {facts['folder']}"),
        ("Python", f"{machine['python']}, {sys.executable}"),
        ("machine", f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"),
        ("memory", f"{common.mebibytes(facts['memory'])} available"),
        ("NumPy", f"products by {facts['blas']}"),
        ("backend", facts["backend"]),
    ]
    if facts["device"] is not None:
        gpu = facts["gpu_memory"]
        room = f", {common.mebibytes(gpu)} for it" if gpu is not None else ""
        rows.append(("MLX runs on", f"{facts['device']}{room}"))
    for name, value in rows:
        common.say(f"{name:<12} {value}")
    print()
    for extra, (says, names) in EXTRAS.items():
        have = facts["packages"]
        listed = ", ".join(f"{n} {have[n] or '-'}" for n in names)
        title = extra or "needed"
        whole = all(have[n] for n in names)
        hint = "" if whole else f'   for {says or "everything"}: pip install "tinylane[{extra}]"'
        common.say(f"{title:<12} {listed}{hint.replace('[]', '')}")
    for line in facts["notes"]:
        common.say(f"note: {line}")
    return 0


def examine() -> dict[str, Any]:
    """What `tinylane doctor` says, as plain JSON values."""
    from tinylane.checkpoints.load import choose_backend, exact_products

    notes, device, gpu = [], None, None
    if find_spec("mlx") is not None:
        try:
            import mlx.core as mx

            device = "the GPU" if mx.default_device().type == mx.DeviceType.gpu else "the CPU"
            gpu = gpu_memory()
            if line := exact_products():
                notes.append(line)
            if sys.platform == "linux" and device == "the CPU":
                notes += _openblas_notes()
        except Exception as error:  # a wheel for another system, a GPU that does not answer
            notes.append(f"MLX is installed but does not load: {error}")
    try:
        common.embedded()
    except Exception as error:  # a broken installation is what a doctor is for
        notes.append(str(error))
    return {
        "tinylane": __version__,
        "folder": os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        "machine": bench_machine.describe(),
        "memory": available_memory(),
        "blas": _blas(),
        "backend": choose_backend("auto"),
        "device": device,
        "gpu_memory": gpu,
        "packages": {n: _version(n) for _, names in EXTRAS.values() for n in names},
        "notes": notes,
    }


def _openblas_notes() -> list[str]:
    """What to set so that MLX multiplies quickly on Linux."""
    good, notes = bench_machine.environment("mlx", 1), []
    if "blas" not in os.environ.get("LD_PRELOAD", ""):
        library = good.get("LD_PRELOAD")
        do = f"set LD_PRELOAD={library}" if library else "install OpenBLAS and preload it"
        notes.append(f"MLX's products are slow on Linux without OpenBLAS: {do}")
    kernels = good.get("OPENBLAS_CORETYPE")
    if kernels and kernels != os.environ.get("OPENBLAS_CORETYPE"):
        notes.append(f"this OpenBLAS does not know the processor: set OPENBLAS_CORETYPE={kernels}")
    return notes


def _version(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _blas() -> str:
    """The library that NumPy multiplies matrices by."""
    built: Any = getattr(np.__config__, "CONFIG", {})
    blas = built.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'an unknown library')} {blas.get('version', '')}".strip()
