"""Claims about fields of a file's objects: the right type is given, anything else is one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tinylane.core.errors import TinylaneError
from tinylane.files.io import LARGEST, Fields

RAW: dict[str, Any] = {
    "n": 3,
    "x": 0.5,
    "yes": True,
    "word": "text",
    "blank": " ",
    "nothing": None,
    "inner": {"n": -1, "deeper": {"word": 1}},
    "ids": [0, 7, LARGEST],
    "mixed": ["a", [1]],
    "empty": [],
}


def refused(read: Callable[[Fields], Any], source: str = "file.json") -> str:
    with pytest.raises(TinylaneError) as error:
        read(Fields(RAW, source))
    return str(error.value)


def test_fields_have_their_values() -> None:
    f = Fields(RAW, "file.json")
    assert (f.whole("n"), f.whole("n", 3, 3), f.whole("no", default=5)) == (3, 3, 5)
    assert (f.real("x"), f.real("n", least=3, below=4), f.real("no", None)) == (0.5, 3.0, None)
    assert isinstance(f.real("n"), float)
    assert f.flag("yes") is True and f.flag("nothing", False) is False
    assert (f.text("word"), f.text("blank"), f.text("no", "other")) == ("text", " ", "other")
    assert f.fields("inner").fields("deeper").raw == {"word": 1}
    assert f.ids("ids") == RAW["ids"] and f.items("empty", int) == []
    assert f.items("mixed", (str, list)) == RAW["mixed"] and f.items("no", default=None) is None
    assert f.has("n") and not f.has("nothing") and not f.has("no")
    assert f.get("nothing", 1) is None and f.get("no", 1) == 1
    spelled = Fields({"a": "x", "b": 7, "c": 27.0, "d": 0.5})
    assert [spelled.spelled(k) for k in "abcd"] == ["x", "7", "27", "0.5"]


# What is read, and the whole line that refuses it.
REFUSED: list[tuple[Callable[[Fields], Any], str]] = [
    (lambda f: f.whole("x"), f"x is 0.5; expected a whole number from 0 to {LARGEST}"),
    (lambda f: f.whole("yes"), f"yes is True; expected a whole number from 0 to {LARGEST}"),
    (lambda f: f.whole("n", 4, 9), "n is 3; expected a whole number from 4 to 9"),
    (lambda f: f.whole("n", 0, 2), "n is 3; expected a whole number from 0 to 2"),
    (lambda f: f.whole("no", 0, 2), "no is missing; expected a whole number from 0 to 2"),
    (lambda f: f.whole("nothing", 0, 2), "nothing is missing; expected a whole number from 0 to 2"),
    (lambda f: f.real("word"), "word is 'text'; expected a number"),
    (lambda f: f.real("yes"), "yes is True; expected a number"),
    (lambda f: f.real("x", above=0.5), "x is 0.5; expected a number above 0.5"),
    (
        lambda f: f.real("x", least=0, below=0.5),
        "x is 0.5; expected a number at least 0 and below 0.5",
    ),
    (lambda f: f.real("x", least=0.6), "x is 0.5; expected a number at least 0.6"),
    (lambda f: f.real("n", most=2), "n is 3; expected a number at most 2"),
    (lambda f: f.flag("n"), "n is 3; expected true or false"),
    (lambda f: f.text("n"), "n is 3; expected a text"),
    (lambda f: f.fields("n"), "n is 3; expected an object"),
    (lambda f: f.fields("inner").whole("n", 0, 2), "inner.n is -1; expected a whole number from"),
    (
        lambda f: f.fields("inner").fields("deeper").text("word"),
        "inner.deeper.word is 1; expected a text",
    ),
    (lambda f: f.items("n"), "n is 3; expected a list"),
    (lambda f: f.items("ids", str), f"ids is [0, 7, {LARGEST}]; expected a list of texts"),
    (lambda f: f.items("mixed", (str, int)), "mixed is ['a', [1]]; expected a list of texts or"),
    (lambda f: f.ids("mixed"), "mixed is ['a', [1]]; expected token ids"),
    (lambda f: f.spelled("blank"), "blank is empty; expected text"),
    (lambda f: f.spelled("mixed"), "mixed is ['a', [1]]; expected text or a number"),
    (lambda f: f.spelled("yes"), "yes is True; expected text or a number"),
    (lambda f: f.spelled("nothing"), "nothing is missing; expected text or a number"),
    (lambda f: f.spelled("z"), "no field 'z'; it has 'n', 'x', 'yes', 'word'"),
]


@pytest.mark.parametrize(("read", "words"), REFUSED, ids=[words[:40] for _, words in REFUSED])
def test_a_field_of_another_type_is_refused_by_file_name_and_value(
    read: Callable[[Fields], Any], words: str
) -> None:
    assert refused(read).startswith(f"file.json: {words}")
    assert refused(read, source="").startswith(words)


def test_numbers_that_are_flags_or_not_finite_are_no_numbers() -> None:
    odd = Fields({"list": [1, True], "nan": math.nan, "ids": [True], "big": [LARGEST + 1]})
    for read in (
        lambda: odd.items("list", int),
        lambda: odd.real("nan"),
        lambda: odd.ids("ids"),
        lambda: odd.ids("big"),
    ):
        with pytest.raises(TinylaneError, match="expected"):
            read()


def test_what_is_no_object_has_no_fields() -> None:
    with pytest.raises(TinylaneError, match=r"^a, line 2: \[1\]: expected an object$"):
        Fields([1], "a, line 2")
    with pytest.raises(TinylaneError, match=r"^lane 2 is 7; expected an object$"):
        Fields(7, parent="lane 2")
