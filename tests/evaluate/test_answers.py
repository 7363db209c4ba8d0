"""Answers: what counts as one, who wins, and that the order of the lanes decides nothing."""

from __future__ import annotations

import math
import random
import re
import time
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.answers import Answer, best_of, extract, normalise, vote


@dataclass
class Lane:
    text: str
    index: int
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = "stop"

    @property
    def tokens(self) -> list[int]:
        return list(range(len(self.logprobs)))


@dataclass
class Result:
    lanes: list[Lane]


def result(*lanes: tuple[str, list[float]]) -> Result:
    return Result([Lane(text, i, logprobs) for i, (text, logprobs) in enumerate(lanes)])


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


# --- vote -----------------------------------------------------------------------------------


def test_the_majority_wins():
    found = vote(result(("it is 4", [-1]), ("4.0!", [-2]), ("5", [-0.1]), (r"\boxed{4}", [-3])))
    assert found == Answer(text="4", votes={"4": 3, "5": 1}, lane=0, margin=2)


def test_lanes_without_an_answer_do_not_vote():
    found = vote(result(("hm", [-0.1]), ("well", [-0.1]), ("7", [-9]), ("", [])))
    assert found == Answer(text="7", votes={"7": 1}, lane=2, margin=1)


def test_no_answer_at_all_is_an_answer_without_text():
    assert vote(result(("a", [-1]), ("b", [-1]))) == Answer(None, {}, None, 0)


def test_a_tie_goes_to_the_answer_of_the_likeliest_lane():
    """By the best lane, not the sum: otherwise the longer answer would lose."""
    lanes = [("1", [-1, -1]), ("2", [-0.1] * 30), ("1", [-0.5]), ("2", [-9.0] * 9)]
    found = vote(result(*lanes))
    assert found == Answer(text="2", votes={"2": 2, "1": 2}, lane=1, margin=0)


def test_a_tie_of_log_probabilities_goes_to_the_lowest_lane():
    lanes = [Lane("9", 3, [-1.0]), Lane("8", 1, [-1.0]), Lane("7", 2, [-1.0])]
    found = vote(lanes)
    assert (found.text, found.lane, found.margin) == ("8", 1, 0)
    assert list(found.votes) == ["8", "7", "9"]


def test_log_probability_never_beats_votes():
    found = vote(result(("1", [-9]), ("2", [-0.01]), ("1", [-9])))
    assert (found.text, found.lane) == ("1", 0)


def test_the_lane_shown_is_the_best_of_those_that_gave_the_answer():
    found = vote(result(("5", [-3]), ("5", [-1]), ("6", [-0.1]), ("5", [-2])))
    assert (found.text, found.lane) == ("5", 1)


def test_plain_texts_vote_and_tie_to_the_first():
    assert vote(["a 1", "b 2", "c 2"]) == Answer("2", {"2": 2, "1": 1}, 1, 1)
    assert vote(("3", "4")) == Answer("3", {"3": 1, "4": 1}, 0, 0)


def test_vote_takes_a_pattern_or_a_function_of_the_text():
    texts = ["cups: B A. 1", "cups: B A. 2", "cups: A B. 3"]
    assert vote(texts, pattern=r"cups: ([A-Z ]+)\.").votes == {"B A": 2, "A B": 1}
    assert vote(texts, extract=lambda text: text[6:9]).votes == {"B A": 2, "A B": 1}
    assert vote(texts, extract=lambda text: None).text is None
    with pytest.raises(TinylaneError) as error:
        vote(texts, pattern="a", extract=str)
    assert str(error.value) == "pattern and extract are both given: expected one of them"


def test_a_key_says_what_is_the_same_and_the_best_lane_says_how_it_is_written():
    lanes = [("1/2", [-3]), ("0.5", [-1]), ("3", [-0.1]), ("2/4", [-2])]
    found = vote(result(*lanes), extract=str, key=Fraction)
    assert found == Answer("0.5", {"0.5": 3, "3": 1}, 1, 2)
    assert vote(result(*lanes), extract=str).votes == {"3": 1, "0.5": 1, "2/4": 1, "1/2": 1}


def test_a_users_extract_is_compared_after_normalising():
    assert vote(["1.0", " 1 ", "2"], extract=str) == Answer("1.0", {"1.0": 2, "2": 1}, 0, 1)


@pytest.mark.parametrize("nothing", [[], (), Result([]), "4", ""], ids=repr)
def test_no_lanes_and_a_single_string_are_refused(nothing):
    """A string is a sequence of texts of one character each, which nobody means."""
    for call in (vote, best_of):
        with pytest.raises(TinylaneError, match="expected a result, or a list of texts"):
            call(nothing)


