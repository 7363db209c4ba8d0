"""`tinylane report RUN...`: the tables and plots of eval runs.

Prints a page of Markdown and writes it to report.md beside the first run's results (or into --out),
with its plots and with every curve's numbers (curves.json). Which numbers, and what is compared
with what: `tinylane.evaluate.report`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinylane.commands import common
from tinylane.core.errors import TinylaneError
from tinylane.evaluate import report
from tinylane.evaluate.measures import AXES
from tinylane.files.io import write_json, write_text


def run(args: Any) -> int:
    """Run the command; the exit code."""
    out = Path(args.out if args.out is not None else args.runs[0])
    runs = [report.read(folder) for folder in args.runs]
    found = [report.find(section) for section in report.sections(runs)]
    pictures: dict[int, list[tuple[str, str]]] = {}
    if args.out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TinylaneError(f"--out {out}: cannot be made ({error.strerror})") from error
    for k, findings in enumerate(found):
        suffix = f"-{k + 1}" if len(found) > 1 else ""
        if not args.no_plots:
            pictures[k] = _draw(findings, out, suffix, args.measure)
        write_json(out / f"curves{suffix}.json", report.curves(findings.section))
    page = report.page(found, pictures)
    write_text(out / "report.md", page)
    if args.json:
        common.print_json({"sections": [findings.as_dict() for findings in found]})
    else:
        common.say(page, end="")
    drawn = sum(map(len, pictures.values()))
    plots = f" and {drawn} plots, each as .svg and .png" if drawn else ""
    written = f"report.md, the curves as JSON{plots}"
    common.say(f"tinylane: written to {out}: {written}", file=sys.stderr)
    return 0


def _draw(
    findings: report.Findings, out: Path, suffix: str, measures: Sequence[str]
) -> list[tuple[str, str]]:
    """Write the plots of a section, SVG and PNG; (name of the SVG, alt text) of each."""
    from tinylane.evaluate.figures import accuracy
    from tinylane.view.figures import alt, save

    section, done = findings.section, []
    for measure in dict.fromkeys(measures):
        for axis in AXES:
            figure = accuracy(section.cells, axis, section.title, measure)
            name = f"accuracy-{axis}" if measure == "majority" else f"{measure}-{axis}"
            for kind in ("svg", "png"):
                save(figure, out / f"{name}{suffix}.{kind}")
            done.append((f"{name}{suffix}.svg", alt(figure)))
    return done
