"""`tutorials/site/assets/lanes.js`: in a browser, the model gives what NumPy gives.

Cases are made here, computed by the package and by the module in a headless browser, and compared.
Every comparison is also run on a module with a planted bug, which it must notice.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_browser import Visit, visit

import tinylane
from tinylane.commands.common import embedded
from tinylane.core.lanes import SHARED
from tinylane.evaluate.tasks.shell_game import ShellGame
from tutorials import one_file

FILE = Path(one_file.__file__).parent / "site" / "assets" / "lanes.js"
PASSES, GAMES = 320, 320
NEEDED = ("config.json", "tokenizer.json", "model.safetensors", "adapter/adapters.safetensors")

LOGITS = """async ([url, cases]) => {
  const m = await import(url);
  const model = await m.load("model/");
  return JSON.parse(cases).map(({ tokens, positions, lanes, cuts, ...settings }) => {
    const cache = m.newCache(model);
    const rows = cuts.slice(1).flatMap((end, k) => {
      const part = (all) => all.slice(cuts[k], end);
      return m.forward(model, part(tokens), part(positions), part(lanes), cache, settings);
    });
    const bytes = new Uint8Array(Float32Array.from(rows.flatMap((row) => [...row])).buffer);
    let text = "";
    for (const byte of bytes) text += String.fromCharCode(byte);
    return btoa(text);
  });
}"""
TOKENS = """async ([url, cases]) => {
  const m = await import(url);
  const model = await m.load("model/");
  const began = performance.now();
  const texts = JSON.parse(cases).map(({ prompt, ...settings }) =>
    m.generate(model, prompt, settings));
  return { texts, ms: (performance.now() - began) / texts.length };
}"""


@pytest.fixture(scope="module")
def model() -> tinylane.Model:
    return tinylane.load(embedded(), backend="numpy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page without anything, the module, and the model's files."""
    made = tmp_path_factory.mktemp("lanes")
    (made / "index.html").write_text("<!doctype html><link rel=icon href=data:,>")
    shutil.copy(FILE, made)
    for name in NEEDED:
        (made / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(embedded()) / name, made / "model" / name)
    return made


@pytest.fixture
def seen(browser: Any, folder: Path) -> Iterator[Visit]:
    with visit(browser, folder) as open_page:
        yield open_page
        open_page.settled()


def settings(k: int, N: int, model: tinylane.Model, rng: np.random.Generator) -> dict[str, Any]:
    """An Omega, where the prompt stands, who reads whom, a lag; some of them the model's own."""
    theta, own = np.asarray(model.theta), model.lane_rope.omega
    omega = (
        own,
        np.zeros_like(own),
        own + 2 * np.pi * rng.integers(-3, 4, len(own)),
        rng.normal(size=len(own)),
        theta * rng.integers(1, 512),  # Group Think
        np.where(rng.random(len(own)) < 0.5, own, 0),  # some planes off
        tinylane.LaneRoPE.ntk(theta, 32, N + 1).omega,
    )[k % 7]
    see = np.ones((N, N), bool) if rng.random() < 0.3 else rng.random((N, N)) < 0.6
    return {
        "omega": omega.tolist(),
        "promptLane": "own" if rng.random() < 0.7 else 0,
        "visibility": see.tolist(),
        "lag": int(rng.choice([0, 0, 1, 2, 5])),
    }


def lanes_of(case: dict[str, Any]) -> dict[str, Any]:
    """The settings of a case as the package takes them."""
    return {
        "lane_rope": tinylane.LaneRoPE(np.array(case["omega"]), case["promptLane"]),
        "lane_mask": tinylane.LaneMask(np.array(case["visibility"]), case["lag"]),
    }


