"""The one set of colours: for figures, for the page of a run, and for lanes in a terminal.

The hues are those of Okabe and Ito, which colour-blind readers can tell apart. Colour never stands
alone: lane or curve k also has a marker and a dash, on the page a symbol, in the terminal a label.
A page shows text in a lane's colour, so it has a darker tone of each hue for light paper and a
lighter one for dark paper (contrast 4.5 to 1, WCAG level AA).
"""

from __future__ import annotations

INK, PAPER, RULE, QUIET, FAINT = "#222222", "#f6f5f1", "#d5d3cb", "#5f5d57", "#b9b7af"
# Curves of figures, without the yellow that is hard to see on paper; one marker and dash for each.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
SCALE = (PAPER, COLOURS[5], COLOURS[0], "#00233d")  # from nothing to the largest value

# The same hues in a terminal, as names: the terminal chooses tones that suit its background.
TERMINAL = ("bright_blue", "red", "green", "magenta", "yellow", "cyan")

# The page. A lane's symbol is in shared/lane.js.
_LANES = {  # by hue, as COLOURS
    "light": ("#0072b2", "#b34700", "#00795a", "#a2487f", "#8a6100", "#22739b"),
    "dark": ("#6bbcf0", "#ff9d52", "#3fcfa4", "#e5a3c8", "#e8b53c", "#8fd0f5"),
}
_TONES = {  # shade: red, green and blue of the ground of a token; deep: how opaque it gets
    "light": {
        "paper": PAPER, "card": "#fffefb", "ink": INK, "quiet": QUIET, "rule": RULE,
        "shade": "0 114 178", "deep": ".62", "ring": INK, "trouble": "#a30000",
    },
    "dark": {
        "paper": "#17181a", "card": "#1f2124", "ink": "#ececea", "quiet": "#a9a8a3",
        "rule": "#3a3c40", "shade": "60 140 205", "deep": ".66", "ring": "#fff",
        "trouble": "#ff8f80",
    },
}  # fmt: skip


def page_css() -> str:
    """The colours as CSS variables: --paper, --ink, ..., and --c0 to --c5 for the lanes."""
    light, dark = (
        ":root { "
        + " ".join(f"--{name}: {value};" for name, value in _TONES[theme].items())
        + " ".join(f" --c{k}: {colour};" for k, colour in enumerate(_LANES[theme]))
        + " }"
        for theme in ("light", "dark")
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"
