"""What was measured of the real model's adapter (`weights/smollm2-lanes`), gathered from a folder.

    python tutorials/study real RUNS --publish tutorials/study/real.json

A folder in RUNS is a run of `tinylane eval --out` or of `tinylane train sft --out`, or it has
`likelihood.json`, what `tinylane likelihood --json` printed. A run of eval called `NAME.step-K` was
made with the adapter as it was after K steps of the training NAME; one called `NAME.of-TRAINING`
with the adapter of that training, not with the committed one. What the file has of other runs stays
in it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError
from tinylane.evaluate import report
from tinylane.evaluate.measures import Estimate
from tinylane.evaluate.shards import find_runs
from tinylane.evaluate.tables import markdown, number, percent
from tinylane.evaluate.tasks import sums
from tinylane.evaluate.tasks.task import Options
from tinylane.files.io import read_json
from tinylane.view.figure_style import blank, finish, frame, grid, legend_below
from tinylane.view.palette import COLOURS
from tutorials.study.lanes_more import near_a_carry
from tutorials.study.untuned import table, untuned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORM = re.compile("[+=]")
LOOK, OTHER = ".step-", ".of-"  # in the names of runs: see above
LIKELIHOOD, LOG, RECIPE = "likelihood.json", "log.jsonl", "recipe.json"
KEPT = ("mode", "lanes", "count", "one", "majority", "steps", "tokens", "shares", "numbers")
OF_A_TRAINING = (
    "adapter", "steps", "batch_size", "lr", "omega_lr", "bias_lr", "warmup", "final", "lora_rank",
    "visibility", "seed", "transcripts", "data",
)  # fmt: skip


def collect(folder: Path) -> dict[str, Any]:
    """Everything in a folder of runs, as plain JSON values. Raises TinylaneError for a folder in it
    that is none of the three, and for one without any."""
    found: dict[str, Any] = {"trainings": {}, "evals": {}, "likelihood": {}}
    for part in sorted(path for path in folder.glob("*") if path.is_dir()):
        if (part / LIKELIHOOD).is_file():
            said = read_json(part / LIKELIHOOD)
            del said["data"]  # where it lay on that machine
            found["likelihood"][part.name] = said
        elif (part / LOG).is_file():
            found["trainings"][part.name] = _training(part)
        else:
            found["evals"][part.name] = _eval(part)
    if not any(found.values()):
        raise TinylaneError(f"{folder}: no runs; expected folders of tinylane eval or train")
    return found


def _training(part: Path) -> dict[str, Any]:
    settings = read_json(part / RECIPE)
    log = [json.loads(line) for line in (part / LOG).read_text(encoding="utf-8").splitlines()]
    return {
        "settings": {name: settings[name] for name in OF_A_TRAINING if name in settings},
        "seconds": log[-1]["seconds"],
        "curve": [{name: entry[name] for name in ("step", "loss")} for entry in log],
    }


def _eval(part: Path) -> dict[str, Any]:
    """One run: its task, seed and machine, and the end of every cell with its intervals."""
    (run,) = [report.read(folder) for folder in find_runs([part])]
    (section,) = report.sections([run])
    shown = section.as_json()
    cells = [{name: cell[name] for name in KEPT} for cell in shown["cells"].values()]
    task, seed = run.settings["task"], run.settings["seed"]
    backend = [run.settings[name] for name in ("backend", "dtype")]
    found = {"task": task, "seed": seed, "computed": ", ".join(backend), "cells": cells}
    if task["name"] == "sums":
        found["mistakes"] = {}
        asked = sums.task(Options(numbers=task["numbers"])).problems(run.settings["count"], seed)
        numbers = {problem.id: sums.numbers_of(problem) for problem in asked}
        for _, row in run.folder.rows():
            texts = [lane["text"] for lane in row["lane"]]
            counted = {**mistakes(texts), "lanes": len(texts)}
            counted["own share"] = own_shares(texts, numbers[row["problem"]])
            total = found["mistakes"].setdefault(row["mode"], dict.fromkeys(counted, 0))
            found["mistakes"][row["mode"]] = {k: total[k] + v for k, v in counted.items()}
    if task["name"] == "naming":
        found["temperature"] = run.settings["sampler"]["temperature"]
    if task["name"] == "gsm8k":
        found["untuned"] = untuned(row for _, row in run.folder.rows())
    return found


def merged(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What was published before, with what was found now in its place or behind it: the folders of
    earlier runs need not be kept."""
    return {kind: before.get(kind, {}) | parts for kind, parts in found.items()}