def passes(model: tinylane.Model, count: int) -> list[dict[str, Any]]:
    """Random tokens at the places of a run, cut into random passes that share a cache."""
    rng, cases = np.random.default_rng(11), []
    for k in range(count):
        N, P, L = (1, 2, 4, 8)[k % 4], int(rng.integers(3, 25)), int(rng.integers(1, 7))
        began = rng.integers(-2, 3, N)  # a lane may begin within the prompt, or late
        rows = [(i, SHARED) for i in range(P)]
        rows += [(P + i, m) for i in range(-2, L + 2) for m in range(N) if began[m] <= i]
        positions, lanes = np.array(rows).T
        steps = np.append(P, P + np.flatnonzero(np.diff(positions[P:])) + 1)
        cuts = [0, *steps[rng.random(len(steps)) < rng.random()], len(rows)]
        cases.append(
            {
                "tokens": rng.integers(0, len(one_file.vocabulary), len(rows)).tolist(),
                "positions": positions.tolist(),
                "lanes": lanes.tolist(),
                "cuts": [int(cut) for cut in cuts],
                **settings(k, N, model, rng),
            }
        )
    return cases


def check_logits(seen: Visit, model: tinylane.Model, url: str, count: int = PASSES) -> float:
    """Asserts that logits are within 1e-4 of their standard deviation. Returns the worst."""
    cases, worst = passes(model, count), 0.0
    for case, text in zip(cases, seen.page.evaluate(LOGITS, [url, json.dumps(cases)]), strict=True):
        rows = [np.array(case[name]) for name in ("tokens", "positions", "lanes")]
        expected = np.asarray(model(*rows, **lanes_of(case)))
        got = np.frombuffer(base64.b64decode(text), np.float32).reshape(expected.shape)
        worst = max(worst, float(np.abs(got - expected).max() / expected.std()))
        assert worst < 1e-4, case
    return worst


def games(model: tinylane.Model, count: int) -> list[dict[str, Any]]:
    """Games of 1, 2, 4 and 8 lanes: half as the model was trained, half with any settings."""
    rng, game, cases = np.random.default_rng(12), ShellGame(), []
    for k in range(count):
        N = (1, 2, 4, 8)[k % 4]
        moves = rng.integers(0, len(game.moves) - (k % 3 > 0), game.swaps)
        prompt = game.prompt(moves)
        cases.append({"prompt": prompt, "lanes": N, "maxTokens": 20})
        if k % 8 >= 4:
            cases[-1] |= settings(k, N, model, rng)
    return [*cases, {"prompt": "cups ABCD, swap 1-2 9-9 toString: where?", "lanes": 4}]


def check_tokens(seen: Visit, model: tinylane.Model, url: str, count: int = GAMES) -> float:
    """Asserts that all lanes of all games write the same words. Returns milliseconds a game."""
    cases = games(model, count)
    told = seen.page.evaluate(TOKENS, [url, json.dumps(cases)])
    for case, texts in zip(cases, told["texts"], strict=True):
        result = tinylane.generate(
            model,
            case["prompt"],
            lanes=case["lanes"],
            lane_prompts=[f"{m + 1}/{case['lanes']}" for m in range(case["lanes"])],
            max_tokens=case.get("maxTokens", 30),
            sampler=tinylane.Sampler(temperature=0.0),
            **(lanes_of(case) if "omega" in case else {}),
        )
        words = [
            [one_file.words[t] for t in lane.tokens if t not in model.config.eos_ids]
            for lane in result.lanes
        ]
        assert texts == words, case
    return told["ms"]


def test_logits_are_numpys(seen: Visit, model: tinylane.Model) -> None:
    """Over random tokens, passes, masks, lags and Omegas, N = 1, 2, 4, 8."""
    worst = check_logits(seen, model, "./lanes.js")
    print(f"\n{PASSES} runs: logits differ by {worst:.1e} of their standard deviation at most")


def test_tokens_are_those_of_the_package(seen: Visit, model: tinylane.Model) -> None:
    ms = check_tokens(seen, model, "./lanes.js")
    print(f"\n{GAMES + 1} games, {ms:.0f} ms a game in the browser")


