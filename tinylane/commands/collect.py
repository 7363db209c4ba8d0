"""`tinylane collect`: sample lanes on a task and write labelled transcripts for `train`.

Every transcript is on disk before the next sample begins, in a run directory
(`tinylane.files.run_dir`): the same command goes on where it was stopped. Several processes share
a run by `--shard` (`tinylane.evaluate.shards`); `tinylane report` puts their transcripts into one
file.
"""

from __future__ import annotations

from typing import Any

from tinylane.commands import common, eval, shared_flags, task_flags
from tinylane.commands.progress import Progress, earlier
from tinylane.core.errors import TinylaneError
from tinylane.evaluate import collect, tasks
from tinylane.evaluate.shards import key_of, open_run


def flags(p: Any) -> None:
    """Add the command's flags."""
    p.description += f" {common.RESUME}"
    p.add_argument("task", choices=tuple(tasks.KINDS))
    shared_flags.model_flags(p)
    shared_flags.engine_flags(p)
    task_flags.task_flags(p)
    g = p.add_argument_group("what is sampled")
    task_flags.mode_flag(g, default="joint")
    g.add_argument("--lanes", type=int, metavar="N", help="default: the task's, at most 4")
    shared_flags.rotation_flags(g, "with --mode joint: as --mode joint:O, or @file.json")
    g.add_argument("--samples", type=int, default=1, metavar="S", help="of a problem; default: 1")
    g.add_argument(
        "--label-by",
        choices=("majority", "any", "all", "lane"),
        default="majority",
        help="a transcript is good if the majority's answer is right (default), any lane's, or all "
        "lanes'; lane: one transcript of every lane, by its own answer (independent lanes)",
    )
    task_flags.length_flags(p)
    shared_flags.collaborate_flags(p)
    g = p.add_argument_group("output")
    g.add_argument("--out", metavar="DIR", required=True, help="for results.jsonl and settings")
    task_flags.shard_flag(g)
    g.add_argument("--json", action="store_true", help="one JSON document on standard output")
    g.add_argument("--quiet", action="store_true", help="no progress")


def run(args: Any) -> int:
    """Run the command, or one shard of it; returns the exit code."""
    args.mode, args.lanes = [args.mode], None if args.lanes is None else [args.lanes]
    if args.out.endswith(".jsonl"):
        raise TinylaneError(
            f"--out {args.out}: expected a folder; the transcripts will be results.jsonl in it"
        )
    most = lambda task: [max((n for n in task.lanes if n <= 4), default=1)]
    setup = eval.prepare(args, most, "tokens")
    model, task, problems = setup.model, setup.task, setup.problems
    (cell,) = setup.cells
    collect.check(args.label_by, args.samples, cell, setup.conditions)
    settings = setup.settings(what="transcripts", samples=args.samples, label_by=args.label_by)
    fields = collect.fields(args.label_by)
    parts = range(cell.lanes) if "lane" in fields else [None]
    keys = lambda item: [(problems[item[0]].id, item[1], m)[: len(fields)] for m in parts]
    work = setup.share([(k, s) for k in range(len(problems)) for s in range(args.samples)])
    order = [key for item in work for key in keys(item)]
    eval.notes(setup)
    assert setup.out is not None
    read = lambda journal: earlier(journal, args.quiet)
    with common.told_if_slow(eval.EARLIER, args.quiet, anywhere=True):
        journal, done = open_run(setup.out, settings, fields, order, "transcripts", read)
    todo = [item for item in work if not done.issuperset(keys(item))]
    with journal:
        with (
            common.interrupted(lambda: eval.kept(journal, len(order))),
            Progress(len(order), len(done), args.quiet) as progress,
        ):
            for k, number in todo:
                for row in collect.sample(
                    model, task, problems[k], k, cell, setup.conditions, number, args.label_by
                ):
                    if key_of(row, fields) not in done:
                        journal.append(row)
                        progress.done()
        counts = collect.summary(earlier(journal, args.quiet))
    if setup.silent:
        return 0
    if args.json:
        common.print_json({"task": args.task, "file": str(journal.path), **counts})
    else:
        common.say(
            f"{task.title or task.name}: {counts['transcripts']} transcripts of "
            f"{len({k for k, _ in work})} problems, {journal.path}"
        )
        show(counts, args.label_by, args.quiet)
    if setup.shard is not None:
        others = "" if args.shard is None else " and the folders of the other shards"
        common.note(f"one file of all shards: tinylane report {args.out}{others}", args.quiet)
    return 0


LABELS = {"majority": "the majority", "any": "any lane", "all": "all lanes", "lane": "the lane"}


def show(counts: dict[str, int], label_by: str, quiet: bool = False) -> None:
    """Print what transcripts hold. counts: as of `collect.summary`."""
    count, good = counts["transcripts"], counts["good"]
    print(f"labelled good ({LABELS[label_by]} is right): {good}; bad: {count - good}")
    print(f"lanes without an answer: {counts['silent']} of {counts['lanes']}")
    if counts["unreadable"]:
        print(f"answers that could not be read and were compared as text: {counts['unreadable']}")
    if counts["kept_ids"]:
        print(
            f"transcripts whose text does not encode to the tokens that were drawn, which are kept "
            f"as ids: {counts['kept_ids']}"
        )
    if good == 0:
        common.note("no transcript is good: sft has nothing to learn, kto needs both", quiet)
    elif good == count:
        common.note("no transcript is bad: kto needs both", quiet)
