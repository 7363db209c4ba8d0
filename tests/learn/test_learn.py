"""Every exercise of the tutorials: its solution is right, and wrong answers get a counterexample.

The wrong answers are mistakes that readers make: each must be called wrong, for the reason given.
"""

from __future__ import annotations

import contextlib
import io
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinylane import learn
from tinylane.core.errors import TinylaneError
from tinylane.core.lanes import SHARED

ROOT = Path(__file__).parents[2]
SOLUTIONS = sorted((ROOT / "tutorials" / "solutions").glob("*.py"))
NAMES = list(learn.exercises())
Answer = Callable[..., Any]


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def turn(x: np.ndarray, angle: Any) -> np.ndarray:
    a, b = np.split(x, 2)
    return np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)]
    )


def neighbours(x: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """RoPE of the paper's layout: channel 2d beside 2d + 1."""
    out = np.empty_like(x)
    out[::2] = x[::2] * np.cos(angle) - x[1::2] * np.sin(angle)
    out[1::2] = x[1::2] * np.cos(angle) + x[::2] * np.sin(angle)
    return out


def forgets(model: Any, prompt: list[int], count: int) -> list[int]:
    """No cache: everything is fed again for every word."""
    tokens = list(prompt)
    for _ in range(count):
        T = len(tokens)
        logits = model(np.array(tokens), np.arange(T), np.full(T, SHARED))
        tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :]


