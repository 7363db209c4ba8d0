"""What reading other lanes does to the text of a model that was not trained for it.

From the results of one run of `tinylane eval gsm8k --likelihood` with several modes: the same
problems, prompts and random numbers in every mode, so differences are paired by problem. Measured
beside the answers:

    log-probability   of a token, in nats, where its lane stands alone: by the plain model
    in another lane   the share of a lane's n-grams that another lane has written too
    said before       the share of a lane's n-grams that the lane itself has written before

A text that goes round in circles is likely: read the first number beside the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylane.evaluate.measures import Estimate, as_json, mean, wilson
from tinylane.evaluate.results import NGRAM, copied
from tinylane.evaluate.runner import ALONE
from tinylane.evaluate.tables import markdown, number, percent, points
from tinylane.view.figure_style import blank, finish, frame, grid
from tinylane.view.palette import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN = "independent"
SHARES = ("right vote", "right lane", "answer", "ended")
WRITING = ("log-probability", "in another lane", "said before")
BEGINS, SHOWN = "the last lane of the first problem begins", 160  # characters


def untuned(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Of each mode in the rows of a run: SHARES of lanes (an answer was found and read; the lane
    ended by itself) with Wilson's intervals of as many trials as problems, the means of WRITING and
    their paired differences from independent lanes, and the beginning of a text.

    Only problems that all modes have done count.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["mode"], {})[row["problem"]] = row
    shared = sorted(set.intersection(*map(set, found.values())), key=int)
    done = {mode: [by[problem] for problem in shared] for mode, by in found.items()}
    written = {mode: np.array([_writing(row) for row in each]) for mode, each in done.items()}
    modes = {}
    for mode, each in done.items():
        right = np.array([_shares(row) for row in each]).sum(axis=0).tolist()
        tokens = np.mean([row["tokens"] / row["lanes"] for row in each])
        text = " ".join(each[0]["lane"][-1]["text"].split())
        less = {}
        if PLAIN in done and mode != PLAIN:
            less = _means(written[mode] - written[PLAIN])
        modes[mode] = {
            "shares": {
                k: as_json(wilson(x, len(each))) for k, x in zip(SHARES, right, strict=True)
            },
            "writing": _means(written[mode]),
            "difference": less,
            "tokens a lane": float(tokens),
            BEGINS: text[:SHOWN],
        }
    return {"problems": len(shared), "modes": modes}


def _means(values: np.ndarray) -> dict[str, Any]:
    """values: (problems, WRITING)."""
    return {name: as_json(mean(x)) for name, x in zip(WRITING, values.T, strict=True)}


def _shares(row: dict[str, Any]) -> list[float]:
    lanes = row["lane"]
    readable = {group["answer"] for group in row["groups"] if group["readable"]}
    each = [
        (lane["correct"], lane["answer"] in readable, lane["finish_reason"] == "stop")
        for lane in lanes
    ]
    return [float(row["correct"]), *map(float, np.mean(each, axis=0))]


def _writing(row: dict[str, Any]) -> list[float]:
    tokens = [lane["tokens"] for lane in row["lane"]]
    return [row["scores"]["numbers"][ALONE], copied(tokens), said_before(tokens)]


def said_before(tokens: Sequence[Sequence[int]], n: int = NGRAM) -> float:
    """The share of the lanes' n-grams of tokens that stand earlier in the same lane, too. NaN for
    lanes that are all too short."""
    grams = [[tuple(t[k : k + n]) for k in range(len(t) - n + 1)] for t in tokens]
    total = sum(map(len, grams))
    return 1 - sum(len(set(mine)) for mine in grams) / total if total else math.nan


# The tables and the figure, from that JSON.


def _estimate(kept: dict[str, Any]) -> Estimate:
    return Estimate(*(math.nan if x is None else x for x in (kept["value"], *kept["interval_95"])))


def _of(name: str, kept: dict[str, Any], share: Callable[[Estimate], str] = percent) -> str:
    """A number of WRITING, as it is shown: the first in nats, the others as shares."""
    return number(_estimate(kept)) if name == WRITING[0] else share(_estimate(kept))


def _run(found: dict[str, Any]) -> dict[str, Any] | None:
    """The run in `real.json`, None if there is none."""
    return next((run["untuned"] for run in found["evals"].values() if "untuned" in run), None)


def table(found: dict[str, Any]) -> str:
    """A row a mode; below, a row a mode that differs from independent lanes, and by how much."""
    run = _run(found)
    if run is None:
        return "(not measured yet)"
    head = [f"untuned, {run['problems']} problems", *SHARES, *WRITING, "tokens a lane"]
    rows, less = [], []
    for mode, one in run["modes"].items():
        shares = [percent(_estimate(one["shares"][name])) for name in SHARES]
        means = [_of(name, one["writing"][name]) for name in WRITING]
        rows.append([mode, *shares, *means, f"{one['tokens a lane']:.0f}"])
        if one["difference"]:
            less.append([mode, *(_of(name, one["difference"][name], points) for name in WRITING)])
    below = markdown(["minus independent, paired", *WRITING], less)
    return "\n\n".join([markdown(head, rows), below])


def texts(found: dict[str, Any]) -> str:
    """How the last lane of the first problem began, a row a mode; as code, so that nothing in a
    text is obeyed."""
    run = _run(found) or {"modes": {}}
    shown = [[mode, f"`{one[BEGINS].replace('`', ' ')}`"] for mode, one in run["modes"].items()]
    return markdown(["untuned", BEGINS], shown)


def writing(found: dict[str, Any]) -> Figure | None:
    """A panel for each of WRITING, a row a mode: the mean and its 95% interval over problems."""
    run = _run(found)
    if run is None:
        return None
    modes, facts = list(reversed(run["modes"])), []
    figure = blank(10, 1.2 + 0.4 * len(modes))
    for k, name in enumerate(WRITING):
        label = "nats a token, by the plain model" if k == 0 else f"{NGRAM}-grams {name}"
        axes = frame(figure, "", label, "", (1, len(WRITING), k + 1))
        for at, mode in enumerate(modes):
            kept = run["modes"][mode]["writing"][name]
            e = _estimate(kept)
            bounds = [[e.value - e.low], [e.high - e.value]]
            axes.errorbar(e.value, at, xerr=bounds, fmt="o", color=COLOURS[0], ms=5, lw=1.2)
            facts.append(f"{name}, {mode}: {_of(name, kept)}")
        axes.set_yticks(range(len(modes)), modes if k == 0 else [""] * len(modes))
        axes.set_ylim(-0.5, len(modes) - 0.5)
        if k:
            axes.set_xlim(left=0)
        grid(axes)
    text = f"What lanes wrote untuned, {run['problems']} problems. {'; '.join(facts)}."
    return finish(figure, text)
