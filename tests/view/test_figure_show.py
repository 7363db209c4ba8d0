"""What a script's figures say: where they are, what to see, and an offer to open them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinylane import plot

ROOT = Path(__file__).parents[2]
SCRIPT = """
import webbrowser
webbrowser.open = lambda address: print("opened", address)
from tinylane import plot
for name in ("one", "two"):
    plot.show(plot.lines({"a": [1, 2]}, [0, 1], "x", "y", "T"), name, caption="It rises.")
print("done")
"""


def in_a_terminal(answer: str, folder: Path) -> str:
    """What the script prints in a terminal whose user types `answer`."""
    ours, its = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=its,
        stdout=its,
        stderr=its,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(its)
    os.write(ours, answer.encode())
    text, until = b"", time.monotonic() + 60
    while time.monotonic() < until:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the script has closed it
            break
        if not part:
            break
        text += part
    os.close(ours)
    assert run.wait(60) == 0
    return text.decode()


@pytest.mark.parametrize("answer, opened", [("y\n", 2), ("\n", 0), ("no\n", 0), ("\x04", 0)])
def test_a_script_in_a_terminal_offers_to_open_its_figures(
    tmp_path: Path, answer: str, opened: int
) -> None:
    said = in_a_terminal(answer, tmp_path)
    folder = Path("runs", "figures")
    assert f"Open the 2 figures in {folder}? [y/N]" in said
    assert said.index("done") < said.index("Open the 2")  # at its end
    assert said.count("opened file://") == opened
    assert "[see: It rises.]" in said


def test_elsewhere_nobody_is_asked(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Open" not in done.stdout and done.stdout.rstrip().endswith("done")
    assert f"[figure {Path('runs', 'figures', 'two.png')}: T: y over x" in done.stdout


def test_lanes_are_numbered_from_one_in_pictures() -> None:
    """Code counts from 0; a figure and its words do not."""
    import numpy as np

    import tinylane

    mask = tinylane.LaneMask.joint(2)
    figure = plot.mask(mask, np.array([0, 1, 1]), np.array([-1, 0, 1]))
    shown = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert shown == ["0,S", "1,1", "1,2"]
