"""`tinylane.hf` where torch is not installed: one line that says what to do."""

from __future__ import annotations

import importlib.util
import sys

import pytest

import tinylane
from tinylane.core.errors import TinylaneError


def test_without_torch_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed it is hidden."""
    find = importlib.util.find_spec
    hidden = lambda name, *more: None if name == "torch" else find(name, *more)
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    monkeypatch.delitem(vars(tinylane), "hf", raising=False)
    for name in [name for name in sys.modules if name.startswith("tinylane.hf")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(TinylaneError, match=r'^tinylane.hf needs torch .*"tinylane\[hf\]"$'):
        getattr(tinylane, "hf")  # noqa: B009 - the name is found when it is asked for
