"""`tinylane collect`: sample lanes on a task and write labelled transcripts for `train`.

Every transcript is on disk before the next problem begins, in a run directory (`tinylane.files.run_dir`):
the same command goes on where it was stopped, in one process or several (`tinylane.sharing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane import distributed, sharing
from tinylane.commands import common, evaluate
from tinylane.core.errors import TinylaneError
from tinylane.evaluate import collaboration, collect, runner, tasks
from tinylane.sharing import Shared

if TYPE_CHECKING:
    from tinylane.core.model import Model
    from tinylane.distributed import Ring
    from tinylane.evaluate.runner import Cell, Conditions
    from tinylane.evaluate.tasks.task import Problem, Task
    from tinylane.files.run_dir import Journal

Work = list[tuple[int, int]]  # (index of the problem, number of the sample)


def run(args: Any) -> int:
    """Run the command, or one rank's part of it; the exit code."""
    with distributed.ring() as ring:
        if ring is not None and ring.rank:
            args.quiet = True  # rank 0 speaks for all
        return _run(args, ring)


def _run(args: Any, ring: Ring | None) -> int:
    args.mode, asked = [args.mode], args.lanes
    args.lanes = None if asked is None else [asked]
    given = evaluate.check(args)
    together = common.parse_collaboration(args)
    options = evaluate.options(args)
    if args.out.endswith(".jsonl"):
        raise TinylaneError(
            f"--out {args.out}: expected a folder; the transcripts will be results.jsonl in it"
        )
    evaluate.check_folder(Path(args.out))
    model = common.load(args, lanes=asked or 1, max_tokens=args.max_tokens or 256)
    task = tasks.make(args.task, options, model)
    problems = task.problems(args.count, args.seed)
    lanes = args.lanes or [max((n for n in task.lanes if n <= 4), default=1)]
    (cell,) = runner.cells(task, args.mode, lanes, args.max_tokens)
    conditions = evaluate.conditions_of(args, model, task, given)
    if together is not None:
        conditions = replace(conditions, **collaboration.hooks(together, model, task))
    collect.check(args.label_by, args.samples, cell, conditions)
    runner.reading(model, cell, conditions)  # refuses what does not go together
    runner.check_prompts(model, problems)
    more: dict[str, Any] = {"what": "transcripts"}
    more |= {"samples": args.samples, "label_by": args.label_by}
    if together is not None:
        more["collaborate"] = together.as_dict()
        common.note(together.describe(), args.quiet)
    settings = runner.settings(task, model, problems, [cell], conditions, **more)
    evaluate.notes(args, model, task, problems, [cell], conditions)
    fields = collect.fields(args.label_by)
    work = [(k, s) for k in range(len(problems)) for s in range(args.samples)]
    parts = range(cell.lanes) if len(fields) == 3 else [None]
    order = [
        (problems[k].id, s, m)[: len(fields)]  # what tells every transcript from the others
        for k, s in work
        for m in parts
    ]
    with sharing.keep(args.out, settings, ring, fields, order, "transcripts") as journal:
        assert journal is not None
        _collect(args, model, task, problems, cell, conditions, work, order, journal, ring)
        if ring is None or ring.rank == 0:
            _show(args, journal, task, len(problems))
    return 0


def _collect(
    args: Any,
    model: Model,
    task: Task,
    problems: Sequence[Problem],
    cell: Cell,
    conditions: Conditions,
    work: Work,
    order: Sequence[sharing.Key],
    journal: Journal | Shared,
    ring: Ring | None,
) -> None:
    """Do what there is to do."""
    fields = collect.fields(args.label_by)
    there = {sharing.key_of(row, fields) for row in journal.rows()}
    if strange := there - set(order):
        raise TinylaneError(
            f"{journal.path}: {len(strange)} transcripts are not part of this run; give another "
            "folder"
        )
    each = len(order) // len(work)
    todo = [
        item
        for k, item in enumerate(work)
        if not there.issuperset(order[k * each : (k + 1) * each])
    ]
    try:
        with evaluate.Progress(len(order), len(there), args.quiet) as progress:
            for index, number in sharing.share(ring, todo):
                problem = problems[index]
                for row in collect.sample(
                    model, task, problem, index, cell, conditions, number, args.label_by
                ):
                    if sharing.key_of(row, fields) not in there:
                        journal.append(row)
                        progress.done(journal.count)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; {journal.count} of {len(order)} transcripts are kept in "
            f"{journal.folder}; the same command goes on from there"
        ) from None
    if isinstance(journal, Shared):
        if journal.count < len(order):
            common.note("this rank is done; waiting for the others", args.quiet)
        journal.merge()


def _show(args: Any, journal: Journal | Shared, task: Task, problems: int) -> None:
    """What there is, for a reader or as a JSON document."""
    found = collect.summary(journal.rows())
    if args.json:
        common.print_json({"task": args.task, "file": str(journal.path), **found})
        return
    count, good = found["transcripts"], found["good"]
    by = {"majority": "the majority", "any": "any lane", "all": "all lanes", "lane": "the lane"}
    title = task.title or task.name
    common.say(f"{title}: {count} transcripts of {problems} problems, {journal.path}")
    print(f"labelled good ({by[args.label_by]} is right): {good}; bad: {count - good}")
    print(f"lanes without an answer: {found['silent']} of {found['lanes']}")
    if found["unreadable"]:
        print(f"answers that could not be read and were compared as text: {found['unreadable']}")
    if found["kept_ids"]:
        print(
            f"transcripts whose text does not encode to the tokens that were drawn, which are kept "
            f"as ids: {found['kept_ids']}"
        )
    if good == 0:
        common.note("no transcript is good: sft has nothing to learn, kto needs both", args.quiet)
    elif good == count:
        common.note("no transcript is bad: kto needs both", args.quiet)
