"""`tinylane view`: a saved run as one HTML page, or as a figure; who listened to whom in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.commands import common, shared_flags
from tinylane.commands.progress import Progress
from tinylane.commands.replay import tolerance_of
from tinylane.core.errors import TinylaneError
from tinylane.files.display import one_line, printable
from tinylane.files.writing import write_text

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.view.run_file import Run


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.description += " The page needs no network. The run is replayed to see its attention."
    p.add_argument("file", metavar="RUN", help="written by tinylane generate --save")
    p.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        help="the page (default: RUN with .html; none where only --png or --svg is given)",
    )
    p.add_argument("--png", metavar="FILE", help="the main panel as a figure, without a browser")
    p.add_argument("--svg", metavar="FILE", help="the same as SVG")
    p.add_argument(
        "--influence",
        action="store_true",
        help="also what each next token would have been without each of the lanes: takes one pass "
        "more for every lane",
    )
    p.add_argument(
        "--keys", type=int, default=8, metavar="K", help="largest keys kept a token; default: 8"
    )
    p.add_argument(
        "--size",
        type=float,
        default=2.0,
        metavar="MB",
        help="layers and heads are kept while the page stays below this; default: 2",
    )
    shared_flags.model_flags(p)
    shared_flags.engine_flags(p)
    p.add_argument("--quiet", action="store_true", help="no notes")


def run(args: Any) -> int:
    """Run the command; returns the exit code. Nothing is written before everything is computed."""
    from tinylane.view import figure_style
    from tinylane.view.run_file import load_run

    target = _targets(args)
    shared_flags.check_numbers(args, 1, "keys", most=1024)
    shared_flags.check_numbers(args, 0, "size", most=1000)
    saved = load_run(args.file)
    figures = [path for path in (args.png, args.svg) if path is not None]
    if figures:
        figure_style.blank(1, 1)  # raises where matplotlib is missing
    model = common.load_saved(args, saved)

    from tinylane.view.events import events_of, happened
    from tinylane.view.replay_figure import replay
    from tinylane.view.replay_page import Texts, page
    from tinylane.view.replay_record import record
    from tinylane.view.replay_words import sentences

    with Progress(None, quiet=args.quiet) as progress:
        recorded = record(
            saved,
            model,
            keys=args.keys,
            influence=args.influence,
            note=lambda text: progress.line(printable(f"tinylane: note: {text}")),
            progress=lambda text: progress.at(name=text),
        )
    tolerance = tolerance_of(saved, model)
    if not recorded.difference <= tolerance:
        common.note(
            "the replay's log-probabilities differ from the saved ones by "
            f"{recorded.difference:.2g} (tolerance {tolerance:g}): the replay's are shown",
            args.quiet,
        )
    texts = Texts(recorded, model.tokenizer)
    print(printable(" ".join(sentences(recorded, texts.shown))))
    for line in happened(events_of(saved.result)):
        print(printable(line))
    if target is not None:
        html, summary = page(recorded, model.tokenizer, args.size, _task(model, saved))
        write_text(target, html)
        common.note(summary, args.quiet)
        print(f"{printable(str(target))}: {len(html.encode()) / 1e6:.2f} MB")
    for path in figures:
        figure_style.save(replay(recorded, texts.shown), path)
        print(printable(path))
    return 0


def _task(model: Model, saved: Run) -> str:
    """What the lanes were to do, in words."""
    from tinylane.evaluate.tasks.shell_game import game_of

    game, prompt = game_of(model), saved.result.prompt
    if game is not None and len(prompt) == game.prompt_rows:
        return (
            f"The task: {game.cups} cups stand in a row, {game.arrangements[0]}. A swap i-j "
            f"exchanges the cups at places i and j. Where are they after {game.swaps} swaps? Every "
            "lane follows its share of the swaps, as if its cups stood "
            f"{game.arrangements[0]}; then the lanes read each other and combine."
        )
    if model.tokenizer is None or not prompt:
        return ""
    return f"The task: “{one_line(model.tokenizer.decode(prompt), 300)}”"


def _targets(args: Any) -> Path | None:
    """The file of the page, or None. Raises TinylaneError for one that cannot be written."""
    source = Path(args.file)
    page = args.output
    if page is None and args.png is None and args.svg is None:
        page = str(source.with_suffix(".html")) if source.name else None
    given = [("--output", page), ("--png", args.png), ("--svg", args.svg)]
    for flag, name in given:
        if name is None:
            continue
        if flag != "--output" and Path(name).suffix != f".{flag[2:]}":
            raise TinylaneError(f"{flag} {name}: expected a name that ends in .{flag[2:]}")
        path = shared_flags.check_target(flag, name)
        if path.exists() and source.exists() and path.samefile(source):
            raise TinylaneError(f"{flag} {name}: is the run itself; expected another file")
    names = [os.path.realpath(name) for _, name in given if name is not None]
    if len(set(names)) != len(names):
        raise TinylaneError("two outputs have the same name; expected different ones")
    return None if page is None else Path(page)
