"""The live pages of the site: their sections as pages of their own, and what is on the screen.

`Shown(seen, model).check()` reads the controls and asserts that all that is drawn is what the
package says of these settings. Nothing is asked of the page's own state.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_browser import Visit

import tinylane
from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.evaluate.tasks.shell_game import END, ShellGame
from tinylane.view.attention import attention_weights
from tutorials.build import __main__ as build

SITE = build.ROOT / "tutorials" / "site"
GAME = ShellGame()
SEEDED = "3-4 2-3 2-4 3-4 2-3 2-4 3-4 1-3 1-2 1-3 1-3 3-4 3-4 1-2 1-4 2-4"  # the README's game
READY = "() => document.querySelector('.lane-explorer').getAttribute('aria-busy') === 'false'"

READ = """() => {
  const all = (css, f) => [...document.querySelectorAll(css)].map(f);
  const part = (name) => document.querySelector(`[data-part=${name}]`).innerText.trim();
  const fields = all('form [name]', (x) => [x.name, x.type === 'checkbox' ? x.checked : x.value]);
  const rows = (name) => all(`[data-part=${name}] tr`, (row) =>
    [row.cells[0].innerText, row.cells[2].innerText]);
  return JSON.stringify({
    fields: Object.fromEntries(fields),
    see: all('[data-see]', (x) => x.getAttribute('aria-pressed') === 'true'),
    tags: all('[data-tag]', (x) => x.value),
    planes: all('[data-part=omega] rect.bar', (x) => !x.classList.contains('off')),
    words: all('[data-cell]', (x) => [x.dataset.cell.split(',').map(Number),
      x.firstChild.textContent, x.classList.contains('right'), x.classList.contains('silent')]),
    labels: all('[data-cell]', (x) => x.getAttribute('aria-label')),
    chosen: all('[data-cell][aria-pressed=true]', (x) => x.dataset.cell.split(',').map(Number)),
    next: rows('next'), heard: rows('heard'), keys: all('[data-part=keys] li', (x) => x.innerText),
    verdict: part('verdict'), word: part('word'), tried: part('tried'),
    strands: all('.strand', (x) => x.getAttribute('d')).length,
    moves: all('[data-swap]', (x) => x.dataset.move),
    arcs: all('.arc.chosen', (x) => x).length, others: all('.arc.faint', (x) => x).length,
  });
}"""

NARROW = """([root, least]) => [...document.querySelectorAll(root + ' :is(button, select, input,'
  + ' summary, [role=spinbutton])')].filter((e) => e.checkVisibility()).filter((e) => {
    const { width, height } = e.getBoundingClientRect();
    return Math.min(width, height) < least;
  }).map((e) => e.outerHTML.slice(0, 80))"""


def narrow(seen: Visit, root: str, least: int) -> list[str]:
    """What a finger could miss: controls that are smaller than so many pixels."""
    return seen.page.evaluate(NARROW, [root, least])


def section(folder: Path, name: str, first: str, last: str) -> Path:
    """A folder with the live part of a page alone, between the site's own styles; and its model."""
    build.copy_assets()
    for part in ("assets", "explorer"):
        shutil.copytree(SITE / part, folder / part, dirs_exist_ok=True)
    text = (SITE / name).read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)  # what a program draws in the build
    text = text[text.index(first) : text.index(last)]
    above = "../" * name.count("/")
    (folder / name).with_suffix(".html").write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><title>x</title>"
        "<meta name=viewport content='width=device-width'><link rel=icon href=data:,>"
        "<style>html { font-size: 125% }</style>"  # as the theme has it
        f"<link rel=stylesheet href={above}assets/site.css>"
        f"<body data-md-color-scheme=default><article class=md-typeset>{text}",
        encoding="utf-8",
    )
    return folder


