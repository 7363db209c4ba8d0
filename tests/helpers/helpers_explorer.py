"""The lane explorer as it is drawn: read from an open page, and compared with tinylane."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers_browser import Visit
from record_explorer import FILE

from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.rope import RopeConfig, frequencies
from tinylane.view.attention import difference_scores

FOLDER = FILE.parent
LEARNED = np.array(json.loads(FILE.read_text(encoding="utf-8"))["learned"])
THETA, _ = frequencies(RopeConfig(), 64)
STEPS = {1: 16, 2: 9, 4: 6, 8: 5}  # of the recorded runs; 6 for other numbers of lanes
KINDS = ["query", "shared", "own", "other", "hidden", "lag", "prompt", "later", "drawn", "future"]

READ = """() => {
  const all = (css, f) => [...document.querySelectorAll(css)].map(f);
  const part = (name) => document.querySelector(`[data-part=${name}]`);
  const text = (node) => node.textContent.replaceAll('−', '-');
  return JSON.stringify({
    fields: Object.fromEntries(all('form [name]', (field) => [field.name, field.value])),
    matrix: all('[data-cell]', (cell) => cell.getAttribute('aria-pressed') === 'true'),
    cells: all('.cell', (cell) => [...cell.dataset.at.split(',').map(Number), cell.classList[1],
      cell.querySelector('.word').textContent]),
    key: document.querySelector('.cell[aria-selected=true]').dataset.at.split(',').map(Number),
    words: Object.fromEntries(['why', 'legend', 'from', 'far', 'play'].map((name) =>
      [name, text(part(name))])),
    mask: part('mask').getAttribute('aria-label'),
    dials: all('.dial title', text),
    scores: ['ours', 'theirs'].map((name) => text(part(name).nextElementSibling)),
  });
}"""


class Shown:
    """What is on the screen now: the controls' values, the tokens, the sentence, the figures."""

    def __init__(self, seen: Visit, query: str | None = None) -> None:
        if query is not None:
            seen.page.goto(f"{seen.base}explorer.html?{query}")
            seen.page.wait_for_selector(".cell")
        read = json.loads(seen.page.evaluate(READ))
        fields, self.cells, self.key = read["fields"], read["cells"], read["key"]
        names = ("lanes", "prompt", "step", "lag", "slot")
        self.lanes, self.prompt, self.step, self.lag, self.slot = (int(fields[x]) for x in names)
        self.omega, self.see = fields["omega"], fields["see"]
        self.mask = LaneMask(np.array(read["matrix"]).reshape(self.lanes, self.lanes), self.lag)
        self.why, self.legend, self.source, self.far, self.play = read["words"].values()
        self.mask_label, self.dials, self.scores = read["mask"], read["dials"], read["scores"]
        self.query = next(cell[:2] for cell in self.cells if cell[2] == "query")

    def sees(self, query: list[int], keys: np.ndarray) -> np.ndarray:
        """(S,) booleans: tinylane's answer for keys (S, 2)."""
        i, m = (np.array([x]) for x in query)
        return self.mask.visible(i, m, keys[:, 0], keys[:, 1])[0]

    def check(self) -> None:
        """Assert that all of it is what tinylane says of these settings."""
        self.check_tokens()
        self.check_mask()
        self.check_angles_and_scores()

    def check_tokens(self) -> None:
        clock, counts = self.prompt + self.step, dict.fromkeys(KINDS, 0)
        seen = self.sees(self.query, np.array([cell[:2] for cell in self.cells]))
        for (i, m, kind, _), visible in zip(self.cells, seen, strict=True):
            counts[kind] += 1
            if m != SHARED and i > clock:
                assert kind == ("drawn" if i == clock + 1 else "future")
            elif [i, m] == self.query:
                assert kind == "query"
            elif visible:
                assert kind == (
                    "shared" if m == SHARED else "own" if m == self.query[1] else "other"
                )
            else:
                assert kind in ("hidden", "prompt", "lag", "later")
        assert [int(x) for x in re.findall(r"\d+", self.legend)] == [
            n for n in counts.values() if n
        ]
        visible = self.sees(self.query, np.array([self.key]))[0]
        visible &= self.key[1] == SHARED or self.key[0] <= clock
        assert ("does not see" not in self.why) == visible

    def check_mask(self) -> None:
        rows = [(i, SHARED) for i in range(self.prompt)] + [
            (self.prompt + c, m)
            for m in range(self.lanes)
            for c in range(STEPS.get(self.lanes, 6) + 1)
        ]
        i, m = np.array(rows).T
        count = self.mask.visible(i, m, i, m).sum()
        assert self.mask_label == f"The mask of {len(rows)} tokens: {count} visible pairs"

    def check_angles_and_scores(self) -> None:
        slot, theirs = self.slot, LaneRoPE.group_think(THETA, self.slot).omega
        ours = {
            "learned": LEARNED,
            "none": LaneRoPE.none(THETA).omega,
            "group_think": theirs,
            "ntk": LaneRoPE.ntk(THETA, slot, self.lanes).omega,
        }[self.omega]
        apart = self.key[0] - self.query[0]
        over = max(self.key[1], 0) - max(self.query[1], 0)  # Group Think's prompt is at lane 0
        mine = 0 if self.key[1] == SHARED else over
        drawn = [[float(x) for x in re.findall(r"-?\d+\.\d+", dial)] for dial in self.dials]
        angles = np.stack([THETA * apart + ours * mine, THETA * apart + theirs * over], axis=1)
        np.testing.assert_allclose(drawn, angles, rtol=0, atol=0.00051)
        unit = np.concatenate([np.full(32, 32**-0.5), np.zeros(32)])
        for text, omega, l in zip(self.scores, (ours, theirs), (mine, over), strict=True):
            score = difference_scores(unit, unit, THETA, omega, [apart], [l])[0, 0]
            assert float(text.split()[0]) == pytest.approx(score, abs=0.00051)
            assert text.endswith(f"j-i = {apart}, n-m = {l}")
        assert f"= {apart + over * slot} away" in self.far
