"""Tasks: problems with a prompt, an answer that can be checked, and a way to share the work.

`task` says what a task is. Each kind is one file with a function `task(options, model) -> Task`;
a new one is such a file and a line in `KINDS`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError, show

if TYPE_CHECKING:
    from tinylane.evaluate.tasks.task import Options, Task

# name on the command line -> the module that makes it, and the fields of `Options` that it reads
FILE = ("data", "question", "answer", "template", "compare", "pattern")
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "shell-game": ("tinylane.evaluate.tasks.shell_game_task", ("cups", "swaps")),
    "gsm8k": ("tinylane.evaluate.tasks.gsm8k", FILE),
    "jsonl": ("tinylane.evaluate.tasks.jsonl", FILE),
}


def make(name: str, options: Options, model: Any = None) -> Task:
    """The task called `name`. model: what it will be asked of (the shell game's size is its).

    Raises TinylaneError for an unknown name, an option that this task does not read, and what the
    task itself refuses.
    """
    if name not in KINDS:
        raise TinylaneError(f"task {name[:60]!r}; expected {', '.join(KINDS)}")
    module, reads = KINDS[name]
    for field in options.__dataclass_fields__:
        if field not in reads and getattr(options, field) is not None:
            raise TinylaneError(
                f"{field} {show(getattr(options, field), 40)} says nothing to {name}, which reads "
                f"{', '.join(reads)}"
            )
    return import_module(module).task(options, model)
