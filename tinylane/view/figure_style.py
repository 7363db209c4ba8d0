"""What all figures share: frame, legend, scale, labels, alt text, and how they are shown or saved.

The colours are in `tinylane.view.palette`. pyplot is not used: no window opens, nothing is global.
matplotlib is imported where it is used.
"""

from __future__ import annotations

import atexit
import io
import sys
import warnings
import webbrowser
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tinylane.core.errors import TinylaneError
from tinylane.files.display import one_line
from tinylane.files.writing import make_folder, replacing
from tinylane.view.palette import COLOURS, DASHES, INK, MARKERS, PAPER, RULE, SCALE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE, TEXT, SMALL = 11.5, 10.5, 9.5  # points; a page shows 100 pixels per inch


_F = TypeVar("_F", bound=Callable[..., Any])
# What code raises that was handed an object of a wrong kind or shape.
_MISFITS = (
    TypeError, ValueError, AttributeError, LookupError, OverflowError, StopIteration,
)  # fmt: skip


def drawn(draw: _F) -> _F:
    """`draw`, for users: arguments that cannot be drawn are one TinylaneError; its cause is kept.

    A figure takes arrays, sequences and objects of many kinds; what fits is what can be drawn.
    """

    @wraps(draw)
    def drawing(*args: Any, **kwargs: Any) -> Any:
        try:
            return draw(*args, **kwargs)
        except TinylaneError:
            raise
        except _MISFITS as error:
            why = one_line(f"{type(error).__name__}: {error}", 100)
            raise TinylaneError(
                f"plot.{draw.__name__} cannot draw these arguments ({why}); expected "
                f"{signature(draw)}"
            ) from error

    return cast(_F, drawing)


def alt(figure: Figure) -> str:
    """The figure's alt text: what it shows, in words."""
    return getattr(figure, "tinylane_alt", "")


@drawn
def save(figure: Figure, path: str | Path, otherwise: str = "") -> Path:
    """Write a figure atomically, in the format of the path's suffix (.png, .svg, .pdf).

    otherwise: the format for another suffix. The alt text goes into the file's metadata; the same
    figure gives the same file. Raises TinylaneError if it cannot be written, and for another suffix
    without `otherwise`.
    """
    import matplotlib

    suffix, text = Path(path).suffix[1:], alt(figure)
    kind = suffix if suffix in ("png", "svg", "pdf") else otherwise
    if not kind:
        raise TinylaneError(f"{path}: expected a name that ends in .png, .svg or .pdf")
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Description": text},
        "svg": {"Description": text, "Date": None},
        "pdf": {"Subject": text, "CreationDate": None},
    }
    with (
        replacing(path) as file,
        warnings.catch_warnings(),
        matplotlib.rc_context({"svg.hashsalt": "tinylane"}),
    ):
        warnings.filterwarnings("ignore", "Glyph")  # a missing glyph is drawn as a box
        figure.savefig(file, format=kind, dpi=150, facecolor=PAPER, metadata=metadata[kind])
    return Path(path)


def show(figure: Figure, name: str, folder: str | Path = "runs/figures", caption: str = "") -> None:
    """Show a figure in a notebook; elsewhere write `folder`/`name`.png and print where, with alt.

    caption: what to look for, in a sentence or two. A script in a terminal asks at its end whether
    to open what it has drawn. Raises TinylaneError if a file cannot be written.
    """
    if _in_notebook():
        from IPython.display import Image, display

        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110, facecolor=PAPER)
        display(Image(out.getvalue(), alt=alt(figure)))  # type: ignore[no-untyped-call]
        if caption:
            print(caption)
        return
    path = save(figure, make_folder(Path(folder)) / f"{name}.png")
    print(f"[figure {path}: {alt(figure)}]")
    if caption:
        print(f"[see: {caption}]")
    if sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        if not _drawn:
            atexit.register(_offer)
        _drawn.append(path)


_drawn: list[Path] = []  # by this script, in a terminal


