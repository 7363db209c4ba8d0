"""The page of `tinylane view` in a browser: what it draws is the record, and no text is obeyed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_browser import visit
from helpers_view import decoded, ready

from tinylane.view.events import events_of, happened
from tinylane.view.replay_page import page
from tinylane.view.replay_record import Record, record
from tinylane.view.replay_words import first_shown, sentences, step_of


@pytest.fixture(scope="module")
def shown(tmp_path_factory: Any) -> tuple[Path, Record]:
    """A joint run with a late lane and a dropped one, every lane silenced."""
    folder = tmp_path_factory.mktemp("page")
    model, run = decoded("events", max_tokens=[6, 4, 7])
    found = record(run, model, influence=True)
    (folder / "index.html").write_text(page(found)[0])
    return folder, found


@pytest.fixture(scope="module")
def lives(tmp_path_factory: Any) -> tuple[Path, Record]:
    """Lanes that wait, are sealed, given, forked and dropped."""
    folder = tmp_path_factory.mktemp("lives")
    model, run = decoded("lives")
    found = record(run, model, influence=True)
    (folder / "index.html").write_text(page(found)[0])
    return folder, found


def bars(view: Any) -> list[int]:
    """The numbers beside the bars, percent."""
    texts = view.locator("#bars tbody td:nth-child(3)").all_text_contents()
    return [float(text.rstrip("%")) for text in texts]


def chosen(view: Any) -> tuple[int, int]:
    """Lane and step in the title."""
    found = re.search(r"lane (\d+), step (\d+)", view.inner_text("#chosen-title"))
    assert found, view.inner_text("#chosen-title")
    return int(found[1]) - 1, int(found[2])  # the page counts lanes from 1


def number(record: Record, lane: int, step: int) -> int:
    """q of the token that a lane wrote at a step."""
    return int(np.flatnonzero((record.of == lane) & (record.steps == step - 1))[0])


def test_the_first_view_teaches_and_is_the_record_s(browser: Any, shown: Any):
    """The sentence, the token that it speaks of, and its shares, without a click."""
    folder, found = shown
    with visit(browser, folder) as seen:
        view = ready(seen)
        assert view.inner_text("#lead") == " ".join(sentences(found))
        q = first_shown(found)
        lane, step = chosen(view)
        assert (lane, step) == (int(found.of[q]), step_of(found, q))
        np.testing.assert_allclose(bars(view), 100 * found.views[0].shares[q], atol=0.51)
        assert view.locator("#grid .t[data-token]").count() == len(found.of)
        keys = view.locator("#keys li").all_text_contents()
        assert len(keys) == (found.views[0].keys[q] >= 0).sum()
        assert keys[0].startswith(f"{100 * found.views[0].weights[q, 0]:.0f}%")
        marked = view.locator(".heard").evaluate_all("nodes => nodes.map((n) => +n.dataset.row)")
        assert sorted(marked) == sorted(found.views[0].keys[q][found.views[0].keys[q] >= 0])
        assert view.locator(".query").get_attribute("data-row") == str(found.asked[q])
        seen.settled()
        assert set(seen.requests) - {"data:,"} == {seen.base + "index.html"}


WALK = """([lanes, steps]) => {
  const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key }));
  const text = (node) => node.textContent;
  const seen = [];
  for (let lane = 0; lane < lanes; lane++) press("ArrowUp");
  for (let lane = 0; lane < lanes; lane++) {
    press("End");
    for (let step = steps; step > 0; step--) {
      const bars = [...document.querySelectorAll("#bars tbody td:nth-child(3)")].map(text);
      seen.push([lane, step, text(document.getElementById("chosen-title")), bars]);
      press("ArrowLeft");
    }
    press("ArrowDown");
  }
  return seen;
}"""


@pytest.mark.parametrize("kind", ["events", "lives"])
def test_every_token_can_be_reached_by_keys_and_shows_its_own_shares(
    browser: Any, shown: Any, lives: Any, kind: str
):
    folder, found = shown if kind == "events" else lives
    steps = found.run.result.steps
    with visit(browser, folder) as seen:
        view = ready(seen)
        reached = set()
        for lane, step, title, texts in view.evaluate(WALK, [found.n, steps]):
            if "step" not in title:
                continue
            assert f"lane {lane + 1}, step {step}:" in title
            q = number(found, lane, step)
            reached.add(q)
            shares = [float(text.rstrip("%")) for text in texts]
            np.testing.assert_allclose(shares, 100 * found.views[0].shares[q], atol=0.51)
        assert reached == set(range(len(found.of)))
        view.keyboard.press("Home")
        assert view.inner_text("#now") == f"0 of {steps}"
        assert "Nothing is written yet" in view.inner_text("#chosen-how")
        view.keyboard.press("ArrowRight")
        view.keyboard.press("ArrowUp")
        if kind == "lives":
            return
        assert chosen(view) == (found.n - 2, 1)
        view.focus("#step")
        view.keyboard.press("ArrowDown")  # in the slider too: a lane, not a step
        assert view.inner_text("#now") == f"1 of {steps}"
        assert "lane 4" in view.inner_text("#chosen-title")
        seen.settled()


def test_percentages_in_the_text_never_lie_on_one_another(browser: Any, shown: Any):
    """Of two keys side by side only the larger one's number is in the text; the list has both."""
    folder, found = shown
    walk = """([lanes, steps]) => {
      const press = (key) =>
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      const seen = [];
      for (let lane = 0; lane < lanes; lane++, press("ArrowDown"))
        for (let step = (press("Home"), 1); step <= steps; step++) {
          press("ArrowRight");
          seen.push([".layer span", ".heard"].map((which) =>
            [...document.querySelectorAll(which)].map((node) => {
              const { left, top, right, bottom } = node.getBoundingClientRect();
              return [left, top, right, bottom];
            })));
        }
      return seen;
    }"""
    with visit(browser, folder) as seen:
        boxes = ready(seen).evaluate(walk, [found.n, 8])
        seen.settled()
    assert sum(len(badges) for badges, _ in boxes) > 30
    for badges, heard in boxes:
        for k, (left, top, right, bottom) in enumerate(badges):
            for a, b, c, d in badges[:k]:
                assert right <= a or c <= left or bottom <= b or d <= top
        for left, top, *_ in heard:  # has a number, or is beside one that has
            assert any(abs(left - a) < 30 and abs(top - b) < 20 for a, b, *_ in badges)


