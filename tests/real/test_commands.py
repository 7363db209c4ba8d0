"""Every mode and command at the size of a real model, called as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import helpers_real
import pytest
from helpers_real import BACKENDS, on, run

pytestmark = pytest.mark.real
smollm2 = helpers_real.smollm2  # fixture
WEIGHTS = 134_515_008  # of SmolLM2-135M, the tied embedding once
TOKENS = 16
PROMPT = ("--prompt", "Write one sentence about the sea.", "--seed", 7)
MODES = {
    "independent": ("--lane-prompt", " Calm.", " Storm.", " Night.", " Ice."),  # else all the same
    "joint": ("--omega", "ntk"),
    "group_think": (),
    "hogwild": (),
}


def generated(folder: Path, mode: str, backend: str, out: Path, *more: object) -> list[list[int]]:
    """Greedy tokens of four lanes; the saved run is computed again in one pass, and agrees."""
    words = ("generate", "--model", folder, *on(backend), *PROMPT, "--lanes", 4, "--mode", mode)
    words += (*MODES[mode], "--temp", 0, "--max-tokens", TOKENS, "--save", out, "--json", *more)
    said = json.loads(run(*words, backend=backend))
    lanes = [lane["tokens"] for lane in said["lanes"]]
    assert len(lanes) == 4 and all(1 <= len(tokens) <= TOKENS for tokens in lanes)
    assert all(isinstance(lane["text"], str) for lane in said["lanes"])
    again = json.loads(run("replay", out, "--model", folder, *on(backend), "--json",
                           backend=backend))  # fmt: skip
    assert again["agrees"] and 0 < again["difference"] < again["tolerance"] < 0.01
    assert [len(row) for row in again["logprobs"]] == [len(tokens) for tokens in lanes]
    return lanes


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_decodes_four_lanes_and_is_replayed(
    mode: str, smollm2: Path, tmp_path: Path
) -> None:
    """On both backends, which draw the same tokens; then its page of who listened to whom."""
    pytest.importorskip("mlx.core", exc_type=ImportError)
    first, second = (
        generated(smollm2, mode, backend, tmp_path / f"{backend}.json") for backend in BACKENDS
    )
    assert first == second
    assert len({tuple(tokens) for tokens in first}) > 1 or mode != "independent"
    page = tmp_path / "page.html"
    run("view", tmp_path / "numpy.json", "--model", smollm2, "--influence", "-o", page, "--quiet")
    assert page.stat().st_size > 50_000 and "<html" in page.read_text(encoding="utf-8")[:500]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_laws_hold(backend: str, smollm2: Path) -> None:
    if backend == "mlx":
        pytest.importorskip("mlx.core", exc_type=ImportError)
    words = ("verify", smollm2, *on(backend), "--samples", 1, "--prompt", "What is a tide?")
    said = json.loads(run(*words, "--json", "--quiet", backend=backend))
    (tried,) = said["runs"]
    assert said["holds"] and not tried["blurred"] and len(tried["laws"]) >= 9
    assert all(law["holds"] and law["compared"] for law in tried["laws"]), tried["laws"]


def test_inspect_says_what_is_in_the_files(smollm2: Path) -> None:
    said = json.loads(run("inspect", smollm2, "--lanes", 4, "--json"))
    assert said["parameters"]["value"] == WEIGHTS
    assert said["sizes"]["value"]["layers"] == 30 and said["rope"]["value"]["base"] == 100000.0


def test_bench_times_one_lane_and_four(smollm2: Path) -> None:
    said = json.loads(
        run("bench", "--model", smollm2, "--backend", "numpy", "--prompt-tokens", 64, "--lanes", 1,
            4, "--max-tokens", 8, "--repeats", 1, "--read-mib", 64, "--json", "--quiet")
    )  # fmt: skip
    timed = {(line["lanes"], line["mode"]): line for line in said["results"]}
    assert set(timed) == {(1, "independent"), (4, "independent"), (4, "joint")}
    for line in timed.values():  # a step reads every weight once; no time is asserted
        assert line["bytes_per_step"] > 4 * WEIGHTS and len(line["steps_by_index"]) == 7
