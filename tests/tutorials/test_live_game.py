"""The live game of the page "The whole idea in one file": driven as a reader would, in a browser.

Its words are those of the package with the same settings, and its marks those of the shell game.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_browser import Visit, visit

import tinylane
from tinylane.commands.common import embedded
from tinylane.evaluate.tasks.shell_game import ShellGame
from tutorials.build import __main__ as build

SITE = build.ROOT / "tutorials" / "site"
GAME = ShellGame()
READ = """() => [...document.querySelectorAll('[data-part=lanes] tr')].map((row) =>
  [...row.querySelectorAll('.words span')].map((word) =>
    [word.firstChild.textContent.trim(), word.classList.contains('right')]))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The section of the page alone, between the site's own styles; the model where it is put."""
    made = tmp_path_factory.mktemp("game")
    build.copy_assets()
    shutil.copytree(SITE / "assets", made / "assets")
    text = (SITE / "one_file.md").read_text(encoding="utf-8")
    part = text[text.index('<link rel="stylesheet"') : text.index("Blue words")]
    (made / "index.html").write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Game</title>"
        "<meta name=viewport content='width=device-width'><link rel=icon href=data:,>"
        f"<link rel=stylesheet href=assets/site.css><body data-md-color-scheme=default>{part}",
        encoding="utf-8",
    )
    return made


@pytest.fixture
def seen(browser: Any, folder: Path) -> Iterator[Visit]:
    with visit(browser, folder, width=375, height=760) as open_page:
        open_page.page.wait_for_selector(".words span")
        yield open_page
        open_page.settled()
        assert open_page.overflow == 0


@pytest.fixture(scope="module")
def model() -> tinylane.Model:
    return tinylane.load(embedded(), backend="numpy")


def check(seen: Visit, model: tinylane.Model, N: int, silent: list[int], omega: bool) -> int:
    """Asserts that words, marks and verdict are the package's. Returns how many lanes are right."""
    moves = GAME.parse(seen.page.input_value("[name=swaps]"))
    see = np.ones((N, N), bool)
    see[:, silent] = False
    result = tinylane.generate(
        model,
        GAME.prompt(moves),
        lanes=N,
        lane_prompts=GAME.lane_prompts(N),
        max_tokens=20,
        sampler=tinylane.Sampler(temperature=0.0),
        lane_mask=tinylane.LaneMask(see),
        lane_rope=model.lane_rope if omega else tinylane.LaneRoPE.none(model.theta),
    )
    right = [[GAME.arrangements[a] for a in lane] for lane in GAME.write(moves[None], N)[0]]
    expected = [
        [[word, t < len(right[m]) and word == right[m][t]] for t, word in enumerate(text.split())]
        for m, text in enumerate(result.texts)
    ]
    assert seen.page.evaluate(READ) == expected
    answer = GAME.answer(moves)
    count = sum(words[-1][0] == answer for words in expected)
    said = seen.page.inner_text("[data-part=verdict]")
    assert said.startswith(f"The cups stand {answer}. {count} of {N} lane"), said
    return count


def test_every_control_plays_the_game_again(seen: Visit, model: tinylane.Model) -> None:
    page = seen.page
    assert check(seen, model, 4, [], True) == 4
    page.fill("[name=swaps]", "2-1, 3-4 -- 2-3")
    assert check(seen, model, 4, [], True) == 4
    page.uncheck("[name=omega]")
    check(seen, model, 4, [], False)
    page.check("[name=omega]")
    page.click("[data-part=another]")
    page.click("text=is read >> nth=2")
    assert check(seen, model, 4, [2], True) < 4
    for lanes in (1, 2, 8):
        page.select_option("[name=lanes]", str(lanes))
        assert check(seen, model, lanes, [], True) == lanes
    print(page.inner_text("[data-part=verdict]"))


