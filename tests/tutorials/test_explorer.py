"""The lane explorer's page: what it draws is what tinylane says, and anybody can use it.

Settings are made with the page's own controls or its URL, and read from what is on the screen.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_browser import Visit, visit
from helpers_explorer import FOLDER, Shown

from tinylane.core.lanes import SHARED

STATES = [
    "",
    "step=0",
    "lanes=1&step=9",
    "lanes=8&step=3&see=neighbours:1&lag=1&query=25,3&key=24,2",
    "lanes=3&prompt=10&step=4&lag=2&see=100.011.101&query=13,2&key=12,1&omega=ntk&slot=200",
    "query=9,-1&key=12,-1&omega=none&see=star",
    "lanes=2&see=independent&key=25,0&omega=group_think&slot=7",
    "lanes=4&key=4,-1&step=6&lag=1",
]


@pytest.fixture
def page(browser: Any) -> Iterator[Visit]:
    with visit(browser, FOLDER, "explorer.html") as seen:
        seen.page.wait_for_selector(".cell")
        yield seen
        seen.settled()


def test_the_first_view_teaches_without_a_click(page: Visit) -> None:
    """The run of the README, its mask, and why the key is visible; all in the first window."""
    shown = Shown(page)
    words = {(i, m): word for i, m, _, word in shown.cells}
    assert [words[i, 1] for i in range(23, 28)] == ["2/4", "ACBD", "ADBC", "ADCB", "CDAB"]
    assert words[28, 1] == "DBAC" and words[29, 1] == "" and words[0, SHARED] == "cups"
    assert shown.why == (
        "Lane 1 at position 27 sees lane 0’s ACDB at position 27 because lane 1 may read lane 0, "
        "and 27 ≤ 27. Both were known before this step, so nothing leaks. "
        "It gets 22% of the attention."
    )
    assert "CDAB; 4 of 4 lanes end with it" in shown.source
    for part in ("grid", "why", "matrix", "mask"):
        assert page.page.locator(f"[data-part={part}]").bounding_box()["y"] < 700
    shown.check()


def test_every_state_draws_what_tinylane_says(page: Visit) -> None:
    for query in STATES:
        Shown(page, query).check()
    rng = np.random.default_rng(4)
    for _ in range(8):
        n, prompt, step = (int(rng.integers(a, b)) for a, b in ((1, 9), (1, 33), (0, 6)))
        bits = ".".join("".join(map(str, row)) for row in rng.integers(0, 2, (n, n)))
        see = rng.choice(["joint", "star", "independent", "neighbours:1", "neighbours:2", bits])
        at = [int(prompt + rng.integers(0, step + 1)), int(rng.integers(0, n))]
        key = [int(rng.integers(0, prompt)), -1] if rng.random() < 0.3 else None
        key = key or [int(prompt + rng.integers(0, 7)), int(rng.integers(0, n))]
        omega = rng.choice(["learned", "ntk", "group_think", "none"])
        shown = Shown(
            page,
            f"lanes={n}&prompt={prompt}&step={step}&see={see}&lag={rng.integers(0, 4)}"
            f"&omega={omega}&slot={rng.integers(0, 513)}&query={at[0]},{at[1]}"
            f"&key={key[0]},{key[1]}",
        )
        assert (shown.lanes, shown.prompt, shown.step, shown.query) == (n, prompt, step, at)
        shown.check()


@pytest.mark.parametrize(
    "old, new",
    [
        ("return j > i ?", "return j >= i ?"),  # the tokens
        ("t * positions + Omega[d] * lanes);", "t * positions);"),  # the dials
        ("const far = p + l * slot", "const far = p - l * slot"),
    ],
)
def test_a_planted_bug_is_seen_on_the_page(
    browser: Any, tmp_path: Path, old: str, new: str
) -> None:
    for file in FOLDER.iterdir():
        shutil.copy(file, tmp_path)
    source = (FOLDER / "explorer.js").read_text(encoding="utf-8")
    assert source.count(old) >= 1
    (tmp_path / "explorer.js").write_text(source.replace(old, new), encoding="utf-8")
    with visit(browser, tmp_path, "explorer.html?key=27,2") as seen:
        seen.page.wait_for_selector(".cell")
        with pytest.raises(AssertionError):
            Shown(seen).check()


def test_the_controls_are_obeyed_and_the_url_keeps_them(page: Visit) -> None:
    slide = lambda name, value: page.page.locator(f"[name={name}]").fill(str(value))
    for name, value in (("lanes", 3), ("prompt", 12), ("lag", 1), ("step", 5), ("slot", 100)):
        slide(name, value)
    page.page.select_option("[name=omega]", "ntk")
    page.page.select_option("[name=see]", "star")
    page.page.click("[data-cell='2,1']")
    page.page.click("[data-cell='0,2']")
    page.page.click("[data-at='15,1']")
    page.page.select_option("[name=pick]", "query")
    page.page.click("[data-at='16,2']")
    page.page.hover("[name=lag]")
    shown = Shown(page)
    assert shown.mask.visibility.astype(int).tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 1]]
    assert shown.see == "custom" and (shown.lag, shown.slot, shown.omega) == (1, 100, "ntk")
    assert (shown.query, shown.key) == ([16, 2], [15, 1])
    shown.check()
    page.page.wait_for_function("() => location.search.includes('query=16,2')")
    before, url = page.page.inner_text("body"), page.page.url
    page.page.goto(url)
    page.page.wait_for_selector(".cell")
    assert page.page.inner_text("body") == before and vars(Shown(page)).keys() == vars(shown).keys()
    assert Shown(page).cells == shown.cells
    page.page.click("[data-part=reset]")
    page.page.wait_for_function("() => location.search === ''")
    assert Shown(page).why.startswith("Lane 1 at position 27 sees lane 0")


def test_the_pair_under_the_pointer_is_explained(page: Visit) -> None:
    page.page.hover("[data-at='24,3']")
    shown = Shown(page)
    assert shown.why.startswith("Lane 1 at position 27 sees lane 3’s ABDC at position 24")
    shown.check()
    page.page.hover("[data-at='28,0']")
    assert "it is fed, and can be seen, in the next" in Shown(page).why
    page.page.hover("[name=lag]")  # away: back to the chosen key
    assert Shown(page).why.startswith("Lane 1 at position 27 sees lane 0")


def test_it_works_without_a_pointer(page: Visit) -> None:
    def press(*keys: str) -> Shown:
        for key in keys:
            page.page.keyboard.press(key)
        return Shown(page)

    page.page.focus("[data-part=grid]")
    assert press("ArrowDown", "ArrowDown", "ArrowLeft").key == [26, 2]
    active = page.page.get_attribute("[data-part=grid]", "aria-activedescendant")
    label = page.page.get_attribute(f"[id='{active}']", "aria-label")
    assert label == "lane 2, position 26, BACD: other lanes"
    shown = press("q")
    assert (shown.query, shown.key) == ([26, 2], [26, 2])
    assert press(*["ArrowLeft"] * 4).key == [22, SHARED]
    assert press("ArrowRight").key == [23, 2]
    assert press("ArrowDown", "ArrowDown").key == [23, 3]  # there is no fifth lane
    page.page.focus("[name=step]")
    shown = press("Home")
    assert shown.query == [23, 2] and shown.step == 0
    page.page.focus("[data-cell='2,3']")
    shown = press("Enter")
    assert not shown.mask.visibility[2, 3]
    assert page.page.evaluate("() => document.activeElement.dataset.cell") == "2,3"
    assert shown.why.endswith("because the matrix does not let lane 2 read lane 3.")
    shown.check()


def test_the_reader_can_play_the_run(page: Visit) -> None:
    page.page.clock.install(time=0)
    page.page.clock.pause_at(1000)  # time passes only where it is said to
    page.page.click("[data-part=play]")
    assert (Shown(page).step, Shown(page).play) == (5, "Pause")
    page.page.clock.run_for(2000)
    assert Shown(page).step == 0  # 6, and round again
    page.page.click("[data-part=play]")
    page.page.clock.run_for(5000)
    assert (Shown(page).step, Shown(page).play) == (0, "Play")


def test_reduced_motion_means_a_step_a_press_and_nothing_that_moves(browser: Any) -> None:
    with visit(browser, FOLDER, "explorer.html", reduced_motion=True) as seen:
        seen.page.wait_for_selector(".cell")
        seen.page.clock.install(time=0)
        seen.page.click("[data-part=play]")
        seen.page.clock.run_for(5000)
        assert Shown(seen).step == 5
        moving = """() => [...document.querySelectorAll('.lane-explorer, .lane-explorer *')]
            .filter((e) => parseFloat(getComputedStyle(e).transitionDuration) > 0
              || getComputedStyle(e).animationName !== 'none').length"""
        assert seen.page.evaluate(moving) == 0
        seen.settled()


HOSTILE = [
    "lanes=0&prompt=0&step=99&lag=99&slot=999",
    "lanes=9&prompt=33&query=99,99&key=-5,7",
    "lanes=abc&see=<script>alert(1)</script>&omega=constructor&own=7&__proto__=1",
    "see=101.1.1&lanes=3&query=,&key=1",
    "see=neighbours:99&lag=-1&slot=1e3&step=2.5",
    "query=0,-1&key=999,0&lanes=8&step=5",
    "lanes=4&lanes=2&" + "x=1&" * 200,
]


def test_a_url_that_makes_no_sense_gives_a_page_that_does(page: Visit) -> None:
    for query in HOSTILE:
        Shown(page, query).check()


def test_a_url_is_a_state_and_back(page: Visit) -> None:
    """What `toURL` writes, `fromURL` reads, also for what was read from nonsense."""
    again = "(async (cases) => { const m = await import('./explorer.js'); "
    again += "return cases.map((c) => m.toURL(m.fromURL(c))); })"
    once = page.page.evaluate(again, ["?" + x for x in [*STATES, *HOSTILE]])
    assert page.page.evaluate(again, ["?" + x for x in once]) == once and once[0] == ""
    assert len(set(once)) >= len(STATES)


def test_the_slot_may_be_typed_digit_by_digit(page: Visit) -> None:
    page.page.fill("[name=slot]", "")
    assert "-1·32 = -32" in page.page.inner_text("[data-part=far]").replace("−", "-")
    page.page.focus("[name=slot]")
    page.page.keyboard.type("257")
    assert Shown(page).slot == 257 and "-1·257 = -257" in Shown(page).far


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = parse(text).map((x) => x / 255)
      .map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const paper = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const { backgroundColor: c } = getComputedStyle(at);
      if (!c.startsWith('rgba') || parse(c)[3] === 1) return c;
    }
    return 'rgb(255, 255, 255)';
  };
  const ratios = [];
  for (const cell of document.querySelectorAll('.cell'))
    for (const words of cell.querySelectorAll('text')) {
      const { fill } = getComputedStyle(cell.querySelector('.box'));
      const under = fill.startsWith('url') ? paper(document.querySelector('.stage')) : fill;
      if (words.textContent) ratios.push([cell.getAttribute('class') + ' ' + words.textContent,
        ratio(getComputedStyle(words).fill, under)]);
    }
  const others = 'svg:not([data-part=grid]) text, [data-part=grid] .axis text';
  for (const node of document.querySelectorAll(`.lane-explorer :is(${others})`))
    ratios.push([node.textContent,
      ratio(getComputedStyle(node).fill, paper(node.closest('figure, div')))]);
  const words = 'p, strong, label, button, select, [type=number], figcaption, th, b, span';
  for (const node of document.querySelectorAll(`.lane-explorer :is(${words})`))
    ratios.push([node.tagName + ' ' + node.textContent.slice(0, 30),
      ratio(getComputedStyle(node).color, paper(node))]);
  return ratios;
}"""


