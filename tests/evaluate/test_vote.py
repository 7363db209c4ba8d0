"""From N lanes to one answer: who wins, and that the order of the lanes decides nothing."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylane.core.errors import TinylaneError
from tinylane.evaluate.answers import Answer, best_of, extract, vote


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
    assert vote(result(*lanes), extract=str) == found  # what `reading.key` says too
    assert vote(result(*lanes), extract=str, key=str).votes == {
        "3": 1,
        "0.5": 1,
        "2/4": 1,
        "1/2": 1,
    }


def test_a_users_extract_is_compared_by_what_it_says():
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