def test_the_page_says_what_happens_and_it_does(seen: Visit, model: tinylane.Model) -> None:
    """Lane 1 silent: lane 2 combines wrongly, all end wrong. Without Omega own words fail too."""
    seen.page.click("text=is read >> nth=0")
    assert check(seen, model, 4, [0], True) == 0
    marks = [[good for _, good in lane] for lane in seen.page.evaluate(READ)]
    assert marks == [
        [True] * 5 + [False], [True] * 4 + [False] * 2, [True] * 5 + [False], [True] * 5 + [False]
    ]  # fmt: skip
    seen.page.click("text=silent >> nth=0")
    assert check(seen, model, 4, [], True) == 4
    seen.page.uncheck("[name=omega]")
    assert check(seen, model, 4, [], False) == 0
    assert not all(good for lane in seen.page.evaluate(READ) for _, good in lane[:4])


def test_opened_as_a_file_it_says_how_to_serve_it(browser: Any, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "index.html").as_uri())
    page.wait_for_load_state("networkidle")
    assert "python -m http.server" in page.inner_text("[data-part=verdict]")
    assert page.locator(":is(button, select, input):visible").count() == 0  # none is dead
    page.close()


def test_a_model_that_cannot_be_loaded_is_told(browser: Any, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "site")
    (tmp_path / "site" / "assets" / "shell-game" / "config.json").unlink()
    with visit(browser, tmp_path / "site") as seen:
        seen.page.wait_for_function(
            "document.querySelector('[data-part=verdict]').textContent.includes('404')"
        )
        said = seen.page.inner_text("[data-part=verdict]")
    assert said.startswith("The model could not be loaded.") and "config.json" in said


def test_the_keyboard_alone_is_enough(seen: Visit, model: tinylane.Model) -> None:
    keys = seen.page.keyboard
    seen.page.focus("[name=swaps]")
    for key in ("End", "Backspace", "3", "Tab", "ArrowUp", "Tab", "Space", "Tab", "Tab", "Enter"):
        keys.press(key)  # the last swap is 2-3, two lanes, no Omega, lane 1 silent
    assert seen.page.input_value("[name=swaps]").endswith("1-4 2-3")
    check(seen, model, 2, [0], False)
    assert seen.page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    keys.press("Enter")  # the button keeps the focus
    check(seen, model, 2, [], False)


@pytest.mark.parametrize(
    "text, said",
    [
        ("1-2 1-1", "“1-1” is no swap; expected one like 1-3."),
        ("1-5", "“1-5” is no swap; expected one like 1-3."),
        ("", "No swap; expected swaps like 1-3 2-4."),
        ("1-2 " * 17, "17 swaps; expected at most 16."),
    ],
)
def test_a_wrong_swap_is_told_and_nothing_stale_stays(seen: Visit, text: str, said: str) -> None:
    seen.page.fill("[name=swaps]", text)
    assert seen.page.inner_text("[data-part=verdict]") == said
    assert seen.page.evaluate(READ) == []
    assert seen.page.get_attribute("[name=swaps]", "aria-invalid") == "true"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_marks_are_more_than_colours_and_words_have_contrast(
    browser: Any, folder: Path, dark: bool
) -> None:
    """Nothing moves either: no transition and no animation in the sheet."""
    from test_website import contrast

    sheet = (SITE / "assets" / "game.css").read_text(encoding="utf-8")
    assert not re.search("transition|animation", sheet)
    with visit(browser, folder, dark=dark, reduced_motion=True) as seen:
        seen.page.wait_for_selector(".words span")
        scheme, ink = ("slate", "#e2e4e9") if dark else ("default", "#000000de")
        seen.page.evaluate(
            "([scheme, ink]) => { const body = document.body; body.dataset.mdColorScheme = scheme;"
            " body.style.color = ink; }",
            [scheme, ink],
        )
        seen.page.uncheck("[name=omega]")
        marks = seen.page.eval_on_selector_all(
            ".words span",
            "all => all.map((word) => [word.lastChild.textContent, word.classList[1],"
            " getComputedStyle(word).color, getComputedStyle(word).backgroundColor])",
        )
        assert {(mark, kind) for mark, kind, *_ in marks} == {("✓", "right"), ("✗", "wrong")}
        assert min(contrast(text, ground) for *_, text, ground in marks) > 4.5
        seen.settled()
