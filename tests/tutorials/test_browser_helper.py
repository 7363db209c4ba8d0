"""The browser's helper notices what it is there to notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers_browser import visit

CLEAN = "<!doctype html><title>x</title><link rel=icon href=data:,><body>hello</body>"


def test_a_clean_page_settles_and_knows_its_colour_scheme(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(CLEAN)
    for dark in (False, True):
        with visit(browser, tmp_path, width=375, dark=dark) as seen:
            seen.settled()
            assert seen.overflow == 0 and seen.page.inner_text("body") == "hello"
            query = "() => matchMedia('(prefers-color-scheme: dark)').matches"
            assert seen.page.evaluate(query) is dark


@pytest.mark.parametrize(
    "bad, where",
    [
        ("<script>throw new Error('planted')</script>", "console"),
        ("<script>console.error('planted')</script>", "console"),
        ("<script>fetch('nothing.json')</script>", "failed"),
        ("<img src='http://localhost.invalid/x.png'>", "foreign"),
    ],
)
def test_a_planted_fault_is_noticed(browser: Any, tmp_path: Path, bad: str, where: str) -> None:
    (tmp_path / "index.html").write_text(CLEAN + bad)
    with visit(browser, tmp_path) as seen:
        with pytest.raises(AssertionError):
            seen.settled()
        assert getattr(seen, where)


def test_a_page_wider_than_its_window_is_noticed(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(CLEAN + "<div style='width:900px'>wide</div>")
    with visit(browser, tmp_path, width=375) as seen:
        assert seen.overflow > 400
