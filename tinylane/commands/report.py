"""`tinylane report RUN...`: the tables and plots of eval runs.

Prints a page of Markdown and writes it to report.md beside the first run's results (or into --out),
with its plots and with every curve's numbers (curves.json). Which numbers, and what is compared
with what: `tinylane.evaluate.report`. Folders of shards of one run count as that run
(`tinylane.evaluate.shards`). Of shards of `tinylane collect` it writes transcripts.jsonl, one file
for `tinylane train sft` and `kto`, with the transcripts that one process would have written.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinylane.commands import common
from tinylane.commands.collect import show
from tinylane.commands.progress import Pulse
from tinylane.core.errors import TinylaneError
from tinylane.evaluate import collect, report
from tinylane.evaluate.measures import AXES
from tinylane.evaluate.shards import RunFolder, find_runs, write_rows
from tinylane.files.writing import make_folder, write_json, write_text


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.description += " Needs scipy and matplotlib: pip install 'tinylane[eval,plot]'."
    p.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="the --out of tinylane eval; those of all shards of a run count as one, and "
        "transcripts of the shards of tinylane collect become one file",
    )
    p.add_argument("--out", metavar="DIR", help="where to write; default: the first run's folder")
    p.add_argument(
        "--measure",
        nargs="+",
        choices=("majority", "one", "any"),
        default=["majority"],
        metavar="M",
        help="what is plotted: majority, one (lane), any (lane); default: majority",
    )
    p.add_argument("--no-plots", action="store_true", help="the tables only")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(args: Any) -> int:
    """Run the command; returns the exit code."""
    out = Path(args.out if args.out is not None else args.runs[0])
    folders = find_runs(args.runs)
    for folder in folders:
        if folder.missing:
            names = ", ".join(f"{number}/{folder.shards}" for number in folder.missing)
            common.note(f"{folder.path}: these shards are missing, with their problems: {names}")
    if any(folder.shards > 1 and folder.transcripts for folder in folders):
        return _merge(args, folders, out)
    pulse = Pulse()
    runs = [report.read(folder, pulse) for folder in folders]
    sections = report.sections(runs)
    if not args.no_plots:
        from tinylane.view.figure_style import blank

        blank(1, 1, hint=", or --no-plots")  # raises where matplotlib is missing
    make_folder(out)
    figures: dict[int, list[tuple[str, str]]] = {}
    for k, section in enumerate(sections):
        suffix = f"-{k + 1}" if len(sections) > 1 else ""
        curves = report.curves(section)
        if not args.no_plots:
            with common.told_if_slow("drawing the plots", anywhere=True):
                figures[k] = _draw(section, curves, out, suffix, args.measure)
        write_json(out / f"curves{suffix}.json", curves)
    with common.told_if_slow("the tables, and intervals by resampling", anywhere=True):
        page = report.page(sections, figures)
    write_text(out / "report.md", page)
    if args.json:
        common.print_json({"sections": [section.as_json() for section in sections]})
    else:
        common.say(page, end="")
    drawn = sum(map(len, figures.values()))
    plots = f" and {drawn} plots, each as .svg and .png" if drawn else ""
    written = f"report.md, the curves as JSON{plots}"
    common.say(f"tinylane: written to {out}: {written}", file=sys.stderr)
    return 0


def _merge(args: Any, folders: list[RunFolder], out: Path) -> int:
    """Write the transcripts of the shards of one run of `collect` into one file, and count them."""
    if len(folders) > 1:
        raise TinylaneError(
            f"{folders[0].path} and {folders[1].path} are two runs; transcripts of shards are "
            "merged one run at a time"
        )
    (folder,) = folders
    counts = collect.summary(row for _, row in folder.rows())
    label_by = str(folder.settings.get("label_by"))
    if label_by not in collect.LABELS:
        raise TinylaneError(f"{folder.path}: settings.json is not that of tinylane collect")
    make_folder(out)
    path = out / "transcripts.jsonl"
    write_rows(folder, path)
    if args.json:
        common.print_json({"file": str(path), "missing": folder.missing, **counts})
    else:
        common.say(f"{counts['transcripts']} transcripts of {folder.shards} shards, {path}")
        show(counts, label_by)
    return 0


def _draw(
    section: report.Section,
    curves: dict[str, Any],
    out: Path,
    suffix: str,
    measures: Sequence[str],
) -> list[tuple[str, str]]:
    """Write the plots of a section, SVG and PNG; (name of the SVG, alt text) of each."""
    from tinylane.view.accuracy_figure import accuracy
    from tinylane.view.figure_style import alt, save

    lanes = {label: n for label, (_, _, n) in section.keys.items()}
    done = []
    for measure in dict.fromkeys(measures):
        for axis in AXES:
            figure = accuracy(curves, lanes, axis, section.title, measure)
            name = f"accuracy-{axis}" if measure == "majority" else f"{measure}-{axis}"
            for kind in ("svg", "png"):
                save(figure, out / f"{name}{suffix}.{kind}")
            done.append((f"{name}{suffix}.svg", alt(figure)))
    return done