UNNAMED = """() => [...document.querySelectorAll('.lane-explorer :is(input, select, button, svg)')]
  .filter((e) => !(e.labels?.length || e.getAttribute('aria-label') ||
    e.getAttribute('aria-hidden') || (e.tagName === 'BUTTON' && e.textContent.trim())))
  .map((e) => e.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_it_reads_on_a_phone_and_a_desk_by_day_and_night(
    browser: Any, width: int, dark: bool, tmp_path: Path
) -> None:
    """No sideways scrolling; every word 4.5:1 on its ground; a mark of its own for every kind of
    key; a name for every control and figure; nothing too small for a finger."""
    query = "lanes=8&step=3&see=neighbours:2&lag=1&query=25,3"
    with visit(browser, FOLDER, f"explorer.html?{query}", width=width, dark=dark) as seen:
        seen.page.wait_for_selector(".cell")
        assert seen.overflow == 0
        ratios = seen.page.evaluate(CONTRAST)
        assert len(ratios) > 150
        assert [entry for entry in ratios if entry[1] < 4.5] == []
        marks = seen.page.eval_on_selector_all(
            ".cell", "all => all.map((c) => [c.classList[1], c.lastChild.textContent])"
        )
        kinds = dict(marks)
        assert kinds.keys() >= {
            "query",
            "shared",
            "own",
            "other",
            "hidden",
            "lag",
            "later",
            "drawn",
        }
        assert all(kinds[kind] == mark for kind, mark in marks)
        assert len(set(kinds.values())) == len(kinds)
        assert seen.page.evaluate(UNNAMED) == []
        heights = seen.page.eval_on_selector_all(
            ".lane-explorer :is(button, select, input)",
            "all => all.map((e) => e.getBoundingClientRect().height)",
        )
        assert min(heights) >= 24
        shot = seen.page.screenshot(path=str(tmp_path / "explorer.png"), full_page=True)
        assert shot.startswith(b"\x89PNG") and len(shot) > 50_000
        seen.settled()


def test_the_page_is_drawn_again_when_the_window_changes(page: Visit) -> None:
    wide = page.page.locator("[data-part=grid]").bounding_box()
    page.page.set_viewport_size({"width": 375, "height": 800})
    page.page.wait_for_function(
        "() => document.querySelector('[data-part=grid]').getBoundingClientRect().width < 375"
    )
    assert page.page.locator("[data-part=grid]").bounding_box()["height"] > wide["height"]
    assert page.overflow == 0
    Shown(page).check()


def test_the_examples_of_the_page_are_as_it_says(page: Visit) -> None:
    """The links under "What to try", in their order, each with what its sentence claims."""
    text = (FOLDER / "index.md").read_text(encoding="utf-8")
    links = [html.unescape(link) for link in re.findall(r'<a href="\?(.+?)">', text)]
    shown = [Shown(page, link) for link in links]
    right = [re.search(r"(\d) of 4 lanes end with it", x.source)[1] for x in shown]  # type: ignore
    assert right == ["0", "0", "3", "4", "4", "4"]
    alone, late, near, none, think, prompt = shown
    assert "does not let lane 1 read lane 0" in alone.why
    assert "lane’s token is read 1 late: this one from position 28 on" in late.why
    assert "does not let lane 0 read lane 2" in near.why
    assert [word for i, m, _, word in near.cells if (i, m) == (30, 0)] == ["DCBA"]
    assert none.why.startswith("Lane 1 at position 27 sees lane 3")
    assert "= 64 away, ahead of the query" in think.far
    assert "a prompt token sees the prompt only" in prompt.why
    page.page.goto(f"{page.base}explorer.html?{links[3]}")
    page.page.wait_for_selector(".hill")
    hills = page.page.eval_on_selector_all
    heights = "all => all.map((hill) => hill.getBBox().height)"
    assert np.ptp(hills("[data-part=ours] .hill", heights)) < 1e-3
    assert np.ptp(hills("[data-part=theirs] .hill", heights)) > 1
    for one in shown:
        one.check()


def test_the_page_of_the_site_shows_the_same(browser: Any, tmp_path: Path) -> None:
    """The Markdown page loads the same section, module and recording, by relative addresses."""
    for file in FOLDER.iterdir():
        shutil.copy(file, tmp_path)
    text = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert text.startswith("---\n") and "\n# The lane explorer\n" in text
    (tmp_path / "index.html").write_text(
        "<!doctype html><meta charset=utf-8><link rel=icon href=data:,>"
        f"<body data-md-color-scheme=slate>{text[text.index('<link') :]}",
        encoding="utf-8",
    )
    with visit(browser, tmp_path, "index.html?step=2") as seen:
        seen.page.wait_for_selector(".cell")
        Shown(seen).check()
        assert len(seen.page.query_selector_all("[data-part=grid]")) == 1
        seen.settled()
