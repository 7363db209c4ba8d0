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

from tinylane.learn.checking import Exercise, Verdict, check, exercises
from tinylane.learn.encoding import with_turn
from tinylane.learn.figures import block, seeds, turned_vector, written

__all__ = [
    "Exercise",
    "Verdict",
    "block",
    "check",
    "exercises",
    "seeds",
    "turned_vector",
    "with_turn",
    "written",
]
