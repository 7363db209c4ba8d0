"""The lane explorer's mathematics (lane_rope.js, and `visible` of lanes.js) are tinylane's.

The module runs in a headless browser, on cases that Python generates; every comparison is also run
on a module with a planted bug, which it must notice.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_browser import visit

from tinylane.core.lanes import SHARED, LaneMask, LaneRoPE
from tinylane.core.rope import RopeConfig, frequencies
from tinylane.view.attention import difference_scores
from tutorials.build import __main__ as build

FOLDER = build.ROOT / "tutorials" / "site" / "explorer"
MODULES = build.ROOT / "tinylane" / "view" / "shared"
EPS = np.finfo(np.float64).eps


# The modules, as files.


@pytest.mark.parametrize(
    "file, most",
    [(name, 300) for name in ("board", "home", "run", "shell_game", "game")]
    + [
        (name, 400)
        for name in ("explorer", "state", "panels", "pair", "challenges", "lane_rope", "methods")
    ],
)
def test_the_modules_are_plain_and_short(file: str, most: int) -> None:
    """Lines that can be read; nothing fetched from elsewhere, evaluated or set as HTML."""
    (path,) = [FOLDER.parent / where / f"{file}.js" for where in ("assets", "explorer")
               if (FOLDER.parent / where / f"{file}.js").exists()]  # fmt: skip
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= most and max(map(len, lines)) <= 100
    assert np.mean([len(line) for line in lines]) < 60  # not crammed
    for word in ("import(", "eval(", "innerHTML", "Function("):
        assert word not in "\n".join(lines)


def test_no_page_of_the_explorer_names_another_host() -> None:
    for file in [*FOLDER.iterdir(), *(FOLDER.parent / "assets").glob("*.[jc]s*")]:
        urls = re.findall(r"https?://[^\s\"'`<>]+", file.read_text(encoding="utf-8"))
        assert all(url.startswith("http://www.w3.org/") for url in urls), file.name


# The mathematics, in the browser.

RUN = """async ([url, cases, body]) => {
  const module = await import(url);
  return JSON.stringify(new Function('m', 'cases', body)(module, JSON.parse(cases)));
}"""
BODIES = {
    "visible": """return cases.map(({ see, lag, rows }) => rows.map((q) => rows.map((k) =>
        m.visible(q, k, see, lag) ? '1' : '0').join('')));""",
    "reason": """const seen = ['shared', 'own', 'other'];
        return cases.map(({ see, lag, rows }) => rows.map((q) => rows.map((k) =>
        seen.includes(m.reason(q, k, see, lag)) ? '1' : '0').join('')));""",
    "pattern": "return cases.map(([name, N]) => m.pattern(name, N));",
    "angles": """return cases.map(([q, k, theta, omega, own]) =>
        m.angles(q, k, theta, omega, own));""",
    "frequencies": "return cases.map(([base, D]) => [...m.frequencies(base, D)]);",
    "omega": "return cases.map((c) => m.omega(...c));",
    "score": "return cases.map((c) => m.score(...c));",
}


WHERE = {  # what is not of explorer/lane_rope.js
    "visible": "assets/lanes.js",
    "frequencies": "assets/lanes.js",
    "pattern": "assets/shared/reads.js",
}


@pytest.fixture
def ask(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """ask(function, cases, planted=(old, new)): what the module answers, with a bug if wanted."""
    shutil.copytree(MODULES, tmp_path / "assets" / "shared")
    shutil.copy(FOLDER.parent / "assets" / "lanes.js", tmp_path / "assets")
    (tmp_path / "explorer").mkdir()
    shutil.copy(FOLDER / "lane_rope.js", tmp_path / "explorer")
    (tmp_path / "index.html").write_text("<!doctype html><link rel=icon href=data:,>")
    names = itertools.count(1)
    with visit(browser, tmp_path) as seen:

        def answer(name: str, cases: Any, planted: tuple[str, str] | None = None) -> Any:
            module = tmp_path / WHERE.get(name, "explorer/lane_rope.js")
            text = module.read_text(encoding="utf-8")
            if planted is not None:
                assert text.count(planted[0]) >= 1, planted
                text = text.replace(*planted, 1)
            changed = module.with_name(f"{next(names)}.js")
            changed.write_text(text, encoding="utf-8")
            given = [f"{seen.base}{changed.relative_to(tmp_path)}", json.dumps(cases), BODIES[name]]
            return json.loads(seen.page.evaluate(RUN, given))

        yield answer
        seen.settled()


def masks(count: int) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Random matrices, lags and coordinates; and what LaneMask says of every pair of rows."""
    rng, cases, expected = np.random.default_rng(0), [], []
    for _ in range(count):
        n, prompt = int(rng.integers(1, 9)), int(rng.integers(1, 7))
        mask = LaneMask(rng.random((n, n)) < rng.random(), int(rng.integers(0, 5)))
        lanes = rng.integers(SHARED, n, 24)
        positions = np.where(
            lanes == SHARED, rng.integers(0, prompt, 24), rng.integers(prompt, prompt + 8, 24)
        )
        rows = np.stack([positions, lanes], axis=1).tolist()
        cases.append({"see": mask.visibility.tolist(), "lag": mask.lag, "rows": rows})
        expected.append(mask.visible(positions, lanes, positions, lanes))
    return cases, expected


