"""Tasks: their problems, their answers, and answers compared as mathematics under limits."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers_cli
import pytest
from helpers_eval import QUESTIONS, SHARED, gsm8k

import tinylane
from tinylane.core.errors import TinylaneError
from tinylane.evaluate import tasks
from tinylane.evaluate.tasks import mathematics
from tinylane.evaluate.tasks.gsm8k import final
from tinylane.evaluate.tasks.mathematics import Judge
from tinylane.evaluate.tasks.shell_game import ShellGame
from tinylane.evaluate.tasks.shell_game_task import in_words, trained
from tinylane.evaluate.tasks.task import Options
from tinylane.files.worker import Worker

game = helpers_cli.game  # fixture

# GSM8K and other files.


def test_gsm8k_is_read_in_its_own_form(tmp_path: Path) -> None:
    """The real test split where it is, and a small file in its form elsewhere."""
    path = gsm8k(tmp_path, 6)
    task = tasks.make("gsm8k", Options(data=str(path)))
    problems = task.problems(None, 0)
    assert [p.id for p in problems] == [str(k) for k in range(1, 7)]
    expected = ["18", "3", "70000", "540", "20", "64"]
    if not SHARED.is_file():
        expected = ["12", "18", "1500", "3", "18", "12"]
    assert [p.truth for p in problems] == expected
    assert "\\boxed{}" in problems[0].prompt and "####" not in problems[0].prompt
    assert task.extract("I think\n#### $1,500.00", True) == "1500"
    assert task.problems(2, 5) == problems[:2]


def test_every_answer_of_the_real_test_split_is_a_number(tmp_path: Path) -> None:
    answers = (Path(__file__).parents[1] / "data" / "gsm8k_answers.txt").read_text().split()
    rows = [{"question": "How many?", "answer": f"Steps.\n#### {answer}"} for answer in answers]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = tasks.make("gsm8k", Options(data=str(path), compare="exact")).problems(None, 0)
    assert len(problems) == 1319 and "114,200" in answers
    assert [p.truth for p in problems] == [answer.replace(",", "") for answer in answers]
    assert all(p.truth.lstrip("-").isdigit() for p in problems)


def test_the_answer_stands_after_the_last_mark() -> None:
    assert final("a #### 1\n#### 1,234 ") == "1234"
    for bad in ("no mark", "ends ####", "####  \n"):
        with pytest.raises(TinylaneError, match="no '#### answer'"):
            final(bad)


def test_any_fields_of_any_file(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    rows: list[dict[str, Any]] = [
        {"problem": "What is 1/2 + 0?", "answer": "\\frac{1}{2}", "level": 1},
        {"problem": "AIME asks.", "answer": 73},
        {"problem": "AMC asks.", "answer": 27.0},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = tasks.make("jsonl", Options(data=str(path), template="Q: {question}\nA:"))
    problems = task.problems(None, 0)
    assert [p.truth for p in problems] == ["\\frac{1}{2}", "73", "27"]
    assert problems[1].prompt == "Q: AIME asks.\nA:"
    assert task.right("0.5", problems[0].truth) and not task.right("0.6", problems[0].truth)
    named = Options(data=str(path), question_field="level", answer_field="problem", compare="exact")
    with pytest.raises(TinylaneError, match="line 2: no field 'level'"):
        tasks.make("jsonl", named).problems(None, 0)


def test_what_decides_the_problems_is_in_the_settings(tmp_path: Path) -> None:
    """A run directory must notice another file of the same name."""
    path = gsm8k(tmp_path, 3)
    before = tasks.make("gsm8k", Options(data=str(path))).describe()
    assert before == tasks.make("gsm8k", Options(data=str(path))).describe()
    path.write_text(path.read_text() + "\n")
    after = tasks.make("gsm8k", Options(data=str(path))).describe()
    other = tasks.make("gsm8k", Options(data=str(path), template="{question}")).describe()
    assert before != after != other and json.dumps(before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(), "needs --data FILE"),
        (Options(data="/no/such"), "/no/such"),
        (Options(data="EMPTY"), "no problems in it"),
        (Options(data="GOOD", template="no place"), "expected {question} in it"),
        (Options(data="GOOD", answer_pattern="("), "not a regular expression"),
        (Options(data="GOOD", compare="roughly"), "expected math or exact"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, options: Options, says: str) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    places = {"EMPTY": str(tmp_path / "empty.jsonl"), "GOOD": str(gsm8k(tmp_path, 2))}
    fields = {name: getattr(options, name) for name in options.__dataclass_fields__}
    fields["data"] = places.get(str(options.data), options.data)
    with pytest.raises(TinylaneError) as caught:
        tasks.make("gsm8k", Options(**fields)).problems(None, 0)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_more_problems_than_there_are_is_said(tmp_path: Path) -> None:
    task = tasks.make("gsm8k", Options(data=str(gsm8k(tmp_path, 3))))
    with pytest.raises(TinylaneError, match=r"--count 4: .* has 3 problems"):
        task.problems(4, 0)
    with pytest.raises(TinylaneError, match="expected shell-game, gsm8k, jsonl"):
        tasks.make("chess", Options())


# The shell game.


def test_the_shell_game_is_its_model_s(game: str) -> None:
    model = tinylane.load(game, backend="numpy")
    task = tasks.make("shell-game", Options(), model)
    assert task.lanes == (1, 2, 4) and task.max_tokens(2) == 4
    assert task.lane_prompts(2) == ["1/2", "2/2"] and task.sampling == {"temperature": 0.0}
    same, other = task.problems(5, 1), task.problems(5, 2)
    assert same == task.problems(5, 1) and same != other and same[:3] == task.problems(3, 1)
    with pytest.raises(TinylaneError, match="trained on 3 cups and 4 swaps"):
        tasks.make("shell-game", Options(swaps=8), model)
    with pytest.raises(TinylaneError, match="--count 0"):
        task.problems(0, 0)


def test_the_shell_game_in_words_is_the_same_game() -> None:
    """For models that were not trained on it: same problems, other words."""
    size = ShellGame(3, 5, (1,))
    notation, words = trained(size).problems(4, 7), in_words(size).problems(4, 7)
    for a, b in zip(notation, words, strict=True):
        assert a.truth == b.truth
        swaps = a.prompt.split("swap ")[1].split(":")[0].split()
        assert "; ".join(s.replace("-", " and ") for s in swaps) in b.prompt
    task = in_words(size)
    assert task.extract("so \\boxed{B, A, C}.", False) == "BAC"
    assert task.extract("so BAC", False) is None
    with pytest.raises(TinylaneError, match="give --cups and --swaps"):
        tasks.make("shell-game", Options(), None)


def test_a_flag_of_another_task_is_refused_by_name(tmp_path: Path) -> None:
    options = Options(data=str(gsm8k(tmp_path, 2)), cups=3)
    with pytest.raises(TinylaneError, match=r"^gsm8k does not use --cups; it uses --data, --q"):
        tasks.make("gsm8k", options)
    with pytest.raises(TinylaneError, match=r"^shell-game does not use --answer-pattern; it uses "):
        tasks.make("shell-game", Options(answer_pattern="x"))


# Answers as mathematics.


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    found = Judge()
    yield found
    found.close()


SAME = [
    ("18", "18.00"),
    ("1/2", "0.5"),
    ("\\frac12", "\\dfrac{1}{2}"),
    ("x+1", "1+x"),
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("(1,2)", "(1, 2)"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("\\text{Evelyn}", "Evelyn"),
]
DIFFERENT = [
    ("18", "19"),
    ("1/2", "0.51"),
    ("x+1", "x-1"),
    ("(1,2)", "(2,1)"),
    ("a", "b"),
    ("Evelyn", "Carla"),
    ("\\sqrt{2}", "1.4"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same_mathematics_is_the_same(judge: Judge, a: str, b: str) -> None:
    assert judge(a, b) and judge(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_other_mathematics_is_not(judge: Judge, a: str, b: str) -> None:
    assert not judge(a, b)


def test_numbers_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer of GSM8K is a number: comparing them must not start sympy."""
    monkeypatch.setattr(Worker, "ask", lambda self, *_: pytest.fail("started"))
    found = Judge()
    assert found("1,000", "1000.0") and not found("1000", "1000.1") and found.readable("-3")
    assert found("the same", "the same")