def _offer() -> None:
    """Ask whether to open the figures of a script that ends; anything but yes leaves them."""
    count = "the figure" if len(_drawn) == 1 else f"the {len(_drawn)} figures"
    try:
        said = input(f"Open {count} in {_drawn[0].parent}? [y/N] ")
    except (EOFError, KeyboardInterrupt, OSError):
        return
    if said.strip().lower() in ("y", "yes"):
        for path in _drawn:
            webbrowser.open(path.resolve().as_uri())


def blank(width: float, height: float, hint: str = "") -> Figure:
    """An empty figure, inches. Raises TinylaneError where matplotlib is not installed; `hint` ends
    its message."""
    try:
        from matplotlib import figure
    except ImportError as error:
        raise TinylaneError(
            f"matplotlib is not installed; figures need it: pip install 'tinylane[plot]'{hint}"
        ) from error
    return figure.Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)


def frame(
    figure: Figure, title: str, xlabel: str, ylabel: str, place: Sequence[Any] = (1, 1, 1)
) -> Axes:
    """Axes in a figure, with title and labels, in the colours of all figures."""
    axes = figure.add_subplot(*place)
    axes.set_facecolor(PAPER)
    axes.set_title(title, color=INK, fontsize=TITLE)
    axes.set_xlabel(xlabel, color=INK, fontsize=TEXT)
    axes.set_ylabel(ylabel, color=INK, fontsize=TEXT)
    axes.tick_params(which="both", colors=INK, labelsize=SMALL)
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


def label(
    axes: Axes, x: float, y: float, text: str, size: float = 9, dark: Any = False, **style: Any
) -> None:
    """Text centred at a point. It may come from a model: `$` in it starts no formula. dark: whether
    it is on a dark ground."""
    colour = "white" if dark else INK
    style = {"ha": "center", "va": "center", "color": colour, "parse_math": False, **style}
    axes.text(x, y, text, fontsize=size, **style)


def heat_map(axes: Axes, values: Any, top: float = 1.0, reverse: bool = False) -> Any:
    """An image of values from 0 to `top`; lightness alone tells them apart. reverse: 0 is dark."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("paper", SCALE[::-1] if reverse else SCALE)
    return axes.imshow(
        values, cmap=colours, vmin=0, vmax=top, aspect="auto", interpolation="nearest"
    )


def lanes_by_position(axes: Axes, lanes: Sequence[str], first: int, columns: int) -> None:
    """Ticks of axes whose rows are lanes, by name, and whose columns are positions from `first`."""
    ticks = range(0, columns, max(1, columns // 10))
    axes.set_xticks(list(ticks), [str(first + t) for t in ticks])
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_xlim(-0.5, columns - 0.5)


def legend(axes: Axes, **style: Any) -> None:
    """A legend inside of the axes, and a grid."""
    axes.legend(frameon=False, fontsize=SMALL, labelcolor=INK, **style)
    grid(axes)


def grid(axes: Axes) -> None:
    """Thin lines at the ticks."""
    axes.grid(color=RULE, linewidth=0.6)


def legend_below(
    figure: Figure, handles: Sequence[Any] = (), names: Sequence[str] = (), columns: int = 5
) -> None:
    """One legend below all axes, from the first axes' labels if none are given."""
    if not handles:
        handles, names = figure.axes[0].get_legend_handles_labels()
    style: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "labelcolor": INK}
    style |= {"loc": "outside lower center", "ncols": min(len(handles), columns)}
    figure.legend(list(handles), list(names), **style)


def colour_bar(figure: Figure, axes: Axes, image: Any, label: str) -> None:
    """The scale of an image beside it."""
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label(label, color=INK, fontsize=TEXT)
    bar.ax.tick_params(colors=INK, labelsize=SMALL)
    bar.outline.set_edgecolor(RULE)  # type: ignore[operator]


def finish(figure: Figure, text: str, title: str = "") -> Figure:
    """The figure, with its alt text, and with a title over all axes if one is given."""
    if title:
        figure.suptitle(title, color=INK, fontsize=TITLE)
    figure.tinylane_alt = text  # type: ignore[attr-defined]
    return figure


def _in_notebook() -> bool:
    """Whether an IPython kernel (not its terminal) is running this."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")
