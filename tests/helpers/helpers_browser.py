"""A headless page for tests: a folder served on the loopback; its messages and its requests.

    def test_it(browser, tmp_path):
        with visit(browser, folder, "index.html", width=375, dark=True) as seen:
            seen.page.click("text=Next")  # Playwright's own page
            seen.settled()  # no console error, no failed request, none to another host

Browser: a Chromium or Chrome that is installed (Playwright's own download is not used). Where there
is none, tests that need one fail in CI (CI is set) and are skipped elsewhere, with the reason.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Visit:
    """An open page, and what has happened on it."""

    page: Any  # playwright.sync_api.Page
    base: str  # where the folder is served, "http://127.0.0.1:PORT/"; "" for a page of set_content
    console: list[str] = field(default_factory=list)  # errors and warnings, and uncaught exceptions
    requests: list[str] = field(default_factory=list)  # every URL asked for, data: and blob: too
    failed: list[str] = field(default_factory=list)  # requests without an answer, or one >= 400

    @property
    def foreign(self) -> list[str]:
        """Requests that left the served folder."""
        inside = (self.base or "about:", "data:", "blob:")
        return [url for url in self.requests if not url.startswith(inside)]

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than its window (0: no sideways scrolling)."""
        return self.page.evaluate(
            "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def settled(self) -> None:
        """Wait for the network, then assert that all went well and no request left the folder."""
        self.page.wait_for_load_state("networkidle")
        assert self.console == [] and self.failed == [] and self.foreign == []


def executable() -> str | None:
    """An installed Chromium or Chrome, or None."""
    installed = (shutil.which(name) for name in NAMES)
    return next((path for path in [*installed, *MAC] if path and Path(path).exists()), None)


def browser_or_reason() -> str:
    """The executable; fails in CI and skips elsewhere if there is none, or no Playwright."""
    path, reason = executable(), ""
    if path is None:
        reason = f"no browser: none of {', '.join(NAMES)} is installed"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        reason = "Playwright is not installed: pip install 'tinylane[test]'"
    if path is None or reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One headless browser for all tests of a process (conftest.py names this fixture)."""
    path = browser_or_reason()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def visit(
    browser: Any,
    folder: Path,
    path: str = "index.html",
    *,
    width: int = 1280,
    height: int = 800,
    dark: bool = False,
    reduced_motion: bool = False,
) -> Iterator[Visit]:
    """Open a file of a folder, served on a free port of the loopback, in a context of its own.

    A relative `path` may hold a query and a fragment. Assertions are the caller's: see
    `Visit.settled`.
    """
    with (
        serving(folder) as base,
        watch(
            browser,
            base + path,
            base=base,
            width=width,
            height=height,
            dark=dark,
            reduced_motion=reduced_motion,
        ) as seen,
    ):
        yield seen


@contextmanager
def watch(
    browser: Any,
    url: str,
    *,
    base: str | None = None,
    width: int = 1280,
    height: int = 800,
    dark: bool = False,
    reduced_motion: bool = False,
) -> Iterator[Visit]:
    """The page at an address, in a context of its own. base: what its requests may ask; None: what
    stands below the address."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce" if reduced_motion else "no-preference",
    )
    page = context.new_page()
    seen = Visit(page, url if base is None else base)
    page.on("console", lambda message: _said(seen, message))
    page.on("pageerror", lambda error: seen.console.append(f"uncaught: {error}"))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("requestfailed", lambda request: seen.failed.append(request.url))
    page.on("response", lambda answer: _answered(seen, answer))
    try:
        page.goto(url)
        yield seen
    finally:
        context.close()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The folder behind http://127.0.0.1:PORT/ while the context lasts."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    # The system's table may say text/plain for a script, which a module script then refuses.
    extensions_map: ClassVar[dict[str, str]] = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".svg": "image/svg+xml",
        ".woff2": "font/woff2",
    }

    def log_message(self, *_: Any) -> None:
        """Nothing: a test's output is its own."""


def _said(seen: Visit, message: Any) -> None:
    if message.type in ("error", "warning"):
        seen.console.append(f"{message.type}: {message.text}")


def _answered(seen: Visit, answer: Any) -> None:
    if answer.status >= 400:
        seen.failed.append(f"{answer.status} {answer.url}")
