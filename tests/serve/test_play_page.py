"""The page of `tinylane play` in a browser, and its routes: everything a reader's hand can do."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_play import SWAPS, begin, fine, opened, tokens, until
from helpers_serve import Server, serving

from tinylane.view.run_file import load_run


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--no-open", command="play") as running:
        yield running


def test_a_game_plays_to_its_end_and_every_lane_is_right(browser: Any, server: Server) -> None:
    with opened(browser, server) as seen:
        page = seen.page
        page.fill("#prompt", SWAPS)
        page.click("#begin")
        page.select_option("#pace", "0")
        until(page, "document.querySelectorAll('.verdict:not(:empty)').length === 4", timeout=30000)
        assert page.locator(".verdict").all_inner_texts() == ["✓ right"] * 4
        assert "the right answer: ACDB" in page.inner_text("#status")
        assert page.is_disabled("#step") and page.is_disabled("#run")
        fine(seen)


def test_what_could_have_stood_there_and_what_if(browser: Any, server: Server) -> None:
    with opened(browser, server) as seen:
        begin(seen)
        page = seen.page
        page.click('[data-token="1,0"]')
        page.wait_for_selector("#top li")
        assert page.locator("#top li").count() == 10
        assert "token 1 of lane 2" in page.inner_text("#chosen-title")
        assert page.locator("#top button:disabled").count() == 1  # the drawn one
        page.locator("#top button:not(:disabled)").first.click()
        page.wait_for_selector('article[aria-label="Lane 5"]')
        page.click("#step")
        page.wait_for_selector('[data-token^="4,"]')
        assert page.locator("#matrix tbody tr").count() == 5
        shares = page.locator("#shares tr").all_inner_texts()
        assert any("the prompt" in line for line in shares) and len(shares) >= 2
        fine(seen)


def test_lanes_are_steered_while_they_write(browser: Any, server: Server, tmp_path: Path) -> None:
    """Each button once, and what it changes in the next step. Then the run is saved and opened."""
    with opened(browser, server) as seen:
        begin(seen, tokens="17")
        page, lane = seen.page, lambda m: seen.page.locator(f'article[aria-label="Lane {m}"]')
        page.click('[aria-label="lane 1 reads lane 2"]')
        until(page, "document.querySelector('#pattern').value === 'custom'")
        lane(2).get_by_role("button", name="Silence").click()
        page.wait_for_selector('[aria-label="lane 3 reads lane 2"][aria-pressed=false]')
        lane(3).get_by_role("button", name="Wait").click()
        lane(3).get_by_role("button", name="Go on").wait_for()
        before = tokens(seen, 2), tokens(seen, 0)
        lane(1).get_by_placeholder("a word").fill("DCBA")
        lane(1).get_by_role("button", name="Give").click()
        until(page, "document.querySelector('article input').value === ''")
        page.click("#step")
        page.wait_for_selector(f'[data-token="0,{before[1]}"]')
        assert page.inner_text(f'[data-token="0,{before[1]}"]').strip() == "DCBA"
        assert tokens(seen, 2) == before[0]
        lane(4).get_by_role("button", name="Fork").click()
        lane(5).wait_for()
        assert "a fork of lane 4" in lane(5).inner_text()
        lane(4).get_by_role("button", name="Drop").click()
        page.wait_for_selector("article.gone")
        page.select_option("#method", "group_think")
        until(page, "document.querySelector('#method-says').textContent.includes('slot')")
        page.select_option("#pattern", "independent")
        page.wait_for_selector("#matrix [aria-pressed=true]:enabled", state="detached")
        page.click("#step")
        page.wait_for_selector('[data-token^="4,"]:last-child')
        with page.expect_download() as saving:
            page.click("#save")
        saving.value.save_as(tmp_path / "run.json")
        events = load_run(tmp_path / "run.json").result.settings["events"]
        happened = {event["event"] for event in events}
        assert {"read", "pause", "give", "fork", "drop", "rotate"} <= happened
        wrote = tokens(seen, 4)
        page.set_input_files("#open", tmp_path / "run.json")
        until(page, "document.querySelector('#status').textContent.startsWith('step 0')")
        page.click("#run")
        page.wait_for_selector(f'[data-token="4,{wrote - 1}"]')
        assert seen.failed.pop().endswith("/events") and not seen.failed  # of the one it left
        fine(seen)


def test_work_that_takes_long_is_said(browser: Any, server: Server) -> None:
    """A change of the method reads all rows again, which takes a large model a while."""
    with opened(browser, server) as seen:
        begin(seen)
        page = seen.page
        shown = "getComputedStyle(document.querySelector('#status'), '::after').content"
        assert page.evaluate(shown) == "none"
        asked: list[Any] = []
        page.route("**/switch", lambda route: asked.append(route))  # the server is still at it
        page.select_option("#method", "none")
        until(page, f"{shown}.includes('the model is at work')")
        asked[0].continue_()
        until(page, f"{shown} === 'none'")
        fine(seen)


def test_the_keyboard_does_it_all(browser: Any, server: Server) -> None:
    with opened(browser, server) as seen:
        page = seen.page
        begin(seen)
        page.select_option("#pace", "1")
        count = tokens(seen, 0)
        page.focus("#lanes")
        page.keyboard.press(".")
        page.wait_for_selector(f'[data-token="0,{count}"]')
        page.focus('[data-token="0,0"]')
        page.keyboard.press("Enter")
        page.wait_for_selector("#top li")
        page.keyboard.press("ArrowDown")
        until(page, "document.querySelector('#chosen-title').textContent.includes('lane 2')")
        page.keyboard.press("ArrowRight")
        until(page, "document.querySelector('#chosen-title').textContent.includes('token 2')")
        page.keyboard.press("Escape")
        assert page.is_hidden("#chosen")
        page.focus("#lanes")
        page.keyboard.press("Space")
        until(page, "document.querySelector('#run').textContent === 'Pause'")
        page.keyboard.press("Space")
        until(page, "document.querySelector('#run').textContent === 'Play'")
        fine(seen)


def test_a_run_is_saved_and_opened_again(browser: Any, server: Server, tmp_path: Path) -> None:
    with opened(browser, server) as seen:
        begin(seen)
        page = seen.page
        with page.expect_download() as saving:
            page.click("#save")
        saving.value.save_as(tmp_path / "run.json")
        saved = json.loads((tmp_path / "run.json").read_text())
        assert saved["format"].startswith("tinylane run") and len(saved["lanes"]) == 4
        count = len(saved["lanes"][0]["tokens"])
        page.set_input_files("#open", tmp_path / "run.json")
        until(page, "document.querySelector('#status').textContent.startsWith('step 0')")
        for k in range(count):
            page.click("#step")
            page.wait_for_selector(f'[data-token="0,{k}"]')
        (tmp_path / "bad.json").write_text("{")
        assert len(seen.failed) == 1 and seen.failed.pop().endswith("/events")  # the one it left
        fine(seen)
        page.set_input_files("#open", tmp_path / "bad.json")
        page.wait_for_selector("#trouble:not(:empty)")
        assert "the file: not valid JSON" in page.inner_text("#trouble")


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_is_cut(browser: Any, server: Server, dark: bool) -> None:
    """And what a finger needs is large enough; a chosen token's sheet leaves the lanes in sight."""
    with opened(browser, server, width=375, height=812, dark=dark) as seen:
        begin(seen)
        page = seen.page
        page.click('[data-token="0,0"]')
        page.wait_for_selector("#top li")
        sheet = page.locator("#chosen").bounding_box()
        assert sheet["y"] > 812 * 0.5 and sheet["width"] <= 375
        for box in page.locator("#controls button, .lane button, #top button").all():
            size = box.bounding_box()
            assert size is None or size["height"] >= 28
        page.click("#close")
        assert page.is_hidden("#chosen")
        fine(seen)


