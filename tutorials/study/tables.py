"""The study's tables as Markdown, from the JSON files alone: `python tutorials/study tables DIR`.

A share is over all seeds of a cell together, with Wilson's 95% interval, followed by the share of
each seed. All seeds answer the same problems, so the interval is about these trained models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.measures import wilson
from tinylane.files.io import read_json
from tutorials.study.figures import LIMIT, NAMES, trials
from tutorials.study.real import likelihood, of_others, of_task, wrong


def tables(folder: Path) -> str:
    """All tables in a folder, as Markdown. Raises TinylaneError if there is none."""
    makers = {"scratch": scratch, "scratch-4000": scratch, "finetune": finetune, "starts": starts}
    makers |= {"apart": games, "apart-search": games, "apart-4000": games, "frontier": games}
    makers["frontier"] = lambda table: f"{games(table)}\n\n{by_answer(table)}"
    makers |= {"schedules": games, "beyond": beyond, "real": real}
    paths = {name: folder / f"{name}.json" for name in makers}
    parts = [
        make(read_json(paths[name], LIMIT))
        for name, make in makers.items()
        if paths[name].is_file()
    ]
    if not parts:
        names = ", ".join(f"{name}.json" for name in makers)
        raise TinylaneError(f"{folder}: no table to read; expected one of {names}")
    return "\n\n".join(parts)


def real(table: dict[str, Any]) -> str:
    """The real model: a table a task, those of other adapters, and what the adapter costs."""
    tasks = dict.fromkeys(run["task"]["name"] for run in table["evals"].values())
    shown = [of_task(table, task) for task in tasks] + [wrong(table)] * ("sums" in tasks)
    shown += [other for task in tasks if (other := of_others(table, task))]
    return "\n\n".join([*shown, likelihood(table)] if table["likelihood"] else shown)


def share(parts: list[dict[str, Any]]) -> str:
    """`35.2% (31.1 to 39.5); 35, 36, 34` of scores with their counts."""
    right, count = sum(p["right"] for p in parts), sum(p["count"] for p in parts)
    estimate = wilson(right, count)
    text = f"{right / count:.1%} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
    each = [f"{100 * p['right'] / p['count']:.0f}" for p in parts]
    return text if len(parts) < 2 else f"{text}; {', '.join(each)}"


def _lines(head: list[str], rows: list[list[str]]) -> str:
    bar = "|" + "---|" * len(head)
    return "\n".join(["| " + " | ".join(row) + " |" for row in [head]] + [bar]) + "".join(
        "\n| " + " | ".join(row) + " |" for row in rows
    )


def scratch(table: dict[str, Any]) -> str:
    """Table 1: a row a cell, a column a number of lanes."""
    steps = table["recipe"]["steps"]
    head = [f"from scratch, {steps:,} steps", "seeds"]
    head += [f"N = {n}, {table['steps'][str(n)]} steps" for n in table["lanes"]]
    rows = []
    for name, cell in table["cells"].items():
        scores = [share([part["scores"][str(n)] for part in cell["seeds"]]) for n in table["lanes"]]
        seeds = ", ".join(str(part["seed"]) for part in cell["seeds"])
        rows.append([NAMES[name], seeds, *scores])
    return _lines(head, rows)


def games(table: dict[str, Any]) -> str:
    """Tables 4, 5 and 7: a row a cell, a column a number of lanes; the steps are the mean of what
    the lanes took. Below table 5: a row for each number of lanes, searches that make no mistake."""
    many = [str(n) for n in table["lanes"]]
    if title := table.get("title"):
        head = [title]
    else:
        head = [f"{table['table']}, {table['recipe']['steps']:,} steps", "parameters", "seeds"]
    head += [f"N = {n}" for n in many]
    rows = []
    for cell in table["cells"].values():
        parts = cell["seeds"]
        row = [cell["says"]]
        if not title:
            seeds = ", ".join(str(part["seed"]) for part in parts)
            row += [f"{parts[0]['parameters']:,}", seeds]
        for n in many:
            scores = [part["scores"][n] for part in parts if n in part["scores"]]
            took = f"; {np.mean([s['steps'] for s in scores]):.1f} steps" if scores else ""
            took += f", {cell['tokens'][n]} tokens" if n in cell.get("tokens", ()) else ""
            row.append(share(scores) + took if scores else "")
        rows.append(row)
    shown = _lines(head, rows)
    if counts := table.get("steps_without_mistakes"):
        names = list(next(iter(counts.values())))
        rows = [[n, *(f"{counts[n][name]:.2f}" for name in names)] for n in many]
        shown += "\n\n" + _lines(["lanes", *names], rows)
    return shown


def beyond(table: dict[str, Any]) -> str:
    """Table 8: for each model a table, a row a trial, a column a number of lanes."""
    return "\n\n".join(games(group) for group in trials(table).values())


def by_answer(table: dict[str, Any]) -> str:
    """Table 5 by the goal's distance: right of how many, over the seeds of a cell."""
    rows, every = [], set()
    for cell in table["cells"].values():
        for n in map(str, table["lanes"]):
            parts = [p["scores"][n]["by_answer"] for p in cell["seeds"] if n in p["scores"]]
            found = {
                a: [sum(k) for k in zip(*(p.get(a, (0, 0)) for p in parts), strict=True)]
                for a in set().union(*parts)
            }
            every |= set(found)
            rows += [(cell["says"], n, found)] if parts else []
    order = sorted(every)  # digits, then `no-way`
    told = lambda k: f"{k[0]} of {k[1]}" if k else ""
    head = ["distance of the goal", "lanes", *(a.replace("-", " ") for a in order)]
    return _lines(head, [[says, n, *(told(f.get(a)) for a in order)] for says, n, f in rows])


