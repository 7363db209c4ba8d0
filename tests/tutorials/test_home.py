"""The first page: a game that plays once, slowly; then the reader changes a swap."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_browser import Visit, visit
from helpers_explorer import GAME, SEEDED, SITE, narrow, section

import tinylane
from tinylane.commands.common import embedded

READ = """() => [...document.querySelectorAll('.played tbody tr')].map((row) =>
  [...row.querySelectorAll('button')].map((word) =>
    [word.firstChild.textContent, word.classList.contains('right')]))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("home")
    return section(made, "index.md", '<link rel="stylesheet"', "**Change a swap**")


@pytest.fixture
def seen(browser: Any, folder: Path) -> Iterator[Visit]:
    with visit(browser, folder, reduced_motion=True) as open_page:
        open_page.page.wait_for_selector("[data-cell='3,5']")
        yield open_page
        open_page.settled()


def check(seen: Visit, swaps: str) -> None:
    """Asserts that words and marks are the package's, and all right."""
    model = tinylane.load(embedded(), backend="numpy")
    moves = GAME.parse(swaps)
    texts = tinylane.generate(
        model, GAME.prompt(moves), lanes=4, lane_prompts=GAME.lane_prompts(4), max_tokens=7
    ).texts
    lanes = [[[word, True] for word in text.split()] for text in texts]
    assert seen.page.evaluate(READ) == [list(row) for row in zip(*lanes, strict=True)]
    said = seen.page.inner_text("[data-part=verdict]")
    assert said == f"The cups stand {GAME.answer(moves)}. 4 of 4 lanes end with it."


def test_it_plays_once_slowly_and_stays(browser: Any, folder: Path) -> None:
    with visit(browser, folder) as seen:
        page = seen.page
        page.wait_for_selector("[data-cell]")
        assert len(page.query_selector_all("[data-cell]")) == 4
        assert page.inner_text("[data-part=verdict]").startswith("Each lane follows its own four")
        assert page.inner_text("[data-part=play]") == "Pause"
        page.wait_for_selector("[data-cell='0,5']", timeout=15000)
        page.wait_for_function("() => document.body.innerText.includes('The cups stand CDAB')")
        check(seen, SEEDED)
        page.wait_for_timeout(1500)
        assert len(page.query_selector_all("[data-cell]")) == 24  # it does not begin again
        seen.settled()


def test_the_reader_drags_a_cup(seen: Visit) -> None:
    check(seen, SEEDED)
    box = seen.page.locator("[data-swap='0']").bounding_box()
    seen.page.mouse.move(box["x"] + 10, box["y"] + 12)
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + 10, box["y"] + 36)
    seen.page.mouse.up()
    check(seen, "1-2" + SEEDED[3:])
    seen.page.click("[data-part=another]")
    moves = seen.page.eval_on_selector_all("[data-swap]", "all => all.map((x) => x.dataset.move)")
    assert " ".join(moves) != SEEDED
    check(seen, " ".join(moves))


def test_the_reader_types_swaps_and_walks_with_keys(seen: Visit) -> None:
    """The keyboard alone: the field, then the columns; each follows the other."""
    page, field = seen.page, "[name=moves]"
    assert page.input_value(field) == SEEDED
    page.fill(field, "1-2 3-4, 4-1")
    check(seen, "1-2 3-4 1-4")
    page.fill(field, "1-2 3-5")
    assert page.inner_text("[data-part=trouble]").startswith("“3-5” is no swap")
    assert page.get_attribute(field, "aria-invalid") == "true"
    check(seen, "1-2 3-4 1-4")  # the last game that was one
    page.focus("[data-swap='0']")
    assert page.inner_text("[data-part=trouble]") == ""
    assert page.get_attribute(field, "aria-invalid") is None
    for key in ("ArrowRight", "ArrowUp", "End", "2", "4"):
        page.keyboard.press(key)
    swaps = "1-2 -- 1-4" + 12 * " --" + " 2-4"
    assert page.input_value(field) == swaps
    check(seen, swaps)


def test_a_word_says_what_it_read(seen: Visit) -> None:
    shares = ".arcs .share"
    assert seen.page.locator(shares).count() == 0
    seen.page.click("[data-cell='1,4']")
    found = seen.page.locator(shares).all_text_contents()
    assert found and all(0 < int(share.rstrip("%")) <= 100 for share in found)
    told = seen.page.inner_text("[data-part=verdict]")
    assert told.startswith("Lane 2 wrote DBAC. Of other lanes it read most: lane 1’s ACDB (")
    assert all(f"({share})" in told for share in found[:3])  # what is seen is said
    assert seen.page.get_attribute("[data-cell='1,4']", "aria-pressed") == "true"
    seen.page.keyboard.press("ArrowDown")
    assert seen.page.get_attribute("[data-cell='1,5']", "aria-pressed") == "true"
    seen.page.click("[data-cell='1,5']")  # a second press lets it go
    assert seen.page.locator(shares).count() == 0
    assert seen.page.locator("[data-cell][aria-pressed=true]").count() == 0
    check(seen, SEEDED)
    counts = set()
    for m, t in itertools.product(range(4), range(6)):
        seen.page.click(f"[data-cell='{m},{t}']")
        told = seen.page.inner_text("[data-part=verdict]")
        counts.add(lines := seen.page.locator(".arc.chosen").count())
        assert told.startswith(f"Lane {m + 1} wrote ") and told.count("%)") == min(lines, 3)
        assert ("read no other lane" in told) == (lines == 0)
    assert {0, 1, 2, 3} <= counts


def test_reduced_motion_shows_all_at_once_and_a_press_is_one_step(seen: Visit) -> None:
    shown = lambda: len(seen.page.query_selector_all("[data-cell]"))
    assert shown() == 24
    for count in (4, 8, 12):
        seen.page.click("[data-part=play]")
        assert shown() == count
    seen.page.wait_for_timeout(1300)
    assert shown() == 12


@pytest.mark.parametrize("width, height", [(320, 640), (390, 844), (1280, 800)])
def test_a_finger_and_a_phone(browser: Any, folder: Path, width: int, height: int) -> None:
    with visit(browser, folder, width=width, height=height, reduced_motion=True) as seen:
        seen.page.wait_for_selector("[data-cell='3,5']")
        assert seen.overflow == 0 and narrow(seen, ".lane-board", 24) == []
        last = seen.page.locator(f"[data-cell='3,{5 if width > 400 else 1}']").bounding_box()
        assert last["y"] + last["height"] < 600  # there are a head and three lines above it
        marks = seen.page.eval_on_selector_all(".played b", "all => all.map((x) => x.textContent)")
        assert set(marks) == {"✓"}
        seen.settled()


def test_the_first_words_need_no_knowledge() -> None:
    """What a swap and ABCD are is said before the game; terms of the field come after it."""
    text = (SITE / "index.md").read_text(encoding="utf-8")
    before, after = text.split("<link rel=", 1)
    assert "`ABCD`" in before and "swap" in before
    terms = r"RoPE|attention|token|decoder|transformer|MLX|NumPy"
    assert re.findall(terms, before) == [] and len(set(re.findall(terms, after))) >= 4


def test_opened_as_a_file_it_keeps_the_picture(browser: Any, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "index.html").as_uri())
    page.wait_for_load_state("networkidle")
    assert "python -m http.server" in page.inner_text("[data-part=verdict]")
    assert page.locator("button:visible").count() == 0  # none that does nothing
    page.close()
