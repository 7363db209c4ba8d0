"""Answers in all their forms: what is the same is judged the same, and what is not is not."""

# ruff: noqa: E501
from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from answer_forms import FORMS, REASONS, pairs
from hypothesis import given, settings
from hypothesis import strategies as st

import tinylane
from tinylane.evaluate import reading
from tinylane.evaluate.answers import extract, vote
from tinylane.evaluate.tasks.mathematics import Judge
from tinylane.evaluate.tasks.task import answer_of
from tinylane.files.worker import Worker

DATA = Path(__file__).parents[1] / "data"
GSM8K = (DATA / "gsm8k_answers.txt").read_text().split()
SPELLINGS = [text for groups in FORMS.values() for group in groups for text in group]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    found = Judge()
    yield found
    found.close()


# MATH.


@pytest.mark.parametrize("form", FORMS)
def test_spellings_of_one_answer_are_one_answer_and_others_are_others(
    judge: Judge, form: str
) -> None:
    equal = unequal = 0
    for f, a, b, same in pairs():
        if f == form:
            assert judge(a, b) == judge(b, a) == same, (a, b, judge.key(a), judge.key(b))
            equal, unequal = equal + same, unequal + (not same)
    assert equal >= 8 and unequal >= 8


@pytest.mark.parametrize("form", FORMS)
def test_a_vote_groups_what_is_the_same(judge: Judge, form: str) -> None:
    """Whatever the order of the lanes."""
    rng = random.Random(form)
    lanes = [(k, rf"so \boxed{{{a}}}") for k, group in enumerate(FORMS[form]) for a in group]
    rng.shuffle(lanes)
    found = vote([text for _, text in lanes], key=judge.key)
    sizes = sorted((len(group) for group in FORMS[form]), reverse=True)
    assert list(found.votes.values()) == sizes


def test_a_vote_knows_algebra_without_being_told() -> None:
    found = tinylane.vote([r"\boxed{x+1}", r"\boxed{1+x}", r"\boxed{x-1}"])
    assert list(found.votes.values()) == [2, 1]
    assert tinylane.vote(["#### 18", "#### 18 dollars", r"\boxed{\frac{36}{2}}", "17"]).votes == {
        "18": 3,
        "17": 1,
    }


def test_where_math_verify_says_otherwise_there_is_a_reason(judge: Judge) -> None:
    """Its verdicts on all pairs were recorded (tests/record/record_math_verify.py); here those that
    differ from the table, a reason for each, and a sample asked again."""
    from math_verify import parse, verify

    recorded = json.loads((DATA / "math_verify_differs.json").read_text())
    differs = {(f, a, b): both for f, a, b, both in recorded["pairs"]}
    assert recorded["count"] == len(pairs()) and recorded["version"] == "0.9.0"
    for form, a, b in differs:
        same = judge(a, b)
        assert (form, same) in REASONS, (form, a, b, same)
    for form, a, b, same in random.Random(0).sample(pairs(), 60):
        x, y = (parse(rf"\boxed{{{text}}}", parsing_timeout=None) for text in (a, b))
        both = [verify(p, q, timeout_seconds=None) for p, q in ((x, y), (y, x))]
        assert both == differs.get((form, a, b), [same, same]), (a, b)


# GSM8K.

WAYS = [
    "He has {n} left.\n#### {n}",
    "So {n} is it: \\boxed{{{n}}}",
    "#### {n:,}",
    "\\[ \\boxed{{{latex}}} \\]",
    "The answer is ${n:,}.00. He had 3 of them.",
    "#### {n} dollars",
    "**Final answer:** {n:,} eggs in 7 days",
    "That makes 1 * {n:,} = {n:,}.",
    "Therefore \\boxed{{x = {n}.0 \\text{{ miles per hour}}}}.",
    "\\boxed{{\\dfrac{{{twice}}}{{2}}}}",
]


