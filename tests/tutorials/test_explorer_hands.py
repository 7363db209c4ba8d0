"""The explorer in a reader's hands: mouse, keyboard, address."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
from helpers_browser import Visit
from helpers_explorer import SITE, Open, Shown, states

import tinylane


def test_cups_are_dragged_and_swaps_typed(seen: Visit, model: tinylane.Model) -> None:
    mouse, keys = seen.page.mouse, seen.page.keyboard
    box = seen.page.locator("[data-swap='5']").bounding_box()
    x, y = box["x"] + box["width"] / 2, lambda place: box["y"] + 24 * place - 12
    mouse.move(x, y(1))
    mouse.down()
    mouse.move(x, y(2))
    mouse.move(x, y(4), steps=3)
    mouse.up()
    shown = Shown(seen, model)
    assert shown.moves[5] == "1-4" and shown.check() == 4
    seen.page.focus("[data-swap='0']")
    for key in ("ArrowRight", "ArrowUp", "ArrowRight", "2", "1", "End", "Delete"):
        keys.press(key)
    shown = Shown(seen, model)
    assert (shown.moves[1], shown.moves[2], shown.moves[15]) == ("2-4", "1-2", "--")
    assert shown.check() == 4
    active = "() => [document.activeElement.getAttribute('aria-valuetext'),"
    active += " document.activeElement.getAttribute('aria-label')]"
    assert seen.page.evaluate(active) == ["nothing moves", "Swap 16 of 16, of lane 4"]


def test_omega_is_drawn_by_hand_and_by_keyboard(seen: Visit, model: tinylane.Model) -> None:
    box = seen.page.locator("[data-part=omega]").bounding_box()
    plane = lambda d: box["x"] + 26 + (d + 0.5) * (box["width"] - 26) / 32
    seen.page.mouse.move(plane(2), box["y"] + 30)
    seen.page.mouse.down()
    seen.page.mouse.move(plane(9), box["y"] + 80, steps=2)  # faster than plane by plane
    seen.page.mouse.up()
    shown = Shown(seen, model)
    before, learned = shown.omega, model.lane_rope.omega  # type: ignore[union-attr]
    assert shown.fields["omega"] == "drawn" and shown.check() < 4
    assert (np.abs(before - learned)[2:10] > 1e-3).sum() >= 6
    assert np.abs(before - learned)[[0, 1, 10, 31]].max() < 1e-7
    seen.page.mouse.click(plane(31), box["y"] + 158)
    seen.page.focus("[data-part=omega]")
    for key in ("Home", "ArrowRight", "ArrowUp", "ArrowRight", "Space"):
        seen.page.keyboard.press(key)
    shown = Shown(seen, model)
    assert shown.omega[1] > before[1] and shown.omega[2] == shown.omega[31] == 0
    shown.check()
    said = seen.page.get_attribute("[data-part=omega]", "aria-valuetext")
    assert said == "plane 2: 0 radians per lane, off"


def test_a_plane_is_chosen_and_set_by_fields(seen: Visit, model: tinylane.Model) -> None:
    seen.page.fill("[name=plane]", "7")
    shown = Shown(seen, model)
    learned = model.lane_rope.omega[7]  # type: ignore[union-attr]
    assert float(shown.fields["radians"]) == pytest.approx(learned, abs=6e-4)
    assert shown.fields["omega"] == "learned" and shown.check() == 4  # looking changes nothing
    seen.page.fill("[name=radians]", "-1.25")
    shown = Shown(seen, model)
    assert shown.fields["omega"] == "drawn" and shown.omega[7] == -1.25
    shown.check()
    seen.page.fill("[name=radians]", "")
    assert seen.page.inner_text("[data-part=trouble]").startswith("No number")
    seen.page.fill("[name=radians]", "1e9")
    assert Shown(seen, model).omega[7] == 100


def test_the_keyboard_chooses_words_and_cells(seen: Visit, model: tinylane.Model) -> None:
    keys = seen.page.keyboard
    seen.page.focus("[data-cell='1,4']")
    for key in ("ArrowRight", "ArrowUp", "ArrowUp"):
        keys.press(key)
    shown = Shown(seen, model)
    assert shown.chosen == [[2, 2]] and shown.check() == 4
    assert seen.page.evaluate("document.activeElement.dataset.cell") == "2,2"
    assert shown.labels[shown.words.index([[2, 2], "BACD", True, False])] == (
        "lane 3, step 3: BACD, right"
    )
    seen.page.focus("[data-see='2,3']")
    keys.press("Space")
    shown = Shown(seen, model)
    assert not shown.see[2, 3] and shown.check() < 4
    assert seen.page.evaluate("document.activeElement.dataset.see") == "2,3"


def test_a_wrong_swap_is_told_in_a_line(seen: Visit, model: tinylane.Model) -> None:
    seen.page.fill("[name=moves]", "1-2 1-9")
    assert seen.page.inner_text("[data-part=trouble]").startswith("“1-9” is no swap")
    assert seen.page.get_attribute("[name=moves]", "aria-invalid") == "true"
    seen.page.fill("[name=moves]", "1-2 1-3")
    assert seen.page.inner_text("[data-part=trouble]") == ""
    assert Shown(seen, model).check() == 4


def test_it_plays_slowly_and_a_change_shows_all_again(seen: Visit, model: tinylane.Model) -> None:
    shown = lambda: len(seen.page.query_selector_all("[data-cell]"))
    seen.page.click("[data-part=play]")
    assert shown() == 4 and seen.page.inner_text("[data-part=play]") == "Pause"
    seen.page.wait_for_function("() => document.querySelectorAll('[data-cell]').length === 8")
    seen.page.click("[data-part=play]")
    assert seen.page.inner_text("[data-part=play]") == "Play slowly"
    seen.page.click("[data-see='0,1']")
    assert Shown(seen, model).check() < 4 and shown() == 28


# The address.

HOSTILE = [
    "lanes=0&lag=99&slot=999&times=9",
    "lanes=9&cell=9-99&key=9-99&silent=9-99.x",
    "see=<script>alert(1)</script>&omega=constructor&__proto__=1&tags=9/9_x&moves=99",
    "see=101.1.1&off=99.x&drawn=1_2&omega=drawn&layer=7&head=-1",
    "drawn=" + "_".join(["1e9"] * 32) + "&omega=drawn&promptLane=7",
    "lanes=4&lanes=2&" + "x=1&" * 200,
]


def test_an_address_that_makes_no_sense_gives_a_page_that_does(at: Open) -> None:
    for address in HOSTILE:
        at(address).check()


def test_an_address_is_a_state_and_back(seen: Visit) -> None:
    again = "(async (cases) => { const m = await import('./state.js'); "
    again += "return cases.map((c) => m.toURL(m.fromURL(c))); })"
    once = seen.page.evaluate(again, ["?" + x for x in ["", *states(), *HOSTILE]])
    assert seen.page.evaluate(again, ["?" + x for x in once]) == once and once[0] == ""
    assert len(set(once)) > len(states())


def test_the_examples_of_the_page_are_as_it_says(at: Open) -> None:
    """The links under "What to try": each says how many lanes are right."""
    text = (SITE / "explorer" / "index.md").read_text(encoding="utf-8")
    items = re.findall(r'<a href="\?(.+?)">.*?</a>(.*?)(?=\n- |\n\n|<a )', text, re.DOTALL)
    numbers = {"No": 0, "no": 0, "one": 1, "two": 2, "three": 3, "all four": 4, "All four": 4}
    said = {html.unescape(link): re.search(r"(\w+(?: four)?) lanes? (?:is|are|end)", after)
            for link, after in items}  # fmt: skip
    assert len(said) >= 6
    for link, found in said.items():
        assert found, link
        assert at(link).check() == numbers[found[1]], link