def states() -> list[str]:
    """Addresses: every control, alone and together."""
    rng, made = np.random.default_rng(3), []
    for N, start in itertools.product((1, 2, 4, 8), ("learned", "none", "group_think", "ntk")):
        bits = ".".join("".join(map(str, row)) for row in rng.integers(0, 2, (N, N)))
        see = rng.choice(["joint", "star", "neighbours:1", bits, bits])
        moves = ".".join(GAME.moves[k].replace("-", "") or "0" for k in rng.integers(0, 7, 16))
        off = ".".join(map(str, np.flatnonzero(rng.random(32) < 0.3)))
        tags = "_".join(rng.permutation([f"{m + 1}/{N}" for m in range(N)]))
        silent = ".".join(f"{rng.integers(N)}-{rng.integers(5)}" for _ in range(3))
        more = [f"off={off}", f"tags={tags}", f"silent={silent}", "promptLane=0", "times=0.5"]
        more = [one for one in more if rng.random() < 0.4]
        slot, lag = rng.integers(1, 300), rng.integers(0, 3)
        cell = f"cell={rng.integers(N)}-{rng.integers(6)}&layer={rng.integers(3)}&head=1"
        every = [f"lanes={N}&omega={start}&slot={slot}&lag={lag}&see={see}&moves={moves}", cell]
        made.append("&".join([*every, *more]))
    return made


@dataclass(frozen=True)
class TimedMask(LaneMask):
    """A mask with steps in which nobody else reads a lane."""

    silent: tuple[tuple[int, int], ...] = ()  # (lane, position of the reader)

    def visible(self, *places: np.ndarray) -> np.ndarray:
        i, m, _, n = places
        seen = super().visible(*places)
        for lane, position in self.silent:
            seen &= ~((n[None] == lane) & (m[:, None] != lane) & (i[:, None] == position))
        return seen