WRONG: list[tuple[str, Answer, str]] = [
    ("01.1", lambda q, k, v, visible: (
        softmax(np.where(visible, q @ k.T, -np.inf)) @ v), "expected [["),
    ("01.1", lambda q, k, v, visible: softmax(q @ k.T / np.sqrt(q.shape[1])) @ v, "visible = [["),
    ("01.1", lambda q, k, v, visible: (lambda w: w / w.sum(1, keepdims=True) @ v)(
        np.where(visible, np.exp(q @ k.T / np.sqrt(q.shape[1])), 0)), "nan"),
    ("01.1", lambda q, k, v, visible: q @ k.transpose(0, 2, 1) @ v, "ValueError"),
    ("01.2", lambda q, k, v, visible: np.stack([  # heads interleaved, not in groups
        softmax(np.where(visible, q[h] @ k[h % len(k)].T / np.sqrt(q.shape[2]), -np.inf))
        @ v[h % len(k)] for h in range(len(q))]), "expected"),
    ("02.1", lambda x, i, theta: turn(x, -i * theta), "expected"),
    ("02.1", lambda x, i, theta: neighbours(x, i * theta), "expected"),
    ("02.1", lambda x, i, theta: turn(x, (i + 1) * theta), "i = 0"),
    ("02.2", lambda q, k, distance, theta: turn(q, distance * theta) @ k, "expected"),
    ("03.1", lambda x, weight, eps: (
        x / (np.sqrt((x * x).mean(-1, keepdims=True)) + eps) * weight), "eps = 0.5"),
    ("03.1", lambda x, weight, eps: (x - x.mean(-1, keepdims=True)) * weight, "expected"),
    ("03.2", lambda x, attend, mlp, a, b: x + attend(a(x)) + mlp(b(x)), "expected"),
    ("03.2", lambda x, attend, mlp, a, b: mlp(b(attend(a(x)))), "expected"),
    ("04.1", lambda q, k, v, kept: (v, None), "row 1"),
    ("04.1", lambda q, k, v, kept: v, "a pair"),
    ("04.2", forgets, "rows went through the model"),
    ("04.2", lambda model, prompt, count: [0] * count, "expected ["),
    ("05.1", lambda i, m, j, n, visibility, lag: j <= i, "expected False"),
    ("05.1", lambda i, m, j, n, visibility, lag: j <= i if n in (SHARED, m) else bool(
        visibility[m, n] and j <= i - lag), "SHARED"),  # a shared query indexes from the end
    ("05.1", lambda i, m, j, n, visibility, lag: j <= i if n in (SHARED, m) else bool(
        m != SHARED and visibility[n, m] and j <= i - lag), "visibility = [["),  # transposed
    ("05.1", lambda i, m, j, n, visibility, lag: j <= i if n in (SHARED, m) else bool(
        m != SHARED and visibility[m, n] and j < i - lag), "expected True"),
    ("05.2", lambda visibility: visibility, "visibility = [["),
    ("05.2", lambda visibility: (visibility | np.eye(len(visibility), dtype=bool)).T, "expected"),
    ("06.1", lambda x, i, m, theta, omega: turn(x, theta * i - omega * m), "m = 1"),
    ("06.1", lambda x, i, m, theta, omega: turn(x, theta * i), "m = 1"),
    ("06.2", lambda theta, slot: slot / theta, "group think"),
    ("06.2", lambda theta, slot: [slot], "Omega"),
    ("07.1", lambda first, then: then, "first 'BA', then 'AB'"),
    ("07.1", lambda first, then: "".join(then["ABCD".index(c)] for c in first), "'BAC'"),
    ("07.2", lambda cups, swaps, m, n: [cups] * (len(swaps) // n), "expected"),
    ("08.1", lambda x, i, m, theta: turn(x, theta * i + m * m), "lane shift"),
    ("08.1", lambda x, i, m, theta: turn(x, np.sqrt(theta * i) + m), "token shift"),
    ("08.1", lambda x, i, m, theta: turn(x, theta * i), "tells no lanes apart"),
    ("08.1", lambda x, i, m, theta: x[:1], "finite numbers"),
    ("08.1", lambda x, i, m, theta: turn(x, i + m), "one lane"),
    ("08.2", lambda f, sample: True, "one step too early"),
    ("08.2", lambda f, sample: False, "says False"),
    ("09.1", lambda path, name: np.frombuffer(path.read_bytes()[-4:], np.float32), "a file of"),
    ("09.2", lambda layers, heads, D, prompt, lanes, steps, item: (
        2 * layers * heads * D * lanes * (prompt + steps) * item), "lanes = 2"),  # N prompts
    ("09.2", lambda layers, heads, D, prompt, lanes, steps, item: (
        layers * heads * D * (prompt + lanes * steps) * item), "expected"),
    ("10.1", lambda logits, right: -np.log(np.exp(logits)[np.arange(len(right)), right]
        / np.exp(logits).sum(1)).mean(), "nan"),
    ("10.1", lambda logits, right: (
        -softmax(logits)[np.arange(len(right)), right].mean()), "expected"),
    ("10.2", lambda numbers: numbers**2, "numbers = 2"),
    ("11.1", lambda k, n: (k / n - 0.5 / n, k / n + 0.5 / n), "k = 0, n = 1"),
    ("11.2", lambda cups, swaps: {2: 1, 3: 1 / 6, 4: 1 / 24}[cups], "cups = 3"),
]  # fmt: skip


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_a_solution_is_right(path: Path) -> None:
    """Each file is a script of its own; it prints one verdict for each exercise of its page."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path(str(path))
    said = out.getvalue().splitlines()
    assert [line[:4] for line in said] == [name for name in NAMES if name[:2] == path.name[:2]]
    assert all(line[4:].startswith(": right, in ") for line in said), said


def test_every_page_has_two_exercises_and_a_file_of_solutions() -> None:
    pages = [path.stem for path in sorted((ROOT / "tutorials").glob("[0-9][0-9]_*.py"))]
    assert [path.stem for path in SOLUTIONS] == pages
    for page in pages:
        assert sum(name[:2] == page[:2] for name in NAMES) >= 2
    assert {name for name, _, _ in WRONG} == set(NAMES)  # each has a wrong answer below


@pytest.mark.parametrize("name, answer, why", WRONG)
def test_a_wrong_answer_gets_a_counterexample(name: str, answer: Answer, why: str) -> None:
    verdict = learn.check(name, answer)
    assert not verdict and verdict.says.startswith("wrong: ") and why in verdict.says, verdict


def test_a_counterexample_is_small() -> None:
    """One row and one key are enough to forget the mask in; two lanes to forget who reads whom."""
    says = learn.check("05.1", lambda i, m, j, n, visibility, lag: j <= i).says
    assert says == (
        "wrong: query at (0, SHARED), key at (0, 0), visibility = [[1]], lag = 0: "
        "got True, expected False"
    )
    says = learn.check("02.1", lambda x, i, theta: x).says
    assert "i = 1, theta = [1.]: got [0." in says
    assert says == learn.check("02.1", lambda x, i, theta: x).says  # the same answer, the same one


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_is_not_written_yet(name: str) -> None:
    """It returns None, as `...` does."""
    arguments = ", ".join(learn.exercises()[name].arguments)
    stub = eval(f"lambda {arguments}: None")
    verdict = learn.check(name, stub)
    assert not verdict and verdict.says.startswith("not written yet: ")


def test_what_is_no_answer_is_refused() -> None:
    with pytest.raises(TinylaneError, match=r"exercise '5'; expected one of 01\.1, .* 11\.2"):
        learn.check("5", lambda: None)
    with pytest.raises(TinylaneError, match=r"05\.1: 3; expected a function of"):
        learn.check("05.1", 3)  # type: ignore[arg-type]
    with pytest.raises(TinylaneError, match=r"05\.2: too many .*; expected a function of \(visib"):
        learn.check("05.2", lambda: None)


def test_without_hypothesis_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None\nfrom tinylane import learn\n"
        "try:\n    learn.check('05.2', lambda visibility: visibility)\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("TinylaneError hypothesis is not installed"), done.stderr
    assert "pip install 'tinylane[learn]'" in done.stdout


def test_with_turn_is_the_model_itself_for_its_own_encoding() -> None:
    """The control of what exercise 08.1 runs: LaneRoPE as a function gives the model's logits."""
    from tinylane.testing.checks import bound
    from tinylane.testing.samples import example_case

    compared = 0
    for seed in range(12):
        case = example_case(seed, ("default",))
        model, sample = case.model(), case.sample.with_rope(prompt_lane="own")
        if sample.rope.omega.ndim == 2:
            continue
        lane_turn = lambda x, i, m, model=model, sample=sample: turn(
            x, model.theta * i + sample.rope.omega * m
        )
        f = learn.with_turn(model, lane_turn, sample.mask)
        assert np.allclose(f(*sample.rows), bound(model, sample)(*sample.rows), atol=1e-9)
        compared += 1
    assert compared > 5