def bits(answers: list[list[str]]) -> list[np.ndarray]:
    return [np.array([[bit == "1" for bit in row] for row in rows]) for rows in answers]


def agree(answers: list[list[str]], expected: list[np.ndarray]) -> bool:
    return all(np.array_equal(*pair) for pair in zip(bits(answers), expected, strict=True))


@pytest.mark.parametrize("name", ["visible", "reason"])
def test_who_sees_whom_is_what_lane_mask_says(ask: Any, name: str) -> None:
    """46,080 pairs, exactly; `reason` must not tell another story than `visible`."""
    cases, expected = masks(80)
    assert agree(ask(name, cases), expected)
    assert 0.1 < np.mean([x.mean() for x in expected]) < 0.9
    planted = {
        "visible": [
            ("visibility[m][n] && j <= i - lag", "visibility[n][m] && j <= i - lag"),
            ("visibility[m][n] && j <= i - lag", "visibility[m][n] && j <= i"),
            ("visibility[m][n] && j <= i - lag", "visibility[m][n] && j < i - lag"),
            ("return j <= i;", "return j < i;"),
            ("m !== SHARED && ", "m === SHARED || "),
        ],
        "reason": [
            ("j > i - lag ?", "j >= i - lag ?"),
            ("if (!visibility[m][n])", "if (!visibility[n][m])"),
            ('if (m === SHARED) return "prompt"', 'if (m === SHARED) return "other"'),
        ],
    }
    for bug in planted[name]:
        assert not agree(ask(name, cases, bug), expected), bug


def test_the_named_patterns_are_those_of_lane_mask(ask: Any) -> None:
    names = ["joint", "independent", "star", "neighbours:1", "neighbours:2"]
    cases = [[name, n] for name in names for n in range(1, 9)]
    expected = [LaneMask.named(name, n).visibility.tolist() for name, n in cases]
    assert ask("pattern", cases) == expected
    bug = ("m === n || m === 0", "m === n || n === 0")
    assert ask("pattern", cases, bug) != expected


def pairs(count: int) -> tuple[list[Any], list[tuple[np.ndarray, np.ndarray]]]:
    """Random pairs and frequencies; the angle that the two rotations of `model.py` leave between
    them (a token's angle is theta * i + LaneRoPE.angles), and the largest term in it."""
    rng, cases, expected = np.random.default_rng(1), [], []
    for _ in range(count):
        half = int(rng.integers(1, 9))
        theta = 10.0 ** rng.uniform(-5, 0.5, half)
        omega = rng.normal(size=half) * 10.0 ** rng.uniform(-3, 2)
        own = "own" if rng.random() < 0.5 else 0
        place = lambda: [int(rng.integers(0, 200)), int(rng.integers(SHARED, 8))]
        q, k = place(), place()
        if q[1] == SHARED:
            k[1] = SHARED  # shared queries see shared keys only
        cases.append([q, k, theta.tolist(), omega.tolist(), own])
        turned = LaneRoPE(omega, own).angles(np.array([q[1], k[1]]), layer=0)
        if own == "own" and k[1] == SHARED:
            turned[0] = 0  # a query scores shared keys with R(theta * i) alone
        terms = np.array([q[0] * theta, k[0] * theta, *turned])
        between = (terms[1] + terms[3]) - (terms[0] + terms[2])
        expected.append((between, np.abs(terms).max(axis=0)))
    return cases, expected