def test_a_head_can_be_chosen_and_everything_follows_it(browser: Any, shown: Any):
    folder, found = shown
    with visit(browser, folder) as seen:
        view = ready(seen)
        q = number(found, *chosen(view))
        k = next(k for k, v in enumerate(found.views) if (v.layer, v.head) == (1, 2))
        cells = view.locator("#heads button").all_text_contents()
        others = [found.to_others(j)[q] for j in range(1, len(found.views))]
        np.testing.assert_allclose([float(c.rstrip("%")) for c in cells], 100 * np.array(others),
                                   atol=0.95)  # fmt: skip
        view.click(f'#heads [data-view="{k}"]')
        assert view.input_value("#view") == str(k)
        np.testing.assert_allclose(bars(view), 100 * found.views[k].shares[q], atol=0.75)
        assert "layer 2, head 3" in view.inner_text("#time-note")  # in words counted from 1
        names = view.locator("#view option").all_text_contents()[1:]
        assert names[0] == "layer 1, mean of heads" and names[1] == "layer 1, head 1"
        assert view.locator("#heads th").all_text_contents()[:3] == ["layer", "mean", "head 1"]
        rows = view.locator("#whom tbody tr").all()
        for m, row in enumerate(rows):
            mine = (found.of == m) & ~found.copied
            numbers = [float(re.match(r"[\d.]+", x)[0]) for x in
                       row.locator("td").all_text_contents()]  # fmt: skip
            np.testing.assert_allclose(
                numbers, 100 * found.views[k].shares[mine].mean(axis=0), atol=0.75
            )
        view.select_option("#view", "0")
        np.testing.assert_allclose(bars(view), 100 * found.views[0].shares[q], atol=0.51)


def test_silence_is_shown_for_the_token_and_for_each_lane(browser: Any, shown: Any):
    folder, found = shown
    with visit(browser, folder) as seen:
        view = ready(seen)
        lane, step = chosen(view)
        q = number(found, lane, step)
        written = [t for x in found.lanes for t in x.tokens]
        rows = view.locator("#silence tbody tr").all()
        others = [s for s in found.silences if s.lane != lane]
        assert len(rows) == len(others)
        for row, silence in zip(rows, others, strict=True):
            cells = row.locator("td").all_text_contents()
            assert cells[0].startswith("≠") == (silence.drawn[q] != written[q])
            assert str(silence.drawn[q]) in cells[0]
            assert abs(float(cells[2]) - silence.kl[q]) <= 0.00051
            now, then = (float(x) for x in re.findall(r"[\d.]+(?=%)", cells[1]))
            assert abs(now - 100 * np.exp(found.logprobs[q])) < 0.11
            assert abs(then - 100 * np.exp(silence.logprobs[q])) < 0.11
        for silence in found.silences:
            view.select_option("#shade", f"s{silence.lane}")
            wavy = view.locator(".other").evaluate_all("n => n.map((x) => +x.dataset.token)")
            assert sorted(wavy) == np.flatnonzero(silence.drawn != written).tolist()
            for m in range(found.n):
                said = view.locator(f"#would{m}")
                here = [q for q in np.flatnonzero(found.of == m) if step_of(found, q) == step]
                assert said.is_visible() == (bool(here) and m != silence.lane)
                if said.is_visible():
                    assert f"“{silence.drawn[here[0]]}”" in said.inner_text()


