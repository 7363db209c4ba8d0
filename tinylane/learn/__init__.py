"""Exercises of the tutorials, checked: `check("05.1", my_sees)` says right, or where it is wrong.

A check draws inputs with Hypothesis, from the strategies that tinylane's own tests use, compares
the answer with the definition or a law of `tinylane.testing`, and makes a counterexample small.
Needs `pip install 'tinylane[learn]'`.

    checking     Exercise, Verdict, and the search for the smallest counterexample
    numbers      exercises of pages 1 to 4: attention, RoPE, a block, the cache
    lanes        exercises of pages 5 to 8: masks, LaneRoPE, the shell game, laws
    practice     exercises of pages 9 to 11: files, a loss, intervals
    encoding     a decoder that turns queries and keys by a function of yours
    figures      pictures that only the tutorials need
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinylane.learn.checking import Exercise as Exercise
    from tinylane.learn.checking import Verdict as Verdict
    from tinylane.learn.checking import check as check
    from tinylane.learn.checking import exercises as exercises
    from tinylane.learn.encoding import with_turn as with_turn
    from tinylane.learn.figures import block as block
    from tinylane.learn.figures import seeds as seeds
    from tinylane.learn.figures import turned_vector as turned_vector
    from tinylane.learn.figures import written as written

_MODULES = {
    "check": "checking",
    "exercises": "checking",
    "Exercise": "checking",
    "Verdict": "checking",
    "with_turn": "encoding",
    "block": "figures",
    "seeds": "figures",
    "turned_vector": "figures",
    "written": "figures",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"tinylane.learn.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'tinylane.learn' has no attribute {name!r}")
