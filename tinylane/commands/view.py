"""`tinylane view`: a saved run as one HTML page, or as a figure; who listened to whom in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinylane.commands import common
from tinylane.commands.replay import TOLERANCE
from tinylane.core.errors import TinylaneError
from tinylane.files.display import printable
from tinylane.files.io import write_text


def run(args: Any) -> int:
    """Run the command; the exit code. Nothing is written before all of it is known."""
    from tinylane.view import figure_style
    from tinylane.view.run_file import load_run

    target = _targets(args)
    if not 1 <= args.keys <= 1024:
        raise TinylaneError(f"--keys is {args.keys}; expected 1 to 1024")
    if not 0 <= args.size <= 1000:
        raise TinylaneError(f"--size is {args.size}; expected 0 to 1000 MB")
    saved = load_run(args.file)
    figures = [path for path in (args.png, args.svg) if path is not None]
    for path in figures:
        figure_style.check(path)
    model = common.load_saved(args, saved)

    from tinylane.view.replay_figure import replay
    from tinylane.view.replay_page import Texts, page
    from tinylane.view.replay_record import record
    from tinylane.view.replay_words import sentences

    found = record(
        saved,
        model,
        keys=args.keys,
        influence=args.influence,
        note=lambda text: common.note(text, args.quiet),
        progress=_now_and_then(args.quiet),
    )
    tolerance = max(TOLERANCE.get(x, 0.0) for x in (saved.dtype, model.dtype))
    if not found.difference <= tolerance:
        common.note(
            f"the replay's log-probabilities differ by {found.difference:.2g} from the saved ones "
            f"(tolerance {tolerance:g}): what is shown is the replay's",
            args.quiet,
        )
    texts = Texts(found, model.tokenizer)
    print(printable(" ".join(sentences(found, texts.shown))))
    if target is not None:
        html, said = page(found, model.tokenizer, args.size)
        write_text(target, html)
        common.note(said, args.quiet)
        print(f"{printable(str(target))}: {len(html.encode()) / 1e6:.2f} MB")
    for path in figures:
        figure_style.save(replay(found, texts.shown), path)
        print(printable(path))
    return 0


def _now_and_then(quiet: bool) -> Callable[[str], None]:
    """Notes on how far it is, one in five seconds: none for a short run."""
    last = time.monotonic()

    def say(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= 5:
            common.note(text, quiet)
            last = time.monotonic()

    return say


def _targets(args: Any) -> Path | None:
    """Where the page goes; raises TinylaneError for a place that cannot be written to."""
    source = Path(args.file)
    page = args.output
    if page is None and args.png is None and args.svg is None:
        page = str(source.with_suffix(".html")) if source.name else None
    given = [("--output", page), ("--png", args.png), ("--svg", args.svg)]
    for flag, name in given:
        if name is None:
            continue
        path = Path(name)
        if flag != "--output" and path.suffix != f".{flag[2:]}":
            raise TinylaneError(f"{flag} {name}: expected a name that ends in .{flag[2:]}")
        if path.is_dir():
            raise TinylaneError(f"{flag} {name}: is a folder; expected a file to write")
        folder = path.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise TinylaneError(f"{flag} {name}: no folder {folder} that can be written to")
        if path.exists() and source.exists() and path.samefile(source):
            raise TinylaneError(f"{flag} {name}: is the run itself; expected another file")
    names = [os.path.abspath(name) for _, name in given if name is not None]
    if len(set(names)) != len(names):
        raise TinylaneError("two outputs have the same name; expected different ones")
    return None if page is None else Path(page)
