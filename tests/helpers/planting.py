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

from tinylane.core import decoder, numpy_ops  # noqa: F401 - so that bugs can be planted in it

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Plant:
    """A bug, the law that must catch it, and how it is planted."""

    bug: str
    law: str
    plant: Callable[[Patch], None]
    backend: str = "numpy float64"


def swap(target: str, old: str, new: str) -> Callable[[Patch], None]:
    """Replace `old`, which must occur once in the source of `target`, by `new`."""

    def plant(patch: Patch) -> None:
        module_name, *path = target.split(".")
        if module_name == "files":
            module_name, *path = f"files.{path[0]}", *path[1:]
        else:
            door = "methods" if module_name in ("life", "times", "prefix") else "core"
            door = "checkpoints" if module_name == "side" else door
            module_name = f"{door}.{module_name}"
        module = importlib.import_module("tinylane." + module_name)
        owner: Any = module if len(path) == 1 else getattr(module, path[0])
        source = textwrap.dedent(inspect.getsource(getattr(owner, path[-1])))
        assert source.count(old) == 1, f"{target} has {source.count(old)} times {old!r}"
        source = source.replace("super()", f"super({path[0]}, self)")  # compiled outside its class
        made: dict[str, Any] = {}
        flags = annotations.compiler_flag
        code = compile(source.replace(old, new), f"<{target}>", "exec", flags)
        exec(code, module.__dict__, made)
        put(patch, owner, path[-1], made[path[-1]])

    return plant


def put(patch: Patch, owner: Any, name: str, new: Any) -> None:
    """Set it wherever the package has imported it, and in the tables of operations.

    `tinylane.testing` keeps the old one. A bug in a plain operation is planted in the place of
    NumPy's fast one too (bugs of the fast ones are in `test_numpy_ops.py`).
    """
    old = inspect.getattr_static(owner, name)
    plain = getattr(decoder.PLAIN, name, None) is old
    patch.setattr(owner, name, new)
    for key, module in list(sys.modules.items()):
        if key.startswith("tinylane.") and not key.startswith("tinylane.testing"):
            if module.__dict__.get(name) is old:
                patch.setattr(module, name, new)
            for ops in ("PLAIN", "OPS"):
                table = module.__dict__.get(ops)
                current = getattr(table, name, None)
                replaced = current is old or (plain and key == "tinylane.core.numpy_ops")
                if current is not None and replaced:
                    also = {"linears": decoder.linears} if name == "linear" else {}
                    patch.setattr(module, ops, table._replace(**{name: new}, **also))


def instead(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """Replace a function by `make(the function)`."""
    return lambda patch: put(patch, owner, name, make(getattr(owner, name)))
