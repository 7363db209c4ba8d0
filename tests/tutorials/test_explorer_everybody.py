"""The explorer for everybody: a finger, a phone, the dark, a screen reader, a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers_browser import Visit, serving, visit
from helpers_explorer import READY, SITE, Shown, narrow

import tinylane

UNNAMED = """() => [...document.querySelectorAll('.lane-explorer :is(input, select, button)')]
  .filter((e) => !(e.labels?.length || e.getAttribute('aria-label') ||
    (e.tagName === 'BUTTON' && e.textContent.trim()))).map((e) => e.outerHTML.slice(0, 80))"""
COLOURS = """() => [...document.querySelectorAll('.lane-explorer :is(p, th, td, label, legend, h2,'
  + ' h3, button, summary, li, small, strong)')].filter((e) => e.offsetParent && e.innerText.trim())
  .map((e) => {
    const clear = /rgba\\(0, 0, 0, 0\\)|transparent/;
    let ground = e;
    while (ground && clear.test(getComputedStyle(ground).backgroundColor))
      ground = ground.parentElement;
    return [e.outerHTML.slice(0, 80), getComputedStyle(e).color,
      ground ? getComputedStyle(ground).backgroundColor : 'rgb(255, 255, 255)'];
  })"""
PALETTES = {  # of the theme: Material for MkDocs
    False: ("default", "#fff", "#000000de", "#0000008a", "#00000052", "#00000012"),
    True: ("slate", "#1e2129", "#e2e4e9d1", "#e2e4e98f", "#e2e4e952", "#e2e4e91f"),
}


def paint(seen: Visit, dark: bool) -> None:
    """The theme's own colours, which the section alone lacks."""
    names = ["bg-color", *(f"fg-color{x}" for x in ("", "--light", "--lighter", "--lightest"))]
    scheme, *colours = PALETTES[dark]
    seen.page.evaluate(
        "([scheme, pairs]) => { const body = document.body; body.dataset.mdColorScheme = scheme;"
        " for (const [name, value] of pairs) body.style.setProperty(`--md-default-${name}`, value);"
        " body.style.color = 'var(--md-default-fg-color)';"
        " body.style.background = 'var(--md-default-bg-color)'; }",
        [scheme, list(zip(names, colours, strict=True))],
    )


def test_a_finger_drags_and_the_page_stays(browser: Any, folder: Path) -> None:
    with serving(folder) as base:
        phone = {"viewport": {"width": 375, "height": 760}, "has_touch": True, "is_mobile": True}
        context = browser.new_context(**phone)
        page = context.new_page()
        page.goto(f"{base}explorer/index.html")
        page.wait_for_function(READY)
        finger = context.new_cdp_session(page)

        def drag(target: str, x: float, *heights: float) -> None:
            box = page.locator(target).bounding_box()
            for kind, y in zip(["touchStart", *["touchMove"] * 9], heights, strict=False):
                point = {"x": box["x"] + x, "y": box["y"] + y}
                finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
            finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
            page.wait_for_function(READY)

        drag("[data-swap='5']", 8, 12, 40, 60, 84)
        assert page.get_attribute("[data-swap='5']", "data-move") == "1-4"
        page.locator("[data-part=omega]").scroll_into_view_if_needed()
        before = page.evaluate("scrollY")
        drag("[data-part=omega]", 120, 30, 50, 90)
        assert page.input_value("[name=omega]") == "drawn" and page.evaluate("scrollY") == before
        context.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_reads_on_a_phone_and_a_desk_by_day_and_night(
    browser: Any, folder: Path, width: int, dark: bool, model: tinylane.Model
) -> None:
    """No sideways scrolling, text 4.5:1 on its ground, a name for every control, nothing too small
    for a finger, a mark beside every colour; nothing that moves by itself."""
    from test_website import contrast

    address = "explorer/index.html?lanes=8&omega=none&silent=2-1"
    with visit(browser, folder, address, width=width, dark=dark, reduced_motion=True) as seen:
        Shown(seen, model).check()
        paint(seen, dark)
        seen.page.evaluate("document.querySelector('[data-part=pair]').open = true")
        seen.page.wait_for_selector(".hill")
        assert seen.overflow == 0
        assert seen.page.evaluate(UNNAMED) == [] and narrow(seen, ".lane-explorer", 24) == []
        pairs = seen.page.evaluate(COLOURS)
        assert len(pairs) > 100
        assert [one for one in pairs if contrast(one[1], one[2]) < 4.5] == []
        marks = seen.page.eval_on_selector_all(
            ".played [data-cell]",
            "all => all.map((x) => [x.classList[1], x.lastChild.textContent])",
        )
        assert {mark[0] + kind for kind, mark in marks} == {"✓right", "✗wrong"}
        seen.page.click("[data-part=play]")
        seen.page.wait_for_timeout(1200)
        assert len(seen.page.query_selector_all("[data-cell]")) == 8  # one step a press
        seen.settled()
    for sheet in ("assets/board.css", "explorer/explorer.css"):
        text = (SITE / sheet).read_text(encoding="utf-8")
        assert not re.search("transition|animation", text)


def test_on_a_phone_what_stands_alone_is_44_pixels_high(browser: Any, folder: Path) -> None:
    """All but words, and the boxes of ticks, which their labels make larger."""
    with visit(browser, folder, "explorer/index.html", width=390, reduced_motion=True) as seen:
        seen.page.wait_for_function(READY)
        others = (", step ", "checkbox", 'name="lanes"')  # the last is 40 pixels wide
        small = [x for x in narrow(seen, ".lane-explorer", 44) if not any(y in x for y in others)]
        assert small == []
        high = seen.page.eval_on_selector_all(
            "label:has([type=checkbox])", "all => all.map((x) => x.offsetHeight).filter(Boolean)"
        )
        assert high and min(high) >= 44


def test_on_a_phone_the_verdict_stays_in_view(browser: Any, folder: Path) -> None:
    with visit(browser, folder, "explorer/index.html", width=390, reduced_motion=True) as seen:
        seen.page.wait_for_function(READY)
        seen.page.locator("[data-see='1,0']").evaluate("e => e.scrollIntoView({block: 'center'})")
        seen.page.click("[data-see='1,0']")
        seen.page.wait_for_function(READY)
        said = seen.page.locator("[data-part=verdict]")
        assert said.inner_text().startswith("The cups stand CDAB. 0 of 4")
        assert 0 <= said.bounding_box()["y"] < 100 < seen.page.evaluate("scrollY")
        bars = seen.page.locator("[data-part=omega] rect.bar").all()
        assert len(bars) == 32 and all(bar.bounding_box()["height"] >= 1 for bar in bars)


def test_opened_as_a_file_it_says_how_to_serve_it(browser: Any, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "explorer" / "index.html").as_uri())
    page.wait_for_load_state("networkidle")
    assert "python -m http.server" in page.inner_text("[data-part=verdict]")
    assert page.locator(":is(button, select, input, details):visible").count() == 0  # none is dead
    page.close()
