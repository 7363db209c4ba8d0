"""The live explorer, opened once for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_browser import Visit, visit
from helpers_explorer import READY, Open, Shown, section

import tinylane
from tinylane.commands.common import embedded


@pytest.fixture(scope="module")
def model() -> tinylane.Model:
    return tinylane.load(embedded(), backend="numpy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("explorer")
    return section(made, "explorer/index.md", '<link rel="stylesheet"', "## What to try")


@pytest.fixture(scope="module")
def opened(browser: Any, folder: Path) -> Iterator[Visit]:
    """One page for all tests that do not ask for another kind: to load it takes a second."""
    with visit(browser, folder, "explorer/index.html") as seen:
        seen.page.wait_for_function(READY)
        yield seen


@pytest.fixture
def seen(opened: Visit) -> Iterator[Visit]:
    opened.page.click("[data-part=reset]")
    opened.page.wait_for_function(READY)
    yield opened
    opened.settled()
    assert opened.overflow == 0


@pytest.fixture
def at(seen: Visit, model: tinylane.Model) -> Open:
    """at(address): the page there."""

    def go(address: str) -> Shown:
        seen.page.goto(f"{seen.base}explorer/index.html?{address}")
        return Shown(seen, model)

    return go