ballots = st.lists(
    st.tuples(st.sampled_from(["1", "1.0", "2", "3", "no"]), st.floats(-9, 0)),
    min_size=1,
    max_size=9,
)


@settings(deadline=None)
@given(ballots, st.randoms(use_true_random=False))
def test_the_order_in_which_lanes_are_listed_decides_nothing(ballot, rng):
    """Not even in ties: those go by log-probability, then by the lane's own index."""
    lanes = [Lane(text, i, [logprob]) for i, (text, logprob) in enumerate(ballot)]
    first, best = vote(lanes), best_of(lanes)
    rng.shuffle(lanes)
    assert vote(lanes) == first and list(vote(lanes).votes) == list(first.votes)
    assert best_of(lanes) is best


@settings(deadline=None)
@given(ballots)
def test_votes_are_counted_once_each_and_the_winner_has_most(ballot):
    lanes = [Lane(text, i, [logprob]) for i, (text, logprob) in enumerate(ballot)]
    found = vote(lanes)
    assert sum(found.votes.values()) == sum(text != "no" for text, _ in ballot)
    if found.text is None:
        return
    counts = list(found.votes.values())
    assert counts == sorted(counts, reverse=True) and next(iter(found.votes)) == found.text
    assert found.margin == counts[0] - (counts[1] if len(counts) > 1 else 0)
    assert extract(lanes[found.lane].text) == found.text


@settings(deadline=None)
@given(ballots)
def test_one_more_lane_for_the_winner_keeps_it_and_widens_the_margin(ballot):
    lanes = [Lane(text, i, [logprob]) for i, (text, logprob) in enumerate(ballot)]
    before = vote(lanes)
    if before.text is not None:
        after = vote([*lanes, Lane(before.text, len(lanes), [-9.5])])
        assert (after.text, after.lane, after.margin) == (
            before.text,
            before.lane,
            before.margin + 1,
        )


def test_the_order_would_decide_without_the_tie_break():
    """Negative control: with texts, nothing but the order is known, and it decides."""
    assert vote(["1", "2"]).text != vote(["2", "1"]).text


# --- best_of --------------------------------------------------------------------------------


def test_the_best_lane_has_the_highest_mean_log_probability_not_the_highest_sum():
    lanes = result(("short", [-2.0]), ("long", [-0.5] * 9), ("none", []))
    assert best_of(lanes).text == "long"


def test_equal_lanes_go_to_the_lowest_index():
    lanes = [Lane("b", 2, [-1.0]), Lane("a", 1, [-1.0, -1.0])]
    assert best_of(lanes).text == "a"
    assert best_of(lanes, score=lambda lane: 0).text == "a"


def test_lanes_of_two_results_may_have_the_same_index():
    """Of equals the one listed first: nothing else is left to tell them apart."""
    both = [Lane("a", 0, [-1.0]), Lane("b", 0, [-1.0])]
    assert best_of(both).text == best_of(both, score=lambda lane: 0).text == "a"
    assert vote([Lane("1", 0, [-1.0]), Lane("2", 0, [-1.0])]).text == "1"


def test_lanes_without_tokens_or_with_nan_come_last():
    lanes = result(("nan", [math.nan, -1.0]), ("empty", []), ("poor", [-99.0]))
    assert best_of(lanes).text == "poor"
    assert best_of(result(("empty", []), ("nan", [math.nan]))).text == "empty"


def test_a_users_score_of_the_lane_decides():
    lanes = result(("aaa", [-9.0]), ("a", [-0.1]))
    assert best_of(lanes, score=lambda lane: len(lane.text)).text == "aaa"
    assert best_of(["x", "xyz", "xy"], score=len) == "xyz"
    assert best_of(lanes, score=lambda lane: -math.inf).text == "aaa"


def test_a_score_of_nan_and_texts_without_a_score_are_refused():
    with pytest.raises(TinylaneError) as error:
        best_of(["a", "b"], score=lambda text: math.nan if text == "b" else 1.0)
    assert str(error.value) == "score of lane 1: NaN, expected a number"
    with pytest.raises(TinylaneError) as error:
        best_of(["a", "b"])
    assert str(error.value) == ("plain texts have no log-probabilities: expected a score function")


def test_the_mean_does_not_depend_on_the_order_of_the_tokens():
    """A running sum would let the last bit, and so a tie, depend on it."""
    logprobs = [-(10.0 ** random.Random(i).uniform(-9, 3)) for i in range(100)]
    lanes = [Lane("b", 1, logprobs), Lane("a", 0, logprobs[::-1])]
    assert best_of(lanes).text == "a"
