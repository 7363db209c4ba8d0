"""The figure of the first page: four lanes play the shell game, and which lane attends to which.

Drawn from a run of the model inside, when the site is built. It uses the page's own text colour, so
it can be read on light and dark pages. The lines are the measured attention weights of the middle
layer, averaged over its heads.
"""

from __future__ import annotations

import html
import re
from typing import Any

import numpy as np

import tinylane
from tinylane.commands.common import embedded
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.view.attention import attention_weights

SWAPS = "3-4 2-3 2-4 3-4 2-3 2-4 3-4 1-3 1-2 1-3 1-3 3-4 3-4 1-2 1-4 2-4"  # the README's game
LAYER, LEAST = 1, 0.12  # weights below this are not drawn
WIDE, HIGH, BOX = 118, 60, (86, 30)
# What site.css says of the figure, for a file that no style sheet of a page reaches.
STYLE = """
svg { --ink: #222; --quiet: #5f5d57; --rule: #d5d3cb }
svg { --soft: #cfe3f2; --warm: #fbe3d3; --line: #b34f00 }
@media (prefers-color-scheme: dark) {
svg { --ink: #ececea; --quiet: #a9a8a3; --rule: #3a3c40 }
svg { --soft: #15364c; --warm: #50310f; --line: #f0a35e }
}
text { fill: var(--ink); text-anchor: middle }
.name { font: 600 13px sans-serif }
.share { fill: var(--quiet); font: 11px monospace }
.word { font: 600 15px monospace; letter-spacing: 0.08em }
rect { fill: var(--soft) }
.pair, .whole { fill: var(--warm) }
.whole { stroke: var(--line); stroke-width: 2 }
path { fill: none; stroke: var(--line); stroke-linecap: round }
path.time { stroke: var(--rule); stroke-width: 2 }
"""


def home(lanes: int = 4) -> str:
    """An <svg> of one game. Raises AssertionError if the lanes do not end with the right answer."""
    model, game = tinylane.load(embedded(), backend="numpy"), ShellGame()
    moves, N, steps = game.parse(SWAPS), lanes, game.steps(lanes)
    settings: dict[str, Any] = {"lane_prompts": game.lane_prompts(N), "max_tokens": steps + 1}
    result = tinylane.generate(model, game.prompt(moves), lanes=N, **settings)
    words = [text.split() for text in result.texts]
    assert all(lane[-1] == game.answer(moves) for lane in words)
    tokens, _ = game.rows(moves[None], N)
    heard = attention_weights(model, tokens[0], *game.coordinates(N))[LAYER].mean(axis=0)
    first = len(tokens[0]) - N * (steps + 1)  # rows: the prompt, then lane by lane tag and words
    row = lambda m, t: first + m * (steps + 1) + t

    lines, boxes, said = [], [], []
    shares = np.array(SWAPS.split()).reshape(N, -1)
    for m in range(N):
        (x, top), (_, end) = _centre(m, 0), _centre(m, steps - 1)
        lines.append(f'<path class="time" d="M{x} {top}V{end}"/>')
        boxes.append(_text(m, -0.72, f"lane {m + 1}/{N}", "name"))
        boxes.append(_text(m, -0.38, " ".join(shares[m]), "share"))
        for t in range(steps):
            kind = "whole" if t == steps - 1 else "own" if t < steps - 2 else "pair"
            boxes.append(_cell(m, t, words[m][t], kind))
            for n in range(N):
                for s in range(1, t + 1):
                    weight = heard[row(m, t), row(n, s)]
                    if n != m and weight >= LEAST:
                        lines.append(_line(n, s - 1, m, t, weight))
                        said.append(f"lane {m + 1} reads lane {n + 1} for word {t + 1}")
    width, height = N * WIDE + 12, steps * HIGH + 48
    alt = (
        f"Four lanes write six arrangements each: {'; '.join(' '.join(w) for w in words)}. "
        f"Measured attention: {', '.join(said)}."
    )
    return (
        f'<svg class="lanes" viewBox="-6 -34 {width} {height}" role="img" '
        f'aria-label="{html.escape(alt)}">{"".join(lines)}{"".join(boxes)}</svg>'
    )


def standalone(svg: str) -> str:
    """The figure as a file of its own, for the README: with colours, for light and dark readers."""
    size = re.search(r'viewBox="\S+ \S+ (\d+) (\d+)"', svg)
    assert size is not None
    head = f'xmlns="http://www.w3.org/2000/svg" width="{size[1]}" height="{size[2]}"'
    return svg.replace('class="lanes"', head, 1).replace(">", f"><style>{STYLE}</style>", 1) + "\n"


def _centre(m: int, t: float) -> tuple[float, float]:
    return m * WIDE + WIDE / 2, t * HIGH + HIGH / 2


def _text(m: int, t: float, text: str, kind: str) -> str:
    x, y = _centre(m, t)
    return f'<text class="{kind}" x="{x}" y="{y}">{html.escape(text)}</text>'


def _cell(m: int, t: int, text: str, kind: str) -> str:
    (x, y), (w, h) = _centre(m, t), BOX
    box = f'<rect class="{kind}" x="{x - w / 2}" y="{y - h / 2}" width="{w}" height="{h}" rx="6"/>'
    return f'{box}<text class="word" x="{x}" y="{y + 5}">{html.escape(text)}</text>'


def _line(n: int, s: int, m: int, t: int, weight: float) -> str:
    """From the bottom of the word that is read to the top of the word being written."""
    (x0, y0), (x1, y1) = _centre(n, s), _centre(m, t)
    side = np.sign(x1 - x0)
    y0, y1, x1 = y0 + BOX[1] / 2, y1 - BOX[1] / 2, x1 - side * BOX[0] / 4
    middle = (y0 + y1) / 2
    return (
        f'<path d="M{x0} {y0}C{x0} {middle} {x1} {middle} {x1} {y1}" '
        f'stroke-width="{1 + 8 * (weight - LEAST):.2f}"/>'
    )
