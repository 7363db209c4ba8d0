"""The page of `tinylane play` in clumsy hands: loaded again, left and come back to, two tabs, many
lanes, a line that breaks, a phone, the keyboard alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from helpers_browser import Visit, watch
from helpers_play import begin, fine, opened, tokens, until
from helpers_serve import Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--no-open", command="play") as running:
        yield running


def seed(seen: Visit) -> str:
    """Of the session that is shown."""
    return seen.page.inner_text("#status").partition("seed ")[2]


def test_a_page_that_is_loaded_again_goes_on_with_its_session(browser: Any, server: Server) -> None:
    with opened(browser, server) as seen:
        begin(seen)
        page, before, count = seen.page, seed(seen), tokens(seen, 0)
        page.reload()
        page.wait_for_selector(".t")
        assert (seed(seen), tokens(seen, 0)) == (before, count)
        page.click("#step")
        page.wait_for_selector(f'[data-token="0,{count}"]')
        assert seen.console == [] and page.inner_text("#trouble") == ""


def test_back_leads_to_the_session_before(browser: Any, server: Server) -> None:
    with opened(browser, server) as seen:
        page = seen.page
        begin(seen, seed="11")
        begin(seen, seed="12")
        until(page, "document.querySelector('#status').textContent.includes('seed 12')")
        page.go_back()
        until(page, "document.querySelector('#status').textContent.includes('seed 11')")
        page.go_forward()
        until(page, "document.querySelector('#status').textContent.includes('seed 12')")
        page.go_back()
        page.go_back()  # the page as it was opened
        page.wait_for_selector("#controls", state="hidden")
        assert page.locator(".lane").count() == 0
        begin(seen, seed="13")
        assert page.locator(".lane").count() == 4 and seed(seen).startswith("13")
        assert seen.console == [] and page.inner_text("#trouble") == ""


def test_a_session_that_is_not_there_is_told_and_another_can_begin(
    browser: Any, server: Server
) -> None:
    with watch(browser, f"{server.url}/#session=none", base=server.url) as seen:
        page = seen.page
        page.wait_for_selector("#trouble:not(:empty)")
        assert page.inner_text("#trouble").startswith("no session 'none': it may have ended")
        assert page.url == f"{server.url}/" and page.is_hidden("#controls")
        begin(seen)
        assert page.inner_text("#trouble") == ""
        page.evaluate("location.hash = 'session=gone'")
        page.wait_for_selector("#trouble:not(:empty)")
        assert page.is_hidden("#controls") and page.locator(".lane").count() == 0


def test_a_line_that_breaks_is_made_again(browser: Any, server: Server) -> None:
    """It breaks twice. What was written meanwhile is there afterwards."""
    with opened(browser, server) as seen:
        page, breaks = seen.page, [2]

        def line(route: Any) -> None:
            breaks[0] -= 1
            route.continue_() if breaks[0] < 0 else route.abort()

        page.route("**/events", line)
        page.click("#begin")
        page.wait_for_selector("#trouble:not(:empty)")
        assert "goes on as soon as it does" in page.inner_text("#trouble")
        assert page.is_disabled("#step")
        until(page, "document.querySelectorAll('.verdict:not(:empty)').length === 4")
        assert page.inner_text("#trouble") == "" and tokens(seen, 0) == 7


def test_a_line_that_says_nothing_is_cut_and_made_again(browser: Any, server: Server) -> None:
    """A phone that slept: the connection is there and dead. Clocks go forward by 41 s."""
    with opened(browser, server) as seen:
        page, asked = seen.page, list[Any]()
        page.clock.install()

        def line(route: Any) -> None:
            asked.append(route)
            if len(asked) > 1:  # the first gets no answer
                route.continue_()

        page.route("**/events", line)
        page.click("#begin")
        page.wait_for_selector("#controls:visible")
        page.clock.fast_forward(39_000)
        page.wait_for_timeout(300)
        assert len(asked) == 1 and page.locator(".t").count() == 0
        page.clock.fast_forward(2_000)
        page.wait_for_timeout(300)
        page.clock.fast_forward(1_000)
        page.wait_for_selector(".t")
        assert len(asked) == 2 and page.inner_text("#trouble") == ""


def test_a_server_that_ends_is_told(browser: Any) -> None:
    with serving("--no-open", command="play") as server, opened(browser, server) as seen:
        begin(seen)
        server.interrupt()
        # A request that was under way may be told of first.
        text = "document.querySelector('#trouble').textContent"
        until(seen.page, f"{text}.includes('this session has ended')")
        assert seen.page.is_disabled("#run") and seen.page.is_disabled("#step")


def test_a_session_that_was_left_keeps_no_other_waiting(browser: Any) -> None:
    """Its lanes would be all that the server runs at once."""
    limited = serving("--no-open", "--max-lanes", 4, command="play")
    with limited as server, opened(browser, server) as seen:
        page = seen.page
        begin(seen)
        begin(seen, seed="2")  # in place of the one before
        until(page, "document.querySelector('#status').textContent.includes('seed 2')")
        page.click("#begin")
        until(page, "document.querySelectorAll('.verdict:not(:empty)').length === 4")
        assert seen.console == [] and page.inner_text("#trouble") == ""
        page.select_option("#count", "8")
        page.click("#begin")
        page.wait_for_selector("#trouble:not(:empty)")
        assert page.inner_text("#trouble") == "8 lanes; this server runs at most 4"


def test_a_session_that_was_left_makes_room_for_a_lane(browser: Any) -> None:
    """Five lanes here and four that nobody looks at are all that there may be: a sixth comes."""
    limited = serving("--no-open", "--max-lanes", 9, command="play")
    with limited as server, opened(browser, server) as seen:
        begin(seen)
        with opened(browser, server) as other:
            begin(other)
            seen.page.get_by_role("button", name="Fork").first.click()
            seen.page.wait_for_selector('article[aria-label="Lane 5"]')
            seen.page.get_by_role("button", name="Fork").first.click()
            seen.page.wait_for_selector("#trouble:not(:empty)")
            assert "no room for more beside what runs here" in seen.page.inner_text("#trouble")
        end = time.monotonic() + 20
        while seen.page.locator(".lane").count() < 6:  # the server notices that the other has gone
            assert time.monotonic() < end
            seen.page.get_by_role("button", name="Fork").first.click()
            seen.page.wait_for_timeout(500)
        assert seen.page.inner_text("#trouble") == ""


def test_two_tabs_show_one_session(browser: Any, server: Server) -> None:
    with opened(browser, server) as seen:
        begin(seen)
        page, other = seen.page, seen.page.context.new_page()
        other.goto(page.url)
        other.wait_for_selector(".t")
        other.click("#step")
        count = tokens(seen, 0)
        other.get_by_role("button", name="Fork").first.click()
        page.wait_for_selector('article[aria-label="Lane 5"]')
        other.wait_for_selector('article[aria-label="Lane 5"]')
        assert tokens(seen, 0) >= count
        assert page.locator(".t").count() == other.locator(".t").count()
        fine(seen)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_sixteen_lanes_fit_and_every_cell_can_be_pressed(
    browser: Any, server: Server, width: int
) -> None:
    with opened(browser, server, width=width, height=800) as seen:
        page = seen.page
        page.select_option("#count", "8")
        begin(seen)
        for k in range(9, 17):
            page.get_by_role("button", name="Fork").first.click()
            page.wait_for_selector(f'article[aria-label="Lane {k}"]')
        page.get_by_role("button", name="Fork").first.click()
        page.wait_for_selector("#trouble:not(:empty)")
        assert page.inner_text("#trouble") == "16 lanes are the most here"
        cells = page.locator("#matrix button")
        assert cells.count() == 256
        sizes = cells.evaluate_all("all => all.map((x) => Math.min(x.offsetWidth, x.offsetHeight))")
        assert min(sizes) >= 24 and seen.overflow <= 0
        page.click('[aria-label="lane 16 reads lane 2"]')
        page.wait_for_selector('[aria-label="lane 16 reads lane 2"][aria-pressed=false]')
        focus = "document.activeElement.getAttribute('aria-label') === 'lane 16 reads lane 2'"
        until(page, focus)  # drawn anew, it has the focus again
        assert [line for line in seen.failed if "/fork" not in line] == []


def test_a_chosen_token_does_not_lie_below_its_sheet(browser: Any, server: Server) -> None:
    with opened(browser, server, width=390, height=844) as seen:
        begin(seen)
        page = seen.page
        for lane in range(4):
            token = page.locator(f'[data-token="{lane},0"]')
            token.click()
            page.wait_for_selector(f"#chosen-title:has-text('lane {lane + 1}')")
            sheet, box = page.locator("#chosen").bounding_box(), token.bounding_box()
            head = page.locator("#controls").bounding_box()
            assert head["y"] + head["height"] <= box["y"] + 1
            assert box["y"] + box["height"] <= sheet["y"] + 1
        fine(seen)


def test_words_without_end_widen_nothing(browser: Any, server: Server) -> None:
    """A token of 500 characters in every place where a token is shown."""
    long = "W" * 500
    told = {"lane": 0, "index": 0, "id": 1, "text": long, "p": 0.5, "top": []}
    told["top"] = [{"id": k, "text": long, "p": 0.1} for k in range(2, 12)]
    told["shares"] = [{"of": "the prompt", "share": 1.0}]
    told["most"] = [{"lane": -1, "text": long, "share": 1.0}]
    for width in (320, 1280):
        with opened(browser, server, width=width, height=800) as seen:
            begin(seen)
            page = seen.page
            page.route("**/details", lambda route: route.fulfill(json=told))
            page.click('[data-token="0,0"]')
            page.wait_for_selector("#chosen:visible")
            parts = page.locator("#chosen, #chosen-title, #top button, #most li, #shares")
            right = parts.evaluate_all("all => all.map((x) => x.getBoundingClientRect().right)")
            assert len(right) == 15 and max(right) <= width
            assert (
                page.locator("#top button:disabled").inner_text().startswith(long)
            )  # the drawn one
            fine(seen)


def test_the_keyboard_finds_tokens_wherever_they_are_and_leaves_the_sheet(
    browser: Any, server: Server
) -> None:
    """Lane 1 waits and has none; from a button of the sheet Escape leads back to the token."""
    with opened(browser, server) as seen:
        page = seen.page
        page.route("**/run", lambda route: route.fulfill(json={}))  # it does not begin to write
        page.click("#begin")
        page.wait_for_selector("#step:enabled")
        page.get_by_role("button", name="Wait").first.click()
        page.get_by_role("button", name="Go on").wait_for()
        page.focus("#lanes")
        page.keyboard.press(".")
        page.wait_for_selector('[data-token="1,0"]')
        assert tokens(seen, 0) == 0
        assert page.locator('.t[tabindex="0"]').count() == 1
        page.locator('.t[tabindex="0"]').focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#chosen:visible")
        page.focus("#top button:enabled")
        page.keyboard.press("Escape")
        assert page.is_hidden("#chosen")
        assert page.evaluate("document.activeElement.dataset.token") == "1,0"
        page.keyboard.press("ArrowUp")  # lane 1 has nothing to go to
        assert page.evaluate("document.activeElement.dataset.token") == "1,0"
        fine(seen)
