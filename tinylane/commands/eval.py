"""`tinylane eval`: how often the lanes are right, by mode and number of lanes.

With --out every result is on disk before the next problem begins, in a directory that knows its
settings: the same command goes on where it was stopped (`tinylane.files.run_dir`), and
`tinylane report` makes tables and plots of it. Without, the table is all there is. Several
processes share a run by `--shard` (`tinylane.evaluate.shards`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.commands import common, shared_flags, task_flags
from tinylane.commands.progress import Progress, earlier
from tinylane.commands.terminal import print_table
from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import MAX_LANES, LaneMask
from tinylane.core.sampling import Sampler
from tinylane.evaluate import results, runner, tasks
from tinylane.evaluate.measures import Tally, as_json
from tinylane.evaluate.shards import Shard, assign, open_run
from tinylane.evaluate.tables import end_columns
from tinylane.evaluate.tasks.task import Problem, Task
from tinylane.files.display import counted
from tinylane.files.run_dir import Journal

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.evaluate.runner import Cell, Conditions
    from tinylane.evaluate.shards import Item


EARLIER = "looking at what was done before, and at the shards in the folder"


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.description += f" With --out {common.RESUME[0].lower()}{common.RESUME[1:]}"
    p.add_argument("task", choices=tuple(tasks.KINDS))
    shared_flags.model_flags(p)
    shared_flags.engine_flags(p)
    task_flags.task_flags(p)
    g = p.add_argument_group("what is compared")
    task_flags.mode_flag(g, nargs="+", default=["joint", "independent"])
    g.add_argument("--lanes", type=int, nargs="+", metavar="N", help="default: the task's")
    shared_flags.rotation_flags(g, "with --mode joint: as --mode joint:O, or @file.json")
    task_flags.length_flags(p)
    g.add_argument(
        "--equal",
        choices=("tokens", "steps"),
        default="tokens",
        help="what is the same for all numbers of lanes: tokens in all (default; fewer lanes may "
        "write longer), or steps",
    )
    g.add_argument(
        "--likelihood",
        action="store_true",
        help="also the log-probability of a token of each lane's text where that lane stands alone",
    )
    shared_flags.collaborate_flags(p)
    g = p.add_argument_group("output")
    g.add_argument("--out", metavar="DIR", help="keep every result; needed to go on after a stop")
    task_flags.shard_flag(g)
    g.add_argument("--draw", metavar="FILE", help="a figure of the first problem, of frontier")
    g.add_argument("--json", action="store_true", help="one JSON document on standard output")
    g.add_argument("--quiet", action="store_true", help="no progress")


@dataclass(frozen=True)
class Planned:
    """What the flags of `eval` or `collect` ask for, checked; nothing is written yet.

    shard: of this process, None for one that does everything. out: the folder of its results.
    """

    args: Any
    model: Model
    task: Task
    problems: list[Problem]
    cells: list[Cell]
    conditions: Conditions
    shard: Shard | None
    out: str | None

    @property
    def silent(self) -> bool:
        """Whether another process of mlx.launch, that of shard 1, prints for all."""
        return self.args.shard is None and self.shard is not None and self.shard.number > 1

    def settings(self, **more: Any) -> dict[str, Any]:
        """Whatever decides the results, for settings.json."""
        if self.shard is not None:
            more["shard"] = str(self.shard)
        return runner.settings(
            self.task, self.model, self.problems, self.cells, self.conditions, **more
        )

    def share(self, work: list[Item]) -> list[Item]:
        """The part of the work that is this process's."""
        return work if self.shard is None else self.shard.share(work)


def prepare(args: Any, lanes: Callable[[Task], list[int]], equal: str) -> Planned:
    """Read the flags, load the model and its task. lanes: of the task, where no flag says it.

    Raises TinylaneError for wrong flags and for flags that contradict each other.
    """
    sampling = parse_flags(args)
    together = shared_flags.collaboration(args)
    options = task_flags.options_of(args)
    shard, out = assign(args.shard, args.out)
    if out is not None:
        check_folder(Path(out))
    model = common.load(args, lanes=max(args.lanes or [1]), max_tokens=args.max_tokens or 256)
    task = tasks.make(args.task, options, model)
    problems = task.problems(args.count, args.seed)
    cells = runner.cells(task, args.mode, args.lanes or lanes(task), args.max_tokens, equal)
    sampler = Sampler.from_config(model.sampling)
    conditions = runner.Conditions(
        seed=args.seed,
        sampler=replace(sampler, **{**(task.sampling or {}), **sampling}),
        stop=shared_flags.stop(args, model),
        template=shared_flags.template(args),
        omega=shared_flags.parse_omega(args.omega),
        slot=args.slot,
        scale=args.omega_scale,
        prompt_lane=args.prompt_lane,
        lag=args.lag,
        together=together,
        likelihood=getattr(args, "likelihood", False),
    )
    if together is not None and task.settings.get("form") == "notation":
        raise TinylaneError(
            "--collaborate: this model was trained on the shell game alone, which has no words for "
            "it; give --model"
        )
    for cell in cells:
        runner.reading(model, cell, conditions)  # refuses settings that contradict each other
    runner.check_prompts(model, problems)
    setup = Planned(args, model, task, problems, cells, conditions, shard, out)
    args.quiet = args.quiet or setup.silent
    return setup