def test_what_happened_is_listed_and_each_event_leads_to_its_step(browser: Any, lives: Any):
    folder, found = lives
    events = events_of(found.run.result)
    with visit(browser, folder) as seen:
        view = ready(seen)
        said = view.locator("#event-list li").all_text_contents()
        assert said == happened(events) and any("is sealed" in line for line in said)
        for k, event in enumerate(events):
            view.locator("#event-list button").nth(k).click()
            assert view.inner_text("#now").split()[0] == str(event["step"])
        marks = view.locator("#rows path.event").evaluate_all(
            "n => n.map((x) => x.getAttribute('d'))"
        )
        assert [mark.count("M") for mark in marks] == [
            sum(event["lane"] == m for event in events) for m in range(found.n)
        ]
        view.locator("#step").fill("2")  # lane 1 waits
        view.locator("#lane1 [data-token]").first.click()
        view.keyboard.press("ArrowRight")
        assert "writes nothing at this step" in view.inner_text("#chosen-how")
        given = found.steps[(found.of == 2)].tolist().index(3)
        view.locator("#lane2 [data-token]").nth(given).click()
        assert "It was given from outside" in view.inner_text("#chosen-how")
        seen.settled()


def test_the_slider_and_the_player_write_the_run(browser: Any, shown: Any):
    """Before a token is written it is shown as such; a lane that joins late is not there before."""
    folder, found = shown
    joined = found.run.result.settings["events"][0]
    with visit(browser, folder, reduced_motion=True) as seen:
        view = ready(seen)
        for step in (0, 2, 4):
            view.locator("#step").fill(str(step))
            there = view.locator(".t[data-token]:not(.future)")
            there = sorted(there.evaluate_all("nodes => nodes.map((n) => +n.dataset.token)"))
            expected = [q for q in range(len(found.of)) if step_of(found, q) <= step]
            assert there == expected
            assert ("not started" in view.inner_text("#state3")) == (step < joined["step"])
        dropped = found.lanes[0].dropped
        assert dropped is not None
        view.keyboard.press("End")
        assert "dropped" in view.inner_text("#state0")
        assert view.locator("#lane0 .gone").count() == len(found.lanes[0].tokens) + 1
        view.click("#play")  # at the end, so it begins again
        assert "Pause" in view.inner_text("#play")
        view.wait_for_selector("#now:text-matches('^[1-9]')")
        view.click("#play")
        assert "Play" in view.inner_text("#play")
        duration = view.locator(".t").first.evaluate("n => getComputedStyle(n).transitionDuration")
        assert duration == "0s"
        seen.settled()


def test_a_click_on_a_token_chooses_it(browser: Any, shown: Any):
    folder, found = shown
    with visit(browser, folder) as seen:
        view = ready(seen)
        q = number(found, 2, 3)
        view.click(f'[data-token="{q}"]')
        assert chosen(view) == (2, 3)
        assert view.get_attribute("#lane2", "aria-activedescendant") == f"r{found.row[q]}"
        assert view.get_attribute(f"#r{found.row[q]}", "aria-selected") == "true"
        box = view.locator("#rows .plot").nth(1).bounding_box()
        view.mouse.click(box["x"] + 2, box["y"] + 5)
        assert chosen(view) == (1, 1)


def test_nothing_is_clipped_and_the_heads_are_in_view(browser: Any, shown: Any) -> None:
    folder, _ = shown
    with visit(browser, folder, width=1280, height=800) as seen:
        view = ready(seen)
        parts = "#chosen, #chosen *, #lanes, #time"
        hidden = f"""() => [...document.querySelectorAll('{parts}')].filter((e) =>
          e.scrollHeight > e.clientHeight + 1 && getComputedStyle(e).overflowY !== 'visible')
          .map((e) => e.id || e.tagName)"""
        assert view.evaluate(hidden) == []
        box = view.locator("#heads").bounding_box()
        assert box["height"] > 40 and view.is_visible("#heads")
        assert "nat" in view.inner_text("header") and "share" in view.inner_text("header")
