"""`tinylane doctor`: what is here, what is missing, and what is broken."""

from __future__ import annotations

import ctypes.util
import json
import sys
from typing import Any

import numpy as np
import pytest

import tinylane
from tinylane.commands import bench_machine, common, doctor
from tinylane.commands.cli import main


@pytest.fixture
def examined(capsys: pytest.CaptureFixture[str]) -> Any:
    """What it says as JSON, and as text."""

    def run() -> tuple[dict[str, Any], str]:
        assert main(["doctor", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert main(["doctor"]) == 0
        return found, capsys.readouterr().out

    return run


def test_it_says_what_is_here_and_what_to_install(
    monkeypatch: pytest.MonkeyPatch, examined: Any
) -> None:
    found, _ = examined()
    assert found["packages"]["numpy"] == np.__version__ and found["backend"] in ("numpy", "mlx")
    assert found["tinylane"] == tinylane.__version__ and found["memory"] > 1 << 20
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "scipy" else "9.9")
    _, said = examined()
    assert "math-verify 9.9" in said and 'pip install "tinylane[eval]"' in said
    assert 'pip install "tinylane[plot]"' not in said
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "rich" else "9.9")
    assert 'for everything: pip install "tinylane"\n' in examined()[1]


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert doctor._version("no-such-package-anywhere") is None
    assert doctor._version("numpy") == np.__version__


def test_without_mlx_it_says_nothing_of_its_device(
    monkeypatch: pytest.MonkeyPatch, examined: Any
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    found, said = examined()
    assert found["device"] is None and "MLX runs on" not in said


def test_an_mlx_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch, examined: Any) -> None:
    """Such as a wheel for another system: the rest is told all the same."""
    monkeypatch.setattr(doctor, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    monkeypatch.setattr("tinylane.checkpoints.load.choose_backend", lambda name: "numpy")
    found, said = examined()
    (note,) = found["notes"]
    assert note.startswith("MLX is installed but does not load: ") and f"note: {note}\n" in said
    assert found["device"] is None and found["packages"]["numpy"]


def test_a_gpu_s_memory_and_rounded_products_are_told(
    monkeypatch: pytest.MonkeyPatch, examined: Any
) -> None:
    pytest.importorskip("mlx.core", exc_type=ImportError)
    monkeypatch.setattr(doctor, "gpu_memory", lambda: 3 << 30)
    monkeypatch.setattr("tinylane.checkpoints.load.exact_products", lambda: "rounded")
    found, said = examined()
    assert found["gpu_memory"] == 3 << 30 and ", 3.0 GiB for it\n" in said
    assert found["notes"][0] == "rounded"


def test_on_linux_it_says_how_mlx_becomes_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenBLAS, and kernels where it is older than the processor."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    (missing,) = doctor._openblas_notes()
    assert missing.endswith("without OpenBLAS: install OpenBLAS and preload it")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so.0")
    monkeypatch.setattr(bench_machine, "core_type", lambda library: "Haswell")
    preload, kernels = doctor._openblas_notes()
    assert preload.endswith("set LD_PRELOAD=libopenblas.so.0")
    assert kernels.endswith("set OPENBLAS_CORETYPE=Haswell")
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libopenblas.so.0")
    assert doctor._openblas_notes() == [kernels]
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert doctor._openblas_notes() == []


def test_a_broken_installation_is_a_note(monkeypatch: pytest.MonkeyPatch, examined: Any) -> None:
    def broken() -> Any:
        raise OSError("the model inside is not there")

    monkeypatch.setattr(common, "embedded", broken)
    found, said = examined()
    assert (
        found["notes"][-1] == "the model inside is not there" and "note: the model inside" in said
    )
