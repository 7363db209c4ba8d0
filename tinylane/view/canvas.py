"""What all figures share: paper, ink, colours with a shape each, alt text, frames, files.

Used by `tinylane.plot` and `tinylane.view.replay_figure`. Colours are those of Okabe and Ito; pyplot is
not used. matplotlib is imported where it is needed.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylane.core.errors import TinylaneError
from tinylane.files.display import one_line
from tinylane.files.io import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PAPER, RULE, QUIET = "#222222", "#f6f5f1", "#d5d3cb", "#6b6b6b"
# Okabe and Ito's palette, without the yellow that paper swallows; one marker and dash for each.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


def alt(figure: Figure) -> str:
    """The figure's alt text: what it shows, in words."""
    return getattr(figure, "tinylane_alt", "")


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure atomically, in the format of the path's suffix (.png, .svg, .pdf).

    The alt text goes into the file's metadata. Raises TinylaneError if it cannot be written.
    """
    path, text = Path(path), alt(figure)
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Description": text},
        "svg": {"Description": text, "Date": None},  # the same figure gives the same file
        "pdf": {"Subject": text, "CreationDate": None},
    }
    kind = path.suffix[1:]
    if kind not in metadata:
        raise TinylaneError(f"{path}: expected a name that ends in .png, .svg or .pdf")
    with replacing(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a box in the picture says that one is missing
        figure.savefig(file, format=kind, dpi=150, facecolor=PAPER, metadata=metadata[kind])
    return path


def show(figure: Figure, name: str, folder: str | Path = "runs/figures") -> None:
    """Show a figure in a notebook; elsewhere write `folder`/`name`.png and print where, with alt.

    Raises TinylaneError if it cannot be written.
    """
    if _in_notebook():
        from IPython.display import Image, display

        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110, facecolor=PAPER)
        display(Image(out.getvalue(), alt=alt(figure)))  # type: ignore[no-untyped-call]
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TinylaneError(f"{folder}: cannot be made ({error.strerror})") from error
    print(f"[figure {save(figure, Path(folder) / f'{name}.png')}: {alt(figure)}]")


def blank(width: float, height: float) -> Figure:
    """An empty figure, inches. Raises TinylaneError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TinylaneError(
            "matplotlib is not installed; plots need it: pip install 'tinylane[plot]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)


def frame(
    figure: Figure, title: str, xlabel: str, ylabel: str, place: Sequence[Any] = (1, 1, 1)
) -> Axes:
    """Axes in a figure, with title and labels, in the colours of all figures."""
    axes = figure.add_subplot(*place)
    axes.set_facecolor(PAPER)
    axes.set_title(title, color=INK, fontsize=10)
    axes.set_xlabel(xlabel, color=INK, fontsize=9)
    axes.set_ylabel(ylabel, color=INK, fontsize=9)
    axes.tick_params(which="both", colors=INK, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(RULE)
    return axes


def stroke(k: int) -> dict[str, Any]:
    """Colour, dash and marker of curve k."""
    k %= len(COLOURS)
    return {"color": COLOURS[k], "linestyle": DASHES[k], "marker": MARKERS[k], "linewidth": 1.6}


def word(text: str, limit: int = 24) -> str:
    """A token's text as a label: short, on one line, never empty."""
    return one_line(text, limit) or repr(text)[:limit]


def shades() -> Any:
    """From paper to ink by way of blue: lightness alone tells the values apart."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("paper", [PAPER, COLOURS[5], COLOURS[0], "#00233d"])


def legend(axes: Axes) -> None:
    """A legend inside of the axes, and a grid."""
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.grid(color=RULE, linewidth=0.6)


def legend_below(figure: Figure) -> None:
    """One legend below all axes, from the first ones' labels."""
    found = figure.axes[0].get_legend_handles_labels()
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": INK}
    figure.legend(*found, loc="outside lower center", ncols=len(found[0]), **style)


def colour_bar(figure: Figure, axes: Axes, image: Any, label: str) -> None:
    """The scale of an image beside it."""
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label(label, color=INK, fontsize=9)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_edgecolor(RULE)  # type: ignore[operator]


def finish(figure: Figure, text: str) -> Figure:
    """The figure, with its alt text."""
    figure.tinylane_alt = text  # type: ignore[attr-defined]
    return figure


def _in_notebook() -> bool:
    """Whether an IPython kernel (not its terminal) is running this."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")
