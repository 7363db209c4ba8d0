"""Formulas as MathML, made when the site is built: pages need no script and no font for them.

`mkdocs.yml` names `fence` for blocks of ```math and `inline` for `#!math x` in a line. latex2mathml
reads the LaTeX; it prints commands that it does not know as they are. Such a formula is a warning
in mkdocs' log, which fails a strict build (the Markdown extensions that call us swallow errors).
"""

from __future__ import annotations

import html
import logging
import re
from typing import Any

from tinylane.core.errors import TinylaneError


def mathml(latex: str, block: bool = False) -> str:
    """One formula as a <math> element that carries its source. Raises TinylaneError if unknown."""
    from latex2mathml.converter import convert

    latex = latex.strip()
    try:
        done = convert(latex, display="block" if block else "inline")
    except Exception as error:  # the library raises many kinds, without a common ancestor
        raise TinylaneError(f"formula {latex!r} cannot be read ({error!r})") from error
    unknown = re.findall(r"\\[A-Za-z]+", done)  # commands that came out as text
    if unknown:
        raise TinylaneError(f"formula {latex!r} has {unknown[0]}, which latex2mathml does not know")
    return done


def fence(source: str, language: str, css_class: str, options: Any, md: Any, **_: Any) -> str:
    """A ```math block, for pymdownx.superfences: one formula on a line of its own."""
    return f'<div class="formula">{_or_warn(source, True)}</div>'


def inline(source: str, language: str, css_class: str, md: Any) -> str:
    """`#!math x`, for pymdownx.inlinehilite: a formula within a line."""
    return _or_warn(source, False)


def _or_warn(source: str, block: bool) -> str:
    try:
        return mathml(source, block)
    except (TinylaneError, ImportError) as error:
        logging.getLogger("mkdocs.formulas").warning("%s", error)
        return f"<code>{html.escape(source)}</code>"
