"""The commands of the study: `python tutorials/study TABLE --out DIR`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script: the checkout it is in

from tinylane.core.errors import TinylaneError, show


class _Parser(argparse.ArgumentParser):
    """Raises TinylaneError for wrong arguments, so that the message is one line."""

    def error(self, message: str) -> NoReturn:
        raise TinylaneError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 2 for bad input, 130 for Ctrl-C."""
    try:
        args = _parser().parse_args(argv)
        return args.run(args)
    except TinylaneError as error:
        from tinylane.files.display import one_line

        print(f"tutorials.study: error: {one_line(str(error), 1000)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tutorials.study: interrupted; the same command goes on from there", file=sys.stderr)
        return 130


def _parser() -> _Parser:
    top = _Parser(prog="python tutorials/study", description=__doc__)
    tables = top.add_subparsers(metavar="table", required=True, parser_class=_Parser)
    p = tables.add_parser("scratch", help="table 1: mask and encoding, from scratch")
    _common(p, _scratch)
    p.add_argument("--cells", nargs="+", metavar="CELL", help="only these")
    p.add_argument(
        "--law7",
        type=int,
        default=300,
        metavar="N",
        help="steps of the comparison of the independent cells; 0 for none",
    )
    p = tables.add_parser("finetune", help="table 2: what is tuned, and how")
    _common(p, _finetune)
    p.add_argument("--cells", nargs="+", metavar="CELL", help="only these")
    p.add_argument("--bases", metavar="DIR", help="use the checkpoints in the --out of `starts`")
    p.add_argument(
        "--tuning",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other numbers for the tuning, such as steps=100",
    )
    p = tables.add_parser("starts", help="table 3: other lanes, before any tuning")
    _common(p, _starts)
    for table, says in (
        ("apart", "table 4: what tells lanes apart"),
        ("frontier", "table 5: where live reading wins"),
        ("schedules", "table 7: schedules, trained for each"),
    ):
        p = tables.add_parser(table, help=says)
        _common(p, _games)
        p.set_defaults(table=table)
        p.add_argument("--cells", nargs="+", metavar="CELL", help="only these")
        p.add_argument(
            "--minutes", type=float, metavar="M", help="stop after so many; go on with the same"
        )
    p = tables.add_parser("steps", help="table 5: steps of searches that make no mistake")
    p.add_argument("--count", type=int, default=500, metavar="N", help="graphs")
    p.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="such as nodes=24")
    p.set_defaults(run=_steps)
    p = tables.add_parser("beyond", help="table 8: models in what they were not trained for")
    p.add_argument(
        "--frontier", nargs="+", default=[], metavar="RUN", help="folders of trained cells"
    )
    p.add_argument("--count", type=int, default=200, metavar="N", help="problems of a trial")
    p.add_argument("--publish", required=True, metavar="FILE", help="the table's JSON")
    p.set_defaults(run=_beyond)
    p = tables.add_parser("real", help="what was measured of the real model, from its runs")
    p.add_argument("folder", metavar="RUNS")
    p.add_argument("--publish", required=True, metavar="FILE", help="the table's JSON")
    p.set_defaults(run=_real)
    p = tables.add_parser("plot", help="SVG figures of the tables in a folder")
    p.add_argument("folder", metavar="DIR")
    p.set_defaults(run=_plot)
    p = tables.add_parser("tables", help="the tables in a folder as Markdown")
    p.add_argument("folder", metavar="DIR")
    p.set_defaults(run=_tables)
    return top


def _common(p: argparse.ArgumentParser, run: Any) -> None:
    p.set_defaults(run=run)
    p.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="the folder of the runs; they go on where they were stopped",
    )
    p.add_argument("--publish", metavar="FILE", help="write the table's JSON also here")
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    p.add_argument("--count", type=int, default=500, metavar="N", help="problems to score on")
    p.add_argument("--stop-at", type=int, metavar="N", help="end each training at this step")
    p.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other numbers for the recipe, such as steps=100 (that gives another table)",
    )


