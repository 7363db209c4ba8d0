"""The site as `python tutorials/build` builds it, strictly: links, names, and in a browser."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock
from helpers_browser import visit

import tinylane
from tutorials.build.__main__ import ROOT, SITE

OLD = sys.version_info < (3, 11)  # mkdocstrings and markdown-exec want 3.11
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None and (OLD or not os.environ.get("CI")),
    reason="mkdocs is not installed: pip install 'tinylane[test]' (Python 3.11 and later)",
)
LOADS = {  # what makes a browser fetch something
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src",
    "audio": "src", "embed": "src", "object": "data", "use": "href", "image": "href",
}  # fmt: skip


class Page(HTMLParser):
    """What a page links to, loads, and can be linked to at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.images: list[str | None] = []  # alt texts
        self.elements: dict[str, int] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, pairs: list[tuple[str, str | None]]) -> None:
        given = dict(pairs)
        self.elements[tag] = self.elements.get(tag, 0) + 1
        self.ids |= {name for key in ("id", "name") if (name := given.get(key))}
        if tag == "a" and (href := given.get("href")):
            self.links.append(href)
        if tag in LOADS and (where := given.get(LOADS[tag]) or given.get(f"xlink:{LOADS[tag]}")):
            self.loads.append(where)
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(given.get("href") or "")
        if tag == "img":
            self.images.append(given.get("alt"))
        if tag == "svg" and given.get("role") == "img":
            self.images.append(given.get("aria-label"))


@pytest.fixture(scope="session")
def site() -> Iterator[Path]:
    """The built site; one worker of a run builds it, the others wait and take it."""
    SITE.parent.mkdir(exist_ok=True)
    run, mark = os.environ.get("PYTEST_XDIST_TESTRUNUID", ""), SITE.parent / ".site-of"
    with FileLock(SITE.parent / ".site-lock"):
        if not run or not mark.exists() or mark.read_text() != run:
            done = subprocess.run(
                [sys.executable, str(ROOT / "tutorials" / "build")],
                cwd=ROOT,
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            mark.write_text(run)
    yield SITE


@cache
def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_every_page_ends_with_a_way_on() -> None:
    """Pages that are read (not looked up) end with links to what could be read next."""
    folder, looked_up = ROOT / "tutorials" / "site", ("cite.md", "reference/", "tutorials/")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.md")]
    read = [name for name in names if not name.startswith(looked_up)]
    assert len(read) > 20
    for name in read:
        last = (folder / name).read_text(encoding="utf-8").rstrip().split("\n\n")[-1]
        assert re.search(r"\]\([\w./-]+\.md", last), name
    for path in (ROOT / "tutorials").glob("[0-9]*.py"):
        assert "# ## What next?" in path.read_text(encoding="utf-8"), path.name


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    documented = set().union(*(page(path).ids for path in (site / "reference").glob("*.html")))
    names = [f"tinylane.{name}" for name in tinylane.__all__ if name != "testing"]
    names += [f"tinylane.testing.{name}" for name in tinylane.testing.__all__]
    assert len(names) > 40
    assert [name for name in names if name not in documented] == []


def test_every_command_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tinylane", "--help"], capture_output=True, text=True, check=True
    )
    commands = re.findall(r"^    (\w+) ", done.stdout, re.MULTILINE)
    assert len(commands) >= 7
    assert [name for name in commands if f"usage: tinylane {name}" not in text] == []


def broken(site: Path, path: Path, link: str) -> str:
    """What is wrong with a link of a page, or ""."""
    url = urlsplit(link)
    if url.scheme in ("mailto", "data"):
        return ""
    if url.scheme or url.netloc:
        good = url.scheme == "https" and re.fullmatch(r"[\w-]+(\.[\w-]+)+", url.netloc)
        return "" if good and " " not in link else "not an address that can be right"
    target = (path.parent / unquote(url.path)).resolve() if url.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_relative_to(site) or not target.is_file():
        return "no such file"
    if url.fragment and target.suffix == ".html" and unquote(url.fragment) not in page(target).ids:
        return "no such place in that page"
    return ""


def test_every_link_leads_somewhere(site: Path) -> None:
    """404.html is left out: its links are absolute, since it is shown at any address."""
    faults = {
        f"{path.relative_to(site)}: {link}: {wrong}"
        for path in pages(site)
        for link in page(path).links
        if path.name != "404.html" and (wrong := broken(site, path, link))
    }
    assert faults == set()
    assert sum(len(page(path).links) for path in pages(site)) > 500


@pytest.mark.parametrize(
    "link", ["nowhere.html", "index.html#nowhere", "../secret.html", "http://x", "https://a b.org/"]
)
def test_a_broken_link_is_noticed(site: Path, link: str) -> None:
    assert broken(site, site / "index.html", link)


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    outside = re.compile(r"^(https?:)?//")
    for path in pages(site):
        assert [where for where in page(path).loads if outside.match(where)] == [], path
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"""(?:url\(|@import)\s*["']?(?:https?:)?//""", text) == [], path
    styles = sorted(site.rglob("*.css"))
    assert styles
    for path in styles:
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert re.findall(r"""(?:url\(|@import)\s*["']?(?:https?:)?//""", text) == [], path


def test_every_figure_has_words(site: Path) -> None:
    images = [(path.name, alt) for path in pages(site) for alt in page(path).images]
    assert len(images) > 15
    assert [name for name, alt in images if not alt or len(alt) < 30] == []


