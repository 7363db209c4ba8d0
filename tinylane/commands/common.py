"""What several commands share: loading the model, and printing. Flags: `shared_flags`."""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.commands import shared_flags
from tinylane.core.errors import TinylaneError
from tinylane.files.display import printable

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.view.run_file import Run

SILENT = 2.0  # s: what takes longer shows what it is doing
RESUME = "A run that was stopped goes on where it was: give the same command again."

# The model.


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
    from tinylane.checkpoints import tokenizer_files

    tokenizer_files.SILENT_PANICS = True


def load(args: Any, **planned: Any) -> Model:
    """The model that the flags name, or the one inside.

    planned: `lanes`, `prompt_tokens` and `max_tokens` as `tinylane.load` takes them.
    """
    from tinylane.checkpoints.load import load as load_checkpoint

    silence_panics()
    if getattr(args, "wired_limit", None) is not None:
        from tinylane.checkpoints.load import choose_backend
        from tinylane.files.memory import wire

        shared_flags.check_numbers(args, 0, "wired_limit")
        if choose_backend(args.backend) != "mlx":
            raise TinylaneError("--wired-limit needs --backend mlx")
        wire(args.wired_limit)
    with told_if_slow("loading the model", getattr(args, "quiet", False)):
        return load_checkpoint(
            source(args),
            backend=args.backend,
            dtype=args.dtype,
            adapter=args.adapter_path,
            revision=args.revision,
            ops=args.ops,
            **planned,
        )


def exact_products(args: Any) -> None:
    """Before a model is loaded to compare it: float32 is to mean float32 in MLX too."""
    from tinylane.checkpoints import load as loading

    if loading.choose_backend(args.backend) == "mlx" and (line := loading.exact_products()):
        note(line, getattr(args, "quiet", False))


def load_saved(args: Any, run: Run) -> Model:
    """The model that the flags name, or the one that a saved run was written by."""
    text = lambda name: run.extra[name] if isinstance(run.extra.get(name), str) else None
    if args.model is None:
        args.model = run.model_source or None
        args.revision = args.revision or text("revision")
    args.adapter_path = args.adapter_path or text("adapter_path")
    exact_products(args)  # it is loaded to be compared with what was saved
    return load(args)


# Printing.


@contextmanager
def interrupted(kept: Callable[[], str]) -> Iterator[None]:
    """Within it, Ctrl-C says what is kept: `kept()`, a part of a sentence."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; {kept()}; the same command goes on from there"
        ) from None


def name_of(args: Any) -> str:
    """What to call the model."""
    if args.model is None:
        return "the model inside"
    return printable(str(args.model))


def say(text: str, **where: Any) -> None:
    """Print text; control characters in it are shown as escapes, not sent to the terminal."""
    print(printable(text), **where)


def note(text: str, quiet: bool = False) -> None:
    """Print a line about the run on stderr: stdout is for the results. On a terminal it is folded
    between words."""
    if quiet:
        return
    said = f"tinylane: note: {text}"
    if sys.stderr.isatty():
        width = max(shutil.get_terminal_size().columns - 1, 20)
        said = textwrap.fill(said, width, subsequent_indent="  ", break_long_words=False)
    say(said, file=sys.stderr, flush=True)


@contextmanager
def told_if_slow(text: str, quiet: bool = False, anywhere: bool = False) -> Iterator[None]:
    """A line that says what is being done if that takes long; on a terminal, or `anywhere`."""
    said = threading.Timer(SILENT, lambda: print(f"tinylane: {text}", file=sys.stderr, flush=True))
    said.daemon = True
    if (anywhere or sys.stderr.isatty()) and not quiet:
        said.start()
    try:
        yield
    finally:
        said.cancel()


def about(args: Any, model: Model) -> dict[str, Any]:
    """The version and the model, as a document that --json prints has them."""
    from tinylane.core import __version__

    return {
        "tinylane": __version__,
        "model": args.model,
        "identity": model.identity,
        "backend": model.backend,
        "dtype": model.dtype,
    }


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
