"""The page of methods: every method has its row, its picture and its facts."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from tinylane.methods import METHODS, NAMES
from tutorials.build import methods_page as methods


def test_the_table_and_the_sections_have_every_method() -> None:
    rows = [line for line in methods.table().splitlines() if line.startswith("| [")]
    assert [re.search(r"#(\w+)\)", row)[1] for row in rows] == list(NAMES)  # type: ignore[index]
    page = methods.sections()
    for name in NAMES:
        assert f"{{ #{name} }}" in page and f"--method {name}`" in page
    assert "</Goal>" not in page and "&lt;/Goal&gt;" in page  # a tag is shown, not obeyed


@pytest.mark.parametrize("name", ["lanerope", "hogwild", "multiverse", "pasta", "apr"])
def test_a_picture_has_a_cell_for_every_row_and_for_everything_seen(name: str) -> None:
    d = methods.example(METHODS[name])
    svg = ElementTree.fromstring(methods.picture(METHODS[name]))
    groups = [element for element in svg if element.tag == "g"]
    cells = [sum(path.get("d", "").count("M") for path in group) for group in groups]
    i, m = d.cache.positions, d.cache.lanes
    assert cells == [len(i), int(d.mask.visible(i, m, i, m).sum())]


def test_what_a_side_path_sees_is_pale() -> None:
    """Bridge: the rows of this step of the two other lanes. LACE: all that they have written."""
    for name, expected in (("bridge", 3 * 3 * 2), ("lace", 3 * 2 * (1 + 2 + 3))):
        svg = ElementTree.fromstring(methods.picture(METHODS[name]))
        pale = svg.findall("{*}g/{*}path")
        pale = [path.get("d", "") for path in pale if " given" in path.get("class", "")]
        assert sum(path.count("M") for path in pale) == expected, name


def test_places_are_those_that_the_newest_row_sees() -> None:
    d = methods.example(METHODS["group_think"])
    i, m = d.cache.positions, d.cache.lanes
    expected = i + 6 * np.maximum(m, 0)
    assert methods.place(d, i, m).tolist() == (expected - expected.min()).tolist()