class Shown:
    """What is on the screen now, and what the package says of the same settings."""

    def __init__(self, seen: Visit, model: tinylane.Model) -> None:
        seen.page.wait_for_function(READY)
        self.seen, self.model = seen, model
        for name, value in json.loads(seen.page.evaluate(READ)).items():
            setattr(self, name, value)
        self.N, self.lag = int(self.fields["lanes"]), int(self.fields["lag"])
        self.see = np.array(self.see).reshape(self.N, self.N)
        self.steps = GAME.steps(self.N)
        self.text = {(m, t): word for (m, t), word, *_ in self.words}
        self.right = {(m, t): good for (m, t), _, good, _ in self.words}
        self.silent = tuple(
            (m, GAME.prompt_rows + t) for (m, t), _, _, silent in self.words if silent
        )

    fields: Any
    tags: list[str]
    planes: list[bool]
    words: list[Any]
    labels: list[str]
    chosen: list[list[int]]
    next: list[list[str]]
    heard: list[list[str]]
    keys: list[str]
    verdict: str
    word: str
    tried: str
    strands: int
    moves: list[str]
    arcs: int
    others: int

    @property
    def omega(self) -> np.ndarray:
        """Radians (D/2,) as the controls say; a drawn curve is in the page's address."""
        theta, slot = np.asarray(self.model.theta), int(self.fields["slot"])
        assert self.model.lane_rope is not None
        start = self.fields["omega"]
        if start == "drawn":
            self.seen.page.wait_for_selector(".lane-explorer[data-address=new]")  # it comes late
            said = re.search(r"drawn=([^&]+)", self.seen.page.url)
            values = np.array([float(x) for x in said[1].split("_")])  # type: ignore[index]
        else:
            values = {
                "learned": lambda: self.model.lane_rope.omega,  # type: ignore[union-attr]
                "none": lambda: LaneRoPE.none(theta).omega,
                "group_think": lambda: LaneRoPE.group_think(theta, slot).omega,
                "ntk": lambda: LaneRoPE.ntk(theta, slot, self.N).omega,
            }[start]()
        return values * float(self.fields["times"]) * np.array(self.planes)

    def passes(self) -> tuple[list[list[int]], list[np.ndarray], tuple[np.ndarray, ...], Any]:
        """Greedy decoding by whole passes: each lane's tokens, their logits, the rows, settings."""
        model, ids = self.model, GAME.ids
        mask = TimedMask(self.see, self.lag, silent=self.silent)
        prompt_lane: Any = 0 if self.fields["promptLane"] else "own"
        settings = {"lane_rope": LaneRoPE(self.omega, prompt_lane), "lane_mask": mask}
        prompt = model.tokenizer.encode(GAME.prompt(GAME.parse(self.fields["moves"])))  # type: ignore[union-attr]
        rows = [(token, i, SHARED) for i, token in enumerate(prompt)]
        fed, live = [[ids[tag]] for tag in self.tags], list(range(self.N))
        logits: list[list[np.ndarray]] = [[] for _ in fed]
        for step in range(self.steps + 1):
            rows += [(fed[m][-1], len(prompt) + step, m) for m in live]
            columns = tuple(np.array(column) for column in zip(*rows, strict=True))
            out = np.asarray(model(*columns, **settings))[len(rows) - len(live) :]
            for m, row in zip(live, out, strict=True):
                fed[m].append(int(row.argmax()))
                logits[m].append(row)
            live = [m for m in live if fed[m][-1] != ids[END]]
            if not live:
                break
        return fed, logits, columns, settings

    def check(self) -> int:
        """Assert that all of it is what the package says. Returns how many lanes end right."""
        moves = GAME.parse(self.fields["moves"])
        assert self.moves == [GAME.moves[k] for k in moves] and self.strands == 64
        fed, logits, columns, settings = self.passes()
        said = lambda token: "end" if GAME.vocabulary[token] == END else GAME.vocabulary[token]
        wanted = [[*map(said, tokens[1:])] for tokens in fed]
        drawn = [[self.text[m, t] for t in range(len(lane))] for m, lane in enumerate(wanted)]
        assert drawn == wanted and sum(map(len, wanted)) == len(self.words)
        answer = GAME.answer(moves)
        for m, tag in enumerate(self.tags):
            share, of = map(int, tag.split("/"))
            right = [GAME.arrangements[a] for a in GAME.write(moves[None], of)[0, share - 1]]
            right += ["end"] * 20
            for t, word in enumerate(wanted[m]):
                assert self.right[m, t] == (word == right[t])
        last = [[word for word in lane if word != "end"][-1:] for lane in wanted]
        good = last.count([answer])
        lanes = "lanes end" if self.N > 1 else "lane ends"
        assert self.verdict == f"The cups stand {answer}. {good} of {self.N} {lanes} with it."
        self.check_word(logits, columns, settings)
        return good

    def check_word(self, logits: Any, columns: Any, settings: Any) -> None:
        """The chosen word: the probabilities of what comes next, and where its attention went."""
        page = self.seen.page
        m, t = (int(x) - 1 for x in re.findall(r"\d+", self.word)[:2])
        if (m, t) not in self.text:
            assert self.word.endswith("has ended before") and self.next == self.heard == []
            return
        assert self.chosen == [[m, t]] and f": {self.text[m, t]}, " in self.word
        powers = np.exp(np.float64(logits[m][t]) - logits[m][t].max())
        shares = powers / powers.sum()
        for name, percent in self.next:
            word = name.removesuffix(" ✓")
            near(percent, shares[GAME.ids[END if word == "end" else word]])
        assert self.next[0][0].removesuffix(" ✓") == self.text[m, t]
        layer, head = page.input_value("[name=layer]"), page.input_value("[name=head]")
        weights = attention_weights(self.model, *columns, **settings)
        weights = weights if layer == "mean" else weights[[int(layer)]]
        weights = weights if head == "mean" else weights[:, [int(head)]]
        row = np.flatnonzero((columns[1] == GAME.prompt_rows + t) & (columns[2] == m))[0]
        heard = weights.mean(axis=(0, 1))[row]
        read = heard[(columns[2] >= 0) & (columns[2] != m)]
        assert (read > 0.021).sum() <= self.arcs <= (read > 0.019).sum()
        lanes = columns[2]
        others = weights.mean(axis=(0, 1)) * ((lanes >= 0) & (lanes[:, None] != lanes))
        others = others[(lanes >= 0) & (columns[1] < GAME.prompt_rows + self.steps)]
        drawn = self.others + (read > 0.12).sum() * (t < self.steps)
        assert (others > 0.121).sum() <= drawn <= (others > 0.119).sum()
        for n, (name, percent) in enumerate(self.heard, start=-1):
            who = "the prompt" if n < 0 else "itself" if n == m else f"lane {n + 1}"
            assert name == who
            near(percent, heard[columns[2] == n].sum())


Open = Callable[[str], Shown]


def near(percent: str, share: float) -> None:
    """A share as the page says it, rounded to whole percents."""
    if percent == "over 99%":
        assert 0.9949 < share < 0.9996
    elif percent == "under 1%":
        assert share < 0.0051
    else:
        assert float(percent[:-1]) / 100 == pytest.approx(share, abs=0.0051)