HOSTILE = [
    "9^{9^{9^{9^9}}}",
    "\\sum_{n=1}^{10^{9}} n^{n}",
    "{" * 300,
    "(" * 300 + ")" * 300,
    "\\frac{1}{" * 40,
    "x" * 5000,
    "\x00\ud800",
    "__import__('os').system('true')",
    "\\boxed{1}}\\boxed{2",
    "",
]


def test_hostile_answers_end_and_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Model text that would compute for ever ends the worker, not the run; the next is compared."""
    monkeypatch.setattr(mathematics, "CPU_SECONDS", 0.5)
    judge = Judge()
    for text in HOSTILE:
        assert not judge(text, "7"), text
        judge.readable(text)
    assert judge("1/7", "\\frac{1}{7}")
    monkeypatch.setattr(judge._worker, "ask", lambda *request: pytest.fail("asked again"))
    assert not judge(HOSTILE[0], "7") and not judge(HOSTILE[0], "8")  # it is remembered
    assert not judge.readable(HOSTILE[0])
    judge.close()


def test_answers_are_compared_from_any_thread(judge: Judge) -> None:
    """math-verify's own timeouts are signals, which a thread cannot have."""
    found: dict[int, bool] = {}

    def work(k: int) -> None:
        found[k] = judge(f"{k}/7", f"\\frac{{{2 * k}}}{{14}}") and not judge(f"{k}/7", f"{k}/9")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(1, 5), True)


def test_without_math_verify_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    path = str(gsm8k(tmp_path, 2))
    with pytest.raises(TinylaneError, match=r'pip install "tinylane\[eval\]"'):
        tasks.make("gsm8k", Options(data=path))
    task = tasks.make("gsm8k", Options(data=path, compare="exact"))
    assert task.right("18.0", "18") and not task.right("1/2", "0.5")


def test_the_small_data_set_is_right() -> None:
    assert len({q for q, _ in QUESTIONS}) == len(QUESTIONS) == 6
