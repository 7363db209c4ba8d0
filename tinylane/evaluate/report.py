"""Runs side by side: which belong together, what is compared with what, and the page about them.

Runs of the same task, problems and seed make one section, in which every comparison is paired by
problem. Only problems that all cells of a section have done count, so that a run that still goes on
can be read fairly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from tinylane.core.errors import TinylaneError, show
from tinylane.evaluate import results
from tinylane.evaluate.measures import (
    AXES,
    MEASURES,
    Comparison,
    Curve,
    Estimate,
    Summary,
    as_json,
    compare,
    grid,
    mean,
    of_k,
    powers,
    summary,
    wilson,
)
from tinylane.evaluate.measures import curves as curve_estimates
from tinylane.evaluate.results import AnswerRow
from tinylane.evaluate.rows import Rows, pick, problems
from tinylane.evaluate.runner import parse_mode
from tinylane.evaluate.shards import RunFolder
from tinylane.evaluate.tables import comparisons_table, end_table, group_table, writing_table
from tinylane.files.display import counted, one_line

CAPTION_END = (
    "The share of problems that are right, with 95% Wilson intervals. *One lane*: the mean over "
    "the lanes, with the interval of as many trials as there are problems. *Tokens a lane*: the "
    "limit of each lane."
)
CAPTION_WRITING = (
    "Means over problems, with 95% bootstrap intervals. *Repeated*: the share of a lane's "
    f"sequences of {results.NGRAM} tokens that another lane wrote too. *Identical*: problems in "
    "which two lanes wrote the same, token for token. *No answer*: lanes without one. *Cut*: "
    "problems in which a lane reached its limit of tokens."
)
CAPTION_K = (
    "At the end of a run, the mean over all choices of k of the N lanes, with 95% Wilson "
    "intervals; k = N is the result above. Lanes that read each other read all N lanes, not k."
)
CAPTION_COMPARE = (
    "The same problems, prompts and random numbers on both sides, paired by problem. Differences "
    "are in percentage points, with 95% bootstrap intervals over problems (*all alike*: the same "
    "difference in every problem, so there is nothing to resample). Equal *steps*: every lane may"
    " write the same number of tokens, so N lanes write up to N times what one lane writes. Equal"
    " *tokens*: all lanes together may write the same number, so one lane writes N times as long."
    " `independent` with as many lanes is equal in both: N samples of one prompt. The budget is "
    "the largest that both sides have used, and also the larger one if the other side ended by "
    "itself. A lane that has not ended by then has the answer that its text has marked, or none."
)


@dataclass(frozen=True)
class EvalRun:
    """A run as read, of one process or of shards. cells: key -> problems, in file order. limits:
    max_tokens of every cell. planned: how many results it will have."""

    folder: RunFolder
    cells: Mapping[tuple[str, int], Sequence[AnswerRow]]
    limits: dict[tuple[str, int], int]
    planned: int

    @property
    def name(self) -> str:
        """Its folder's."""
        return _plain(self.folder.path.resolve().name)[:60] or "run"

    @property
    def settings(self) -> dict[str, Any]:
        """Those of settings.json."""
        return self.folder.settings


Watch = Callable[[str, int, int], None]  # what is being done, how far it is, of how many


def read(folder: RunFolder, watch: Watch = lambda what, k, count: None) -> EvalRun:
    """A run's results, in temporary files. watch: called for each that is read or measured.

    Raises TinylaneError, in one line, for what is none or was edited.
    """
    settings, path = folder.settings, folder.path
    if folder.transcripts:
        raise TinylaneError(
            f"{path}: holds the transcripts of tinylane collect; expected the --out of tinylane "
            "eval"
        )
    try:
        limits = {(c["mode"], int(c["lanes"])): int(c["max_tokens"]) for c in settings["cells"]}
        for mode, _ in limits:
            parse_mode(mode)
        planned = int(settings["count"]) * len(limits)
        json.dumps([settings["task"], settings["seed"], settings["sampler"], settings["model"]])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TinylaneError(
            f"{path}: settings.json is not that of tinylane eval ({show(str(error), 40)})"
        ) from None
    cells = {key: Rows(partial(watch, f"measuring {key[0]} x{key[1]}")) for key in limits}
    seen: set[tuple[str, int, str]] = set()
    for where, line in folder.rows():
        watch(f"reading {path}", len(seen), planned)
        row = results.read(line, where, limits)
        key = (row.mode, row.lanes)
        if key not in cells or (*key, row.problem) in seen:
            raise TinylaneError(
                f"{where}: problem {show(row.problem, 40)} of {show(row.mode, 40)}, {row.lanes} "
                f"lanes, is {'there twice' if key in cells else 'not part of this run'}"
            )
        seen.add((*key, row.problem))
        cells[key].append(row)
    if not seen:
        raise TinylaneError(f"{path}: no results yet; tinylane eval writes them")
    done = {key: rows for key, rows in cells.items() if rows}
    return EvalRun(folder, done, limits, planned)


