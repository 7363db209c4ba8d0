"""The page "Every method in one row": the table, and each method's choices, drawn for three lanes.

Every picture is of a decoding that was run for it: the model inside, three lanes, few tokens. What
it writes is of no interest there; where rows stand and who sees whom is.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tinylane.checkpoints.load import load
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE, Places
from tinylane.core.model import Model
from tinylane.core.sampling import Sampler
from tinylane.methods import METHODS, decode
from tinylane.methods.choices import Method
from tinylane.methods.decoding import Decoding

WEIGHTS = Path(__file__).parents[2] / "weights" / "shell-game"
PROMPT = [2, 30, 3]  # cups ABCD,
SHORT = [31]  # a tag, where a method wants one: one word
# Small numbers, so that a picture shows each event; and words of one token for tags.
OPTIONS: dict[str, dict[str, Any]] = {
    "group_think": {"slot": 6},
    "plain_lanes": {"slot": 6, "start": SHORT},
    "hogwild_steps": {"others": SHORT, "own": SHORT, "first": SHORT, "finish": SHORT,
                      "answer_tokens": 2},
    "async_reasoning": dict.fromkeys(
        ("writer_prompt", "thinker_prompt", "writer_heading", "thinker_heading", "begin"), SHORT
    ),
    "multi_stream": {"given": {"0": [32, 33]}, "silence": SHORT},
    "parathinker": {"open": SHORT, "close": [], "summary": SHORT, "end": [], "first_finish": False},
    "pasta": {"promise": SHORT, "branch": SHORT, "close": SHORT, "next": SHORT, "join": SHORT,
              "promised": 4, "stretch": 2},
    "apr": {"spawn": SHORT, "message": SHORT, "close": [], "join": SHORT, "spawn_after": 1},
    "ssa": {"open": SHORT, "close": [], "join": SHORT},
    "tree_of_thoughts": {"open": SHORT, "close": [], "depth": 2},
    "graph_of_thoughts": {"open": SHORT, "close": [], "join": SHORT},
    "gambit": {"warmup": 2, "every": 2},
    "stop": {"prefix": 2},
    "leap": {"every": 2, "summary": 1, "ask": SHORT, "told": SHORT, "close": []},
    "budget_forcing": {"wait": SHORT, "answer": SHORT, "answer_tokens": 1},
    "logit_averaging": {"prompt": SHORT},
    "dynamic_lanes": {"unlikely": 0.0},
}  # fmt: skip
BLOCK: dict[str, Any] = {
    "open": SHORT, "path": SHORT, "close": [], "join": SHORT, "outline_tokens": 1, "blocks": 1
}  # fmt: skip
TOKENS = {"leap": 6, "gambit": 6, "stop": 6, "dynamic_lanes": 6, "tool_lane": 4}
CELL = 9.0


@cache
def model() -> Model:
    """The model inside, for the pictures."""
    return load(WEIGHTS, adapter=WEIGHTS / "adapter", backend="numpy")


def example(method: Method) -> Decoding:
    """The decoding that is drawn: three lanes, to their end."""
    options = OPTIONS.get(method.name, BLOCK if "outline_tokens" in method.options else {})
    limit = TOKENS.get(method.name, 3)
    endless = Sampler(logit_bias=dict.fromkeys(model().end_ids, -np.inf))
    how: dict[str, Any] = {"max_tokens": limit, "lanes": 3, "options": options, "sampler": endless}
    decoding = decode(model(), PROMPT, method.name, **how)
    for _ in decoding:
        pass
    decoding.lanes[-1].finish_reason = None  # its last rows are fed, too
    decoding._forward(decoding._feed)
    return decoding


def place(d: Decoding, i: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Where each row stands for the newest one, counted from the first: by the rotation's angles,
    in positions. Omega that is learned is left out."""
    rope: Any = d.cache.lane_rope
    if isinstance(rope, LaneRoPE):
        slot = rope.omega.ravel()[0] / d.model.theta[0] if rope.prompt_lane == 0 else 0.0
        rope = LaneRoPE(np.array([slot]), rope.prompt_lane)
    keys, queries, block_of = rope.views(np.ones(1), d.mask, Places(i, m, i, m))
    block = np.zeros(len(i), int) if block_of is None else block_of
    distance = np.array([queries[b][-1, 0] for b in block]) - keys[:, 0]
    return np.rint(distance.max() - distance).astype(int)


