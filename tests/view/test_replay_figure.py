"""A replayed run as a figure: its bands are the record's shares, its words the sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_view import decoded, large

from tinylane import plot
from tinylane.view.events import events_of, happened
from tinylane.view.replay_record import record
from tinylane.view.replay_words import sentences


@pytest.mark.parametrize(
    ("kind", "influence"), [("events", True), ("fork", False), ("lives", True)]
)
def test_the_panel_is_drawn_and_says_in_words_what_it_shows(
    kind: str, influence: bool, tmp_path: Path
):
    model, run = decoded(kind)
    found = record(run, model, influence=influence)
    figure = plot.replay(found)
    assert len(figure.axes) == 4 + influence  # two panels, a scale, and a table or two
    assert plot.alt(figure).endswith(" ".join(sentences(found)))
    events = events_of(run.result)
    assert "; ".join(happened(events)) in plot.alt(figure)
    marks = figure.axes[0].collections[-1].get_offsets()
    assert (np.round(marks[:, 1] + 0.42) == [event["lane"] for event in events]).all()
    assert plot.save(figure, tmp_path / "a.svg").stat().st_size > 5000


def test_the_panel_s_bands_are_the_record_s_shares():
    model, run = decoded("joint")
    found = record(run, model)
    bands = plot.shares(found).axes[0].lines
    curves = [line for line in bands if len(line.get_xdata()) > 2]
    for m, line in enumerate(curves):
        height = (m + 0.45 - np.asarray(line.get_ydata()))[::2] / 0.9
        np.testing.assert_allclose(height, found.to_others()[found.of == m], atol=1e-9)
    assert len(curves) == 3


def test_a_long_run_is_drawn_without_words(tmp_path: Path):
    found = large(8, 200, 1, 1)
    figure = plot.replay(found)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == [] and plot.save(figure, tmp_path / "long.png").stat().st_size > 20_000


def test_a_lane_that_waits_leaves_a_gap_in_its_band():
    model, run = decoded("life")
    found = record(run, model)
    waited = run.result.lanes[1]
    assert len(waited.spans) == 2, "it was paused"
    figure = plot.shares(found)
    line = [x for x in figure.axes[0].lines if len(x.get_xdata()) > 2][1]
    x = np.asarray(line.get_xdata())
    first = min(lane.start for lane in run.result.lanes)
    there = {round(i + 0.5) for i in x[~np.isnan(x)][::2].tolist()}
    assert there == {i - first for i in waited.positions} and np.isnan(x).sum() == 1