def written(way: str, n: int) -> str:
    return way.format(n=n, latex=f"{n:,}".replace(",", "{,}"), twice=2 * n)


@pytest.mark.parametrize("way", WAYS)
def test_every_answer_of_gsm8k_is_judged_right_in_ten_spellings(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """In this process alone: numbers need no sympy. Another number is judged wrong."""
    monkeypatch.setattr(Worker, "ask", lambda self, *_: pytest.fail("asked sympy"))
    judge = Judge()
    assert len(GSM8K) == 1319 and len(WAYS) == 10
    for truth in GSM8K:
        n = int(truth.replace(",", ""))
        answer = answer_of(written(way, n), True)
        assert answer is not None and judge(answer, truth) and judge(truth, answer), (answer, truth)
        for other in (n + 1, 10 * n, -n, n + 1000):
            wrong = answer_of(written(way, other), True)
            assert other == n or (wrong is not None and not judge(wrong, truth)), (wrong, truth)


# Realistic texts.


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("Let's see.\n\n**The answer is 42.**", "42"),
        ("The final answer is: $\\boxed{42}$", "42"),
        ("Final Answer: The final answer is $\\frac{3}{4}$. I hope it is correct.", "0.75"),
        ("So the probability is 3/4.", "0.75"),
        ("So the probability is $\\frac{3}{4}$.", "3/4"),
        ("That leaves 2 1/2 cups.", "2.5"),
        ("That leaves $2\\frac{1}{2}$ cups.", "5/2"),
        ("That leaves $3\\frac12$ cups.", "7/2"),
        ("That leaves $\\tfrac34$.", "3/4"),
        ("That leaves $\\frac{1}2$.", "1/2"),
        ("That leaves 3½ cups.", "7/2"),
        ("That leaves ¾ of a cup.", "3/4"),
        ("In all it is $12,\\!345,\\!678$.", "12345678"),
        ("In all it is $1\\,000$ eggs.", "1000"),
        ("In all it is $1\\ 000$ eggs.", "1000"),
        ("In all it is 1~000 eggs.", "1000"),
        ("In all it is 1\u202f000 eggs.", "1000"),
        ("The pages are 3, 400", "400"),
        ("On 5/6/2020 he had 7", "7"),
        ("The answer is (B).", "B"),
        ("Answer: B", "B"),
        ("**Answer:** (B) 12 apples", "B"),
        ("The correct answer is Evelyn.", "Evelyn"),
        ("Evelyn has 5. The answer is Evelyn.", "Evelyn"),
        ("The answer is quite simple: 5 + 6 = 11", "11"),
        ("The answer is 18. Check: 14 / 2 = 7.", "18"),
        ("The answer is $18. He paid $20 first.", "18"),
        ("Thus, the answer is $2\\sqrt{3}$.", "\\sqrt{12}"),
        ("Thus the answer is x + 1.", "1+x"),
        ("x is \\boxed{3} or \\boxed{-3}.", "3, -3"),
        ("\\boxed{3}, $\\boxed{4}$", "3, 4"),
        ("First \\boxed{3}. But that is wrong. So \\boxed{4}.", "4"),
        ("#### 18\n\nQuestion: how many are 3 and 4?", "18"),
        ("#### 18 eggs\n", "18"),
        ("#### **1,800**", "1800"),
        ("#### The total is 9*2 = 18", "18"),
        ("#### 50%", "50"),
        ("#### -3", "-3"),
        ("#### $1.5 million", "1500000"),
        ("#### 3/4", "0.75"),
        ("#### 3:30 PM", "15:30"),
        ("## Step 2\n#### 2 ways to go on\nSo it is 9.", "9"),
        ("The answer is 1,234,567 people.", "1234567"),
        ("The answer is: 5 hours and some", "5"),
        ("The total cost is $\\$1{,}250$.", "1250"),
        ("Answer: 1,2,3", "1,2,3"),
        ("The answer is $(3, 4)$.", "(3,4)"),
        ("\\[\n\\boxed{\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}}\n\\]", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
        ("<think>maybe 5, or 6</think>\nThe answer is 7.", "7"),
        ("It's -5", "-5"),
        ("The total is 1'000.", "1000"),
        ("That makes 12’345’678 francs", "12345678"),
        ("The answer is 1'000.", "1000"),
        ("The value is –5.", "-5"),
        ("so x = ‑3", "-3"),
        ("It is \u22121'500", "-1500"),
        ("Answer: –5", "-5"),
        ("#### –5", "-5"),
        ("on pages 10–12", "12"),
        ("He has three dogs —5 years old", "5"),
        (r"That is approximately 1.5 \times 10^{3}", "1500"),
        (r"That is about $1.5 \times 10^3$ meters", "1500"),
        ("It is 2 × 10^5 m", "200000"),
        ("It is 1.5×10³", "1500"),
        ("It is 2·10⁻³ s.", "0.002"),
        (r"So there are 10^{6} of them", "1000000"),
        ("We get 5².", "25"),
        ("We get 2^10.", "1024"),
        ("#### 5²", "25"),
        ("The area is 25 cm²", "25"),
        ("5² + 1 = 26", "26"),
        ("It arrives at 3:45 pm.", "3:45 PM"),
        ("It arrives at 12:30 p.m. sharp", "12:30 pm"),
        ("It ends at 15:45", "3:45 pm"),
        ("The ratio is 3:2.", "1.5"),
        ("From 3:00 to 5:00 is 2 hours", "2"),
        ("The vertex is (2, -3).", "(2,-3)"),
        ("Its coordinates are (1,2,3)", "(1, 2, 3)"),
        (r"so it is \left( \frac12, 3 \right) or (0.5, 3)", "(1/2, 3)"),
        ("The answer is the pair (3, -4)", "(3, -4)"),
        ("x lies in [0, 5)", "[0,5)"),
        ("She owes (1,000)", "1000"),
        ("f(1, 2) = 7", "7"),
        ("So x = ±5", "-5, 5"),
        (r"We get $x = 2\sqrt{3}$.", r"\sqrt{12}"),
        (r"So it is \(3\pi\)", "3π"),
        (r"\[ x = \frac{1}{\sqrt{2}} \]", r"\frac{\sqrt 2}{2}"),
        ("He has $5 and she has $6.", "6"),
        ("He pays $20 - $5 = $15", "15"),
    ],
)  # fmt: skip
def test_the_answer_of_a_lane_s_text_is_what_it_says(judge: Judge, text: str, truth: str) -> None:
    answer = answer_of(text, True)
    assert answer is not None and judge(answer, truth), answer


