"""What several commands do: load the model, print notes and JSON, check numbers, tell memory."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.view.run_file import Run


def embedded() -> Path:
    """The folder of the trained model that comes with the package (a wheel's, or a checkout's)."""
    package = Path(__file__).parent.parent
    for parent in (package / "_weights", package.parent / "weights"):
        if (parent / "shell-game" / "config.json").is_file():
            return parent / "shell-game"
    raise TinylaneError(
        "the model inside is missing (weights/shell-game); give --model, or make it: "
        "tinylane train shell-game --out weights/shell-game"
    )


def source(args: Any) -> Any:
    """The folder or hub id that the flags name, or the folder of the model inside."""
    return args.model if args.model is not None else embedded()


def silence_panics() -> None:
    """Keep the traces that the tokenizers library prints on stderr out of the error's one line."""
    from tinylane.checkpoints import tokenizer

    tokenizer.SILENT_PANICS = True


def load(args: Any, **planned: Any) -> Model:
    """The model that the flags name, or the one inside.

    planned: `lanes`, `prompt_tokens` and `max_tokens` as `tinylane.load` takes them.
    """
    from tinylane.checkpoints.load import load as load_checkpoint

    silence_panics()
    return load_checkpoint(
        source(args),
        backend=args.backend,
        dtype=args.dtype,
        adapter=args.adapter_path,
        revision=args.revision,
        ops=args.ops,
        **planned,
    )


def load_saved(args: Any, run: Run) -> Model:
    """The model that the flags name, or the one that a saved run was written by."""
    text = lambda name: run.extra[name] if isinstance(run.extra.get(name), str) else None
    if args.model is None:
        args.model = run.model_source or None
        args.revision = args.revision or text("revision")
    args.adapter_path = args.adapter_path or text("adapter_path")
    return load(args)


def name_of(args: Any) -> str:
    """What to call the model."""
    if args.model is None:
        return "the model inside"
    from tinylane.files.display import printable

    return printable(str(args.model))


def say(text: str, **where: Any) -> None:
    """Print text; control characters in it are shown as escapes, not sent to the terminal."""
    from tinylane.files.display import printable

    print(printable(text), **where)


def note(text: str, quiet: bool = False) -> None:
    """Print a line about the run on stderr: stdout is for the results."""
    if not quiet:
        say(f"tinylane: note: {text}", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print one JSON document. ASCII, so that no control character of a text is printed."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """`value` with the numbers that JSON lacks as text: "-inf"."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def print_table(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[int],
    plain: bool,
    bad: Sequence[int] = (),
) -> None:
    """Print a table: plain columns, or with rules for a terminal. Nothing where it has no rows.

    left: which columns are aligned to the left. bad: which rows are red, on a terminal.
    """
    if not rows:
        return
    if plain:
        if title:
            say(title)
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            cells = [
                cell.ljust(width) if k in left else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            print("  ".join(cells).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tinylane.files.display import printable

    shown = Table(title=Text(printable(title)) if title else None, title_justify="left")
    for k, name in enumerate(head):
        shown.add_column(name, justify="left" if k in left else "right")
    for k, row in enumerate(rows):
        shown.add_row(*map(Text, row), style="bold red" if k in bad else None)
    Console(highlight=False, markup=False, emoji=False).print(shown)


def check_least(args: Any, least: int, *names: str) -> None:
    """Raise TinylaneError where a flag of these names was given a number below `least`."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < least:
            flag = name.replace("_", "-")
            raise TinylaneError(f"--{flag} is {value}; expected {least} or more")


def check_target(flag: str, name: str) -> Path:
    """The path of a file that a flag names. Raises TinylaneError unless it can be written.

    Called before anything is computed, so that no result is lost.
    """
    import os

    path = Path(name)
    if path.is_dir():
        raise TinylaneError(f"{flag} {name}: is a folder; expected a file to write")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise TinylaneError(f"{flag} {name}: no folder {path.parent} that can be written to")
    return path


def peak_memory(backend: str) -> int | None:
    """The most bytes of memory that this process held; None where the system does not say.

    With MLX the larger of that and what MLX allocated: on a GPU the process does not show it.
    """
    from tinylane.files.memory import memory

    peak = memory()
    if backend == "mlx" and peak is not None:
        import mlx.core as mx

        peak = max(peak, mx.get_peak_memory())
    return peak


def mebibytes(count: int | None) -> str:
    """1536 * 2**20 -> "1.5 GiB"."""
    if count is None:
        return "unknown"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