@dataclass(frozen=True)
class Section:
    """Runs of one task, and everything that is measured of them. cells: label -> problems that all
    of them have done, in one order. keys: label -> (run, mode, lanes). limits: max_tokens by label.
    skipped: how many problems some have done and others have not."""

    runs: list[EvalRun]
    cells: dict[str, Sequence[AnswerRow]]
    keys: dict[str, tuple[str, str, int]]
    limits: dict[str, int]
    skipped: int

    @property
    def title(self) -> str:
        """The task in words."""
        task = self.runs[0].settings["task"]
        name = str(task.get("name", "task"))[:40] if isinstance(task, dict) else "task"
        more = ""
        if name == "shell-game":
            more = f", {task.get('cups')} cups, {task.get('swaps')} swaps"
        count = len(next(iter(self.cells.values())))
        return _plain(f"{name}{more}, {count} problems, seed {self.runs[0].settings['seed']}")

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """By label, the end of the run."""
        return {label: summary(rows) for label, rows in self.cells.items()}

    @cached_property
    def of_k(self) -> dict[str, dict[int, dict[str, Estimate]]]:
        """By label and k, the majority of k lanes and any of k, at the end of the run."""
        return {
            label: _of_k_at_end(rows, powers(self.keys[label][2]))
            for label, rows in self.cells.items()
            if self.keys[label][2] > 1
        }

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Of all `pairs`, at equal steps and at equal tokens."""
        return compare(self.cells, pairs(self))

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "title": self.title,
            "runs": [run.name for run in self.runs],
            "skipped": self.skipped,
            "cells": as_json(self.summaries),
            "of_k": as_json(self.of_k),
            "comparisons": as_json(self.comparisons),
        }


def _of_k_at_end(rows: Sequence[AnswerRow], ks: Sequence[int]) -> dict[int, dict[str, Estimate]]:
    right = np.zeros((len(ks), 2))
    for row in rows:
        end = results.states(row, np.array([row.steps]))
        right += np.concatenate([of_k(row, end, k) for k in ks])
    return {
        k: {
            name: wilson(float(x), len(rows))
            for name, x in zip(("majority", "any"), line, strict=True)
        }
        for k, line in zip(ks, right, strict=True)
    }


def sections(runs: Sequence[EvalRun]) -> list[Section]:
    """The runs by task, problems and seed. Raises TinylaneError where runs of one task have no
    problem in common, and where scipy, which their numbers need, is not installed."""
    mean([0.0, 1.0])  # raises without scipy
    groups: dict[str, list[EvalRun]] = {}
    for run in runs:
        s = run.settings
        same = json.dumps([s["task"], s["seed"]], sort_keys=True)
        groups.setdefault(same, []).append(run)
    return [_section(group) for group in groups.values()]


def _section(runs: list[EvalRun]) -> Section:
    many = len(runs) > 1
    names = [run.name for run in runs]
    names = [f"{n}#{k + 1}" if names.count(n) > 1 else n for k, n in enumerate(names)]
    cells, at, keys, limits = {}, {}, {}, {}
    for run, name in zip(runs, names, strict=True):
        for (mode, n), rows in run.cells.items():
            label = (f"{name}: " if many else "") + f"{mode} x{n}"
            cells[label] = rows
            at[label] = {problem: k for k, problem in enumerate(problems(rows))}
            keys[label], limits[label] = (name, mode, n), run.limits[mode, n]
    shared, known = set.intersection(*map(set, at.values())), set().union(*at.values())
    if not shared:
        raise TinylaneError(
            f"{', '.join(names)}: no problem that all cells have done; let the run go on a little"
        )
    order = [problem for problem in next(iter(at.values())) if problem in shared]
    done_by_all = {
        label: pick(rows, [at[label][problem] for problem in order])
        for label, rows in cells.items()
    }
    return Section(runs, done_by_all, keys, limits, len(known) - len(shared))


def pairs(section: Section) -> list[tuple[str, str]]:
    """(cell, what it is compared with): independent lanes of the same number, one lane, and the
    same cell of the first run."""
    labels = {key: label for label, key in section.keys.items()}
    first = next(iter(labels))[0]
    compared = []
    for (name, mode, n), label in labels.items():
        others = [(name, "independent", n), (name, "independent", 1)] if n > 1 else []
        if mode == "independent":
            others = others[1:]
        if name != first:
            others.append((first, mode, n))
        compared += [(label, labels[other]) for other in others if other in labels]
    return compared


def curves(section: Section) -> dict[str, Any]:
    """Every cell's accuracy as a function of steps, tokens and seconds, plain JSON values: one
    lane, majority and any, and on a coarser grid the majority of k lanes and any of k."""
    by_label: dict[str, Any] = {}
    for label, rows in section.cells.items():
        by_label[label] = {}
        grids = {axis: (grid(rows, axis), grid(rows, axis, 9)) for axis in AXES}
        ks = powers(rows[0].lanes)[:-1]
        asked: list[Curve] = [
            (axis, grids[axis][k is not None], k) for axis in AXES for k in (None, *ks)
        ]
        estimates = iter(curve_estimates(rows, asked))
        for axis, (budgets, coarse) in grids.items():
            lines: dict[str, Any] = {"budgets": _rounded(budgets)}
            lines |= zip(MEASURES, _lines(next(estimates)), strict=True)
            few: dict[str, Any] = {"budgets": _rounded(coarse)}
            for k in ks:
                few |= zip(
                    (f"majority of {k}", f"any of {k}"), _lines(next(estimates)), strict=True
                )
            by_label[label][axis] = {**lines, "of_k": few}
    return by_label


def _lines(curves: Sequence[Sequence[Estimate]]) -> list[list[list[float]]]:
    return [[_rounded([e.value, e.low, e.high]) for e in line] for line in curves]


def _rounded(values: Any) -> list[float]:
    return [float(f"{float(x):.5g}") for x in values]


def page(every: Sequence[Section], pictures: Mapping[int, Sequence[tuple[str, str]]]) -> str:
    """The Markdown. pictures: per section (file name, alt text)."""
    parts = ["# Evaluation"]
    for k, section in enumerate(every):
        parts.append(f"## {section.title}")
        parts += [_about(run) for run in section.runs]
        if apart := differences(section.runs):
            parts.append(
                f"**These runs differ in more than their modes**: {', '.join(apart)}. A comparison "
                "of two runs compares these too."
            )
        if section.skipped:
            parts.append(
                f"{section.skipped} more problems are not done by all cells yet and do not count."
            )
        parts += warnings(section)
        parts += [end_table(section.summaries, section.limits), CAPTION_END]
        if section.comparisons:
            parts += [comparisons_table(section.comparisons), CAPTION_COMPARE]
        parts += [writing_table(section.summaries), CAPTION_WRITING]
        if section.of_k:
            parts += [group_table(section.of_k), CAPTION_K]
        parts += [f"![{_plain(alt)}]({name})" for name, alt in pictures.get(k, ())]
    return "\n\n".join(parts) + "\n"


def differences(runs: Sequence[EvalRun]) -> list[str]:
    """The settings, but for the cells and the number of problems, in which runs differ."""
    every = [run.settings for run in runs]
    names = dict.fromkeys(name for s in every for name in s)
    return [
        _plain(name)
        for name in names
        if name not in ("cells", "count", "told_apart")
        and any(s.get(name) != every[0].get(name) for s in every)
    ]


def warnings(section: Section) -> list[str]:
    """What a reader must know before reading the numbers."""
    told = section.runs[0].settings.get("told_apart") is True
    lines = []
    for label, s in section.summaries.items():
        if s.twins and not told:
            lines.append(
                f"**Warning**: {_plain(label)}: two lanes wrote the same, token for token, in "
                f"{s.twins} of {s.count} problems. They are one sample, not two."
            )
    return lines


def _about(run: EvalRun) -> str:
    s = run.settings
    done = sum(map(len, run.cells.values()))
    shards, starts = "", run.folder.starts
    if run.folder.shards > 1:
        numbers = ", ".join(map(str, run.folder.missing))
        shards = f" by {run.folder.shards} shards{f' (without {numbers})' if numbers else ''}"
    last = starts[-1] if starts and isinstance(starts[-1], dict) else {}
    said = last.get("versions")
    version = said.get("tinylane") if isinstance(said, dict) else None
    git = _plain(str(last.get("git") or ""))
    sampler = s["sampler"] if isinstance(s["sampler"], dict) else {}
    temperature = sampler.get("temperature")
    how = (
        "greedy" if temperature == 0 else f"temperature {temperature}, top-p {sampler.get('top_p')}"
    )
    revision = f", revision {git[:12]}{'+' * git.endswith('+')}" if git else ""
    return (
        f"Run `{_plain(run.name)}`: {done:,} of {run.planned:,} results{shards}, {how}; model "
        f"`{_plain(str(s['model'])[:12])}` ({_plain(str(s.get('backend')))}, "
        f"{_plain(str(s.get('dtype')))}); tinylane {_plain(str(version))}{revision}"
        f"; started {counted(max(len(starts), 1), 'time')}."
    )


def _plain(text: str) -> str:
    """Text of a file on one line, without what Markdown would obey."""
    return one_line(text, 600).translate({ord(c): None for c in "`[]<>|"})
