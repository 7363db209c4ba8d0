"""How a bug is planted: one piece of the package replaced, for the length of a test."""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tinylane.core import decoder, numpy_ops  # noqa: F401 (blas is planted in: it must have been imported)

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Plant:
    """A bug, who must catch it, and how it is planted."""

    bug: str
    law: str
    plant: Callable[[Patch], None]
    backend: str = "numpy float64"


def swap(target: str, old: str, new: str) -> Callable[[Patch], None]:
    """Replace `old`, which stands once in the source of `target`, by `new`."""

    def plant(patch: Patch) -> None:
        module_name, *path = target.split(".")
        if module_name == "files":
            module_name, *path = f"files.{path[0]}", *path[1:]
        else:
            module_name = f"core.{module_name}"
        module = importlib.import_module("tinylane." + module_name)
        owner: Any = module if len(path) == 1 else getattr(module, path[0])
        source = textwrap.dedent(inspect.getsource(inspect.getattr_static(owner, path[-1])))
        assert source.count(old) == 1, f"{target} has {source.count(old)} times {old!r}"
        made: dict[str, Any] = {}
        flags = annotations.compiler_flag
        code = compile(source.replace(old, new), f"<{target}>", "exec", flags)
        exec(code, module.__dict__, made)
        put(patch, owner, path[-1], made[path[-1]])

    return plant


def put(patch: Patch, owner: Any, name: str, new: Any) -> None:
    """Set it wherever the package has imported it, and in the seams. The tester keeps its own.

    A bug in the text of a seam is planted in the decoder on NumPy, which then runs the text in the
    place of its quicker twin (`tinylane.core.numpy_ops`, whose own bugs are in `test_blas.py`).
    """
    old = inspect.getattr_static(owner, name)
    text = getattr(decoder.PLAIN, name, None) is old
    patch.setattr(owner, name, new)
    for key, module in list(sys.modules.items()):
        if key.startswith("tinylane.") and not key.startswith("tinylane.testing"):
            if module.__dict__.get(name) is old:
                patch.setattr(module, name, new)
            for seams in ("PLAIN", "OPS"):
                table = module.__dict__.get(seams)
                mine = getattr(table, name, None)
                if mine is not None and (
                    mine is old or (text and key == "tinylane.core.numpy_ops")
                ):
                    also = {"linears": decoder.linears} if name == "linear" else {}
                    patch.setattr(module, seams, table._replace(**{name: new}, **also))


def instead(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """Replace a function by `make(the function)`."""
    return lambda patch: put(patch, owner, name, make(getattr(owner, name)))