def changed(recipe: Any, settings: Sequence[str], flag: str = "--set") -> Any:
    """A recipe with other values, from texts like "steps=100". flag: the one that they were given
    by. Raises TinylaneError for an unknown name or a value of another type."""
    changes: dict[str, Any] = {}
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    for text in settings:
        name, _, value = text.partition("=")
        if name not in fields:
            raise TinylaneError(f"{flag} {show(text, 60)}; expected one of {', '.join(fields)}")
        kind = type(fields[name])
        try:
            if kind is tuple:
                one = type(fields[name][0])
                changes[name] = tuple(one(part) for part in value.split(","))
            elif kind is bool:
                changes[name] = {"true": True, "false": False}[value.lower()]
            else:
                changes[name] = kind(value)
        except (ValueError, KeyError):
            raise TinylaneError(
                f"{flag} {show(text, 60)}; expected a value like {show(fields[name], 40)}"
            ) from None
    return dataclasses.replace(recipe, **changes)


def _checked(args: Any) -> tuple[Path, dict[str, Any]]:
    """--out, and the arguments that all tables take. Raises TinylaneError for those out of range,
    and if MLX is missing."""
    if args.count < 1:
        raise TinylaneError(f"--count is {args.count}; expected 1 or more")
    if args.stop_at is not None and args.stop_at < 1:
        raise TinylaneError(f"--stop-at is {args.stop_at}; expected 1 or more")
    if min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        raise TinylaneError(f"--seeds {args.seeds}; expected different numbers from 0")
    try:
        import mlx.core  # noqa: F401
    except ImportError:
        raise TinylaneError(
            'the study trains with MLX, which is not installed: pip install "tinylane[mlx]"'
        ) from None
    publish = [Path(args.publish)] if args.publish else []
    common = {"count": args.count, "stop_at": args.stop_at, "publish": publish, "say": _say}
    return Path(args.out), common


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _scratch(args: Any) -> int:
    out, common = _checked(args)
    from tutorials.study.cells import StudyRecipe, chosen
    from tutorials.study.scratch import scratch

    cells, recipe = chosen(args.cells), changed(StudyRecipe(), args.set)
    scratch(out, cells, args.seeds, recipe, law7=args.law7, **common)
    print(out / "scratch.json")
    return 0


def _games(args: Any) -> int:
    out, common = _checked(args)
    from tutorials.study.games import TABLES, chosen
    from tutorials.study.games_score import check, games

    cells, recipe = chosen(args.table, args.cells), changed(TABLES[args.table][1], args.set)
    check(recipe)
    games(args.table, out, cells, args.seeds, recipe, minutes=args.minutes, **common)
    print(out / f"{args.table}.json")
    return 0


def _steps(args: Any) -> int:
    from tinylane.train.recipe import Recipe
    from tutorials.study.steps import steps

    base = Recipe(game_name="frontier", lanes=(1, 2, 4, 8))
    print(steps(changed(base, args.set).game, args.count))
    return 0


def _beyond(args: Any) -> int:
    from tutorials.study.beyond import beyond
    from tutorials.study.record import publish

    runs = [Path(folder) for folder in args.frontier]
    publish(beyond(runs, args.count, _say), [Path(args.publish)])
    print(args.publish)
    return 0


def _real(args: Any) -> int:
    from tinylane.files.io import read_json
    from tutorials.study.figures import LIMIT
    from tutorials.study.real import collect, merged
    from tutorials.study.record import publish

    path, found = Path(args.publish), collect(Path(args.folder))
    before = read_json(path, LIMIT) if path.is_file() else {}
    publish(merged(before, found), [path])
    print(args.publish)
    return 0


def _finetune(args: Any) -> int:
    out, common = _checked(args)
    from tutorials.study.base import BaseRecipe
    from tutorials.study.finetune import TuneSettings, chosen, finetune

    methods, recipe = chosen(args.cells), changed(BaseRecipe(), args.set)
    tuning = changed(TuneSettings(), args.tuning, "--tuning")
    bases = Path(args.bases) if args.bases else None
    finetune(out, methods, args.seeds, recipe, tuning, bases=bases, **common)
    print(out / "finetune.json")
    return 0


def _starts(args: Any) -> int:
    out, common = _checked(args)
    from tutorials.study.base import BaseRecipe
    from tutorials.study.starts import starts

    starts(out, args.seeds, changed(BaseRecipe(), args.set), **common)
    print(out / "starts.json")
    return 0


def _tables(args: Any) -> int:
    from tutorials.study.tables import tables

    print(tables(Path(args.folder)))
    return 0


def _plot(args: Any) -> int:
    from tutorials.study.figures import draw

    for path in draw(Path(args.folder)):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
