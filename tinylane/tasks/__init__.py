"""Tasks: problems with a prompt, an answer that can be checked, and a way to share the work.

`task` says what a task is. Each kind is one file with a function `task(options, model) -> Task`;
a new one is such a file and a line in `KINDS`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinylane.errors import TinylaneError

if TYPE_CHECKING:
    from tinylane.tasks.task import Options, Task

# name on the command line -> the module that makes it
KINDS = {
    "shell-game": "tinylane.tasks.shell_game_task",
    "gsm8k": "tinylane.tasks.gsm8k",
    "jsonl": "tinylane.tasks.jsonl",
}


def make(name: str, options: Options, model: Any = None) -> Task:
    """The task called `name`. model: what it will be asked of (the shell game's size is its).

    Raises TinylaneError for an unknown name and for what the task itself refuses.
    """
    if name not in KINDS:
        raise TinylaneError(f"task {name[:60]!r}; expected {', '.join(KINDS)}")
    return import_module(KINDS[name]).task(options, model)