def own_shares(texts: Sequence[str], numbers: Sequence[int]) -> int:
    """How many lanes added the numbers of their own share, all of them, in order, and no others."""
    each, count = sums.share(len(numbers), len(texts)), 0
    for m, text in enumerate(texts):
        words = FORM.split(text.partition(";")[0])
        mine = [f"{x:02}" for x in numbers[m * each : (m + 1) * each]]
        count += [words[0], *words[1::2]] == mine
    return count


def mistakes(texts: Sequence[str]) -> dict[str, int]:
    """What lanes that added together did wrong: additions, near a carry or not; partners' sums that
    were copied. A lane whose text is not of the form of `sums.write` is counted as unread."""
    count = dict.fromkeys(
        ("additions", "wrong", "near a carry", "wrong near a carry", "copies", "wrong copies"), 0
    )
    lanes = [[FORM.split(part) for part in text.split(";")] for text in texts]
    sums: dict[tuple[int, int], str] = {}
    for m, parts in enumerate(lanes):
        for k, words in enumerate(parts):
            if len(words) < 3 or len(words) % 2 == 0 or not all(map(str.isdecimal, words)):
                continue
            now = int(words[0])
            for other, result in zip(words[1::2], words[2::2], strict=True):
                near = near_a_carry(now, int(other)) > 0
                wrong = now + int(other) != int(result)
                count["additions"] += 1
                count["wrong"] += wrong
                count["near a carry"] += near
                count["wrong near a carry"] += near and wrong
                now = int(result)
            sums[m, k] = words[-1]
    for m, parts in enumerate(lanes):
        for k, words in enumerate(parts[1:], 1):
            partner = sums.get((m ^ (1 << (k - 1)), k - 1))
            if (m, k) in sums and partner is not None:
                count["copies"] += 1
                count["wrong copies"] += words[1] != partner
    return count


# Tables and the figure, from that JSON.


def _estimate(kept: dict[str, Any]) -> Estimate:
    """Of its JSON, where no number is None."""
    values = (kept["value"], *kept["interval_95"])
    return Estimate(*(math.nan if value is None else value for value in values))


def of_task(found: dict[str, Any], task: str) -> str:
    """What was measured on a task with the committed adapter, but for the looks in between: a row a
    cell. Of GSM8K: what the untuned model wrote."""
    if task == "gsm8k":
        return table(found)
    return _cells([("", run) for run in _committed(found) if run["task"]["name"] == task], task)


def of_others(found: dict[str, Any], task: str) -> str:
    """What was measured on a task with adapters that are not committed: a row a cell, or ""."""
    runs = [(name, run) for name, run in found["evals"].items() if OTHER in name]
    of = [(name.partition(OTHER)[2], run) for name, run in runs if run["task"]["name"] == task]
    return _cells(of, task) if of else ""


