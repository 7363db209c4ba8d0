"""The replay's page with the worst texts: obeyed by none, readable on a phone and in the dark."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_browser import visit
from helpers_view import HOSTILE, decoded, hostile, ready

from tinylane.files.display import printable
from tinylane.view.replay_page import page
from tinylane.view.replay_record import record


@pytest.fixture(scope="module")
def traps(tmp_path_factory: Any) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("traps")
    model, run = hostile(tokens=40)
    (folder / "index.html").write_text(page(record(run, model, influence=True), model.tokenizer)[0])
    return folder, run


def test_no_text_that_a_model_writes_is_obeyed(browser: Any, traps: Any):
    """No script ran, no element came of a text, every word is there to be read."""
    folder, run = traps
    with visit(browser, folder) as seen:
        said: list[str] = []
        seen.page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        view = ready(seen)
        for name in ("others", "s1"):
            view.select_option("#shade", name)
        for _ in range(5):
            view.keyboard.press("ArrowRight")
        assert view.evaluate("() => window.hacked") is None and said == []
        assert view.locator("img, iframe, object, script").count() == 2  # the data and the script
        assert view.locator("svg").count() == 3  # the bands
        everything = view.evaluate("() => document.body.textContent")
        for lane in run.result.lanes:
            for token in lane.tokens:
                word = printable(HOSTILE[token - 2])[:100]
                assert word.replace("\n", "↵\n").replace("\t", "⇥\t") in everything
        texts = view.locator("#grid .t").all_text_contents()
        assert "<script>window.hacked=1</script>" in texts
        raw = "".join(texts)
        assert not set(raw) & set("\u202e\u2066\u2028\x1b\x00\x9b") and "\\u202e" in raw
        isolated = view.locator(".t").first.evaluate("n => getComputedStyle(n).unicodeBidi")
        assert isolated == "isolate"
        assert seen.overflow <= 0
        seen.settled()


def test_the_browser_test_would_notice_a_text_that_is_obeyed(browser: Any, tmp_path: Path):
    """Negative control: the same trap as HTML does what the test looks for."""
    (tmp_path / "index.html").write_text(f"<body data-ready>{HOSTILE[0]}<img src=x>")
    with visit(browser, tmp_path) as seen:
        view = ready(seen)
        assert view.evaluate("() => window.hacked") == 1
        assert view.locator("img, script").count() == 2


def test_the_task_is_said_and_not_obeyed(browser: Any, tmp_path: Path) -> None:
    model, run = decoded()
    (tmp_path / "index.html").write_text(page(record(run, model), task="Find <b>it</b>.")[0])
    with visit(browser, tmp_path) as seen:
        assert ready(seen).inner_text("#task") == "Find <b>it</b>."
        seen.settled()


def test_a_damaged_page_says_so(browser: Any, traps: Any, tmp_path: Path):
    folder, _ = traps
    html = (folder / "index.html").read_text()
    broken = re.sub(r'("logprob":\[\d+,)(\d+)', r"\g<1>9\2", html, count=1)
    assert broken != html
    (tmp_path / "index.html").write_text(broken)
    with visit(browser, tmp_path) as seen:
        seen.page.wait_for_selector("#trouble:visible")
        assert "cannot be shown: an array is damaged" in seen.page.inner_text("#trouble")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone_and_can_be_read_in_light_and_dark(
    browser: Any, traps: Any, width: int, dark: bool
):
    """No sideways scrolling; every text stands out from its ground by 4.5 to 1 or more."""
    folder, _ = traps
    with visit(browser, folder, width=width, dark=dark) as seen:
        view = ready(seen)
        assert seen.overflow <= 0
        for selector in ("#lead", ".note", ".lane h3", ".lane h3 small", "#bars th", "#keys small",
                         ".given", "#heads .cell", "#rows .name", "footer dt"):  # fmt: skip
            for colour, ground in view.locator(selector).evaluate_all(GROUNDS):
                assert contrast(colour, ground) >= 4.5, (selector, colour, ground)
        names = view.locator("#controls select, #controls input, #controls button")
        assert all(names.evaluate_all("all => all.map((n) => !!(n.labels?.length || n.ariaLabel"
                                      " || n.textContent.trim()))"))  # fmt: skip


GROUNDS = """nodes => nodes.map((node) => {
  const seen = [];
  for (let n = node; n; n = n.parentElement) seen.push(getComputedStyle(n).backgroundColor);
  return [getComputedStyle(node).color, seen];
})"""


def contrast(colour: str, grounds: list[str]) -> float:
    """WCAG 2, of a colour on the grounds below it, the nearest first."""

    def parts(text: str) -> tuple[np.ndarray, float]:
        values = [float(x) for x in re.findall(r"[\d.]+", text.replace("/", " "))]
        return np.array(values[:3]) / 255, values[3] if len(values) > 3 else 1.0

    ground = np.ones(3)
    for text in reversed(grounds):
        above, alpha = parts(text)
        ground = alpha * above + (1 - alpha) * ground

    def light(rgb: np.ndarray) -> float:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    a, b = sorted((light(parts(colour)[0]), light(ground)))
    return (b + 0.05) / (a + 0.05)