def run(args: Any) -> int:
    """Run the command, or one shard of it; returns the exit code."""
    setup = prepare(args, lambda task: list(task.lanes), args.equal)
    model, task, problems = setup.model, setup.task, setup.problems
    if args.draw is not None:
        if task.draw is None:
            raise TinylaneError(f"--draw: {args.task} draws no figure with this model")
        shared_flags.check_target("--draw", args.draw)
    work = setup.share([(index, cell) for index in range(len(problems)) for cell in setup.cells])
    key = lambda item: (problems[item[0]].id, *item[1].key)
    prompts = (runner.prompts_of_lanes(model, task, setup.conditions, c.lanes) for c in setup.cells)
    told_apart = any(len(set(each)) > 1 for each in prompts)
    settings = setup.settings(told_apart=told_apart)
    notes(setup)
    limits = {cell.key: cell.max_tokens for cell in setup.cells}
    tallies = {cell.key: Tally() for cell in setup.cells}

    def count(row: dict[str, Any], where: str) -> None:
        read = results.read(row, where, limits)
        tallies[read.mode, read.lanes].add(read)

    def read(journal: Journal) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(earlier(journal, args.quiet), 1):
            yield row
            count(row, f"{journal.path}, line {number}")

    todo = work
    with ExitStack() as stack:
        journal: Journal | None = None
        if setup.out is not None:
            order = [*map(key, work)]
            with common.told_if_slow(EARLIER, args.quiet, anywhere=True):
                journal, done = open_run(setup.out, settings, runner.FIELDS, order, read=read)
            stack.enter_context(journal)
            stack.enter_context(common.interrupted(partial(kept, journal, len(work))))
            todo = [item for item in work if key(item) not in done]
        progress = stack.enter_context(Progress(len(work), len(work) - len(todo), args.quiet))
        for index, cell in todo:
            progress.at(name=f"problem {index + 1}, {cell.mode}, {cell.lanes} lanes")
            row = runner.solve(model, task, problems[index], index, cell, setup.conditions)
            if journal is not None:
                journal.append(row)
            count(row, "this result")
            progress.done()
    if not setup.silent:
        _show(setup, tallies)
    if args.draw is not None:
        _draw(setup)
    return 0


def _draw(setup: Planned) -> None:
    """A figure of the first problem in the cell with most lanes, of those the first."""
    from tinylane.view.figure_style import save

    task, problem = setup.task, setup.problems[0]
    cell = max(setup.cells, key=lambda cell: cell.lanes)
    row = runner.solve(setup.model, task, problem, 0, cell, setup.conditions)
    assert task.draw is not None
    path = save(task.draw(problem, [lane["text"] for lane in row["lane"]]), setup.args.draw)
    common.note(f"drawn: {path}, {cell.mode}, {cell.lanes} lanes", setup.args.quiet)


def kept(journal: Journal, total: int) -> str:
    """How many of the results are on disk, after Ctrl-C."""
    return f"{journal.count} of {total} {journal.what} are kept in {journal.folder}"


def parse_flags(args: Any) -> dict[str, Any]:
    """Validate the flags and return the sampling overrides. Raises TinylaneError."""
    shared_flags.check_numbers(args, 1, "count", "max_tokens")
    shared_flags.check_numbers(args, 0, "seed", most=(1 << 64) - 1)
    shared_flags.check_numbers(args, 1, "lanes", most=MAX_LANES)
    _check_modes(args)
    LaneMask.joint(1, args.lag or 0)
    shared_flags.template(args)
    return shared_flags.sampling(args)