def example(table: dict[str, Any]) -> str:
    """What the lanes of table 8's frontier model write for one graph, as a block of code."""
    one = table["groups"]["joint"]["example"]
    lanes = [f"lane {m + 1}:  {text}" for m, text in enumerate(one["lanes"])]
    return "\n".join(["```text", one["prompt"], *lanes, f"truth: {one['truth']}", "```"])


def finetune(table: dict[str, Any]) -> str:
    """Table 2: a row a way of tuning."""
    lanes = list(next(iter(table["cells"].values()))["seeds"][0]["scores"])
    head = ["tuned", "share of parameters", "seeds"]
    head += [f"N = {n}, joint" for n in lanes] + ["one lane alone"]
    rows = []
    for name, cell in table["cells"].items():
        parts = cell["seeds"]
        tuned = parts[0].get("share_tuned", "")
        tuned = tuned.partition("(")[2].partition(")")[0] if "(" in tuned else "0%"
        row = [name.replace("_", " and ").replace("-", ", "), tuned, str(len(parts))]
        row += [share([part["scores"][n] for part in parts]) for n in lanes]
        rows.append([*row, share([part["alone"] for part in parts])])
    return _lines(head, rows)


def starts(table: dict[str, Any]) -> str:
    """Table 3: a row a start of Omega."""
    parts = table["seeds"]
    if not parts:
        return "(no base is trained yet)"
    many = list(next(iter(parts[0]["starts"].values()))["shares"])
    head = [
        "untuned, Omega",
        "lane 1 exactly right",
        "lane 2 exactly right",
        "perplexity, worse lane",
    ]
    head += [f"{n} lanes, own shares right" for n in many]
    rows = []
    for name in parts[0]["starts"]:
        measured = [part["starts"][name] for part in parts]
        worse = np.mean([max(lane["perplexity"] for lane in one["lanes"]) for one in measured])
        rows.append(
            [
                name,
                *(share([one["lanes"][k] for one in measured]) for k in (0, 1)),
                f"{worse:.3f}",
                *(share([one["shares"][n] for one in measured]) for n in many),
            ]
        )
    return _lines(head, rows)
