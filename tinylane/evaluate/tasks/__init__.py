"""Tasks: problems with a prompt and an answer that can be checked.

`tasks/task.py` says what a task is. Each kind is one file with a function
`task(options, model) -> Task`; a new one is such a file and a line in `KINDS`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError, show

if TYPE_CHECKING:
    from tinylane.evaluate.tasks.task import Options, Task

# name on the command line -> the module that makes it, and the fields of `Options` that it reads
FILE = ("data", "question_field", "answer_field", "template", "compare", "answer_pattern")
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "shell-game": ("tinylane.evaluate.tasks.shell_game_task", ("cups", "swaps")),
    "gsm8k": ("tinylane.evaluate.tasks.gsm8k", FILE),
    "jsonl": ("tinylane.evaluate.tasks.jsonl", FILE),
    "frontier": ("tinylane.evaluate.tasks.frontier_task", ("nodes", "edges", "depth")),
    "sums": ("tinylane.evaluate.tasks.sums", ("numbers",)),
    "naming": ("tinylane.evaluate.tasks.naming", ("kinds", "order", "share")),
}


def make(name: str, options: Options, model: Any = None) -> Task:
    """The task called `name`. model: who will be asked; it decides the size of the shell game.

    Raises TinylaneError for an unknown name, an option that this task does not use, and what the
    task itself refuses.
    """
    if name not in KINDS:
        raise TinylaneError(f"task {show(name, 60)}; expected {', '.join(KINDS)}")
    module, reads = KINDS[name]
    for field in options.__dataclass_fields__:
        if field not in reads and getattr(options, field) is not None:
            flags = [f"--{word.replace('_', '-')}" for word in (field, *reads)]
            raise TinylaneError(f"{name} does not use {flags[0]}; it uses {', '.join(flags[1:])}")
    return import_module(module).task(options, model)