def _check_modes(args: Any) -> None:
    """Refuse unknown modes, and flags that none of the modes uses."""
    modes = [runner.parse_mode(label) for label in args.mode]
    names = {mode["name"] for mode in modes}
    open_joint = any(mode["name"] == "joint" and "omega" not in mode for mode in modes)
    starts = {mode.get("omega", args.omega) for mode in modes if mode["name"] == "joint"}
    starts |= {"group_think"} & names
    takes = {
        "omega": (open_joint, "--mode joint"),
        "prompt_lane": ("joint" in names, "--mode joint"),
        "lag": (names != {"independent"}, "a mode in which lanes read each other"),
    }
    for flag, (taken, needs) in takes.items():
        if getattr(args, flag) is not None and not taken:
            raise TinylaneError(f"--{flag.replace('_', '-')} needs {needs}")
    shared_flags.check_omega_numbers(args, *starts)


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before anything is computed.

    Creates nothing, so that a later refusal leaves no folder.
    """
    existing = folder.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise TinylaneError(f"--out {folder}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise TinylaneError(f"--out {folder}: {existing} cannot be written to")


def notes(setup: Planned) -> None:
    """Print once what the user may not expect."""
    model, task, problems, cells = setup.model, setup.task, setup.problems, setup.cells
    if setup.args.quiet:
        return
    if setup.conditions.together is not None:
        common.note(setup.conditions.together.describe())
    unread = [problem for problem in problems if not task.readable(problem.truth)]
    if unread:
        common.note(
            f"{len(unread)} of {len(problems)} true answers cannot be read as mathematics and are "
            f"compared as text; the first is that of problem {unread[0].id}: "
            f"{show(unread[0].truth, 60)}"
        )
    sampler = setup.conditions.sampler
    if sampler is not None and sampler.temperature == 0:
        same = [
            cell
            for cell in cells
            if cell.lanes > 1 and cell.mode == "independent" and not task.lane_prompts(cell.lanes)
        ]
        if same:
            common.note(
                f"greedy and independent: all {same[0].lanes} lanes will be identical; give --temp"
            )
    lengths = {cell.max_tokens for cell in cells}
    if len(lengths) > 1 and task.max_tokens(1) is None:
        budgets = {c.lanes: c.max_tokens for c in cells}
        each = ", ".join(f"{t} with {counted(n, 'lane')}" for n, t in budgets.items())
        common.note(
            f"equal tokens in all, so each lane may write {each} (--equal steps: as many with all)"
        )
    if max(lengths) >= model.config.context:
        common.note(
            f"lanes of up to {max(lengths)} tokens end earlier, where this model's context of "
            f"{model.config.context} is full"
        )


def _show(setup: Planned, tallies: dict[tuple[str, int], Tally]) -> None:
    """The table, or the JSON document."""
    args, model, task = setup.args, setup.model, setup.task
    count = len(setup.problems)
    counted = task.score is not None or args.likelihood
    intervals = counted and find_spec("scipy") is not None
    summaries = [(cell, tallies[cell.key].summary(intervals)) for cell in setup.cells]
    for cell, s in summaries:
        if s.twins and not task.lane_prompts(cell.lanes) and not args.quiet:
            print(
                f"tinylane: warning: {cell.mode}, {cell.lanes} lanes: two lanes wrote the same, "
                f"token for token, in {s.twins} of {s.count} problems",
                file=sys.stderr,
            )
    if args.json:
        common.print_json(
            {
                **common.about(args, model),
                "task": args.task,
                "seed": args.seed,
                "count": count,
                "shard": None if setup.shard is None else str(setup.shard),
                "out": setup.out,
                "scores": [{**as_json(s), "max_tokens": cell.max_tokens} for cell, s in summaries],
            }
        )
        return
    part = ""
    if setup.shard is not None:
        part = f"{summaries[0][1].count} (shard {setup.shard}) of "
    common.say(
        f"{task.title or task.name}, {part}{count} problems; {common.name_of(args)} "
        f"({model.backend}, {model.dtype}); seed {args.seed}"
    )
    table = [end_columns(cell, s, task.answers) for cell, s in summaries]
    head = list(dict.fromkeys(name for columns in table for name in columns))
    lines = [[columns.get(name, "-") for name in head] for columns in table]
    print_table("", head, lines, (1, 2), plain=True)
    if args.out is not None:
        others = " and the folders of the other shards" if args.shard is not None else ""
        common.note(f"tables and plots: tinylane report {args.out}{others}", args.quiet)
