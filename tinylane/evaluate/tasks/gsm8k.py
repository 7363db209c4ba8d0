"""GSM8K in its own JSON Lines: the answer field is a worked solution that ends in `#### answer`.

    {"question": "...", "answer": "She makes 9 * 2 = $<<9*2=18>>18 a day.\\n#### 18"}

Source: Cobbe et al. 2021 (arXiv:2110.14168). The data is not part of tinylane: give `--data FILE`.
"""

from __future__ import annotations

from typing import Any

from tinylane.core.errors import TinylaneError, show
from tinylane.evaluate.spelling import normalise
from tinylane.evaluate.tasks.jsonl import of_file
from tinylane.evaluate.tasks.task import Options, Task


def task(options: Options, model: Any = None) -> Task:
    """The problems of `options.data`, in file order. Raises TinylaneError where it is not given."""
    return of_file("gsm8k", options, truth=final)


def final(solution: str, where: str = "answer") -> str:
    """What stands after the last `####`. Raises TinylaneError where nothing does."""
    _, mark, answer = solution.rpartition("####")
    if not mark or not normalise(answer):
        raise TinylaneError(f"{where}: no '#### answer' at the end of {show(solution, 60)}")
    return normalise(answer)