def test_text_of_prompts_is_text(browser: Any, server: Server) -> None:
    """Markup in a prompt, in a word and in an error line is shown, not read."""
    with opened(browser, server) as seen:
        page = seen.page
        page.fill("#prompt", "<img src=x onerror=alert(1)>")
        page.click("#begin")
        page.wait_for_selector("#trouble:not(:empty)")
        assert "<img src=x" in page.inner_text("#trouble") and page.locator("img").count() == 0
        page.fill("#prompt", SWAPS)
        assert seen.foreign == []


def test_routes_refuse_what_is_not_there(server: Server) -> None:
    ask = lambda path, body=None: server.ask("POST", path, body if body is not None else {})
    assert ask("/play/sessions/none/step")[0] == 404
    status, told = ask("/play/sessions", {"prompt": ""})
    assert status == 400 and "the prompt is empty" in told["error"]["message"]
    begin = {"prompt": SWAPS, "lanes": 2, "method": "learned", "visibility": "joint"}
    status, told = ask("/play/sessions", {**begin, "max_tokens": 9})
    assert status == 201
    path = f"/play/sessions/{told['id']}"
    status, wrong = ask(f"{path}/fly")
    assert (
        status == 400
        and "no operation 'fly'; there are run, pace, step" in wrong["error"]["message"]
    )
    status, wrong = ask(f"{path}/read", {"lane": 0})
    assert status == 400 and "of is missing" in wrong["error"]["message"]
    status, wrong = server.ask("GET", f"{path}/run")
    assert status == 400 and "nothing is written yet" in wrong["error"]["message"]
    for _ in range(10):  # of sessions that nobody looks at the oldest make room
        assert ask("/play/sessions", {**begin, "max_tokens": 9})[0] == 201
    assert ask(f"{path}/step")[0] == 404


def test_sessions_count_against_the_server_s_limits() -> None:
    """One that nobody looks at makes room; where somebody looks at all of them, a line says so."""
    flags = ("--no-open", "--max-lanes", 10, "--max-memory", 0.01)
    with serving(*flags, command="play") as server:
        begin = {"prompt": SWAPS, "lanes": 8, "method": "learned", "visibility": "joint"}
        ask = lambda **more: server.ask("POST", "/play/sessions", {**begin, **more})
        status, told = ask(max_tokens=480)
        assert status == 400 and "this server gives them at most" in told["error"]["message"]
        paths = []
        for _ in range(2):
            status, told = ask(max_tokens=9)
            assert status == 201
            paths.append(f"/play/sessions/{told['id']}")
        assert server.ask("POST", f"{paths[0]}/step", {})[0] == 404
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as looks:
            looks.sendall(f"GET {paths[1]}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            data = b""
            while b"state" not in data:
                data += looks.recv(1 << 16)
            status, told = ask(max_tokens=9)
            assert (
                status == 503
                and "leave no room for one more: close one" in told["error"]["message"]
            )
            assert server.ask("POST", f"{paths[1]}/step", {})[0] == 200


def test_a_page_needs_the_key_too() -> None:
    with serving("--no-open", "--api-key", "sesame", command="play") as server:
        assert server.ask("GET", "/play/about")[0] == 401
        key = {"Authorization": "Bearer sesame"}
        assert server.ask("GET", "/play/about", **key)[0] == 200
