"""`tinylane eval`: how often the lanes are right, by mode and number of lanes.

With --out every result is on disk before the next problem begins, in a directory that knows its
settings: the same command goes on where it was stopped (`tinylane.files.run_dir`), and
`tinylane report` makes tables and plots of it. Without, the table is all there is. Several
processes share a run by `--shard` (`tinylane.evaluate.shards`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tinylane.commands import common
from tinylane.commands.lanes import parse_omega
from tinylane.core import __version__
from tinylane.core.errors import TinylaneError, show
from tinylane.core.lanes import MAX_LANES, LaneMask
from tinylane.core.sampling import Sampler
from tinylane.evaluate import results, runner, tasks
from tinylane.evaluate.measures import as_json, summary
from tinylane.evaluate.shards import Shard, assign, open_run
from tinylane.evaluate.tables import plain_table
from tinylane.evaluate.tasks.task import Options, Problem, Task
from tinylane.files.run_dir import Journal

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.evaluate.collaboration import Collaboration
    from tinylane.evaluate.results import AnswerRow
    from tinylane.evaluate.runner import Cell, Conditions
    from tinylane.evaluate.shards import Item


@dataclass(frozen=True)
class Setup:
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
        """Whether another process of mlx.launch speaks for all: that of shard 1."""
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


def prepare(args: Any, lanes: Callable[[Task], list[int]], equal: str) -> Setup:
    """Read the flags, load the model and its task. lanes: of the task, where no flag says it.

    Raises TinylaneError for what cannot be right or does not go together.
    """
    sampling = check(args)
    together = common.parse_collaboration(args)
    asked = options(args)
    shard, out = assign(args.shard, args.out)
    if out is not None:
        check_folder(Path(out))
    model = common.load(args, lanes=max(args.lanes or [1]), max_tokens=args.max_tokens or 256)
    task = tasks.make(args.task, asked, model)
    problems = task.problems(args.count, args.seed)
    cells = runner.cells(task, args.mode, args.lanes or lanes(task), args.max_tokens, equal)
    conditions = conditions_of(args, model, task, sampling, together)
    if together is not None and task.settings.get("form") == "notation":
        raise TinylaneError(
            "--collaborate: this model was trained on the shell game alone, which has no words for "
            "it; give --model"
        )
    for cell in cells:
        runner.reading(model, cell, conditions)  # refuses what does not go together
    runner.check_prompts(model, problems)
    setup = Setup(args, model, task, problems, cells, conditions, shard, out)
    args.quiet = args.quiet or setup.silent
    return setup


def run(args: Any) -> int:
    """Run the command, or one shard of it; the exit code."""
    setup = prepare(args, lambda task: list(task.lanes), args.equal)
    model, task, problems = setup.model, setup.task, setup.problems
    work = setup.share([(index, cell) for index in range(len(problems)) for cell in setup.cells])
    keys = lambda item: [(problems[item[0]].id, *item[1].key)]
    told_apart = any(task.lane_prompts(cell.lanes) for cell in setup.cells)
    settings = setup.settings(told_apart=told_apart)
    notes(setup)
    limits = {cell.key: cell.max_tokens for cell in setup.cells}
    rows, todo = [], work
    with ExitStack() as stack:
        journal = None
        if setup.out is not None:
            order = [key for item in work for key in keys(item)]
            journal = stack.enter_context(open_run(setup.out, settings, runner.FIELDS, order))
            todo, _ = runner.remaining(work, keys, journal.rows(), runner.FIELDS)
            for number, row in enumerate(journal.rows(), 1):
                rows.append(results.read(row, f"{journal.path}, line {number}", limits))
        stack.enter_context(saying_what_is_kept(journal, len(work)))
        progress = stack.enter_context(Progress(len(work), len(work) - len(todo), args.quiet))
        for index, cell in progress.following(todo):
            row = runner.solve(model, task, problems[index], index, cell, setup.conditions)
            if journal is not None:
                journal.append(row)
            rows.append(results.read(row, "this result", limits))
            progress.done()
    if not setup.silent:
        _show(setup, rows)
    return 0


@contextmanager
def saying_what_is_kept(journal: Journal | None, total: int) -> Iterator[None]:
    """Within it, Ctrl-C says how many of the results are on disk."""
    try:
        yield
    except KeyboardInterrupt:
        if journal is None:
            raise
        raise KeyboardInterrupt(
            f"interrupted; {journal.count} of {total} {journal.what} are kept in {journal.folder}; "
            "the same command goes on from there"
        ) from None


def check(args: Any) -> dict[str, Any]:
    """Validate the flags and return the sampling overrides. Raises TinylaneError."""
    if (args.count is not None and args.count < 1) or not 0 <= args.seed < 1 << 64:
        raise TinylaneError(
            f"--count {args.count}, --seed {args.seed}; expected at least 1, and 0 or more (below "
            "2**64)"
        )
    for n in args.lanes or ():
        if not 1 <= n <= MAX_LANES:
            raise TinylaneError(f"--lanes is {n}; expected 1 to {MAX_LANES}")
    if args.max_tokens is not None and args.max_tokens < 1:
        raise TinylaneError(f"--max-tokens is {args.max_tokens}; expected 1 or more")
    if any(not text for text in args.stop or ()):
        raise TinylaneError("--stop is empty; expected a text of a character or more")
    _check_modes(args)
    LaneMask.joint(1, args.lag or 0)
    common.template(args)
    return common.sampling(args)


def _check_modes(args: Any) -> None:
    """Refuse modes that are none, and flags that none of the modes takes: they would do nothing."""
    asked = [runner.parse_mode(label) for label in args.mode]
    names = {found["name"] for found in asked}
    open_joint = any(found["name"] == "joint" and "omega" not in found for found in asked)
    starts = {found.get("omega", args.omega) for found in asked if found["name"] == "joint"}
    starts |= {"group_think"} & names
    takes = {
        "omega": (open_joint, "--mode joint"),
        "prompt_lane": ("joint" in names, "--mode joint"),
        "lag": (names != {"independent"}, "a mode in which lanes read each other"),
        "slot": (bool(starts & {"group_think", "ntk"}), "group_think or ntk"),
        "omega_scale": ("ntk" in starts, "ntk"),
    }
    for flag, (taken, needs) in takes.items():
        if getattr(args, flag) is not None and not taken:
            raise TinylaneError(f"--{flag.replace('_', '-')} needs {needs}")


def options(args: Any) -> Options:
    """What the flags say about the task."""
    return Options(
        data=args.data,
        question=args.question_field,
        answer=args.answer_field,
        template=args.template,
        compare=args.compare,
        pattern=args.answer_pattern,
        cups=args.cups,
        swaps=args.swaps,
    )


def conditions_of(
    args: Any, model: Model, task: Task, given: dict[str, Any], together: Collaboration | None
) -> Conditions:
    """What is the same for all cells."""
    return runner.Conditions(
        seed=args.seed,
        sampler=replace(Sampler.from_config(model.sampling), **{**(task.sampling or {}), **given}),
        stop=tuple(args.stop or ()),
        template=common.template(args),
        omega=parse_omega(args.omega),
        slot=args.slot,
        scale=args.omega_scale,
        prompt_lane=args.prompt_lane,
        lag=args.lag,
        together=together,
    )


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to while nothing has been computed yet.

    Creates nothing, so that a later refusal leaves no folder.
    """
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise TinylaneError(f"--out {folder}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise TinylaneError(f"--out {folder}: {there} cannot be written to")


def notes(setup: Setup) -> None:
    """Say once what the user may not expect."""
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
        said = ", ".join(f"{t} with {n} lane{'s' * (n > 1)}" for n, t in budgets.items())
        common.note(
            f"equal tokens in all, so each lane may write {said} (--equal steps: as many with all)"
        )
    if max(lengths) >= model.config.context:
        common.note(
            f"lanes of up to {max(lengths)} tokens end earlier, where this model's context of "
            f"{model.config.context} is full"
        )


def _show(setup: Setup, rows: Sequence[AnswerRow]) -> None:
    """The table, or the JSON document."""
    args, model, task = setup.args, setup.model, setup.task
    count = len(setup.problems)
    summaries = [
        (cell, summary([r for r in rows if (r.mode, r.lanes) == cell.key], intervals=False))
        for cell in setup.cells
    ]
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
                "tinylane": __version__,
                "task": args.task,
                "model": args.model,
                "identity": model.identity,
                "backend": model.backend,
                "dtype": model.dtype,
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
    print(plain_table(summaries))
    if args.out is not None:
        others = " and the folders of the other shards" if args.shard is not None else ""
        common.note(f"tables and plots: tinylane report {args.out}{others}", args.quiet)


class Progress:
    """How far a run is: on a terminal a bar with the time left, else a line for every tenth."""

    def __init__(self, total: int, before: int, quiet: bool) -> None:
        self.total, self.before, self.finished = total, before, before
        self.live = sys.stderr.isatty() and not quiet
        self.every = 0 if quiet else max(total // 10, 1)
        self.began = time.monotonic()
        self._stack = ExitStack()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._stack.__enter__()
        if self.before and self.every:
            left = "nothing left to do" if self.before == self.total else "going on"
            print(f"{self.before} of {self.total} done before; {left}", file=sys.stderr, flush=True)
        if self.live and self.before < self.total:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                speed_estimate_period=600,
            )
            self._stack.enter_context(self._bar)
            self._task = self._bar.add_task("", total=self.total, completed=self.before)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, at)

    def following(self, work: Sequence[tuple[int, Cell]]) -> Iterator[tuple[int, Cell]]:
        """The same work, saying what is being done."""
        for index, cell in work:
            if self._bar is not None:
                self._bar.update(
                    self._task, description=f"problem {index + 1}, {cell.mode}, {cell.lanes} lanes"
                )
            yield index, cell

    def done(self) -> None:
        """One more."""
        self.finished += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self.finished)
        elif self.every and (self.finished % self.every == 0 or self.finished == self.total):
            spent = time.monotonic() - self.began
            left = spent / (self.finished - self.before) * (self.total - self.finished)
            more = f", {duration(left)} left" if self.finished < self.total else ""
            print(
                f"{self.finished} of {self.total}, {duration(spent)}{more}",
                file=sys.stderr,
                flush=True,
            )


def duration(seconds: float) -> str:
    """75 -> "1:15"; 4000 -> "1:06:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
