"""The page of `tinylane play` with a real model: words, whom a lane listened to, and what if."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers_real
import pytest
from helpers_browser import watch
from helpers_serve import serving

smollm2 = helpers_real.smollm2  # a fixture
pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real clients")]


def test_lanes_of_a_real_model_are_steered_in_the_browser(browser: Any, smollm2: Path) -> None:
    flags = ("--model", smollm2, "--backend", "numpy", "--no-open")
    with (
        serving(*flags, command="play") as server,
        watch(browser, f"{server.url}/", width=375, height=812, dark=True) as seen,
    ):
        page = seen.page
        page.wait_for_selector("#count option", state="attached")
        assert page.inner_text("#model").startswith("SmolLM2-135M-Instruct")
        assert page.input_value("#pattern") == "independent"  # it was not trained for lanes
        for name, value in (("prompt", "Name three rivers."), ("tokens", "40"), ("seed", "3")):
            page.fill(f"#{name}", value)
        page.click("#begin")
        page.wait_for_selector('[data-token="3,5"]', timeout=60000)
        page.click("#run")
        page.wait_for_selector("#step:not(:disabled)")
        before = page.inner_text('article[aria-label="Lane 2"] .text')
        assert len(before.split()) > 2
        page.locator('[data-token="1,2"]').click()
        page.wait_for_selector("#top li")
        assert page.locator("#top li").count() >= 10
        page.locator("#top button:not(:disabled)").first.click()
        page.wait_for_selector('article[aria-label="Lane 5"]')
        page.click("#close")
        page.select_option("#pattern", "joint")
        page.wait_for_selector('[aria-label="lane 1 reads lane 2"][aria-pressed=true]')
        page.select_option("#method", "hogwild")
        page.click("#step")
        page.wait_for_selector('[data-token^="4,"]', timeout=60000)
        assert page.inner_text("#trouble") == "" and seen.console == [] and seen.foreign == []
        assert seen.overflow <= 0