# Properties.


def test_judging_is_an_equivalence(judge: Judge) -> None:
    """Symmetric, reflexive, transitive, over spellings of all forms at once."""
    rng = random.Random(1)
    sample = rng.sample(SPELLINGS, 150)
    same = {(a, b): judge(a, b) for a in sample for b in sample}
    assert all(same[a, a] for a in sample)
    assert all(same[a, b] == same[b, a] for a, b in same)
    linked = [(a, b) for a, b in same if same[a, b]]
    assert all(same[a, c] for a, b in linked for c in sample if same[b, c])


PIECES = (
    "0 1 2 , . - + / ( ) [ ] \\{ \\} { } x = < \\le \\cup \\pm \\frac \\sqrt ^ _ : % \\\\ & $ or and"
    " \\begin{pmatrix} \\end{pmatrix} \\text{ cm million \\infty | ! \\overline \\times 10^"
)
pieces = st.sampled_from(PIECES.split())


@settings(deadline=None, max_examples=500)
@given(st.lists(pieces, max_size=20).map(" ".join) | st.lists(pieces, max_size=20).map("".join))
def test_every_text_has_a_key_and_spelling_does_not_change_it(text: str) -> None:
    found = reading.key(text)
    assert hash(found) == hash(reading.key(text))
    assert found == reading.key(f" ${text}$ ") or "$" in text or "\\" in text[-1:] + text[:1]