def worst(answers: list[list[float]], expected: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """The largest error, in ulp of the largest angle that it is the difference of."""
    errors = [
        np.abs(np.array(a) - e) / (EPS * np.maximum(size, 1e-300))
        for a, (e, size) in zip(answers, expected, strict=True)
    ]
    return max(float(error.max()) for error in errors)


def test_angles_are_what_the_two_rotations_leave(ask: Any) -> None:
    cases, expected = pairs(3000)
    assert worst(ask("angles", cases), expected) <= 4
    for bug in [
        ("t * positions + Omega[d] * lanes);", "t * positions - Omega[d] * lanes);"),
        ("return [j - i, own ? 0", "return [i - j, own ? 0"),
        ("own ? 0 : Math.max(n, 0) - Math.max(m, 0)", "own ? 0 : n - m"),
        ("own ? 0 : Math.max", "Math.max"),
    ]:
        assert worst(ask("angles", cases, bug), expected) > 1e6, bug


def test_frequencies_and_the_starts_of_omega(ask: Any) -> None:
    """theta, and Omega as LaneRoPE starts it, within a few ulp of NumPy's powers."""
    rng = np.random.default_rng(2)
    shapes = [[float(10 ** rng.uniform(1, 7)), 2 * int(rng.integers(1, 129))] for _ in range(200)]
    for (base, dim), theta in zip(shapes, ask("frequencies", shapes), strict=True):
        np.testing.assert_allclose(theta, frequencies(RopeConfig(base=base), dim)[0], rtol=4 * EPS)
    cases, expected = [], []
    for start, (base, dim) in itertools.product(("none", "group_think", "ntk"), shapes[:80]):
        theta = frequencies(RopeConfig(base=base), dim)[0]
        slot, scale = float(rng.uniform(0, 600)), float(rng.uniform(1, 16))
        more = {"none": (), "group_think": (slot,), "ntk": (slot, scale)}[start]
        cases.append([start, theta.tolist(), slot, scale])
        expected.append(getattr(LaneRoPE, start)(theta, *more).omega)
    close = lambda bug=None: all(
        np.allclose(a, e, rtol=8 * EPS, atol=0)
        for a, e in zip(ask("omega", cases, bug), expected, strict=True)
    )
    assert close()
    assert not close(("Math.max(2 * theta.length - 2, 1)", "2 * theta.length"))
    assert not close(("slot * t * scale **", "t * scale **"))


def test_scores_are_those_of_the_probe(ask: Any) -> None:
    rng, cases, expected, sizes = np.random.default_rng(3), [], [], []
    for _ in range(2000):
        half = int(rng.integers(1, 9))
        q, k = rng.normal(size=(2, 2 * half))
        theta, omega = 10.0 ** rng.uniform(-4, 0.5, half), rng.normal(size=half)
        p, l = int(rng.integers(-40, 41)), int(rng.integers(-7, 8))
        cases.append([q.tolist(), k.tolist(), theta.tolist(), omega.tolist(), p, l])
        expected.append(difference_scores(q, k, theta, omega, [p], [l])[0, 0])
        sizes.append(np.linalg.norm(q) * np.linalg.norm(k))
    error = lambda bug=None: (np.abs(ask("score", cases, bug) - np.array(expected)) / sizes).max()
    assert error() < 1e-13
    assert error(("- across * Math.sin(turn)", "+ across * Math.sin(turn)")) > 0.1
    assert error(("q[d] * k[d + half] - q[d + half]", "q[d] * k[d + half] + q[d + half]")) > 0.1
