"""One set of colours: text stands out from its ground, and lanes differ by more than colour."""

from __future__ import annotations

import re
from importlib import resources

import numpy as np
import pytest

from tinylane import plot
from tinylane.view import palette


def light(colour: str) -> float:
    """Relative luminance (WCAG 2)."""
    wide = colour if len(colour) == 7 else "#" + "".join(c * 2 for c in colour[1:])
    rgb = np.array([int(wide[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_stands_out_from_its_paper_and_curves_differ_by_more_than_colour() -> None:
    for ink in (plot.INK, plot.QUIET):
        assert contrast(plot.PAPER, ink) >= 4.5  # WCAG 2, level AA
    assert len(plot.COLOURS) == len(set(plot.MARKERS)) == len(set(plot.DASHES))
    assert len({marker for _, marker, _ in plot.KINDS}) == len(plot.KINDS)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_of_the_page_stands_out_in_both_themes(theme: int) -> None:
    """Lanes' names are written in their colours."""
    text = palette.page_css().split("@media (prefers-color-scheme: dark)")[theme]
    colours = dict(re.findall(r"--(\w+): (#\w+);", text))
    lanes = [colours[f"c{k}"] for k in range(len(palette.COLOURS))]
    for ink in (colours["ink"], colours["quiet"], colours["trouble"], *lanes):
        for ground in (colours["paper"], colours["card"]):
            assert contrast(ink, ground) >= 4.5


def test_every_place_knows_as_many_hues() -> None:
    assert len(palette.COLOURS) == len(set(palette.TERMINAL))
    assert "--c5:" in palette.page_css() and "--c6:" not in palette.page_css()
    text = (resources.files("tinylane.view") / "shared" / "lane.js").read_text(encoding="utf-8")
    symbols = re.findall(r'^const SYMBOLS = "(.+)";', text, re.MULTILINE)[0]
    assert len(set(symbols)) == len(symbols) > len(palette.COLOURS)
    assert f"const COLOURS = {len(palette.COLOURS)};" in text
