"""The laws on arrays of other libraries: what a user's PyTorch, JAX or MLX model returns.

PyTorch and JAX need not be here: `Tensor` is as unwilling as a tensor of theirs. Where PyTorch is
(the parity job of CI), the same is asked of real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from planting import Patch

from tinylane.core.errors import TinylaneError
from tinylane.testing import (
    LAWS,
    LawViolation,
    additions,
    assert_backends,
    assert_token_shift,
    check,
    checks,
    example_case,
    segment_checks,
    subjects,
)
from tinylane.testing.laws import numbers


class Tensor:
    """Like a PyTorch tensor with a gradient, on a GPU, in bfloat16: NumPy may not have it."""

    dtype = "torch.bfloat16"

    def __init__(self, values: Any, attached: bool = True, there: bool = True) -> None:
        self.values, self.attached, self.there = np.asarray(values), attached, there

    def detach(self) -> Tensor:
        return Tensor(self.values, False, self.there)

    def cpu(self) -> Tensor:
        return Tensor(self.values, self.attached, False)

    def double(self) -> np.ndarray:
        if self.attached or self.there:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad, or is on a GPU")
        return self.values.astype(np.float64)

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("Got unsupported ScalarType BFloat16")


def torch_tensor(values: Any) -> Any:
    torch = pytest.importorskip("torch")
    return torch.tensor(np.asarray(values), requires_grad=True)


def mlx_array(values: Any) -> Any:
    return pytest.importorskip("mlx.core").array(np.asarray(values, dtype=np.float32))


@pytest.mark.parametrize("library", [Tensor, torch_tensor, mlx_array], ids=lambda f: f.__name__)
@pytest.mark.parametrize("law", [law for law in LAWS if law != "blocks merge"])  # test_merge.py
def test_every_law_takes_what_another_library_returns(
    law: str, library: Callable[[Any], Any], monkeypatch: Patch
) -> None:
    """The callable, the cached one and the unmodified model give foreign arrays."""
    made = 0

    def foreign(f: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            made += 1
            return library(f(*args, **kwargs))

        return run

    def bound(model: Any, sample: Any) -> Any:
        return foreign(partial(model, lane_rope=sample.rope, lane_mask=sample.mask))

    plain = subjects.plain
    for module in (checks, segment_checks, additions):
        monkeypatch.setattr(module, "bound", bound)
        monkeypatch.setattr(module, "plain", lambda model: foreign(plain(model)))
    compared = 0
    for seed in range(6):
        case = example_case(seed)
        report = check(law, case.model("numpy", "float32"), case.sample, case.choose)
        assert report.law == law and report.worst <= report.allowed
        compared += report.compared
    assert compared > 6 and made >= 4


def test_bfloat16_of_mlx_is_exact_in_float64() -> None:
    mx = pytest.importorskip("mlx.core")
    values = mx.array([[1.0, -2.5, 3.0078125]]).astype(mx.bfloat16)
    got = numbers(values)
    assert got.dtype == np.float64 and got.tolist() == [[1.0, -2.5, 3.0]]


def test_a_wrong_model_of_another_library_is_caught() -> None:
    case = example_case(2)
    model, sample = case.model(), case.sample

    def leaking(tokens: Any, positions: Any, lanes: Any) -> Any:
        logits = model(tokens, positions, lanes, sample.rope, sample.mask)
        return Tensor(logits + 1e-6 * positions[:, None])

    with pytest.raises(LawViolation, match=r"token shift: row \d differs by 5e-06"):
        assert_token_shift(leaking, sample, 5)


@pytest.mark.parametrize("shape", [(1, 6, 11), (66,), (5, 11)])
def test_logits_of_another_shape_are_refused_and_the_shape_is_named(shape: tuple[int, ...]) -> None:
    """A batch dimension, as transformers returns, was an AssertionError of two tuples."""
    case = example_case(2)
    rows = len(case.sample.tokens)
    exact = lambda *rows: np.zeros((len(rows[0]), 11))
    given = tuple(rows if n == 6 else n for n in shape)
    with pytest.raises(TinylaneError, match=r"expected \(T, V\), a row for every token"):
        assert_backends({"mine float32": lambda *_: np.zeros(given)}, exact, case.sample)
