"""Figures of lanes, each with its alt text. Needs `pip install 'tinylane[plot]'`.

mask, angles, turns, scores, attention, lines     what a rotation and a mask do
lanes, replay, shares                             what lanes wrote, and whom they listened to
alt, save, show                                   a figure's words, its file, its display
INK, PAPER, RULE, QUIET, COLOURS, MARKERS, DASHES, KINDS     colours and marks
"""

from tinylane.view.figure_style import alt, save, show
from tinylane.view.figures import KINDS, angles, attention, lanes, lines, mask, scores, turns
from tinylane.view.palette import COLOURS, DASHES, INK, MARKERS, PAPER, QUIET, RULE
from tinylane.view.replay_figure import replay, shares

__all__ = [
    "COLOURS",
    "DASHES",
    "INK",
    "KINDS",
    "MARKERS",
    "PAPER",
    "QUIET",
    "RULE",
    "alt",
    "angles",
    "attention",
    "lanes",
    "lines",
    "mask",
    "replay",
    "save",
    "scores",
    "shares",
    "show",
    "turns",
]