def picture(method: Method) -> str:
    """Two drawings as SVG: where the rows stand, and who sees whom."""
    d = example(method)
    fed = range(len(d.cache))
    order = sorted(fed, key=lambda r: (d.cache.lanes[r], d.cache.positions[r]))
    i, m = d.cache.positions, d.cache.lanes
    x, seen, beside = place(d, i, m), d.mask.visible(i, m, i, m), side(method, d.mask, i, m)
    lanes = sorted({*m.tolist()})
    begun = {lane.index: len(lane.prompt) for lane in d.lanes}
    cells: dict[str, list[str]] = {}
    for r in fed:
        first = i[m == m[r]].min() if m[r] != SHARED else 0
        given = m[r] != SHARED and i[r] - first < begun[int(m[r])]
        kind = "shared" if m[r] == SHARED else f"lane{int(m[r]) % 6}{' given' if given else ''}"
        at = (int(x[r]), lanes.index(int(m[r])))
        cells.setdefault(kind, []).append(square(*at))
    left, top = 52.0, 14.0
    width = left + (int(x.max()) + 1) * CELL + 30
    names = "".join(
        f'<text x="{left - 6:g}" y="{top + (k + 0.78) * CELL:g}">{name(lane)}</text>'
        for k, lane in enumerate(lanes)
    )
    rows = "".join(f'<path class="{kind}" d="{"".join(p)}"/>' for kind, p in cells.items())
    grid: dict[str, list[str]] = {}
    for b, key in enumerate(order):
        for a, query in enumerate(order):
            if seen[query, key] or beside[query, key]:
                kind = "shared" if m[key] == SHARED else f"lane{int(m[key]) % 6}"
                kind += "" if seen[query, key] else " given"
                grid.setdefault(kind, []).append(square(b, a))
    matrix = "".join(f'<path class="{kind}" d="{"".join(p)}"/>' for kind, p in grid.items())
    size = len(order) * CELL
    height = top + max(len(lanes) * CELL, size) + 16
    said = f"{method.title}: where the rows of {len(lanes) - 1} lanes stand, and who sees whom"
    return (
        f'<svg class="method" viewBox="0 0 {width + size + 8:g} {height:g}" role="img" '
        f'aria-label="{escape(said)}" style="max-width:{1.5 * (width + size):g}px">'
        f"<title>{escape(said)}</title>"
        f'<text class="head" x="{left:g}" y="9">place</text>{names}'
        f'<g transform="translate({left:g} {top:g})">{rows}</g>'
        f'<text class="head" x="{width:g}" y="9">who (row) sees whom (column)</text>'
        f'<g transform="translate({width:g} {top:g})">'
        f'<rect class="paper" width="{size:g}" height="{size:g}"/>{matrix}</g></svg>'
    )


def side(method: Method, mask: LaneMask, i: np.ndarray, m: np.ndarray) -> np.ndarray:
    """(T, T) booleans: who sees whom in the method's side path, if it has one."""
    if method.needs == "bridge":
        return mask.same_step(i, m)
    if mask.side is None:
        return np.zeros((len(i), len(i)), dtype=bool)
    return replace(mask, visibility=mask.side, side=None).visible(i, m, i, m)


def square(column: int, row: int) -> str:
    """A cell of a drawing, as a piece of a path."""
    return f"M{column * CELL:g} {row * CELL:g}h{CELL - 1:g}v{CELL - 1:g}h{1 - CELL:g}z"


def name(lane: int) -> str:
    """What a lane is called in a picture: from 1."""
    return "prompt" if lane == SHARED else f"lane {lane + 1}"


def table() -> str:
    """A Markdown table with a row for every method."""
    head = "| method | place | sees | life | draws | extra |\n|---|---|---|---|---|---|"
    rows = [
        f"| [{x.title}](#{x.name}) | " + " | ".join(map(escape, choices(x))) + " |"
        for x in METHODS.values()
    ]
    return "\n".join(['<div class="methods" markdown>', "", head, *rows, "", "</div>"])


CHOICES = ("Place", "Sees", "Life", "Draws", "Extra")


def choices(x: Method) -> tuple[str, ...]:
    """The five choices of a method."""
    return x.place, x.sees, x.life, x.draws, x.extra


def sections() -> str:
    """A section for every method."""
    return "\n\n".join(section(x) for x in METHODS.values())


def section(x: Method) -> str:
    lines = [f"### {x.title} {{ #{x.name} }}", "", escape(x.what), ""]
    if x.name != "beam":
        lines += [picture(x), ""]
    facts = {
        **dict(zip(CHOICES, map(escape, choices(x)), strict=True)),
        "Equation": f"`{x.equation}`", "Source": linked(x.source), "Uncertain": escape(x.uncertain),
        "Run it": f"`tinylane generate --method {x.name}`",
        "Checked by law": re.sub(r"\b\d+\b", law, x.law),
    }  # fmt: skip
    rows = ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts.items() if v)]
    return "\n".join([*lines, '<div class="methods" markdown>', "", *rows, "", "</div>"])


def law(number: re.Match[str]) -> str:
    """A law's number as a link to the method page: mkdocs does not see it, so it is its address."""
    return f"[{number[0]}](method.html#law-{number[0]})"


def linked(source: str) -> str:
    """The arXiv numbers in a source as links."""
    words = source.split("arXiv:")
    parts = [words[0]]
    for word in words[1:]:
        number = word[:10]
        parts.append(f"[arXiv:{number}](https://arxiv.org/abs/{number}){word[10:]}")
    return "".join(parts)
