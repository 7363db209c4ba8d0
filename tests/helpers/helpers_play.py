"""The page of `tinylane play` in a browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from helpers_browser import Visit, watch
from helpers_serve import Server

SWAPS = "1-3 2-4 1-2 3-4 1-3 2-4 1-2 3-4 1-4 2-3 1-4 2-3 1-2 2-3 3-4 1-4"


@contextmanager
def opened(browser: Any, server: Server, **how: Any) -> Iterator[Visit]:
    """The page, its form filled in."""
    with watch(browser, f"{server.url}/", **how) as seen:
        seen.page.wait_for_selector("#count option", state="attached")
        yield seen


def until(page: Any, expression: str, timeout: float = 30000) -> None:
    """Wait for JavaScript to be true; the page's own policy forbids Playwright's way."""
    end = time.monotonic() + timeout / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(30)


def begin(seen: Visit, swaps: str = SWAPS, **fields: str) -> None:
    """Begin a session that stands still after some steps."""
    page = seen.page
    pace = page.input_value("#pace")
    page.evaluate("document.querySelector('#pace').value = '1'")  # or it ends before it is stopped
    page.fill("#prompt", swaps)
    for name, value in fields.items():
        page.fill(f"#{name}", value)
    page.click("#begin")
    page.wait_for_selector(".t")
    if page.inner_text("#run") == "Pause":
        page.click("#run")
    until(page, "document.querySelector('#run').textContent === 'Play'")
    page.select_option("#pace", pace)


def tokens(seen: Visit, lane: int) -> int:
    return seen.page.locator(f'[data-token^="{lane},"]').count()


def fine(seen: Visit) -> None:
    """No error, no request to another host; nothing wider than the window."""
    assert seen.console == [] and seen.failed == [] and seen.foreign == [] and seen.overflow <= 0
    assert seen.page.inner_text("#trouble") == ""
