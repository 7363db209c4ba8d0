"""Answers: where one is found in a text, and which spellings are the same answer."""

from __future__ import annotations

import re
import time
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.answers import extract, normalise, vote

# --- normalise ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spellings",
    [
        [
            "1",
            "1.0",
            "1.",
            " 1 ",
            "+1",
            "001",
            "1.000",
            "$1$",
            "\\$1",
            "$1.00",
            "1%",
            "1\\%",
            "1e0",
        ],
        ["1000", "1,000", "1,000.00", "1{,}000", "$1,000.", "1\\,000", "1e3", "10E2", "+1e+3"],
        ["1234567.5", "1,234,567.50", "01234567.5"],
        ["0", "-0", "0.0", "-0.00", ".0", "0e5"],
        ["-0.5", "-.5", "−0.5", "-0.50", "-5e-1"],
        [
            "\\frac{1}{2}",
            "\\dfrac{1}{2}",
            "\\tfrac{1}{2}",
            "$\\frac{1}{2}$",
            "\\(\\dfrac{1}{2}\\).",
        ],
        ["(1, 2)", "\\left(1, 2\\right)", "\\left(1,\\! 2\\right).", "(1,  2)"],
        ["yes", "\\text{yes}", "yes.", " yes", "\\textbf{yes}.", "\\text{ yes }"],
        ["A B C", "A  B\nC", "A B C."],
    ],
    ids=lambda spellings: spellings[0].strip("\\"),
)
def test_spellings_of_one_answer_are_normalised_to_the_first(spellings):
    assert {normalise(spelling) for spelling in spellings} == {spellings[0]}


def test_different_answers_stay_apart():
    """Negative control: a normaliser that merges too much makes lanes agree."""
    answers = [
        "1",
        "-1",
        "10",
        "0.1",
        "1/2",
        "0.5",
        "A",
        "a",
        "1,2",
        "12",
        "1,00",
        "100",
        "(1)",
        "x",
    ]
    answers += ["0,123", "123", "1.2.3", "\\leftarrow", "arrow", "1e1000", "e3", "3e", "", "\\pi"]
    answers += ["X", "AX", "\\dfracA", "\\fracA", "\\dfraca", "\\fraca"]
    assert len({normalise(answer) for answer in answers}) == len(answers)


symbols = st.sampled_from("0123456789,.-+eE$%\\{}() −#ax\n\t") | st.sampled_from(
    ["\\text{", "\\boxed{", "\\left", "\\dfrac", "\\!", "####", "{,}", "1,000", "\\$", "\\%"]
)
texts = st.lists(symbols, max_size=25).map("".join) | st.text(max_size=30)


@settings(deadline=None, max_examples=500)
@given(texts)
@example("\\l$eft")
@example("\\te$xt{1{,}000%}.")
@example("-.")
def test_normalising_twice_is_normalising_once(text):
    """Else two lanes could agree or not depending on who normalised."""
    assert normalise(normalise(text)) == normalise(text)


@settings(deadline=None)
@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=4, min_value=-(10**12), max_value=10**12
    )
)
def test_every_spelling_of_a_number_normalises_to_the_same_and_keeps_its_value(number):
    plain = normalise(f"{number:f}")
    assert Fraction(plain) == Fraction(number)
    assert normalise(f"{number:,f}") == normalise(f"$ {number:f}00.") == plain
    assert not (plain.startswith("+") or plain == "-0" or ("." in plain and plain[-1] in "0."))


def test_a_number_longer_than_any_float_keeps_every_digit():
    """float() would round it, int() refuses more than 4300 digits."""
    digits = "123456789" * 1000
    assert normalise(f"{digits}.0") == digits
    assert normalise(f"{digits}1") != normalise(f"{digits}2")