def _committed(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs with the committed adapter."""
    evals = found["evals"].items()
    return [run for name, run in evals if LOOK not in name and OTHER not in name]


def _cells(runs: Iterable[tuple[str, dict[str, Any]]], task: str) -> str:
    """A row a cell of runs, each with the name of its training (or "")."""
    rows: list[dict[str, str]] = []
    names: dict[str, str] = {}  # the columns, in order
    for training, run in runs:
        for cell in run["cells"]:
            answers = {"vote right": cell["majority"], "a lane right": cell["one"]}
            counted = {} if task == "naming" else answers | cell["shares"]
            row = {
                **({"training": training} if training else {}),
                **_sizes(run),
                "lanes": str(cell["lanes"]),
                "mode": cell["mode"],
                **({"temperature": f"{run['temperature']:g}"} if "temperature" in run else {}),
                "problems": str(cell["count"]),
                **{name: percent(_estimate(e)) for name, e in counted.items()},
                **{name: number(_estimate(e), 1) for name, e in cell["numbers"].items()},
                "steps": f"{cell['steps']:.0f}",
            }
            if "share" in run["task"]:
                row["mode"] += f", own {run['task']['share']}"
            names |= row
            rows.append(row)
    return markdown(list(names), [[row.get(name, "") for name in names] for row in rows])


def _sizes(run: dict[str, Any]) -> dict[str, str]:
    """Of a run of Sums: how many numbers are added."""
    sizes = run["task"].get("numbers")
    return {"numbers": ", ".join(map(str, sizes))} if sizes else {}


def wrong(found: dict[str, Any]) -> str:
    """Where the sums go wrong: a row a run of Sums."""
    rows = []
    for run in _committed(found):
        for mode, c in run.get("mistakes", {}).items():
            far, wrong_far = (
                c["additions"] - c["near a carry"],
                c["wrong"] - c["wrong near a carry"],
            )
            pairs = [(c["wrong near a carry"], c["near a carry"]), (wrong_far, far)]
            pairs.append((c["wrong copies"], c["copies"]))
            lanes = str(run["cells"][0]["lanes"])
            own = f"{c['own share']} of {c['lanes']}" if "lanes" in c else ""
            sizes = _sizes(run).values()
            rows.append([*sizes, lanes, mode, *(f"{a} of {b:,}" for a, b in pairs), own])
    head = ["numbers", "lanes", "mode", "additions near a carry: wrong", "other additions: wrong"]
    head += ["another lane's sum: copied wrong", "lanes that added their own share"]
    return markdown(head, rows)


def likelihood(found: dict[str, Any]) -> str:
    """What the adapter costs one lane: a row a set of texts."""
    rows = []
    for name, one in found["likelihood"].items():
        rows.append(
            [
                name,
                f"{one['texts']}, {one['tokens']:,} tokens",
                *(f"{value:.2f}" for value in one["perplexity"].values()),
                number(_estimate(one["change"]), 3),
            ]
        )
    head = ["texts", "how many", "perplexity without", "with", "nats a token, mean change"]
    return markdown(head, rows)


def looks(found: dict[str, Any]) -> Figure | None:
    """By training step, the share of lanes with the right total and of right own sums: looks in
    between, at a few problems. None if there are none."""
    points = []
    for name, run in found["evals"].items():
        training, _, step = name.partition(LOOK)
        cell = next((c for c in run["cells"] if c["mode"] == "joint"), None)
        if step.isdigit() and run["task"]["name"] == "sums" and cell is not None:
            points.append((training, int(step), cell))
    if not points:
        return None
    figure = blank(6.4, 3.4)
    axes = frame(figure, "", "training step, one part after another", "share")
    ends, at = {}, 0
    for name, training in found["trainings"].items():
        ends[name], at = at, at + training["curve"][-1]["step"]
    points.sort(key=lambda point: ends.get(point[0], 0) + point[1])
    across = [ends.get(training, 0) + step for training, step, _ in points]
    facts = []
    for label, colour, of in (
        ("own sums right", COLOURS[1], lambda cell: cell["shares"]["own sum right"]),
        ("lanes with the right total", COLOURS[0], lambda cell: cell["one"]),
    ):
        each = [of(cell) for *_, cell in points]
        values = [e["value"] for e in each]
        bars = [
            [v - e["interval_95"][0] for v, e in zip(values, each, strict=True)],
            [e["interval_95"][1] - v for v, e in zip(values, each, strict=True)],
        ]
        axes.errorbar(across, values, yerr=bars, fmt="o-", color=colour, label=label, ms=4, lw=1)
        facts.append(f"{label}: {', '.join(f'{v:.0%}' for v in values)}")
    axes.set_ylim(-0.03, 1.03)
    grid(axes)
    legend_below(figure, columns=2)
    return finish(figure, f"By training step ({', '.join(map(str, across))}): {'; '.join(facts)}.")
