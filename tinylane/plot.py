"""Figures of lanes, by the name that users know; they are in `tinylane.view.figures`."""

from tinylane.view.figures import *  # noqa: F403