MEGABYTE = 1_000_000
LOOPS = [
    "1 ", "9", "\\boxed{1}", "\\boxed{", "#### 1\n", "#### ", "The answer is 1. ", "answer: ", "1/",
    "\\frac{1}", "(1, 2", "[1,2]", "3:", "10^", "5²", "1'000", "\\times 10", "$1$", "\\(", "(", "{", "$", "1,000", "answer is answer is ", " ", "\\", "\\text{", "= ", "-",
]  # fmt: skip


@pytest.mark.parametrize("unit", LOOPS)
def test_a_lane_in_a_loop_is_read_in_linear_time(unit: str) -> None:
    """A quadratic search would take hours."""
    text = unit * (MEGABYTE // len(unit))
    start = time.process_time()
    extract(text)
    reading.key(text)
    assert time.process_time() - start < 60


def test_ten_megabytes_are_read_within_little_more_memory() -> None:
    """A process of its own; it holds the text itself, some copies of it, and a stack of braces."""
    code = (
        "from tinylane.files.memory import memory\n"
        "from tinylane.evaluate.answers import extract\n"
        "for unit in ('1 ', r'\\boxed{1}', '{'):\n"
        "    extract(unit * (10**7 // len(unit)))\n"
        "print(memory())\n"  # not ru_maxrss: a child's begins with its parent's size
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 600 << 20


@pytest.mark.parametrize(
    "text",
    ["(" * 200, "(" * 200 + "1" + ")" * 199, "{" * 400, "[[" * 100 + "1" + "]]" * 100, "1," * 200,
     "\\pm" * 100, "=" * 400, "x=" * 200, "1/" * 200, "1 " * 200, "\\begin{pmatrix}" * 26,
     "\\text{" * 66, "\\{1," * 80, "\\frac" * 80, "9" * 400, "1e99" * 100, "10^{999}", "<" * 400,
     "\\cup" * 100, "a or " * 80, "\\sqrt(" * 66, "." * 400, "1:" * 200, "-" * 400, "\\overline{3}" * 30],
)  # fmt: skip
def test_hostile_answers_are_read_quickly(text: str) -> None:
    """Catastrophic patterns and deep nesting: at most 400 characters, and far from a second."""
    start = time.process_time()
    reading.key(text)
    assert time.process_time() - start < 5


def test_a_vote_on_what_computes_without_end_gives_up_after_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The shortest are read first, so it does not depend on the order of the lanes."""
    from tinylane.evaluate.tasks import mathematics
    from tinylane.files.worker import WorkerEnded

    asked: list[str] = []

    def ask(self: Worker, request: list, limits: object) -> list[str]:
        asked.append(request[0])
        if "^" in request[0]:
            raise WorkerEnded("processor")
        return ["letter", request[0][-1]]

    monkeypatch.setattr(Worker, "ask", ask)
    towers = [f"{b}^{{{b}^{{{b}}}}}" for b in range(99, 130)]
    for answers in (towers, towers[::-1]):
        asked.clear()
        judge = mathematics.Judge()
        keys = judge.keys([*answers, "1+a", "2+a"])
        assert asked == ["1+a", "2+a", towers[0], towers[1]]
        assert keys == {t: ("text", t) for t in towers} | dict.fromkeys(
            ["1+a", "2+a"], ("letter", "a")
        )


def test_what_computes_without_end_ends(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinylane.evaluate.tasks import mathematics

    monkeypatch.setattr(mathematics, "CPU_SECONDS", 0.5)
    towers = ["10^{10^{10}}", "10^{10^{10^{10}}}", "(10^{10})!", "9^{9^{9}}", "\\frac{1}{(10^9)!}"]
    for a, b in pairwise(towers):
        assert not judge(a, b) and judge(a, a)
    assert judge("1+x", "x+1")