# --- extract --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, answer",
    [
        # the last box that is closed and not empty
        (r"so \boxed{14}. Check: 14 / 2 = 7", "14"),
        (r"\boxed{1}, no: \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}} or 0.5", r"\frac{1}{2}"),
        (r"\boxed{\dfrac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ 1 \right.} 9", r"\{ 1"),
        (r"\boxed{5} and then \boxed{6", "5"),
        (r"put it within \boxed{}: \boxed{5}", "5"),
        (r"\boxed{5}. Put it within \boxed{}.", "5"),
        (r"\boxed{ } 8", "8"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"} } \boxed {a}}", "a"),
        (r"\fbox{7} 8", "7"),
        (r"\\boxed{5} 8", "5"),
        (r"\boxed{1,234.0}", "1234"),
        # a GSM8K line, not a heading
        ("7 + 7 = 14\n#### 14\n", "14"),
        ("#### 1\n#### $2,000.\nso 3", "2000"),
        ("#### Step 2: halve\nthat is 9", "9"),
        ("it was (B) of 4\n  #### (B)\n\n", "(B)"),
        ("##### 5 apples, 6 pears", "6"),
        (r"\boxed{1}" + "\n#### 2", "1"),
        # the last number
        ("First 3, then 4.", "4"),
        ("it costs $1,000.50.", "1000.5"),
        ("-3", "-3"),
        ("x=-7", "-7"),
        ("= −7", "-7"),
        ("答案是-42", "-42"),
        ("from 10-3", "3"),
        ("f(2)-4", "4"),
        ("a = .5", "0.5"),
        ("and so...42...", "42"),
        ("1, 2, 3", "3"),
        ("1,2,3", "3"),
        ("12,345,678 in all", "12345678"),
        ("about 6.02e23 of them", "602000000000000000000000"),
        ("5kg of H2O in x2, v1.2.3", "5"),
        ("٣", None),
        ("none", None),
        ("", None),
    ],
)
def test_extract_finds_the_answer(text, answer):
    assert extract(text) == answer


def test_only_what_is_marked_counts_where_that_is_asked():
    """A lane that stops in the middle of its sums has given no answer."""
    assert extract("7 + 7 = 14", marked=True) is None
    assert extract(r"\boxed{7} and 8", marked=True) == "7"
    assert extract("#### 7\nand 8", marked=True) == "7"
    assert extract("7 + 7 = 14") == "14"


def test_a_pattern_is_the_only_thing_that_counts():
    text = "Answer: B D A C\nAnswer:  D B A C.\n42"
    assert extract(text, r"Answer: (.*)") == "D B A C"
    assert extract(text, re.compile(r"answer: +(\w)", re.I)) == "D"
    assert extract(text, r"\b[A-D] [A-D]\b") == "A C"
    assert extract(text, "Solution: (.*)") is None


def test_a_group_that_took_no_part_is_no_answer():
    assert extract("a1 b", r"a(\d)|b") == "1"
    assert extract("b", r"a(\d)|b") is None
    assert extract("b", r"(x?)b") is None


@pytest.mark.parametrize("bad", ["(", "*", "(?P<1>a)", "[z-a]", "a{99999999999999}", b"a", 3])
def test_a_pattern_that_is_none_is_refused_in_one_line(bad):
    for call in (lambda: extract("a", bad), lambda: vote(["a"], pattern=bad)):
        with pytest.raises(TinylaneError, match="pattern") as error:
            call()
        assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=500)
@given(texts)
@example("\\boxed{\\boxed{}}")
def test_extract_is_total_and_gives_normalised_answers(text):
    answer = extract(text)
    assert answer is None or (answer and normalise(answer) == answer)


@settings(deadline=None)
@given(texts, texts.filter(lambda t: normalise(t) and not set("{}\\") & set(t)), texts)
def test_the_last_box_wins_whatever_stands_around_it(before, inside, after):
    """`before` may hold half a box and `after` anything that is no box."""
    after = after.replace("boxed", "").replace("\\", "").replace("}", "")
    assert extract(f"{before.rstrip(chr(92))}\\boxed{{{inside}}}{after}") == normalise(inside)


UNITS = ["\\boxed{", "\\boxed" + " " * 40, "}", "{", "\\", "\\%", "\\l$eft", "\\text{", "$", "%"]
UNITS += ["1", "1,", "1,000", ",111", "e1", "1e", ".", "-", " ", "####", "#### a\n"]


@pytest.mark.parametrize("unit", UNITS)
def test_extract_takes_linear_time(unit):
    """A lane in a loop writes one thing for ever; a quadratic search would take minutes."""
    text = unit * (100_000 // len(unit)) + "x"
    start = time.process_time()
    extract(text)
    normalise(text)
    assert time.process_time() - start < 5