@pytest.mark.parametrize(
    "check, old, new",
    [
        (check_logits, "j <= i - lag", "j < i - lag"),
        (check_logits, "visibility[m][n] && j", "visibility[n][m] && j"),
        (check_logits, "m !== SHARED && visibility[m][n]", "(m === SHARED || visibility[m][n])"),
        (check_logits, "const byBoth = byPosition", "const byBoth = theta"),
        (check_logits, "Math.max(m, 0) * omega[d]", "m * omega[d]"),
        (check_logits, 'promptLane === "own" ?', "true ?"),
        (check_logits, 'promptLane === "own" ?', "false ?"),
        (check_logits, "Math.floor(h / group)", "(h % 2)"),
        (check_logits, "+ x[left] * sin", "- x[left] * sin"),
        (check_logits, "sum / size + eps", "sum / size + 1e-3"),
        (check_tokens, "token !== model.config.eos_token_id", "true"),
        (check_tokens, "position < P + settings.maxTokens", "position < P + 9"),
        (check_tokens, "omega: model.omega", "omega: model.theta"),
    ],
)
def test_a_planted_bug_is_noticed(
    browser: Any, folder: Path, model: tinylane.Model, check: Callable[..., Any], old: str, new: str
) -> None:
    text = FILE.read_text(encoding="utf-8")
    assert old in text
    (folder / "planted.js").write_text(text.replace(old, new), encoding="utf-8")
    with visit(browser, folder) as seen, pytest.raises(AssertionError):
        check(seen, model, "./planted.js", 24)


@pytest.mark.parametrize(
    "file, change, said",
    [
        ("model.safetensors", lambda data: data[:-4], "model.norm.weight has 127 numbers"),
        ("model.safetensors", lambda data: data.replace(b'"F32"', b'"F16"', 1), "dtype F16"),
        ("config.json", lambda data: data.replace(b'"qwen3"', b'"llama"'), "type llama"),
        ("tokenizer.json", lambda data: data.replace(b'"WordLevel"', b'"BPE"'), "type BPE"),
        (
            "adapter/adapters.safetensors",
            lambda data: data.replace(b"lane_rope.omega", b"lane_rope.other"),
            "expected lane_rope.omega alone",
        ),
        ("config.json", None, "the server says 404"),
    ],
)
def test_a_file_that_is_not_right_is_refused_in_one_line(
    browser: Any, folder: Path, file: str, change: Any, said: str, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "site")
    path = tmp_path / "site" / "model" / file
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    with visit(browser, tmp_path / "site") as seen:
        told = seen.page.evaluate(
            "async () => (await import('./lanes.js')).load('model/').then(() => '', String)"
        )
    assert said in told and told.startswith("Error: ") and "\n" not in told


def test_the_module_is_plain_and_short() -> None:
    text = FILE.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 250 and max(map(len, lines)) <= 100
    assert np.mean([len(line) for line in lines]) < 60  # not crammed
    for word in ("import ", "import(", "eval(", "innerHTML", "Function(", "http:", "https:"):
        assert word not in text


def test_the_names_are_those_of_the_one_file() -> None:
    """So that whoever has read the one reads the other."""
    text = FILE.read_text(encoding="utf-8")
    ours = set(re.findall(r"^(?:export )?(?:async )?function\*? (\w+)", text, re.MULTILINE))
    for name in ("read_tensors", "rotate", "visible", "rms_norm", "linear", "attention"):
        camel = re.sub(r"_(\w)", lambda found: found[1].upper(), name)
        assert hasattr(one_file, name) and camel in ours, name
    assert {"forward", "generate", "stream", "frequencies"} <= ours
    parts = r"^(?:#|//) (\d)\. (\w+)"
    python = Path(one_file.__file__).read_text(encoding="utf-8")
    assert re.findall(parts, text, re.MULTILINE) == re.findall(parts, python, re.MULTILINE)
