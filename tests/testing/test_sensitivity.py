"""The tolerance of a large model, by its measured sensitivity to rounding."""

from __future__ import annotations

from typing import Any

import pytest

from tinylane.core.config import ModelConfig
from tinylane.core.model import Model
from tinylane.core.rope import RopeConfig
from tinylane.testing import verification
from tinylane.testing.samples import random_weights
from tinylane.testing.tolerances import TOLERANCES, at_sensitivity, tolerance


def deep(layers: int, width: int, wild: bool, dtype: str, backend: str = "numpy") -> Model:
    """A random decoder of Qwen3's shape; wild: nothing damped, sharp attention."""
    config = ModelConfig(
        family="qwen3",
        vocab=500,
        width=width,
        layers=layers,
        heads=width // 64,
        kv_heads=width // 128,
        head_dim=64,
        mlp_width=3 * width,
        context=40960,
        norm_eps=1e-6,
        rope=RopeConfig(base=1e6),
        tied=True,
        qk_norm=True,
        eos_ids=(1,),
    )
    params: dict[str, Any] = random_weights(config, 0)
    for name, w in params.items():
        if wild and ("o_proj" in name or "down_proj" in name):
            w *= (2 * layers) ** 0.5
        if wild and ("q_norm" in name or "k_norm" in name):
            w *= 3
    if backend == "numpy":
        params = {name: w.astype(dtype) for name, w in params.items()}
    else:
        import mlx.core as mx

        params = {name: mx.array(w).astype(getattr(mx, dtype)) for name, w in params.items()}
    return Model(config, params, backend, dtype)


@pytest.mark.parametrize(
    "layers, width, wild, how",
    [
        (4, 512, False, "numpy float32"),
        (4, 256, False, "numpy float64"),
        (4, 256, False, "mlx bfloat16"),
        (28, 128, False, "numpy float32"),
        (28, 128, True, "numpy float32"),
    ],
)
def test_the_tolerance_fits_deep_and_wide_and_wild_models(layers, width, wild, how):
    """A fixed multiple of eps accuses the wild one, whose errors are hundreds of times larger."""
    backend, dtype = how.split()
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    loaded = deep(layers, width, wild, dtype, backend)
    run = verification.verify(loaded, verification.samples_for(loaded, 3, 1))
    used = {f.law: f.worst / f.allowed for f in run.findings if f.allowed}
    assert all(f.holds for f in run.findings), used
    assert max(used.values()) < 0.6 and not run.blurred
    assert (run.sensitivity > 60) == wild, run.sensitivity


def test_the_sensitivity_holds_within_its_block_only():
    before = tolerance("float32", 2.0)
    with at_sensitivity(10.0):
        assert tolerance("float32", 2.0) == TOLERANCES["float32"].k * 10 * 2 * 2.0**-23
        with at_sensitivity(0.0):  # at least 1
            assert tolerance("float32", 1.0) == TOLERANCES["float32"].k * 2.0**-23
    assert tolerance("float32", 2.0) == before