def test_formulas_are_drawn_and_none_is_left_as_source(site: Path) -> None:
    assert page(site / "method.html").elements.get("math", 0) > 60
    for path in pages(site):
        assert "#!math" not in path.read_text(encoding="utf-8"), path


def test_every_page_fits_a_phone_in_the_dark_and_asks_no_other_host(
    site: Path, browser: Any
) -> None:
    """One page after another in one window: `settled` looks at all that was asked so far."""
    with visit(browser, site, width=375, height=760, dark=True) as seen:
        seen.settled()  # to leave a page before it is there would count as a request that failed
        for path in pages(site):
            if path.name != "404.html":
                name = path.relative_to(site).as_posix()
                seen.page.goto(seen.base + name)
                seen.settled()
                assert seen.overflow == 0, name


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "tutorials/06_lanerope.html"])
def test_pages_on_a_wide_screen(site: Path, browser: Any, name: str, dark: bool) -> None:
    """It takes the reader's colours, text has contrast, figures are there."""
    with visit(browser, site, name, dark=dark) as seen:
        seen.settled()
        assert seen.overflow == 0
        text, ground = seen.page.evaluate(
            "() => [getComputedStyle(document.querySelector('article p:not(.about)')).color,"
            " getComputedStyle(document.body).backgroundColor]"
        )
        assert contrast(text, ground) > 7
        assert (luminance(ground) < 0.1) is dark
        sizes = seen.page.evaluate(
            "() => [...document.querySelectorAll('article img, table.played')]"
            ".map(x => [x.getBoundingClientRect().width, x.getBoundingClientRect().height])"
        )
        assert sizes and all(width > 300 and height > 100 for width, height in sizes)


def test_code_can_be_read(site: Path, browser: Any) -> None:
    """At least 14 pixels, in blocks and in lines."""
    sizes = (
        "() => [...document.querySelectorAll('article code')]"
        ".map(x => parseFloat(getComputedStyle(x).fontSize))"
    )
    with visit(browser, site, "tutorials/05_lanes.html") as seen:
        seen.settled()
        found = seen.page.evaluate(sizes)
        assert len(found) > 20 and min(found) >= 14


@pytest.mark.parametrize("still", [False, True], ids=["moving", "reduced motion"])
def test_the_arrow_of_page_6_turns_by_position_and_lane(
    site: Path, browser: Any, still: bool
) -> None:
    """By itself, unless the reader asked for no motion; then by hand."""
    tip = "() => ['cx', 'cy'].map(x => +document.querySelector('.turning .tip').getAttribute(x))"
    with visit(browser, site) as seen:
        seen.settled()
        seen.page.emulate_media(reduced_motion="reduce" if still else "no-preference")
        seen.page.goto(seen.base + "tutorials/06_lanerope.html")
        seen.settled()
        button = seen.page.locator(".turning button")
        assert button.inner_text() == ("Play" if still else "Stop")
        if not still:
            start = seen.page.evaluate(tip)
            seen.page.wait_for_function(f"start => ({tip})()[1] != start[1]", arg=start)
            button.click()
        for name, value in (("i", 3), ("m", 2)):
            seen.page.locator(f".turning [name={name}]").fill(str(value))
        angle = 0.5 * 3 + 1.5 * 1
        wanted = [120 + 96 * math.cos(angle), 120 - 96 * math.sin(angle)]
        close = f"w => ({tip})().every((x, k) => Math.abs(x - w[k]) < 0.01)"
        seen.page.wait_for_function(close, arg=wanted)
        assert "3.0 radians (position 3, lane 2" in seen.page.locator(".turning .said").inner_text()


def test_notebooks_and_scripts_can_be_downloaded(site: Path) -> None:
    for path in sorted((ROOT / "tutorials").glob("[0-9][0-9]_*.py")):
        links = page(site / "tutorials" / f"{path.stem}.html").links
        assert {f"{path.stem}.py", f"{path.stem}.ipynb"} <= set(links)
        book = json.loads((site / "tutorials" / f"{path.stem}.ipynb").read_text(encoding="utf-8"))
        assert book["nbformat"] == 4 and len(book["cells"]) > 10


def test_the_colours_can_be_switched_and_the_search_finds(site: Path, browser: Any) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    with visit(browser, site) as seen:
        before = seen.page.evaluate(ground)
        seen.page.locator("label[title='Switch to dark colours']:visible").click()
        assert luminance(seen.page.evaluate(ground)) < 0.1 < luminance(before)
        seen.page.keyboard.press("/")
        seen.page.keyboard.type("periodicity")
        seen.page.wait_for_selector(".md-search-result__link[href*='method']")
        seen.settled()


def luminance(colour: str) -> float:
    """Relative luminance (WCAG) of "rgb(r, g, b)" or "rgba(r, g, b, a)" over white or black."""
    parts = [float(x) for x in re.findall(r"[\d.]+", colour)]
    linear = [
        c / 12.92 if (c := part / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for part in parts[:3]
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG, from 1 to 21; a translucent text counts as mixed with its ground."""
    parts = [float(x) for x in re.findall(r"[\d.]+", one)]
    alpha = parts[3] if len(parts) > 3 else 1.0
    ground = [float(x) for x in re.findall(r"[\d.]+", other)]
    mixed = [alpha * a + (1 - alpha) * b for a, b in zip(parts[:3], ground[:3], strict=True)]
    light, dark = sorted((luminance(f"rgb{tuple(mixed)}"), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
