"""float32 in MLX on a device that rounds the factors of a product: set where it can be, else said.

No such device was at hand: a product that rounds stands in for one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinylane.checkpoints.load import exact_products
from tinylane.commands import common
from tinylane.commands.cli import main
from tinylane.testing import LawViolation, Report, example_case

mx = pytest.importorskip("mlx.core")
LINE = "float32 products are rounded to 10 bits here (TF32)"


def rounded(a: Any, b: Any) -> Any:
    """The product of factors with 10 bits behind the first."""
    cut = lambda x: mx.array((np.array(x).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32))
    return cut(a) @ cut(b)


def test_on_this_device_a_product_is_exact() -> None:
    assert exact_products() is None


def test_a_device_that_rounds_is_found_by_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "matmul", rounded)
    line = exact_products()
    assert line is not None and line.startswith(LINE) and "\n" not in line
    assert "MLX_ENABLE_TF32=0" in line


@pytest.mark.parametrize("before, after", [(None, "0"), ("1", "1"), ("0", "0")])
@pytest.mark.parametrize(
    "what",
    ["from tinylane.checkpoints.load import exact_products; exact_products()",
     "import tinylane.testing",
     "from tinylane.commands.cli import main; main(['verify', '--backend', 'mlx', '--samples', '1',"
     " '--quiet'])"],
    ids=["the function", "the laws", "verify"],
)  # fmt: skip
def test_the_variable_is_set_where_it_was_not(what: str, before: str | None, after: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "MLX_ENABLE_TF32"}
    env |= {} if before is None else {"MLX_ENABLE_TF32": before}
    code = f"import os\n{what}\nprint('is', os.environ['MLX_ENABLE_TF32'])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"is {after}", done.stderr


def test_a_violation_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    report, sample = Report("steps", 1.0, 0.5, 3, 1), example_case(0).sample
    assert LINE not in str(LawViolation(report, sample, "more"))
    monkeypatch.setattr(mx, "matmul", rounded)
    text = str(LawViolation(report, sample, "more"))
    assert f"; more; {LINE}" in text


def test_verify_and_replay_say_so_in_one_line(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = str(tmp_path / "run.json")
    assert main(["generate", "--max-tokens", "3", "--save", saved, "--quiet"]) == 0
    monkeypatch.setattr(mx, "matmul", rounded)
    for command in (["verify", "--samples", "1"], ["replay", saved]):
        for backend, lines in (("mlx", 1), ("numpy", 0)):
            capsys.readouterr()
            assert main([*command, "--backend", backend]) == 0
            assert capsys.readouterr().err.count(LINE) == lines


def test_nothing_is_said_quietly(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(mx, "matmul", rounded)
    common.exact_products(SimpleNamespace(backend="mlx", quiet=True))
    common.exact_products(SimpleNamespace(backend="mlx"))
    assert capsys.readouterr().err.count(LINE) == 1
