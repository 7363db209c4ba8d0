"""The tolerance of GitHub's virtual Macs, on products that are exact, rounded and wrong."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers_virtual_mac import is_virtual, times_worse, widen, widened

from tinylane.testing.tolerances import TOLERANCES, tolerance


def test_a_product_as_exact_as_numpys_widens_nothing() -> None:
    assert times_worse(lambda a, b: a @ b) == 1.0
    assert times_worse(lambda a, b: a.astype(np.float64) @ b) == 1.0


def test_a_rounded_product_is_measured_and_the_tolerance_widened_by_as_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Factors of 11 bits, as TF32 has them."""
    cut = lambda x: (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    worse = times_worse(lambda a, b: cut(a) @ cut(b))
    assert 100 < worse < 1e5
    monkeypatch.setitem(TOLERANCES, "float32", TOLERANCES["float32"])
    before = tolerance("float32", 1.0)
    said = widened("Apple Paravirtual device", 8.0)
    assert tolerance("float32", 1.0) == pytest.approx(8 * before)
    assert said.startswith("Apple Paravirtual device: ") and said.endswith("tolerance x 8.0")


def test_no_other_device_counts() -> None:
    assert is_virtual("Apple Paravirtual device")
    assert not is_virtual("Apple M4 Max") and not is_virtual("NVIDIA H100")
    if sys.platform != "darwin":
        assert widen() is None
