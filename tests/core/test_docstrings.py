"""The examples in docstrings give what they show (doctest), in every module of the package."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FILES = [f for f in (ROOT / "tinylane").rglob("*.py") if ">>> " in f.read_text(encoding="utf-8")]
MODULES = sorted(".".join(file.relative_to(ROOT).with_suffix("").parts) for file in FILES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name: str) -> None:
    """With the module's own names and NumPy's as `np`; whatever numbers print, to three digits."""
    module = importlib.import_module(name.removesuffix(".__init__"))
    with np.printoptions(precision=3, suppress=True):
        failed, tried = doctest.testmod(module, extraglobs={"np": np})
    assert tried and not failed


@pytest.mark.parametrize("name", ["rope", "lanes", "decoding"])
def test_the_files_that_one_studies_have_examples(name: str) -> None:
    """Angles of two positions, a mask of three lanes, one step of a decoding."""
    assert f"tinylane.core.{name}" in MODULES
